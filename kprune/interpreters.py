"""Flatbuffer → scores: the two runtimes that others use, on this computer.

LiteRT is the reference of the format. TensorFlow Lite Micro is what a microcontroller runs; its
kernels round twice where LiteRT rounds once, so the two may differ in the last bit, and figures for
a device come from the latter.
"""

import contextlib
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from kprune.arena import room_bytes
from kprune.child import run_in_child
from kprune.errors import ToolNotFoundError
from kprune.flatbuffer import Network, Tensor, read
from kprune.network import to_real, to_steps


def run_tflite(flatbuffer: bytes, x: np.ndarray, interpreter: str = "litert") -> np.ndarray:
    """Run a network of one input and one output, sample by sample.

    Args:
        flatbuffer: The content of a `.tflite` file with batch size 1.
        x: Samples, shape `(samples, ...)`, the rest being the shape of the network's input. Float
            values are quantised with the scale of the input; values of the input's own type (int8)
            are taken as they are.
        interpreter: `"litert"` or `"tflm"` (TensorFlow Lite Micro, extra `kprune[tflm]`).

    Returns:
        Outputs, shape `(samples, ...)`: real values (float32) if `x` was float, otherwise the
        bytes of the network.

    Raises:
        FlatbufferError: `flatbuffer` is no sound TensorFlow Lite flatbuffer.
        ValueError: The network has several inputs or outputs, `x` does not fit, or the
            interpreter refuses the network.
        ToolNotFoundError: TensorFlow Lite Micro is not installed.

    Example:
        Given `flatbuffer` from `to_tflite` and a test set:

            scores = run_tflite(flatbuffer, x_test)
            accuracy = (scores.argmax(-1) == y_test).mean()
    """
    if interpreter not in _INTERPRETERS:
        raise ValueError(
            f"interpreter must be one of {', '.join(_INTERPRETERS)}, got {interpreter!r}."
        )
    network = read(flatbuffer)
    source, target = _ends(network)
    x = np.asarray(x)
    if x.ndim == 0 or x.shape[1:] != source.shape[1:]:
        raise ValueError(
            f"x must have the shape (samples, {', '.join(map(str, source.shape[1:]))}) of the "
            f"network's input, got {x.shape}."
        )
    is_real = np.issubdtype(x.dtype, np.floating)
    values = quantize(x, source) if is_real else _as_given(x, source)
    outputs = np.empty((0, *target.shape[1:]), target.dtype)
    if len(x):
        outputs = _run(flatbuffer, network, values, interpreter)
    return dequantize(outputs, target) if is_real else outputs


def _run(flatbuffer: bytes, network: Network, x: np.ndarray, interpreter: str) -> np.ndarray:
    """Run the interpreter in a process of its own.

    It trusts the file, and one that is damaged where only it looks may end the process.
    """
    name, package, extra = _INTERPRETERS[interpreter]
    if importlib.util.find_spec(package) is None:
        raise ToolNotFoundError(f"{name} is not installed: pip install '{extra}'.")
    with tempfile.TemporaryDirectory(prefix="kprune-") as temporary:
        folder = Path(temporary)
        (folder / "network.tflite").write_bytes(flatbuffer)
        (folder / "arena.txt").write_text(str(room_bytes(network)))
        np.save(folder / "x.npy", x)
        try:
            run_in_child("kprune.interpreters", f"_run_{interpreter}", folder)
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{name} refuses the network: {error}") from error
        return np.load(folder / "y.npy")


def quantize(x: np.ndarray, tensor: Tensor) -> np.ndarray:
    """Real values → values of a tensor; a tensor without a scale holds them as they are."""
    if not len(tensor.scale):
        return x.astype(tensor.dtype)
    return to_steps(x, tensor.scale[0], tensor.zero_point[0], tensor.dtype)


def dequantize(q: np.ndarray, tensor: Tensor) -> np.ndarray:
    """Values of a tensor → real values."""
    if not len(tensor.scale):
        return q.astype(np.float32)
    return to_real(q, tensor.scale[0], tensor.zero_point[0])


def _ends(network: Network) -> tuple[Tensor, Tensor]:
    if len(network.inputs) != 1 or len(network.outputs) != 1:
        raise ValueError(
            f"The network has {len(network.inputs)} inputs and {len(network.outputs)} outputs; "
            "run_tflite runs networks with one of each."
        )
    source, target = network.tensors[network.inputs[0]], network.tensors[network.outputs[0]]
    if source.shape[:1] != (1,):
        raise ValueError(
            f"The network takes batches of shape {source.shape}; a microcontroller takes one "
            "sample at a time. kprune.to_tflite makes networks of batch size 1."
        )
    return source, target


def _as_given(x: np.ndarray, source: Tensor) -> np.ndarray:
    if x.dtype != source.dtype:
        raise ValueError(
            f"x must be float (then it is quantised) or {source.dtype}, the type of the network's "
            f"input; got {x.dtype}."
        )
    return x


def _run_litert(folder: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with _told():
        interpreter = Interpreter(
            model_content=(folder / "network.tflite").read_bytes(),
            num_threads=1,
            # The plain kernels: those that are tuned for a processor round in ways of their own.
            experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
        )
        interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]

    def run(sample: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(source, sample)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    _run_all(run, folder)


def _run_tflm(folder: Path) -> None:
    from tflite_micro import runtime

    content = (folder / "network.tflite").read_bytes()
    arena_size = int((folder / "arena.txt").read_text())
    with _told():
        interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena_size)

    def run(sample: np.ndarray) -> np.ndarray:
        interpreter.set_input(sample, 0)
        interpreter.invoke()
        return interpreter.get_output(0)

    _run_all(run, folder)


def _run_all(run: Callable[[np.ndarray], np.ndarray], folder: Path) -> None:
    x = np.load(folder / "x.npy")
    np.save(folder / "y.npy", np.concatenate([run(x[i : i + 1]) for i in range(len(x))]))


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Whatever the interpreter raises while it reads a file is its word on the file."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


# What a person calls it, what is imported, what installs it.
_INTERPRETERS = {
    "litert": ("LiteRT", "ai_edge_litert", "kprune"),
    "tflm": ("TensorFlow Lite Micro", "tflite_micro", "kprune[tflm]"),
}
