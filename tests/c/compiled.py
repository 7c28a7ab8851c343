"""Generated C, compiled for this computer and called from Python; and its oracle."""

import ctypes
import functools
import pathlib
import subprocess
import tempfile

import numpy as np

from kprune import flatbuffer as flatbuffers
from kprune.c import network

WARNINGS = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wdouble-promotion"]
WARNINGS += ["-Wmissing-prototypes", "-Werror"]


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
    """The C of a flatbuffer as a function from array to array."""

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
        self.input, self.output = read.tensors[read.inputs[0]], read.tensors[read.outputs[0]]
        defines = dict(
            line.split()[1:3]
            for line in files[f"{name}.h"].splitlines()
            if "#define" in line and len(line.split()) > 2
        )
        upper = name.upper()
        self.arena_size = int(defines[f"{upper}_ARENA_SIZE"])
        self.offsets = [
            int(defines[key]) if key in defines else None
            for key in (f"{upper}_INPUT_OFFSET", f"{upper}_OUTPUT_OFFSET")
        ]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Run with buffers of the caller; the bytes around the arena must stay as they are."""
        y = np.zeros(self.output.shape, self.output.dtype)
        arena, before = self._arena(), x.copy()
        self._run(x.ctypes.data, y.ctypes.data, arena)
        np.testing.assert_array_equal(x, before)
        return y

    def inside(self, x: np.ndarray) -> np.ndarray:
        """Run with input and output inside the arena."""
        arena = self._arena()
        first, last = (64 + offset for offset in self.offsets)
        arena[first : first + x.size] = x.ravel()
        self._run(arena.ctypes.data + first, arena.ctypes.data + last, arena)
        size = int(np.prod(self.output.shape))
        return arena[last : last + size].reshape(self.output.shape).copy()

    def _arena(self) -> np.ndarray:
        # Odd contents, so that reading what was not written shows.
        return np.random.default_rng(1).integers(-128, 128, self.arena_size + 128).astype(np.int8)

    def _run(self, x: int, y: int, arena: np.ndarray) -> None:
        guards = arena[:64].copy(), arena[-64:].copy()
        self.function(*map(ctypes.c_void_p, (x, y, arena.ctypes.data + 64)))
        np.testing.assert_array_equal(arena[:64], guards[0])
        np.testing.assert_array_equal(arena[-64:], guards[1])


def tflite_micro(flatbuffer: bytes, xs: list[np.ndarray]) -> list[np.ndarray]:
    """What TensorFlow Lite Micro itself computes."""
    from tflite_micro import runtime as tflm

    interpreter = tflm.Interpreter.from_bytes(flatbuffer, arena_size=4_000_000)
    results = []
    for x in xs:
        interpreter.set_input(x, 0)
        interpreter.invoke()
        results.append(interpreter.get_output(0).copy())
    return results


def random_inputs(flatbuffer: bytes, count: int = 2, seed: int = 0) -> list[np.ndarray]:
    """Random bytes, and at first the input whose bytes count up."""
    read = flatbuffers.read(flatbuffer)
    tensor = read.tensors[read.inputs[0]]
    random = np.random.default_rng(seed)
    if tensor.dtype == np.float32:
        scale = float(read.tensors[read.outputs[0]].scale[0])
        steps = random.integers(-600, 600, (count, *tensor.shape)) / 2 + random.choice(
            [0, 0, 0.25, -0.3], (count, *tensor.shape)
        )
        return list((steps * scale).astype(np.float32))
    xs = random.integers(-128, 128, (count, *tensor.shape)).astype(np.int8)
    xs[0] = (np.arange(xs[0].size).reshape(tensor.shape) % 256 - 128).astype(np.int8)
    return list(xs)
