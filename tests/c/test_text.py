"""The generated text: exactly as committed in golden/, and accepted by every compiler.

After a change that is meant to change the text, rewrite golden/ with

    KPRUNE_REWRITE_GOLDEN=1 python -m pytest tests/c/test_text.py

and look at the difference before committing it.
"""

import os
import pathlib
import re
import subprocess

import flatbuffer_zoo
import pytest
from compiled import WARNINGS
from conftest import require
from single_operators import OPERATORS, Seeded

import kprune
from kprune.c import network

GOLDEN = pathlib.Path(__file__).parent / "golden"
CXX_WARNINGS = [w for w in WARNINGS if w not in ("-std=c99", "-Wmissing-prototypes")]
CORES = {
    "cortex-m0": [],
    "cortex-m3": [],
    "cortex-m4": ["-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"],
    "cortex-m7": ["-mfpu=fpv5-d16", "-mfloat-abi=hard"],
    "cortex-m33": ["-mfpu=fpv5-sp-d16", "-mfloat-abi=hard"],
    "cortex-m55": ["-mfloat-abi=hard"],
}


KINDS = ("LOGISTIC", "MUL", "PRELU", "MEAN", "PAD", "TRANSPOSE_CONV", "DEQUANTIZE")
KINDS += ("RESIZE_NEAREST_NEIGHBOR", "QUANTIZE_FLOAT", "RESHAPE")


def tiny() -> bytes:
    """A convolution, a pool, an addition, a dense layer and a softmax, named as in Keras."""
    net = flatbuffer_zoo.Builder(7)
    x = net.conv2d(net.input((1, 4, 4, 1)), 2, activation="relu")
    net.graph.tensors[x].name = "model/conv1/Relu;model/conv1/BiasAdd"
    y = net.depthwise(x)
    net.graph.tensors[y].name = "model/depthwise/BiasAdd"
    x = net.add(x, y)
    net.graph.tensors[x].name = "model/add/Add"
    x = net.pool(x, "MAX_POOL_2D", 2)
    net.graph.tensors[x].name = "model/pool/MaxPool"
    x = net.dense(net.reshape(x, (1, 8)), 3)
    net.graph.tensors[x].name = "model/scores/MatMul;model/scores/BiasAdd"
    x = net.softmax(x)
    net.graph.tensors[x].name = "Identity_int8"
    return net.build(x)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """The C of a few operators, one of each kind of constant, and of the tiny network."""
    folder = tmp_path_factory.mktemp("text")
    networks = {name.lower(): OPERATORS[name](Seeded(0)) for name in KINDS}
    for name, flatbuffer in {**networks, "tiny": tiny()}.items():
        kprune.write_files(kprune.to_c(flatbuffer, f"net_{name}"), folder)
    return folder


def compile_all(command: list, folder: pathlib.Path, scratch: pathlib.Path) -> None:
    files = sorted(folder.glob("*.c"))
    result = subprocess.run(
        [*command, *files], cwd=scratch, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stderr == ""


@pytest.mark.parametrize("file", ["tiny.h", "tiny.c"])
def test_text_is_that_in_golden(file):
    text = kprune.to_c(tiny(), "tiny")[file]
    if os.environ.get("KPRUNE_REWRITE_GOLDEN") == "1":
        (GOLDEN / file).write_text(text)

    assert text == (GOLDEN / file).read_text()


def test_same_flatbuffer_gives_the_same_text():
    for name, build in flatbuffer_zoo.NETWORKS.items():
        assert kprune.to_c(build(), name) == kprune.to_c(build(), name)


def test_no_line_is_longer_than_100_columns():
    for text in [*network.runtime().values(), *kprune.to_c(tiny(), "tiny").values()]:
        assert max(map(len, text.splitlines())) <= 100


def test_version_of_the_runtime_is_the_one_generated_for():
    version = re.search(r"KP_NN_VERSION (\d+)", network.runtime()["kp_nn.h"]).group(1)

    assert f"#if KP_NN_VERSION != {version}" in kprune.to_c(tiny(), "tiny")["tiny.c"]


def test_another_version_of_the_runtime_stops_the_compiler_with_a_sentence(folder, tmp_path):
    require("gcc")
    (tmp_path / "kp_nn.h").write_text(
        (folder / "kp_nn.h").read_text().replace("KP_NN_VERSION 1", "KP_NN_VERSION 99")
    )
    source = tmp_path / "net_tiny.c"
    source.write_text((folder / "net_tiny.c").read_text())
    result = subprocess.run(
        ["gcc", f"-I{folder}", "-fsyntax-only", source], capture_output=True, text=True, check=False
    )

    assert result.returncode != 0
    assert "run `kprune to-c` again" in result.stderr


def test_gcc_accepts_it_without_a_warning(folder, tmp_path):
    require("gcc")
    compile_all(["gcc", *WARNINGS, "-O2", "-c"], folder, tmp_path)


def test_it_is_cxx_too(folder, tmp_path):
    require("g++")
    compile_all(["g++", "-std=c++17", *CXX_WARNINGS, "-O2", "-c", "-x", "c++"], folder, tmp_path)


@pytest.mark.parametrize("core", CORES)
def test_the_arm_compiler_accepts_it_for_every_core(core, folder, tmp_path):
    require("arm-none-eabi-gcc")
    target = [f"-mcpu={core}", "-mthumb", *CORES[core], "-O2", "-c"]
    compile_all(["arm-none-eabi-gcc", *target, *WARNINGS], folder, tmp_path)


@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m55"])
@pytest.mark.parametrize("level", ["-O0", "-Os", "-O3"])
def test_the_inner_loops_compile_at_every_level(core, level, folder, tmp_path):
    """Hand-chosen registers must not run out when the compiler keeps some for itself."""
    require("arm-none-eabi-gcc")
    target = [f"-mcpu={core}", "-mthumb", *CORES[core], level]
    subprocess.run(
        ["arm-none-eabi-gcc", *target, *WARNINGS, "-c", folder / "kp_nn.c"],
        cwd=tmp_path,
        check=True,
    )


@pytest.mark.parametrize("core", CORES)
def test_the_arm_compiler_accepts_it_as_cxx_for_every_core(core, folder, tmp_path):
    require("arm-none-eabi-g++")
    target = [f"-mcpu={core}", "-mthumb", *CORES[core], "-O2", "-c", "-std=c++17"]
    compile_all(["arm-none-eabi-g++", *target, *CXX_WARNINGS, "-x", "c++"], folder, tmp_path)


def test_clang_and_its_analyzer_find_nothing(folder, tmp_path):
    require("clang")
    compile_all(["clang", *WARNINGS, "-O2", "-c"], folder, tmp_path)
    compile_all(["clang", "-std=c99", "--analyze"], folder, tmp_path)


@pytest.mark.parametrize("layer", ["kp", "kp_nn", "kp_conv2d", "int", "arena", "input", "net_run"])
def test_a_layer_may_have_any_name(layer, tmp_path):
    require("gcc")
    net = flatbuffer_zoo.Builder()
    x = net.conv2d(net.input((1, 4, 4, 1)), 2)
    net.graph.tensors[x].name = layer
    kprune.write_files(kprune.to_c(net.build(x), "net"), tmp_path)

    compile_all(["gcc", *WARNINGS, "-c"], tmp_path, tmp_path)


def test_two_networks_link_together(tmp_path):
    require("gcc")
    for name, seed in (("one", 1), ("other", 2)):
        flatbuffer = flatbuffer_zoo.NETWORKS["plain_network"](seed)
        kprune.write_files(kprune.to_c(flatbuffer, name), tmp_path)
    (tmp_path / "main.c").write_text(
        '#include "one.h"\n#include "other.h"\n'
        "static int8_t x[ONE_INPUT_SIZE], y[ONE_OUTPUT_SIZE], a[ONE_ARENA_SIZE];\n"
        "int main(void) { one_run(x, y, a); other_run(x, y, a); return 0; }\n"
    )
    compile_all(["gcc", *WARNINGS, "-o", tmp_path / "both"], tmp_path, tmp_path)

    assert subprocess.run([tmp_path / "both"], check=False).returncode == 0


def test_it_needs_nothing_but_memcpy_and_memset(folder, tmp_path):
    """No heap, no libm, no other libc: what the objects leave undefined says it all."""
    require("arm-none-eabi-gcc")
    target = ["-mcpu=cortex-m4", "-mthumb", *CORES["cortex-m4"], "-O2", "-c"]
    compile_all(["arm-none-eabi-gcc", *target, *WARNINGS], folder, tmp_path)
    listing = subprocess.run(
        ["arm-none-eabi-nm", "-u", *tmp_path.glob("*.o")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    undefined = {line.split()[1] for line in listing.splitlines() if line.startswith(" ")}

    assert {n for n in undefined if not n.startswith("kp_")} <= {"memcpy", "memset"}


def test_it_has_no_variables(folder, tmp_path):
    """Everything is const: neither .data nor .bss."""
    require("arm-none-eabi-gcc")
    target = ["-mcpu=cortex-m4", "-mthumb", *CORES["cortex-m4"], "-O2", "-c"]
    compile_all(["arm-none-eabi-gcc", *target, *WARNINGS], folder, tmp_path)
    listing = subprocess.run(
        ["arm-none-eabi-size", *tmp_path.glob("*.o")], capture_output=True, text=True, check=True
    ).stdout

    assert {tuple(line.split()[1:3]) for line in listing.splitlines()[1:]} == {("0", "0")}
