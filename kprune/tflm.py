"""TensorFlow Lite Micro itself, as the tflite-micro wheel builds it for this computer.

Its arithmetic is that of the devices, so it is what every other implementation is held against.
It trusts the file that it is given, and a damaged one may end the process: it runs in a process
of its own.
"""

import importlib.util
import io
import re
import subprocess
import sys

import numpy as np

from kprune import arena as _arena
from kprune import flatbuffer as _flatbuffer
from kprune.arena import Arena
from kprune.errors import ToolNotFoundError, UnsupportedOpError
from kprune.flatbuffer import Network, Tensor

_MAX_ARENA_BYTES = 2**28
_TIMEOUT_S = 600

# argv: bytes of the arena, bytes of the flatbuffer. stdin: the flatbuffer, then the inputs.
# The allocator prints to file descriptor 2.
_PROGRAM = """
import io, sys
import numpy as np
from tflite_micro.python.tflite_micro import runtime

arena_bytes, length = int(sys.argv[1]), int(sys.argv[2])
given = sys.stdin.buffer.read()
interpreter = runtime.Interpreter.from_bytes(given[:length], arena_size=arena_bytes)
outputs = []
for x in np.load(io.BytesIO(given[length:])):
    interpreter.set_input(x, 0)
    interpreter.invoke()
    outputs.append(interpreter.get_output(0))
np.save(sys.stdout.buffer, np.array(outputs))
interpreter.print_allocations()
"""

# Structs made of pointers and words, which are half as large on a 32-bit core.
_HALVED = ("TfLiteEvalTensor data", "Persistent TfLiteTensor data", "NodeAndRegistration struct")


def run(flatbuffer: bytes, x: np.ndarray) -> np.ndarray:
    """Run a network on quantized inputs, bit for bit as a device does.

    Args:
        flatbuffer: The content of a `.tflite` file with one input and one output.
        x: Inputs, `(n, *shape)` where `shape` is the network's without its batch of 1, in the
            type of the network's input: int8, not float.

    Returns:
        Outputs, `(n, *shape)`, in the type of the network's output.

    Raises:
        FlatbufferError: `flatbuffer` is no sound TensorFlow Lite flatbuffer.
        ToolNotFoundError: The tflite-micro wheel is not installed.
        UnsupportedOpError: TensorFlow Lite Micro cannot run the network.
        ValueError: The network has several inputs or outputs, or `x` does not fit.
    """
    network = _flatbuffer.read(flatbuffer)
    source, sink = _only_ends(network)
    if x.dtype != source.dtype or x.shape[1:] != source.shape[1:]:
        raise ValueError(
            f"x has shape {x.shape} and type {x.dtype}, expected (n, "
            f"{', '.join(map(str, source.shape[1:]))}) of type {source.dtype}."
        )
    outputs, _ = _call(flatbuffer, network, x.reshape(-1, *source.shape))
    return outputs.reshape(len(x), *sink.shape[1:])


def golden_vectors(
    flatbuffer: bytes, count: int, x: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and the outputs that a device must give for them, for `to_c_array`.

    Args:
        flatbuffer: The content of a `.tflite` file with one input and one output.
        count: How many, at least 1.
        x: Where the inputs come from, the first `count` rows: real values, which are quantized,
            or values of the network's input type. By default they are pseudo-random, the same
            every time.

    Returns:
        Inputs and outputs, `(count, ...)` each, in the network's types.

    Raises:
        As `run`, and ValueError when `x` has fewer than `count` rows.
    """
    source, _ = _only_ends(_flatbuffer.read(flatbuffer))
    if x is None:
        x = np.random.default_rng(0).uniform(-1, 1, (count, *source.shape[1:]))
        x = x * 127.0 * (source.scale if len(source.scale) else 1 / 127)
    if not 1 <= count <= len(x):
        raise ValueError(f"count must be between 1 and the {len(x)} rows of x, got {count}.")
    inputs = _quantized(x[:count], source)
    return inputs, run(flatbuffer, inputs)


def measure_arena(flatbuffer: bytes) -> Arena:
    """Measure the arena with TensorFlow Lite Micro's recording allocator.

    Activations take the same bytes on every machine. The interpreter's records are restated for
    a 32-bit core: structs of pointers count half, all else as measured on this computer, so the
    result is never below the truth.

    Args:
        flatbuffer: The content of a `.tflite` file.

    Returns:
        The parts of the arena; `total` is what a program should reserve.

    Raises:
        FlatbufferError: `flatbuffer` is no sound TensorFlow Lite flatbuffer.
        ToolNotFoundError: The tflite-micro wheel is not installed.
        UnsupportedOpError: TensorFlow Lite Micro cannot run the network; the message has its
            reason.
    """
    network = _flatbuffer.read(flatbuffer)
    _, recorded = _call(flatbuffer, network, np.empty((0, 1), np.int8))
    halved = sum(recorded[kind] for kind in _HALVED)
    return Arena(
        head=recorded["head"],
        tail=recorded["tail"] - halved // 2,
        margin=_arena.cmsis_margin(network),
        source="measured with TensorFlow Lite Micro's recording allocator",
    )


def _call(flatbuffer: bytes, network: Network, x: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """Outputs for `x`, and bytes of the arena by kind as the recording allocator prints them."""
    if importlib.util.find_spec("tflite_micro") is None:
        raise ToolNotFoundError(
            "running TensorFlow Lite Micro needs the tflite-micro wheel, which is not installed. "
            "To get it: pip install 'kprune[tflm]'."
        )
    stored = io.BytesIO()
    np.save(stored, x)
    try:
        result = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(_arena_bytes(network)), str(len(flatbuffer))],
            input=flatbuffer + stored.getvalue(),
            capture_output=True,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise UnsupportedOpError(
            f"TensorFlow Lite Micro did not run this network within {_TIMEOUT_S} seconds."
        ) from None
    text = result.stderr.decode(errors="replace")
    if result.returncode:
        raise UnsupportedOpError(f"TensorFlow Lite Micro cannot run this network: {_reason(text)}")
    ends = re.findall(r"Arena allocation (\w+) (\d+) bytes", text)
    kinds = re.findall(r"'(.*?)' used (\d+) bytes", text)
    recorded = {kind: int(size) for kind, size in (*ends, *kinds)}
    return np.load(io.BytesIO(result.stdout)), recorded


def _arena_bytes(network: Network) -> int:
    """Room enough: every activation at once, and four times the records of a 32-bit core."""
    activations = sum(t.num_bytes + 16 for t in network.tensors if t.data is None)
    records = _arena.tail_bytes(network, pointer_bytes=8)
    return min(8 * activations + 2 * records + 2**20, _MAX_ARENA_BYTES)


def _reason(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else "it ended without a message."


def _only_ends(network: Network) -> tuple[Tensor, Tensor]:
    if len(network.inputs) != 1 or len(network.outputs) != 1:
        raise ValueError(
            f"the network has {len(network.inputs)} inputs and {len(network.outputs)} outputs, "
            "expected one of each."
        )
    return network.tensors[network.inputs[0]], network.tensors[network.outputs[0]]


def _quantized(x: np.ndarray, tensor: Tensor) -> np.ndarray:
    if x.dtype == tensor.dtype or tensor.dtype.kind == "f":
        return x.astype(tensor.dtype)
    if len(tensor.scale) != 1:
        raise ValueError(f"the input has no scale to quantize with; pass x as {tensor.dtype}.")
    limits = np.iinfo(tensor.dtype)
    q = np.round(x / tensor.scale) + tensor.zero_point
    return np.clip(q, limits.min, limits.max).astype(tensor.dtype)
