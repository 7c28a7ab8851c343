"""What only TensorFlow Lite Micro itself can tell, as the tflite-micro wheel runs it here."""

import importlib.util
import re
import subprocess
import sys
from typing import Any

import numpy as np

from kprune import arena as _arena
from kprune import flatbuffer as _flatbuffer
from kprune.arena import Arena
from kprune.child import ending
from kprune.errors import ToolNotFoundError, UnsupportedOpError
from kprune.flatbuffer import Tensor
from kprune.interpreters import quantize, run_tflite
from kprune.network import listed, unlisted

_TIMEOUT_S = 120

# The interpreter trusts the file, and one that is damaged where only it looks may end the process:
# so it has a process of its own. The allocator prints to file descriptor 2.
_PROGRAM = """
import sys
from tflite_micro.python.tflite_micro import runtime

content = sys.stdin.buffer.read()
runtime.Interpreter.from_bytes(content, arena_size=int(sys.argv[1])).print_allocations()
"""

# Structs made of pointers and words, which are half as large on a 32-bit core.
_HALVED = ("TfLiteEvalTensor data", "Persistent TfLiteTensor data", "NodeAndRegistration struct")


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
    recorded = record_allocations(flatbuffer)
    # A kind of which there is nothing is not printed: records of operators, where there are none.
    halved = sum(recorded.get(kind, 0) for kind in _HALVED)
    return Arena(
        head=recorded["head"],
        tail=recorded["tail"] - halved // 2,
        margin=_arena.cmsis_margin(network),
        start=_arena.start_bytes(network),
        source="measured with TensorFlow Lite Micro's recording allocator",
    )


def golden_vectors(flatbuffer: bytes, count: int, x: Any = None) -> tuple[Any, Any]:
    """Make the `test_data` of `to_c_array`: inputs, and the outputs that a device must give.

    Args:
        flatbuffer: The content of a `.tflite` file.
        count: How many, at least 1.
        x: Samples, of which the first `count` are taken; float values are quantised. For several
            inputs a list of arrays, in the order of the file. By default the inputs are
            pseudo-random over the whole range, the same every time.

    Returns:
        Inputs and outputs, `(count, ...)` each, in the types of the network; a list of such arrays
        where there are several.

    Raises:
        ValueError: `count` is not between 1 and the number of samples.
        FlatbufferError, ToolNotFoundError: As `run_tflite`, which also says what else is wrong.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}.")
    network = _flatbuffer.read(flatbuffer)
    sources = [network.tensors[i] for i in network.inputs]
    if x is None:
        rng = np.random.default_rng(0)
        x = [_random_values(source, count, rng) for source in sources]
    given = [np.asarray(values) for values in listed(x)]
    for values in given:
        if count > len(values):
            raise ValueError(f"count must be between 1 and the {len(values)} samples, got {count}.")
    inputs = [values[:count] for values in given]
    if len(inputs) == len(sources):  # Otherwise run_tflite says so.
        pairs = zip(inputs, sources, strict=True)
        inputs = [quantize(x, s) if x.dtype.kind == "f" else x for x, s in pairs]
    outputs = run_tflite(flatbuffer, inputs, "tflm")
    return unlisted(inputs), outputs


def _random_values(source: Tensor, count: int, rng: np.random.Generator) -> np.ndarray:
    if source.dtype.kind == "f":
        return rng.normal(size=(count, *source.shape[1:])).astype(source.dtype)
    limits = np.iinfo(source.dtype)
    values = rng.integers(limits.min, limits.max, (count, *source.shape[1:]), endpoint=True)
    return values.astype(source.dtype)


def record_allocations(flatbuffer: bytes) -> dict[str, int]:
    """Bytes of the arena on this computer: `"total"`, `"head"`, `"tail"`, each kind of record.

    Raises:
        FlatbufferError, ToolNotFoundError, UnsupportedOpError: As `measure_arena`.
    """
    network = _flatbuffer.read(flatbuffer)
    if importlib.util.find_spec("tflite_micro") is None:
        raise ToolNotFoundError(
            "measuring the arena needs the tflite-micro wheel, which is not installed. "
            "To get it: pip install 'kprune[tflm]'."
        )
    try:
        result = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(_arena.room_bytes(network))],
            input=flatbuffer,
            capture_output=True,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise UnsupportedOpError(
            f"TensorFlow Lite Micro did not prepare this network within {_TIMEOUT_S} seconds."
        ) from None
    text = result.stderr.decode(errors="replace")
    if result.returncode:
        reason = _reason(text) or f"it ended without a message, with {ending(result.returncode)}."
        raise UnsupportedOpError(f"TensorFlow Lite Micro cannot run this network: {reason}")
    ends = re.findall(r"Arena allocation (\w+) (\d+) bytes", text)
    kinds = re.findall(r"'(.*?)' used (\d+) bytes", text)
    return {kind: int(size) for kind, size in (*ends, *kinds)}


def _reason(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else ""
