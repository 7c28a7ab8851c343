"""The kernels of every instruction set give the bytes of TensorFlow Lite Micro, in QEMU.

Random networks of one operator, with all their odd channel counts, strides and paddings, run as
one program per core.
"""

import pathlib
import subprocess
from collections.abc import Iterator

import flatbuffer_zoo
import numpy as np
import pytest
from compiled import WARNINGS, random_inputs, tflite_micro
from conftest import require
from single_operators import OPERATORS, Seeded

from kprune import flatbuffer as flatbuffers
from kprune.c import network

HERE = pathlib.Path(__file__).parent
NOT_INT8 = ("QUANTIZE_FLOAT", "DEQUANTIZE")
# Those with more than one version get more of the networks.
COUNTS = {"CONV_2D": 36, "DEPTHWISE_CONV_2D": 36, "FULLY_CONNECTED": 16, "MAX_POOL_2D": 8}
COUNTS["ROUNDING"] = 12
# Core the code is compiled for → QEMU's machine, where its code and data lie.
CORES = {
    "cortex-m0": ("mps2-an385", 0x00000000, 0x20000000),
    "cortex-m3": ("mps2-an385", 0x00000000, 0x20000000),
    "cortex-m4": ("mps2-an386", 0x00000000, 0x20000000),
    "cortex-m7": ("mps2-an500", 0x00000000, 0x20000000),
    "cortex-m33": ("mps2-an505", 0x10000000, 0x38000000),
    "cortex-m55": ("mps3-an547", 0x00000000, 0x20000000),
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> pathlib.Path:
    """A folder with the C of all networks and a table of inputs and expected outputs."""
    require("tflite_micro")
    folder = tmp_path_factory.mktemp("cases")
    declarations, entries, sizes = [], [], []
    for name, flatbuffer, x, expected in [*_random_networks(), *_long_softmaxes()]:
        for file, text in network.to_c(flatbuffer, name).items():
            (folder / file).write_text(text)
        arena = (folder / f"{name}.h").read_text().split("_ARENA_SIZE ")[1].split()[0]
        sizes.append((int(arena), expected.size))
        declarations += [
            f'#include "{name}.h"',
            _array(f"{name}_input", x),
            _array(f"{name}_expected", expected),
        ]
        entries.append(
            f'{{ "{name}", {name}_run, {name}_input, {name}_expected, {expected.size} }},'
        )
    arena, output = map(max, zip(*sizes, strict=True))
    lines = [
        *declarations,
        f"enum {{ ARENA_SIZE = {arena}, OUTPUT_SIZE = {output} }};",
        "static const test_case cases[] = {",
        *entries,
        "};",
    ]
    (folder / "cases.h").write_text("\n".join(lines))
    return folder


def _random_networks() -> Iterator[tuple[str, bytes, np.ndarray, np.ndarray]]:
    for operator, build in OPERATORS.items():
        for seed in range(0 if operator in NOT_INT8 else COUNTS.get(operator, 3)):
            flatbuffer = build(Seeded(seed))
            [x] = random_inputs(flatbuffer, seed=seed)[0 if operator == "ROUNDING" else 1]
            [[expected]] = tflite_micro(flatbuffer, [[x]])
            yield f"{operator.lower()}_{seed}", flatbuffer, x, expected


def _long_softmaxes() -> Iterator[tuple[str, bytes, np.ndarray, np.ndarray]]:
    """Equal values; from 512 on, TensorFlow Lite Micro ends the process, and every byte is 0."""
    for length, byte in ((511, -127), (512, -128), (600, -128), (9000, -128)):
        net = flatbuffer_zoo.Builder()
        flatbuffer = net.build(net.softmax(net.input((1, length))))
        x = np.full((1, length), 5, np.int8)
        yield f"long_softmax_{length}", flatbuffer, x, np.full_like(x, byte)


def run(command: list, folder: pathlib.Path) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]


def _array(name: str, values: np.ndarray) -> str:
    numbers = ", ".join(map(str, values.ravel().tolist()))
    return f"static const int8_t {name}[] = {{ {numbers} }};"


# Compilers for the M4 besides Debian's: clang, and the GCC 7 and 9 of Arduino cores, which get the
# plain loops. No package brings these; a newer one that is told to be one takes the same text.
OTHERS = {
    "clang": ["clang", "--target=arm-none-eabi", "-isystem", "/usr/include/newlib"],
    "GCC 9": ["arm-none-eabi-gcc", "-U__GNUC__", "-D__GNUC__=9"],
}
THUMB = ["-mthumb", "-mfloat-abi=soft", "-O2", "-ffunction-sections"]


@pytest.fixture(scope="module")
def objects(cases, tmp_path_factory) -> list[pathlib.Path]:
    """The calls of all networks, for the smallest core: what differs between cores is kp_nn."""
    require("arm-none-eabi-gcc")
    folder = tmp_path_factory.mktemp("objects")
    sources = sorted(path for path in cases.glob("*.c") if path.name != "kp_nn.c")
    run(["arm-none-eabi-gcc", "-mcpu=cortex-m0", *THUMB, *WARNINGS, "-c", *sources], folder)
    return sorted(folder.glob("*.o"))


@pytest.mark.parametrize("core", CORES)
def test_kernels_of_a_core_give_the_bytes_of_tflite_micro(core, cases, objects, tmp_path):
    build_and_run(["arm-none-eabi-gcc"], core, cases, objects, tmp_path)


@pytest.mark.parametrize("compiler", OTHERS)
def test_kernels_of_another_compiler_give_the_same_bytes(compiler, cases, objects, tmp_path):
    require(OTHERS[compiler][0])
    build_and_run(OTHERS[compiler], "cortex-m4", cases, objects, tmp_path)

    disassemble = ["arm-none-eabi-objdump", "-d", tmp_path / "kp_nn.o"]
    listing = subprocess.run(disassemble, capture_output=True, text=True, check=True).stdout
    assert ("smlad" in listing) == (compiler == "clang")


def build_and_run(compiler, core, cases, objects, tmp_path):
    require("qemu-system-arm")
    machine, code, data = CORES[core]
    flags = [f"-mcpu={core}", *THUMB]
    if core == "cortex-m55":
        flags[2] = "-mfloat-abi=softfp"  # MVE needs the registers of the FPU
    place = f"-Wl,--defsym=CODE_START={code},--defsym=DATA_START={data},--gc-sections"
    link = ["--specs=rdimon.specs", f"-T{HERE / 'bare_metal.ld'}", place, f"-I{cases}"]
    run([*compiler, *flags, *WARNINGS, "-c", cases / "kp_nn.c"], tmp_path)
    gcc = ["arm-none-eabi-gcc", *flags]
    run([*gcc, *link, HERE / "bare_metal.c", "kp_nn.o", *objects, "-o", "test.elf"], tmp_path)
    qemu = ["qemu-system-arm", "-M", machine, "-kernel", tmp_path / "test.elf", "-nographic"]
    quiet = ["-monitor", "none", "-serial", "none"]
    semihosting = ["-semihosting-config", "enable=on,target=native"]
    result = subprocess.run(
        [*qemu, *quiet, *semihosting],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    report = result.stdout + result.stderr

    assert result.returncode == 0, report
    assert " 0 differ" in report


def test_plain_kernels_pass_the_sanitizers(cases, tmp_path):
    """On this computer, with every overflow and every stray address caught."""
    require("gcc")
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1"]
    sources = [HERE / "bare_metal.c", *cases.glob("*.c")]
    run(["gcc", *checks, f"-I{cases}", *sources, "-o", "test"], tmp_path)
    run([tmp_path / "test"], tmp_path)


def test_networks_of_the_cases_are_not_all_alike(cases):
    """A table of expected bytes that is all one value would prove nothing."""
    tables = [line for line in (cases / "cases.h").read_text().splitlines() if "expected[]" in line]
    varied = [line for line in tables if len(set(line.split("{")[1].strip(" };").split(", "))) > 3]

    assert len(varied) > len(tables) * 0.6


def test_read_flatbuffers_are_int8(cases):
    del cases
    for operator, build in OPERATORS.items():
        network_ = flatbuffers.read(build(Seeded(0)))
        tensors = [network_.tensors[i] for i in (*network_.inputs, *network_.outputs)]

        assert all(t.dtype == np.int8 for t in tensors) is (operator not in NOT_INT8)
