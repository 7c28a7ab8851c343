"""Firmware projects: what the protocol answers, that each one builds, how it is flashed."""

import hashlib
import math
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import flatbuffer_zoo
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from conftest import require

from kprune.boards import BOARDS
from kprune.building import build, microcontroller, read_network
from kprune.c.array import to_c_array
from kprune.c.files import write_files
from kprune.c.network import to_c
from kprune.errors import ToolNotFoundError
from kprune.firmware import firmware, flash, golden_source, random_input, write_project
from kprune.flatbuffer import read

TINY = Path(__file__).parent / "firmware" / "tiny"
MODEL = {path.name: path.read_text() for path in sorted(TINY.iterdir())}
BARE_METAL = [b.name for b in BOARDS.values() if b.program == "bare-metal"]
TFLM = Path(__file__).parent / "firmware" / "tflm"
ARDUINO = [b.name for b in BOARDS.values() if b.program == "arduino"]


@pytest.fixture(scope="module")
def flatbuffer():
    """A depthwise layer, convolutions, a dense layer and a softmax."""
    return flatbuffer_zoo.depthwise_network()


# The protocol, on the host build


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The program for this computer, golden vectors included."""
    require("make", "cc")
    model = tmp_path_factory.mktemp("model")
    for name, text in (MODEL | {"golden-vectors.c": golden_source(MODEL, 3)}).items():
        model.joinpath(name).write_text(text)
    return build(read_network(model), BOARDS["host"], tmp_path_factory.mktemp("build"))


def converse(program, said):
    """What the program answers, without its greeting."""
    result = subprocess.run([program], input=said, capture_output=True, timeout=10, check=True)
    greeting, *replies = result.stdout.decode("ascii").splitlines()
    assert re.fullmatch("# kprune: (tiny|net) on host is ready", greeting)
    return replies


@pytest.mark.parametrize(
    "line, reply",
    [
        (b"version", "ok kprune 1 tiny host"),
        (b"sizes", "ok 6 3 20"),
        (b"run 1 2 3 4 5 6", "ok 5 25 61"),
        (b"  run\t1  2 3 4 5 6  ", "ok 5 25 61"),
        (b"run -128 -128 0 0 127 127", "ok -128 0 127"),
        (b"go", "ok 0 0 0"),
        (b"test", "ok 3"),
        (b"stack", "ok 0"),
        (b"help", "ok version sizes run go test stack time help"),
        (b"run", "error run needs 6 values, got 0"),
        (b"run 1 2 3 4 5", "error run needs 6 values, got 5"),
        (b"run 1 2 3 4 5 6 7", "error run needs 6 values, got 7"),
        (b"run 1 128 3 4 5 6", "error value 2 is 128, not in -128..127"),
        (b"run -129 1", "error value 1 is -129, not in -128..127"),
        (b"run 1 2 x 4 5 6", "error value 3 is x, not in -128..127"),
        (b"run 1 2 - 4 5 6", "error value 3 is -, not in -128..127"),
        (b"run 1 2 --3 4 5 6", "error value 3 is --3, not in -128..127"),
        (b"run 1 2 3.5 4 5 6", "error value 3 is 3.5, not in -128..127"),
        (b"run 1 +2", "error value 2 is +2, not in -128..127"),
        (b"run 0000000000000000000001", "error value 1 is 000000000000000, not in -128..127"),
        (b"runs 1 2 3 4 5 6", "error unknown command runs: try help"),
        (b"RUN", "error unknown command RUN: try help"),
        (b"\xff\x80\x01%s", "error unknown command ???%s: try help"),
        (b"version\0", "error unknown command version?: try help"),
        (b"versionversionversion", "error unknown command versionversionv: try help"),
    ],
)
def test_a_line_is_answered_with_a_line(program, line, reply):
    assert converse(program, line + b"\n") == [reply]


def test_the_time_of_the_last_run_is_told(program):
    before, _, after = converse(program, b"time\nrun 1 2 3 4 5 6\ntime\n")

    assert before == "ok 0"
    assert re.fullmatch(r"ok \d+", after)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n", b"\n\n\r"])
def test_any_line_end_will_do_and_empty_lines_are_ignored(program, end):
    assert converse(program, b"sizes" + end + b"version" + end) == [
        "ok 6 3 20",
        "ok kprune 1 tiny host",
    ]


def test_the_last_line_needs_no_end(program):
    assert converse(program, b"sizes") == ["ok 6 3 20"]


def test_no_input_at_all_ends_quietly(program):
    assert converse(program, b"") == []


def test_after_a_bad_line_the_next_one_is_read_as_usual(program):
    flood = b"run " + b"7 " * 100_000 + b"\n" + b"z" * 1_000_000 + b"\nrun 1 2 3 4 5 6\n"

    assert converse(program, flood) == [
        "error run needs 6 values, got 100000",
        "error unknown command zzzzzzzzzzzzzzz: try help",
        "ok 5 25 61",
    ]


def test_arbitrary_bytes_get_one_reply_per_line_that_says_anything(program):
    noise = np.random.default_rng(7).integers(0, 256, 20_000).astype(np.uint8).tobytes()

    replies = converse(program, noise + b"\nsizes\n")

    asked = [line for line in re.split(rb"[\r\n]", noise) if line.strip(b" \t")]
    assert len(replies) == len(asked) + 1
    assert all(reply.startswith("error") for reply in replies[:-1])
    assert replies[-1] == "ok 6 3 20"


def test_a_board_that_computes_otherwise_fails_its_self_test(tmp_path):
    require("make", "cc")
    golden = golden_source(MODEL, 2)
    first = re.findall(r"^    (.*)$", golden, re.MULTILINE)[0]
    changed = f"{(int(first.split(',')[0]) + 1) % 100}," + first.split(",", 1)[1]
    for name, text in (MODEL | {"golden-vectors.c": golden.replace(first, changed)}).items():
        tmp_path.joinpath(name).write_text(text)

    elf = build(read_network(tmp_path), BOARDS["host"], tmp_path / "build")

    [reply] = converse(elf, b"test\n")
    assert re.fullmatch(r"error vector 1 output 1 is -?\d+, expected -?\d+", reply)


def test_without_golden_vectors_the_self_test_says_so(tmp_path):
    require("make", "cc")
    elf = build(read_network(TINY), BOARDS["host"], tmp_path)

    assert converse(elf, b"test\n") == ["error this program has no golden vectors"]


def test_the_program_is_clean_under_the_sanitizers(tmp_path):
    require("make", "cc")
    build(read_network(TINY), BOARDS["host"], tmp_path)  # writes network.c
    sources = [TINY / "tiny.c", TINY / "kp_nn.c", tmp_path / "network.c"]
    tree = microcontroller()
    sources += [tree / "app" / f"{stem}.c" for stem in ("main", "protocol", "stack", "no_golden")]
    sources += [tree / "boards" / "host" / "port.c"]
    flags = ["-std=c99", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    flags += ['-DBOARD_NAME="host"']
    includes = [f"-I{folder}" for folder in (tree / "app", TINY)]

    subprocess.run(["cc", *flags, *includes, *sources, "-o", tmp_path / "checked"], check=True)

    noise = np.random.default_rng(8).integers(0, 256, 50_000).astype(np.uint8).tobytes()
    converse(tmp_path / "checked", b"run 1 2 3 4 5 6\ntest\nstack\n" + noise)


# Golden vectors


def test_the_board_makes_the_same_inputs_of_a_seed_as_python(program):
    # The self-test passes only if both do: vectors are computed from Python's inputs.
    assert converse(program, b"test\n") == ["ok 3"]
    assert len({random_input(seed, 6).tobytes() for seed in range(1, 50)}) == 49


def test_the_same_network_gives_the_same_golden_text():
    require("make", "cc")

    assert golden_source(MODEL, 2) == golden_source(MODEL, 2)


def test_golden_vectors_of_several_inputs_and_outputs_are_reproduced(tmp_path):
    require("make", "cc")
    files = to_c(flatbuffer_zoo.several_network(), name="net")
    write_files({**files, "golden-vectors.c": golden_source(files, 2)}, tmp_path / "model")
    elf = build(read_network(tmp_path / "model"), BOARDS["host"], tmp_path / "build")

    assert converse(elf, b"test\nsizes\nrun 1\n") == [
        "ok 2",
        f"ok {16 + 32} {32 + 3} {read_network(tmp_path / 'model').arena_size}",
        "error run needs 48 values, got 1",
    ]


@pytest.mark.parametrize("runtime", ["c", "tflm"])
def test_golden_vectors_and_readme_say_of_which_network_they_are(runtime, flatbuffer):
    require("make", "cc")

    files = firmware(flatbuffer, "nucleo_f446re", "net", runtime, golden=1)

    origin = f"net.tflite (sha256 {hashlib.sha256(flatbuffer).hexdigest()[:16]})"
    assert origin in to_c(flatbuffer, "net")["net.h"]
    assert origin in files["model/golden-vectors.c"]
    assert "write\n * the project anew with `kprune firmware`" in files["model/golden-vectors.c"]
    [row] = [line for line in files["README.md"].splitlines() if line.startswith("| `model/` |")]
    command = {"c": "kprune to-c", "tflm": "kprune to-c-array --style arduino"}[runtime]
    assert origin in row and f"after another `{command}`, write the project anew" in row
    assert ("as `kprune to-c` wrote it" in row) == (runtime == "c")


def test_a_hand_written_network_has_golden_vectors_of_its_name():
    require("make", "cc")

    assert "\n * tiny.\n" in golden_source(MODEL, 1)


def test_a_project_without_golden_vectors_does_not_speak_of_them(flatbuffer):
    files = firmware(flatbuffer, "nucleo_f446re", "net", golden=0)

    assert "golden vectors" not in files["README.md"]


def test_a_built_project_builds_again_when_its_golden_vectors_are_deleted(tmp_path):
    require("make", "cmake", "cc")
    project = write_project(firmware(MODEL, "stm32f405", "tiny", golden=1), tmp_path / "project")
    # This computer stands in for the board.
    shutil.copytree(microcontroller() / "boards" / "host", project / "boards" / "host")
    make = ["make", "-s", "BOARD=host"]
    cmake = ["cmake", "--build", "b"]
    for command in (make, ["cmake", "-B", "b", "-DBOARD=host", "."], cmake):
        subprocess.run(command, cwd=project, check=True, capture_output=True)

    project.joinpath("model", "golden-vectors.c").unlink()

    for command, elf in ((make, "build/host/firmware.elf"), (cmake, "b/firmware.elf")):
        subprocess.run(command, cwd=project, check=True, capture_output=True)
        said = subprocess.run([project / elf], input=b"test\n", capture_output=True).stdout
        assert said.endswith(b"\nerror this program has no golden vectors\n")


# Projects


@pytest.mark.parametrize("board", BARE_METAL)
def test_an_stm32_project_builds_with_make_alone(board, tmp_path):
    require("make", "arm-none-eabi-gcc")
    project = write_project(firmware(MODEL, board, "tiny", golden=0), tmp_path / "project")

    # As a user has it: no kprune, no checkout, nothing but the folder.
    log = subprocess.run(
        ["make", "-C", project], capture_output=True, text=True, check=False, env=bare_environment()
    )

    assert log.returncode == 0, log.stderr
    assert "warning" not in log.stderr
    assert project.joinpath("build", board, "firmware.elf").is_file()


@pytest.mark.parametrize("board", ["stm32f405", "microbit", "mps3-an547"])
def test_a_project_passes_its_self_test_on_the_simulated_board(board, flatbuffer, tmp_path):
    require("make", "cc", "arm-none-eabi-gcc", "qemu-system-arm")
    project = write_project(firmware(flatbuffer, board, "net"), tmp_path / "project")

    qemu = subprocess.Popen(
        ["make", "-s", "-C", project, "sim"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with qemu:
        try:
            assert "is ready" in qemu.stdout.readline()
            qemu.stdin.write("test\n")
            qemu.stdin.flush()
            assert qemu.stdout.readline() == "ok 3\n"
        finally:
            os.killpg(qemu.pid, signal.SIGKILL)


@pytest.mark.parametrize("board", ["nucleo_f446re", "nucleo_h743zi", "mps3-an547"])
def test_make_and_cmake_build_the_same_program(board, tmp_path):
    require("make", "cmake", "arm-none-eabi-gcc")
    project = write_project(firmware(MODEL, board, "tiny"), tmp_path / "project")

    for command in (["make"], ["cmake", "-B", "b", "."], ["cmake", "--build", "b"]):
        subprocess.run(command, cwd=project, check=True, capture_output=True)

    made, cmade = (
        loaded_bytes(project / p) for p in (f"build/{board}/firmware.elf", "b/firmware.elf")
    )
    assert made == cmade


def loaded_bytes(elf):
    """Sizes of what is put into the part."""
    listing = subprocess.run(
        ["arm-none-eabi-size", elf], capture_output=True, text=True, check=True
    ).stdout
    return listing.splitlines()[1].split()[:3]


def bare_environment():
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LC_ALL": "C"}


@pytest.mark.parametrize("board", ARDUINO)
def test_an_arduino_library_is_laid_out_as_the_ide_expects(board):
    files = firmware(MODEL, board, "tiny", golden=0)

    properties = dict(line.split("=", 1) for line in files["library.properties"].splitlines())
    required = "name version author maintainer sentence paragraph category url architectures"
    assert set(required.split()) <= set(properties)
    # https://arduino.github.io/arduino-cli/latest/library-specification
    assert re.fullmatch(r"[A-Za-z0-9][\w .-]{0,62}", properties["name"])
    assert properties["category"] == "Data Processing"
    assert f"src/{properties['includes']}" in files
    sketch = files["examples/tiny_serial/sketch.yaml"]
    assert f"fqbn: {BOARDS[board].fqbn}" in sketch
    assert re.search(r"- platform: [\w:]+ \(\d+\.\d+\.\d+[\w.-]*\)", sketch)
    assert not any(
        "mbed" in text for name, text in files.items() if name.endswith((".cpp", ".ino"))
    )


def sketch_of(project, folder):
    """Compile an Arduino library and its sketch for this computer."""
    stub = Path(__file__).parent / "firmware" / "arduino"
    strict = ["-Wall", "-Wextra", "-Werror", f"-I{stub}", f"-I{project}/src"]
    objects = []
    # As arduino-cli does it: every source below src/, the sketch as C++ after Arduino.h.
    for source in sorted(project.rglob("src/**/*.c*")):
        compiler = ["cc", "-std=c99"] if source.suffix == ".c" else ["c++", "-std=c++17"]
        objects.append(folder / f"{source.parent.name}-{source.name}.o")
        subprocess.run([*compiler, *strict, "-c", source, "-o", objects[-1]], check=True)
    [sketch] = project.glob("examples/*/*.ino")
    main = ["-x", "c++", "-include", "Arduino.h", sketch, "-x", "none", stub / "main.cpp"]
    program = folder / "sketch"
    subprocess.run(["c++", "-std=c++17", *strict, *main, *objects, "-o", program], check=True)
    return program


def test_the_arduino_sketch_compiles_and_answers(tmp_path):
    require("c++", "cc")
    project = write_project(firmware(MODEL, "uno_r4", "tiny"), tmp_path / "tiny")

    said = subprocess.run(
        [sketch_of(project, tmp_path)],
        input="version\ntest\nrun 1 2 3 4 5 6\nstack\n",
        capture_output=True,
        text=True,
    ).stdout

    assert said.splitlines() == [
        "# kprune: tiny on uno_r4 is ready",
        "ok kprune 1 tiny uno_r4",
        "ok 3",
        "ok 5 25 61",
        "ok 0",
    ]


# Names: a network may be called as a file, a symbol or a guard of the program around it is


def program_names():
    tree = microcontroller()
    files = [*(tree / "app").iterdir(), *(tree / "boards" / "common").iterdir()]
    stems = {path.name.split(".")[0] for path in files} | {"port_arduino", "adapter", "model"}
    return sorted(stems | {"golden", "app", "source", "firmware", "kprune", "kprune_network"})


def named(name):
    """The network of TINY under another name."""
    return {
        file.replace("tiny", name): text.replace("tiny", name).replace("TINY", name.upper())
        for file, text in MODEL.items()
    }


@pytest.mark.parametrize(
    "name, golden", [*((name, 0) for name in program_names()), ("network", 1), ("golden", 1)]
)
def test_a_network_may_be_called_as_a_part_of_the_program_is(name, golden, tmp_path):
    require("make", "cc")
    project = write_project(firmware(named(name), "stm32f405", name, golden=golden), tmp_path / "p")
    # This computer stands in for the board.
    shutil.copytree(microcontroller() / "boards" / "host", project / "boards" / "host")

    subprocess.run(["make", "-s", "-C", project, "BOARD=host"], check=True)

    said = subprocess.run(
        [project / "build/host/firmware.elf"],
        input="version\ntest\nrun 1 2 3 4 5 6\n",
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    tested = "ok 1" if golden else "error this program has no golden vectors"
    assert said[1:] == [f"ok kprune 1 {name} host", tested, "ok 5 25 61"]


@pytest.mark.parametrize("name", ["network", "golden", "stm32"])
def test_such_a_network_builds_with_cmake_and_for_a_board(name, tmp_path):
    require("make", "cmake", "arm-none-eabi-gcc")
    project = write_project(firmware(named(name), "nucleo_f446re", name), tmp_path / "project")

    for command in (["make"], ["cmake", "-B", "b", "."], ["cmake", "--build", "b"]):
        subprocess.run(command, cwd=project, check=True, capture_output=True)

    elfs = ("build/nucleo_f446re/firmware.elf", "b/firmware.elf")
    made, cmade = (loaded_bytes(project / elf) for elf in elfs)
    assert made == cmade


@pytest.mark.parametrize("golden", [0, 1])
@pytest.mark.parametrize("name", ["network", "golden", "port", "protocol", "stack", "kprune"])
def test_such_a_network_becomes_a_sketch(name, golden, tmp_path):
    require("c++", "cc")
    files = firmware(named(name), "uno_r4", name, golden=golden)

    sketch = sketch_of(write_project(files, tmp_path / name), tmp_path)

    said = subprocess.run([sketch], input="run 1 2 3 4 5 6\n", capture_output=True, text=True)
    assert said.stdout.splitlines() == [f"# kprune: {name} on uno_r4 is ready", "ok 5 25 61"]


@pytest.mark.parametrize("name", ["network", "interpreter", "model", "part", "resolver", "golden"])
def test_such_a_network_becomes_a_program_for_tensorflow_lite_micro(name, flatbuffer, tmp_path):
    require("make", "c++", "ar")
    project = write_project(firmware(flatbuffer, "nucleo_f446re", name, "tflm", 0), tmp_path / "p")
    library = tmp_path / "libtensorflow-microlite.a"
    subprocess.run(["ar", "cr", library], check=True)
    shutil.copytree(microcontroller() / "boards" / "host", project / "boards" / "host")

    subprocess.run(
        ["make", "-s", "-C", project, "BOARD=host", f"TFLM={TFLM}", f"TFLM_LIB={library}"],
        check=True,
    )


@pytest.mark.parametrize(
    "board, name, runtime",
    [
        ("nano33ble", "Arduino", "c"),
        ("nucleo_f446re", "tflite", "tflm"),
        ("nucleo_f446re", "network_input", "tflm"),
        ("nano33ble", "network_arena", "tflm"),
    ],
)
def test_the_few_names_that_the_project_needs_are_refused(board, name, runtime, flatbuffer):
    with pytest.raises(ValueError, match=rf"called '{name}' already.* example '{name}_model'"):
        firmware(flatbuffer, board, name, runtime)


def test_a_project_is_written_where_a_link_leads_to(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "project").symlink_to("disk")

    write_project({"Makefile": "all:"}, tmp_path / "project")

    assert (tmp_path / "project").is_symlink()
    assert (tmp_path / "disk" / "Makefile").read_text() == "all:"


# Cores of Arduino boards, with the floating-point units that their packages name.
ARDUINO_CORES = {
    "pico": ["-mcpu=cortex-m0plus"],
    "uno_r4": ["-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"],
    "nano33ble": ["-mcpu=cortex-m4", "-mfloat-abi=softfp", "-mfpu=fpv4-sp-d16"],
    "giga_r1": ["-mcpu=cortex-m7", "-mfloat-abi=softfp", "-mfpu=fpv5-d16"],
    "portenta_c33": ["-mcpu=cortex-m33", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"],
}


@pytest.mark.parametrize("board", ARDUINO_CORES)
def test_the_arduino_library_compiles_for_the_core_of_its_board(board, flatbuffer, tmp_path):
    require("arm-none-eabi-gcc", "arm-none-eabi-g++")
    project = write_project(firmware(flatbuffer, board, "net", golden=0), tmp_path / "net")
    stub = Path(__file__).parent / "firmware" / "arduino"
    # The flags of Arduino's packages; the oldest that is in use compiles C++11.
    flags = [*ARDUINO_CORES[board], "-mthumb", "-Os", "-fsigned-char", "-DARDUINO=10607"]
    flags += ["-Wall", "-Wextra", "-Werror", f"-I{project}/src", f"-I{stub}", "-c"]
    sketch = ["-x", "c++", "-include", "Arduino.h", project / "examples/net_serial/net_serial.ino"]
    for command in (
        ["arm-none-eabi-gcc", "-std=gnu11", *flags, *sorted(project.rglob("src/**/*.c"))],
        ["arm-none-eabi-g++", "-std=gnu++11", *flags, *sorted(project.rglob("src/**/*.cpp"))],
        ["arm-none-eabi-g++", "-std=gnu++11", *flags, *sketch],
    ):
        log = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert log.returncode == 0, log.stderr


def test_a_tensorflow_lite_micro_project_builds_against_its_library(flatbuffer, tmp_path):
    require("make", "cmake", "c++", "ar")
    project = write_project(firmware(flatbuffer, "nucleo_f446re", "net", "tflm"), tmp_path / "net")
    library = tmp_path / "libtensorflow-microlite.a"
    subprocess.run(["ar", "cr", library], check=True)
    # This computer stands in for the board, and TFLM/ for the library.
    shutil.copytree(microcontroller() / "boards" / "host", project / "boards" / "host")
    where = [f"TFLM={TFLM}", f"TFLM_LIB={library}"]

    subprocess.run(["make", "-s", "-C", project, "BOARD=host", *where], check=True)
    options = [f"-D{option}" for option in ("BOARD=host", *where)]
    subprocess.run(["cmake", "-B", "b", *options, "."], cwd=project, check=True)
    subprocess.run(["cmake", "--build", "b"], cwd=project, check=True)

    network = read(flatbuffer)
    size, results = (
        math.prod(network.tensors[i].shape) for i in (network.inputs[0], network.outputs[0])
    )
    values = " ".join(str(i % 100 - 50) for i in range(size))
    for program in ("build/host/firmware.elf", "b/firmware.elf"):
        said = subprocess.run(
            [project / program], input=f"run {values}\ntest\n", capture_output=True, text=True
        ).stdout.splitlines()
        assert said[1] == "ok " + " ".join(values.split()[:results])
        assert said[2].startswith("error vector 1")  # the stand-in is no network


def test_without_the_library_the_build_says_what_it_needs(flatbuffer, tmp_path):
    require("make", "cmake")
    project = write_project(firmware(flatbuffer, "nucleo_f446re", "net", "tflm"), tmp_path / "net")

    for command in (["make"], ["cmake", "-B", "b", "."]):
        said = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
        assert said.returncode != 0
        assert "this model needs TensorFlow Lite Micro" in said.stderr


def test_a_model_folder_with_the_files_of_two_styles_is_refused(flatbuffer, tmp_path):
    require("make", "cmake")
    project = write_project(firmware(flatbuffer, "stm32f405", "net", "tflm", 0), tmp_path / "net")
    write_files(to_c_array(flatbuffer, "net"), project / "model")

    for command in (["make"], ["cmake", "-B", "b", "."]):
        said = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
        assert said.returncode != 0
        assert "holds several networks" in said.stderr


def test_a_project_is_cleaned_without_the_library_and_with_any_model(flatbuffer, tmp_path):
    require("make")
    project = write_project(firmware(flatbuffer, "stm32f405", "net", "tflm", 0), tmp_path / "net")
    write_files(to_c_array(flatbuffer, "net"), project / "model")
    (project / "build" / "stm32f405").mkdir(parents=True)

    subprocess.run(["make", "-C", project, "clean"], check=True)

    assert not (project / "build" / "stm32f405").exists()


def test_an_arduino_library_for_tensorflow_lite_micro_names_its_dependency(flatbuffer):
    files = firmware(flatbuffer, "nano33ble", "net", "tflm", golden=0)

    assert "depends=Chirale_TensorFLowLite\n" in files["library.properties"]
    assert "without dependencies" not in files["library.properties"]
    assert "- Chirale_TensorFLowLite (2.0.0)" in files["examples/net_serial/sketch.yaml"]
    assert "AddDepthwiseConv2D" in files["src/net_gen_micro_mutable_op_resolver.h"]


def test_a_board_that_the_tflm_library_does_not_know_is_refused(flatbuffer):
    with pytest.raises(ValueError, match=r"does not support board 'uno_r4', only nano33ble"):
        firmware(flatbuffer, "uno_r4", "net", "tflm", golden=0)


def test_the_generated_c_is_no_input_for_tensorflow_lite_micro():
    with pytest.raises(ValueError, match=r"runtime='tflm' needs the flatbuffer"):
        firmware(MODEL, "nano33ble", "tiny", "tflm")


@pytest.mark.parametrize("runtime", ["c", "tflm"])
def test_a_network_of_float_values_is_refused_by_the_name_of_the_tensor(runtime):
    net = flatbuffer_zoo.Builder()
    x = net.tensor((1, 4), None, dtype=schema.TensorType.FLOAT32)
    net.graph.inputs.append(x)
    y = net.quantize(x, 0.1, 0)

    with pytest.raises(ValueError, match=r"int8 values, but 'tensor_0' is float32"):
        firmware(net.build(y), "nano33ble", "net", runtime)


def test_an_unknown_runtime_is_refused(flatbuffer):
    with pytest.raises(ValueError, match=r"runtime must be 'c' or 'tflm', got 'onnx'"):
        firmware(flatbuffer, "nano33ble", "net", "onnx")


def test_a_flatbuffer_is_written_as_c_first(flatbuffer):
    require("make", "cc")

    files = firmware(flatbuffer, "nucleo_g474re", "net", golden=1)

    code = {name.removeprefix("model/") for name in files if name.startswith("model/")}
    assert code == {*to_c(flatbuffer, "net"), "golden-vectors.c"}


def test_a_board_without_a_project_is_refused_with_those_that_have_one():
    with pytest.raises(
        ValueError, match=r"no project for board 'nucleo_u575zi_q', only for: .*pico"
    ):
        firmware(MODEL, "nucleo_u575zi_q", "tiny")


def test_a_project_is_not_written_over_another(tmp_path):
    tmp_path.joinpath("mine.txt").write_text("keep")

    with pytest.raises(FileExistsError, match=r"is not empty"):
        write_project({"Makefile": ""}, tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_project_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(OSError):
        write_project({"a": "text", "a/b": "a file cannot be a folder"}, tmp_path / "project")

    assert list(tmp_path.iterdir()) == []


# Flashing, with stand-ins for the tools: no board is plugged in here


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A PATH with nothing but what a test puts there; what is called is written to calls.txt."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def add(name, status=0, says="speaking"):
        tool = folder / name
        tool.write_text(
            f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls.txt\n'
            f'echo "{name} {says}"\nexit {status}\n'
        )
        tool.chmod(0o755)

    add.calls = lambda: tmp_path.joinpath("calls.txt").read_text().splitlines()
    return add


@pytest.fixture
def projects(tmp_path):
    return {
        board: write_project(firmware(MODEL, board, "tiny", golden=0), tmp_path / board)
        for board in ("nucleo_f446re", "uno_r4")
    }


def test_an_arduino_project_is_compiled_and_uploaded_by_arduino_cli(tools, projects):
    tools("arduino-cli")

    flash(projects["uno_r4"], port="/dev/ttyACM7")

    sketch = projects["uno_r4"] / "examples" / "tiny_serial"
    assert tools.calls() == [
        f"arduino-cli compile {sketch}",
        f"arduino-cli upload --port /dev/ttyACM7 {sketch}",
    ]


def test_an_arduino_project_needs_a_port(tools, projects):
    tools("arduino-cli")

    with pytest.raises(ValueError, match=r"which port.*arduino-cli board list"):
        flash(projects["uno_r4"])


def test_an_stm32_project_is_flashed_by_its_makefile(tools, projects):
    for tool in ("make", "arm-none-eabi-gcc", "st-flash"):
        tools(tool)

    flash(projects["nucleo_f446re"])

    project = projects["nucleo_f446re"]
    assert tools.calls() == [f"make -C {project}", f"make -C {project} flash"]


def stand_in_for_the_compiler(tools, tmp_path):
    """All that the Makefile itself runs, and nothing that may flash."""
    for name in ("gcc", "g++", "objcopy", "size"):
        tools(f"arm-none-eabi-{name}")
    for name in ("make", "grep", "tr", "mkdir", "sed"):
        tmp_path.joinpath("bin", name).symlink_to(shutil.which(name, path="/usr/bin:/bin"))


@pytest.mark.parametrize(
    "tool, arguments",
    [
        ("st-flash", r"--connect-under-reset --reset write build/\S+\.bin 0x08000000"),
        ("openocd", r"-f board/st_nucleo_f4.cfg -c program build/\S+\.elf verify reset exit"),
    ],
)
def test_make_flash_calls_the_tool_that_is_there(tool, arguments, tools, projects, tmp_path):
    stand_in_for_the_compiler(tools, tmp_path)
    tools(tool)

    subprocess.run(["make", "-s", "-C", projects["nucleo_f446re"], "flash"], check=True)

    assert re.fullmatch(rf"{tool} {arguments}", tools.calls()[-1])


def test_the_library_of_tensorflow_lite_micro_is_named_in_the_environment_of_flash(
    flatbuffer, tools, tmp_path, monkeypatch
):
    project = write_project(firmware(flatbuffer, "nucleo_f446re", "net", "tflm", 0), tmp_path / "p")
    library = tmp_path / "tflm" / "gen" / "a" / "lib" / "libtensorflow-microlite.a"
    library.parent.mkdir(parents=True)
    library.touch()
    monkeypatch.setenv("TFLM", str(tmp_path / "tflm"))
    stand_in_for_the_compiler(tools, tmp_path)
    tools("st-flash")

    flash(project)

    assert re.match("st-flash .* write build/nucleo_f446re/firmware.bin", tools.calls()[-1])
    assert "TFLM=/path/to/tflite-micro kprune flash ." in (project / "README.md").read_text()


NEEDS_ST_FLASH = r"st-flash \(Debian: apt install stlink-tools\)"
NEEDS_OPENOCD = r"openocd \(Debian: apt install openocd\)"


@pytest.mark.parametrize(
    "board, present, message",
    [
        ("mps2-an386", "openocd", "nothing here flashes mps2-an386: `make sim` runs it in QEMU"),
        ("microbit", "st-flash", f"flashing microbit needs {NEEDS_OPENOCD}"),
        ("stm32f405", "size", f"flashing stm32f405 needs {NEEDS_ST_FLASH} or {NEEDS_OPENOCD}"),
    ],
)
def test_make_flash_names_only_the_tools_that_can_flash_the_board(
    board, present, message, tools, tmp_path
):
    project = write_project(firmware(MODEL, board, "tiny", golden=0), tmp_path / "project")
    stand_in_for_the_compiler(tools, tmp_path)
    tools(present)

    said = subprocess.run(["make", "-s", "-C", project, "flash"], capture_output=True, text=True)

    assert said.returncode != 0
    assert re.fullmatch(message, said.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "board, present, error, message",
    [
        ("mps2-an386", "openocd", ValueError, "nothing here flashes mps2-an386: .* sim` runs"),
        ("microbit", "st-flash", ToolNotFoundError, "needs `openocd` on PATH.*install openocd"),
    ],
)
def test_flash_names_only_the_tools_that_can_flash_the_board(
    board, present, error, message, tools, tmp_path
):
    project = write_project(firmware(MODEL, board, "tiny", golden=0), tmp_path / "project")
    stand_in_for_the_compiler(tools, tmp_path)
    tools(present)

    with pytest.raises(error, match=message):
        flash(project)


@pytest.mark.parametrize("board", BARE_METAL)
def test_the_readme_tells_to_flash_only_a_board_that_something_flashes(board):
    readme = firmware(MODEL, board, "tiny", golden=0)["README.md"]

    settings = (microcontroller() / "boards" / board / "board.mk").read_text()
    st_flash, openocd, qemu = (f"\n{word} " in settings for word in ("ORIGIN", "OPENOCD", "QEMU"))
    assert ("Plug the board in" in readme) == ("make flash" in readme) == (st_flash or openocd)
    assert ("make sim" in readme) == (not (st_flash or openocd))
    assert st_flash or openocd or qemu  # or the README would send people nowhere
    assert ("`st-flash`" in readme, "`openocd`" in readme) == (st_flash, openocd)
    assert "on the any" not in readme and "@" not in readme


@pytest.mark.parametrize(
    "said",
    [
        "WARN usb.c: Couldn't find any ST-Link devices",  # st-flash 1.7.0
        "Error: open failed",  # OpenOCD 0.12.0 with stlink.cfg
        "Error: unable to find a matching CMSIS-DAP device",  # OpenOCD 0.12.0 with cmsis-dap.cfg
    ],
)
def test_a_board_that_is_not_plugged_in_is_told_from_a_tool_that_fails(said, tools, projects):
    tools("st-flash")
    tools("arm-none-eabi-gcc")
    tools("make", status=2, says=said)

    with pytest.raises(RuntimeError, match=r"^no board answers: plug it in.*failed:"):
        flash(projects["nucleo_f446re"])


@pytest.mark.parametrize("board", BARE_METAL)
def test_openocd_has_the_configuration_that_a_board_names(board):
    require("openocd")
    settings = (microcontroller() / "boards" / board / "board.mk").read_text()
    configuration = re.search(r"^OPENOCD = (.*)$", settings, re.MULTILINE)
    if configuration is None:
        assert "ORIGIN" not in settings  # nothing flashes it
        return
    command = ["openocd", "-f", *configuration[1].split(), "-c", "shutdown"]

    log = subprocess.run(command, capture_output=True, text=True, check=False)

    assert log.returncode == 0, log.stderr


def test_a_tool_that_fails_is_quoted(tools, projects):
    tools("arduino-cli", status=1)

    with pytest.raises(RuntimeError, match=r"arduino-cli compile.*failed:\narduino-cli speaking"):
        flash(projects["uno_r4"], port="/dev/ttyACM7")


@pytest.mark.parametrize(
    "board, present, message",
    [
        ("uno_r4", [], "`arduino-cli` 1.3 or later.*https://arduino.github.io/arduino-cli"),
        ("nucleo_f446re", [], "needs `make`.*apt install make"),
        ("nucleo_f446re", ["make", "arm-none-eabi-gcc"], "`st-flash` or `openocd`.*stlink-tools"),
    ],
)
def test_a_missing_tool_is_named_with_how_to_get_it(board, present, message, tools, projects):
    for tool in present:
        tools(tool)

    with pytest.raises(ToolNotFoundError, match=message):
        flash(projects[board])


def test_a_folder_that_is_no_project_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is no firmware project"):
        flash(tmp_path)
