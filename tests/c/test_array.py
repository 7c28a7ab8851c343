"""The C array: compiled, its bytes are the file, and its alignment is in the object file."""

import hashlib
import subprocess
from pathlib import Path

import flatbuffer_zoo
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from conftest import require

import kprune
from kprune import flatbuffer as kprune_flatbuffer
from kprune import tflm
from kprune.arena import Arena, arena
from kprune.c.array import to_c_array
from kprune.c.files import write_files

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Wundef", "-Werror"]
C = [*WARNINGS, "-Wmissing-prototypes", "-Wdouble-promotion", "-xc"]
CPP = [*WARNINGS, "-Wold-style-cast", "-Wdouble-promotion", "-xc++"]
COMPILERS = {
    "c99": ["gcc", *C, "-std=c99"],
    "c11": ["gcc", *C, "-std=c11"],
    "c++11": ["g++", *CPP, "-std=c++11"],
    "c++17": ["g++", *CPP, "-std=c++17"],
    "cortex-m0 c99": ["arm-none-eabi-gcc", *C, "-std=c99", "-mcpu=cortex-m0", "-mthumb"],
    "cortex-m4 c++17": ["arm-none-eabi-g++", *CPP, "-std=c++17", "-mcpu=cortex-m4", "-mthumb"],
}
ZEROS = np.zeros((2, 144), np.int8)
STYLES = {
    "tflm": ["gesture_model_data.h", "gesture_model_data.cc", "g_gesture_model_data"],
    "arduino": ["gesture.h", "gesture.cpp", "g_gesture"],
    "xxd": ["gesture_tflite.h", "gesture_tflite.c", "gesture_tflite"],
}


def two_inputs() -> bytes:
    net = flatbuffer_zoo.Builder()
    return net.build(net.add(net.input((1, 4)), net.input((1, 4))))


TWO_INPUTS = two_inputs()


def run(*command: str | Path) -> str:
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("standard", COMPILERS)
@pytest.mark.parametrize("style", STYLES)
def test_the_compiled_array_is_the_file_and_is_aligned(tmp_path, style, standard):
    compiler = COMPILERS[standard]
    tools = compiler[0].rpartition("g")[0]
    require(compiler[0], f"{tools}nm", f"{tools}objdump", f"{tools}objcopy")
    flatbuffer = flatbuffer_zoo.plain_network()
    header, source, array = STYLES[style]
    files = to_c_array(flatbuffer, "gesture", style)
    write_files(files, tmp_path)

    run(*compiler, "-c", tmp_path / source, "-o", tmp_path / "array.o")

    assert list(files)[:2] == [header, source]
    run(f"{tools}objcopy", "-O", "binary", "-j", ".rodata", tmp_path / "array.o", tmp_path / "raw")
    symbols = run(f"{tools}nm", tmp_path / "array.o").splitlines()
    [address] = [int(line.split()[0], 16) for line in symbols if line.endswith(f" R {array}")]
    content = (tmp_path / "raw").read_bytes()[address:]
    assert content[: len(flatbuffer)] == flatbuffer
    sections = run(f"{tools}objdump", "-h", tmp_path / "array.o").splitlines()
    [alignment] = [line.split()[-1] for line in sections if " .rodata " in line]
    assert address % 16 == 0 and int(alignment.removeprefix("2**")) >= 4


@pytest.mark.parametrize("standard", ["c99", "c++17"])
@pytest.mark.parametrize("style", STYLES)
def test_a_program_sees_length_shapes_scales_and_labels(tmp_path, style, standard):
    require(COMPILERS[standard][0])
    flatbuffer = flatbuffer_zoo.plain_network()
    labels = ["up", 'say "hi"??/', "größe\\n", "*/", "e"]
    header, source, array = STYLES[style]
    length = f"{array}_size" if style == "tflm" else f"{array}_len"
    write_files(to_c_array(flatbuffer, "gesture", style, labels=labels), tmp_path)
    (tmp_path / "main.c").write_text(f"""
#include "{header}"
#include <stdio.h>
#include <string.h>
static const int shape[] = GESTURE_INPUT_SHAPE;
static const char *const labels[] = GESTURE_LABELS;
int main(void)
{{
    const float scale = GESTURE_INPUT_SCALE;
    unsigned bits, i;
    memcpy(&bits, &scale, sizeof bits);
    printf("%ld %zu %c\\n", 0L + {length}, sizeof {array}, {array}[4]);
    printf("%d %d %08x\\n", GESTURE_INPUT_SIZE, GESTURE_INPUT_ZERO, bits);
    printf("%d %d %d %d\\n", shape[0], shape[1], shape[2], shape[3]);
    printf("%d %d\\n", GESTURE_OUTPUT_SIZE, GESTURE_OUTPUT_ZERO);
    for (i = 0; i < sizeof labels / sizeof labels[0]; i++)
        puts(labels[i]);
    return 0;
}}
""")
    program = tmp_path / "program"
    run(*COMPILERS[standard], tmp_path / source, tmp_path / "main.c", "-o", program)
    lines = run(program).splitlines()

    bits = int(np.float32(0.02).view(np.uint32))
    size = len(flatbuffer)
    assert lines[:4] == [f"{size} {size} T", f"144 -3 {bits:08x}", "1 12 12 1", "5 -128"]
    assert lines[4:] == labels


def test_the_same_file_gives_the_same_text():
    flatbuffer = flatbuffer_zoo.depthwise_network()

    files = to_c_array(flatbuffer, "gesture", labels=["a", "b", "c"])

    assert files == to_c_array(bytes(flatbuffer), "gesture", labels=["a", "b", "c"])
    for stem in ("gesture_model_data.h", "gesture_model_data.cc"):
        assert hashlib.sha256(flatbuffer).hexdigest() in files[stem]
    assert all(max(map(len, text.splitlines())) <= 100 for text in files.values())


@pytest.mark.parametrize("style", STYLES)
def test_every_file_names_the_style_that_makes_it_again(style):
    flatbuffer = flatbuffer_zoo.dense_network()
    network = kprune_flatbuffer.read(flatbuffer)
    ends = [network.tensors[end] for end in (network.inputs[0], network.outputs[0])]
    test_data = tuple(np.zeros((1, end.size), np.int8) for end in ends)

    files = to_c_array(flatbuffer, "gesture", style, test_data=test_data)

    asking = [name for name, text in files.items() if "Do not edit" in text]
    assert {*STYLES[style][:2], "gesture_test_data.h"} < set(asking)
    assert all(f"run `kprune to-c-array --style {style}` again" in files[name] for name in asking)


def test_several_inputs_and_outputs_are_numbered():
    net = flatbuffer_zoo.Builder()
    x = net.add(net.input((1, 2, 2, 1)), net.input((1, 2, 2, 3)))

    header = to_c_array(net.build(x, net.relu(x)), "two")["two_model_data.h"]

    assert "#define TWO_INPUT_0_SIZE 4 /* int8, 1 x 2 x 2 x 1 */" in header
    assert "#define TWO_INPUT_1_SIZE 12 " in header and "#define TWO_OUTPUT_1_SIZE 12 " in header
    assert "TWO_INPUT_SIZE" not in header


def test_the_arduino_style_named_model_is_what_the_arduino_examples_have():
    files = to_c_array(flatbuffer_zoo.dense_network(), "model", "arduino")

    assert list(files)[:2] == ["model.h", "model.cpp"]
    assert "const unsigned char g_model[" in files["model.h"]
    assert "extern const int g_model_len;" in files["model.h"]


def test_the_arena_is_predicted_unless_it_was_measured():
    flatbuffer = flatbuffer_zoo.residual_network()
    predicted = arena(kprune_flatbuffer.read(flatbuffer))
    measured = Arena(head=1000, tail=500, margin=95, start=0, source="measured")

    header = to_c_array(flatbuffer, "gesture")["gesture_model_data.h"]
    other = to_c_array(flatbuffer, "gesture", arena=measured)["gesture_model_data.h"]

    assert f"#define GESTURE_TENSOR_ARENA_SIZE {predicted.total}\n" in header
    assert "planned by kprune" in header
    assert "#define GESTURE_TENSOR_ARENA_SIZE 1600\n" in other and "measured" in other


def test_a_network_whose_arena_cannot_be_predicted_has_no_macro_for_it():
    model = schema.ModelT.InitFromPackedBuf(flatbuffer_zoo.dense_network(), 0)
    model.subgraphs.append(schema.SubGraphT(tensors=[], operators=[], inputs=[], outputs=[]))

    header = to_c_array(kprune_flatbuffer.pack(model), "net")["net_model_data.h"]

    assert "ARENA" not in header and "NET_INPUT_SIZE" in header


@pytest.mark.parametrize("standard", COMPILERS)
@pytest.mark.parametrize("style", STYLES)
def test_the_test_data_compile_and_are_what_tflite_micro_gave(tmp_path, style, standard):
    require("tflite_micro", COMPILERS[standard][0])
    flatbuffer = flatbuffer_zoo.plain_network()
    inputs, outputs = test_data = tflm.golden_vectors(flatbuffer, 3)
    files = to_c_array(flatbuffer, "gesture", style, test_data=test_data)
    source = "gesture_test_data" + Path(STYLES[style][1]).suffix
    write_files(files, tmp_path)

    run(*COMPILERS[standard], "-c", tmp_path / source, "-o", tmp_path / "data.o")

    tools = COMPILERS[standard][0].rpartition("g")[0]
    run(f"{tools}objcopy", "-O", "binary", "-j", ".rodata", tmp_path / "data.o", tmp_path / "raw")
    content = (tmp_path / "raw").read_bytes()
    assert len(inputs) == 3 and inputs.std() > 10 and np.unique(outputs).size > 3
    assert inputs.tobytes() in content and outputs.tobytes() in content
    assert "#define GESTURE_TEST_COUNT 3" in files["gesture_test_data.h"]


def test_test_data_of_several_inputs_and_outputs_are_numbered(tmp_path):
    require("tflite_micro")
    flatbuffer = flatbuffer_zoo.several_network()
    files = to_c_array(flatbuffer, "net", test_data=tflm.golden_vectors(flatbuffer, 2))

    header = files["net_test_data.h"]

    for name in ("inputs_0[2][16]", "inputs_1[2][32]", "outputs_0[2][32]", "outputs_1[2][3]"):
        assert f"extern const int8_t g_net_test_{name};" in header


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "my-model"}, ValueError, "'my-model' cannot be used as a name in C"),
        ({"style": "gnu"}, ValueError, "style must be one of tflm, arduino, xxd, got 'gnu'"),
        ({"labels": ["a", "b"]}, ValueError, "2 labels for 5 output values"),
        ({"labels": "abcde"}, TypeError, "labels must be a sequence of texts"),
        ({"test_data": (ZEROS[:, :5], ZEROS)}, ValueError, "inputs of test_data have shape"),
        ({"test_data": (ZEROS[:0], ZEROS[:0])}, ValueError, "test_data has no inputs"),
        ({"test_data": (ZEROS, ZEROS)}, ValueError, "outputs of test_data have shape"),
        ({"test_data": (ZEROS.astype(float), ZEROS)}, ValueError, "expected 2 times .* int8"),
        ({"flatbuffer": TWO_INPUTS, "test_data": (ZEROS, ZEROS)}, ValueError, "are 1 arrays.* 2"),
        ({"test_data": (ZEROS, ZEROS[:1, :5])}, ValueError, "has 2 .* and 1 of another"),
        ({"flatbuffer": b"ELF"}, kprune.FlatbufferError, "not a TensorFlow Lite flatbuffer"),
    ],
)
def test_a_wrong_argument_is_a_clear_error(arguments, error, message):
    defaults = {"flatbuffer": flatbuffer_zoo.plain_network(), "name": "gesture"}

    with pytest.raises(error, match=message):
        to_c_array(**defaults | arguments)


def test_the_public_names_are_exported():
    assert kprune.to_c_array is to_c_array and kprune.write_files is write_files
    assert kprune_flatbuffer.FlatbufferError is kprune.FlatbufferError
