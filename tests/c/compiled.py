"""Generated C, compiled for this computer and called from Python; and its oracle."""

import ctypes
import functools
import pathlib
import re
import subprocess
import tempfile

import numpy as np

from kprune import flatbuffer as flatbuffers
from kprune.c import network

WARNINGS = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wdouble-promotion"]
WARNINGS += ["-Wmissing-prototypes", "-Wcast-qual", "-Werror"]


@functools.cache
def runtime_object() -> pathlib.Path:
    """kp_nn.c, compiled once per session."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="kp_nn_"))
    for name, text in network.runtime().items():
        (folder / name).write_text(text)
    gcc(["-O2", "-fPIC", "-c", folder / "kp_nn.c", "-o", folder / "kp_nn.o"])
    return folder / "kp_nn.o"


def gcc(arguments: list) -> None:
    subprocess.run(["gcc", *WARNINGS, *map(str, arguments)], check=True)


class CompiledNetwork:
    """The C of a flatbuffer as a function from arrays, one per input, to arrays, one per output."""

    def __init__(self, flatbuffer: bytes, folder: pathlib.Path, name: str = "net") -> None:
        files = network.to_c(flatbuffer, name)
        for file in (f"{name}.h", f"{name}.c"):
            (folder / file).write_text(files[file])
        library = folder / f"{name}.so"
        runtime = runtime_object()
        include = f"-I{runtime.parent}"
        gcc(["-O0", "-shared", "-fPIC", include, folder / f"{name}.c", runtime, "-o", library])
        self.function = getattr(ctypes.CDLL(str(library)), f"{name}_run")
        read = flatbuffers.read(flatbuffer)
        self.inputs = [read.tensors[i] for i in read.inputs]
        self.outputs = [read.tensors[i] for i in read.outputs]
        macro = rf"^#define {name.upper()}_(?:INPUT|OUTPUT)(?:_\d+)?_OFFSET (\d+)$"
        header = files[f"{name}.h"]
        # In the order of the arguments; fewer where some are float and have none.
        self.offsets = [int(offset) for offset in re.findall(macro, header, re.MULTILINE)]
        self.arena_size = int(re.search(r"_ARENA_SIZE (\d+)", header)[1])

    def __call__(self, xs: list[np.ndarray]) -> list[np.ndarray]:
        """Run with buffers of the caller; the bytes around the arena must stay as they are."""
        ys = [np.zeros(tensor.shape, tensor.dtype) for tensor in self.outputs]
        arena, before = self._arena(), [x.copy() for x in xs]
        self._run([array.ctypes.data for array in (*xs, *ys)], arena)
        for x, old in zip(xs, before, strict=True):
            np.testing.assert_array_equal(x, old)
        return ys

    def inside(self, xs: list[np.ndarray]) -> list[np.ndarray]:
        """Run with inputs and outputs inside the arena."""
        arena = self._arena()
        starts = [64 + offset for offset in self.offsets]
        for x, start in zip(xs, starts, strict=False):
            arena[start : start + x.size] = x.ravel()
        self._run([arena.ctypes.data + start for start in starts], arena)
        ends = zip(self.outputs, starts[len(xs) :], strict=True)
        return [arena[s : s + y.num_bytes].reshape(y.shape).copy() for y, s in ends]

    def _arena(self) -> np.ndarray:
        # Odd contents, so that reading what was not written shows.
        return np.random.default_rng(1).integers(-128, 128, self.arena_size + 128).astype(np.int8)

    def _run(self, addresses: list[int], arena: np.ndarray) -> None:
        guards = arena[:64].copy(), arena[-64:].copy()
        self.function(*map(ctypes.c_void_p, (*addresses, arena.ctypes.data + 64)))
        np.testing.assert_array_equal(arena[:64], guards[0])
        np.testing.assert_array_equal(arena[-64:], guards[1])


def tflite_micro(flatbuffer: bytes, samples: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """What TensorFlow Lite Micro itself computes."""
    from tflite_micro import runtime as tflm

    interpreter = tflm.Interpreter.from_bytes(flatbuffer, arena_size=4_000_000)
    num_outputs = len(flatbuffers.read(flatbuffer).outputs)
    results = []
    for xs in samples:
        for place, x in enumerate(xs):
            interpreter.set_input(x, place)
        interpreter.invoke()
        results.append([interpreter.get_output(place).copy() for place in range(num_outputs)])
    return results


def random_inputs(flatbuffer: bytes, count: int = 2, seed: int = 0) -> list[list[np.ndarray]]:
    """Samples of random bytes, at first one whose bytes count up: an array for each input."""
    read = flatbuffers.read(flatbuffer)
    random = np.random.default_rng(seed)
    scale = read.tensors[read.outputs[0]].scale
    arrays = [_random_input(read.tensors[i], scale, count, random) for i in read.inputs]
    return [list(sample) for sample in zip(*arrays, strict=True)]


def _random_input(tensor, scale, count: int, random: np.random.Generator) -> np.ndarray:
    if tensor.dtype == np.float32:
        steps = random.integers(-600, 600, (count, *tensor.shape)) / 2 + random.choice(
            [0, 0, 0.25, -0.3], (count, *tensor.shape)
        )
        return (steps * float(scale[0])).astype(np.float32)
    xs = random.integers(-128, 128, (count, *tensor.shape)).astype(np.int8)
    xs[0] = (np.arange(xs[0].size).reshape(tensor.shape) % 256 - 128).astype(np.int8)
    return xs
