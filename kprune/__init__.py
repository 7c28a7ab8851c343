"""Train a Keras network straight into a stated budget, and onto a microcontroller.

The public names, in the order the data flows, are in `__init__.pyi`. Each is imported at its
first use: `import kprune` loads neither Keras nor TensorFlow nor matplotlib, so that the
commands which only read bytes start at once.
"""

import lazy_loader
import wrapt

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


@wrapt.when_imported("keras")
def _register_layers(_: object) -> None:
    # Keras can only load a `.keras` file when the layers in it are registered. What these need of
    # kprune is half loaded if it was this that imported Keras: they import modules, not names.
    import kprune.fakequant
    import kprune.layers
    import kprune.losses  # noqa: F401
