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
from typing import Any

import numpy as np

from kprune.arena import room_bytes
from kprune.child import run_in_child
from kprune.errors import ToolNotFoundError
from kprune.flatbuffer import Network, Tensor, read
from kprune.network import check_counts, listed, to_real, to_steps, unlisted


def run_tflite(flatbuffer: bytes, x: Any, interpreter: str = "litert") -> Any:
    """Run a network sample by sample.

    Args:
        flatbuffer: The content of a `.tflite` file with batch size 1.
        x: Samples, shape `(samples, ...)`, the rest being the shape of the network's input; for
            several inputs a list of such arrays, in the order of the file. Float values are
            quantised with the scale of the input; values of the input's own type (int8) are taken
            as they are.
        interpreter: `"litert"` or `"tflm"` (TensorFlow Lite Micro, extra `kprune[tflm]`).

    Returns:
        Outputs, shape `(samples, ...)`: real values (float32) if all of `x` was float, otherwise
        the bytes of the network. For several outputs a list, in the order of the file.

    Raises:
        FlatbufferError: `flatbuffer` is no sound TensorFlow Lite flatbuffer.
        ValueError: `x` does not fit, or the interpreter refuses the network.
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
    sources = [_source(network.tensors[i]) for i in network.inputs]
    targets = [network.tensors[i] for i in network.outputs]
    given = [np.asarray(array) for array in listed(x)]
    _check_given(given, sources)
    is_real = all(np.issubdtype(array.dtype, np.floating) for array in given)
    values = [_in_type(array, source) for array, source in zip(given, sources, strict=True)]
    outputs = [np.empty((0, *target.shape[1:]), target.dtype) for target in targets]
    if len(values[0]):
        outputs = _run(flatbuffer, network, values, interpreter)
    if is_real:
        outputs = [dequantize(q, target) for q, target in zip(outputs, targets, strict=True)]
    return unlisted(outputs)


def _run(
    flatbuffer: bytes, network: Network, values: list[np.ndarray], interpreter: str
) -> list[np.ndarray]:
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
        (folder / "outputs.txt").write_text(str(len(network.outputs)))
        np.savez(folder / "x.npz", *values)
        try:
            run_in_child("kprune.interpreters", f"_run_{interpreter}", folder)
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{name} refuses the network: {error}") from error
        return _load(folder / "y.npz")


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


def _source(tensor: Tensor) -> Tensor:
    if tensor.shape[:1] != (1,):
        raise ValueError(
            f"The network takes batches of shape {tensor.shape}; a microcontroller takes one "
            "sample at a time. kprune.to_tflite makes networks of batch size 1."
        )
    return tensor


def _check_given(given: list[np.ndarray], sources: list[Tensor]) -> None:
    if not sources:
        raise ValueError("The network has no input: there is nothing to run it on.")
    if len(given) != len(sources):
        raise ValueError(
            f"x must be one array for each of the network's {len(sources)} inputs, in a list if "
            f"there are several; got {len(given)}."
        )
    for x, source in zip(given, sources, strict=True):
        if x.ndim == 0 or x.shape[1:] != source.shape[1:]:
            raise ValueError(
                f"x must have the shape (samples, {', '.join(map(str, source.shape[1:]))}) of the "
                f"network's input, got {x.shape}."
            )
    check_counts(given)


def _in_type(x: np.ndarray, source: Tensor) -> np.ndarray:
    if np.issubdtype(x.dtype, np.floating):
        return quantize(x, source)
    if x.dtype != source.dtype:
        raise ValueError(
            f"x must be float (then it is quantised) or {source.dtype}, the type of the network's "
            f"input; got {x.dtype}."
        )
    return x


def _load(path: Path) -> list[np.ndarray]:
    with np.load(path) as archive:
        return [archive[name] for name in archive.files]


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
    sources = [detail["index"] for detail in interpreter.get_input_details()]
    targets = [detail["index"] for detail in interpreter.get_output_details()]

    def run(samples: list[np.ndarray]) -> list[np.ndarray]:
        for index, sample in zip(sources, samples, strict=True):
            interpreter.set_tensor(index, sample)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in targets]

    _run_all(run, folder)


def _run_tflm(folder: Path) -> None:
    from tflite_micro import runtime

    content = (folder / "network.tflite").read_bytes()
    arena_size = int((folder / "arena.txt").read_text())
    with _told():
        interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena_size)

    outputs = range(int((folder / "outputs.txt").read_text()))

    def run(samples: list[np.ndarray]) -> list[np.ndarray]:
        for place, sample in enumerate(samples):
            interpreter.set_input(sample, place)
        interpreter.invoke()
        return [interpreter.get_output(place) for place in outputs]

    _run_all(run, folder)


def _run_all(run: Callable[[list[np.ndarray]], list[np.ndarray]], folder: Path) -> None:
    x = _load(folder / "x.npz")
    rows = [run([array[i : i + 1] for array in x]) for i in range(len(x[0]))]
    # An output may be a single number, without even a batch axis.
    columns = (map(np.atleast_1d, values) for values in zip(*rows, strict=True))
    np.savez(folder / "y.npz", *(np.concatenate(list(values)) for values in columns))


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
