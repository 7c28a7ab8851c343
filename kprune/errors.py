"""What a caller of kprune may want to catch. Wrong arguments are ValueError and TypeError."""


class UnsupportedLayerError(ValueError):
    """Keras layers that kprune can neither trace nor rebuild, all of them by name."""


class UnsupportedOpError(ValueError):
    """An operator of a flatbuffer that the chosen output has no code for."""


class FlatbufferError(ValueError):
    """Bytes that are no readable TensorFlow Lite flatbuffer."""


class BudgetError(ValueError):
    """A budget that no choice of channels can meet. The message gives the reachable minimum."""


class ToolNotFoundError(RuntimeError):
    """An optional package or program that is not installed. The message says how to get it."""


class DoesNotFitError(ValueError):
    """A network that is too large for a board's flash or RAM: the program did not link."""


class BoardFaultError(RuntimeError):
    """The simulated processor stopped in its fault handler; the message tells where."""
