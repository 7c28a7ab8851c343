"""TensorFlow Lite Micro itself, as the tflite-micro wheel builds it for this computer."""

import importlib.util
import re
import subprocess
import sys

from kprune import arena as _arena
from kprune import flatbuffer as _flatbuffer
from kprune.arena import Arena
from kprune.errors import ToolNotFoundError, UnsupportedOpError

_MAX_ARENA_BYTES = 2**28

# Runs in a process of its own: the interpreter trusts the file, and a file that is damaged where
# only it looks may end the process. The allocator prints to file descriptor 2.
_RECORD = """
import sys
from tflite_micro.python.tflite_micro import runtime
interpreter = runtime.Interpreter.from_bytes(sys.stdin.buffer.read(), arena_size=int(sys.argv[1]))
interpreter.invoke()
interpreter.print_allocations()
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
    recorded = record_allocations(flatbuffer)
    halved = sum(recorded[kind] for kind in _HALVED)
    margin = _arena.cmsis_margin(_flatbuffer.read(flatbuffer))
    return Arena(
        head=recorded["head"],
        tail=recorded["tail"] - halved // 2,
        margin=margin,
        source="measured with TensorFlow Lite Micro's recording allocator",
    )


def record_allocations(flatbuffer: bytes) -> dict[str, int]:
    """Bytes of the arena on this computer: `"total"`, `"head"`, `"tail"` and each kind of record.

    Raises:
        FlatbufferError, ToolNotFoundError, UnsupportedOpError: As for `measure_arena`.
    """
    if importlib.util.find_spec("tflite_micro") is None:
        raise ToolNotFoundError(
            "measuring the arena needs the tflite-micro wheel, which is not installed. "
            "To get it: pip install 'kprune[tflm]'."
        )
    network = _flatbuffer.read(flatbuffer)
    activations = sum(t.num_bytes + 16 for t in network.tensors if t.data is None)
    size = min(4 * activations + 2 * len(flatbuffer) + 2**20, _MAX_ARENA_BYTES)
    try:
        result = subprocess.run(
            [sys.executable, "-c", _RECORD, str(size)],
            input=flatbuffer,
            capture_output=True,
            timeout=120,
        )
    except subprocess.TimeoutExpired:
        raise UnsupportedOpError(
            "TensorFlow Lite Micro did not finish one run of this network in two minutes."
        ) from None
    text = result.stderr.decode(errors="replace")
    if result.returncode:
        raise UnsupportedOpError(
            f"TensorFlow Lite Micro cannot run this network: {_first_line(text)}"
        )
    ends = re.findall(r"Arena allocation (\w+) (\d+) bytes", text)
    kinds = re.findall(r"'(.*?)' used (\d+) bytes", text)
    return {kind: int(size) for kind, size in (*ends, *kinds)}


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else "it ended without a message."
