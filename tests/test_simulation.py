"""Building, running and reading back, on this computer and on every board QEMU stands in for."""

import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import flatbuffer_zoo
import numpy as np
import pytest
from conftest import require

from kprune.boards import BOARDS
from kprune.building import build, microcontroller, read_network
from kprune.c.files import write_files
from kprune.c.network import to_c
from kprune.conversation import start
from kprune.errors import BoardFaultError, DoesNotFitError, ToolNotFoundError
from kprune.flatbuffer import read
from kprune.interpreters import run_tflite
from kprune.simulation import input_rows, simulate

QEMU_BOARDS = [b.name for b in BOARDS.values() if b.qemu]
TOOLS = ("make", "arm-none-eabi-gcc", "qemu-system-arm")


@pytest.fixture
def tiny():
    """A hand-written network with the interface of a generated one."""
    return Path(__file__).parent / "firmware" / "tiny"


def random_inputs(count, size, seed=0):
    values = np.random.default_rng(seed).integers(-128, 128, (count, size))
    return values.astype(np.int8)


def tiny_reference(x):
    """What tests/firmware/tiny computes."""
    doubled = np.clip(x.astype(int) * np.arange(1, 7), -128, 127)
    return np.clip(doubled[:, 0::2] + doubled[:, 1::2], -128, 127)


def network_with(tiny, tmp_path, old, new):
    """A copy of the tiny network in which a piece of code is another."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in tiny.iterdir():
        folder.joinpath(path.name).write_text(path.read_text().replace(old, new))
    assert new in folder.joinpath("tiny.c").read_text()
    return folder


# Outputs


def test_the_host_gives_what_the_network_computes(tiny):
    require("make", "cc")
    x = random_inputs(50, 6)

    result = simulate(tiny, x)

    np.testing.assert_array_equal(result.outputs, tiny_reference(x))
    np.testing.assert_array_equal(result.scores, 0.25 * (tiny_reference(x) - 4.0))
    assert (result.simulator, result.instructions, result.flash) == ("host", None, {})


@pytest.mark.parametrize("board", QEMU_BOARDS)
def test_every_board_gives_the_bytes_of_the_host(board, tiny):
    require(*TOOLS)
    x = random_inputs(20, 6)

    result = simulate(tiny, x, board)

    np.testing.assert_array_equal(result.outputs, tiny_reference(x))


def test_a_folder_may_have_a_space_in_its_name(tiny, tmp_path):
    require("make", "cc")
    folder = tmp_path / "my model"
    shutil.copytree(tiny, folder)
    x = random_inputs(1, 6)

    np.testing.assert_array_equal(simulate(folder, x).outputs, tiny_reference(x))


@pytest.mark.parametrize("name", ["network", "stack"])
def test_a_network_may_be_called_as_a_part_of_the_program_is(name, tiny, tmp_path):
    require(*TOOLS)
    for path in tiny.iterdir():
        text = path.read_text().replace("tiny", name).replace("TINY", name.upper())
        tmp_path.joinpath(path.name.replace("tiny", name)).write_text(text)
    x = random_inputs(5, 6)

    result, usual = (simulate(folder, x, "stm32f405") for folder in (tmp_path, tiny))

    np.testing.assert_array_equal(result.outputs, tiny_reference(x))
    assert (result.instructions, result.stack_bytes) == (usual.instructions, usual.stack_bytes)
    assert result.flash["weights"] == usual.flash["weights"] == 6
    assert result.ram == usual.ram


@pytest.mark.parametrize("board", QEMU_BOARDS)
def test_every_board_reads_inputs_and_nonsense_from_its_serial_port(board, tiny, tmp_path):
    require(*TOOLS)
    elf = build(read_network(tiny), BOARDS[board], tmp_path)
    said = ["run 1 2 3 4 5 6", "run 1 2", "jump", "sizes", "stack"]

    replies = converse(elf, BOARDS[board].qemu, said)

    assert replies[:-1] == [
        "ok 5 25 61",
        "error run needs 6 values, got 2",
        "error unknown command jump: try help",
        "ok 6 3 20",
    ]
    # The painted stack and the plugin see the same; the program's own needs come on top.
    measured = simulate(tiny, random_inputs(1, 6), board).stack_bytes
    assert measured <= int(replies[-1].split()[1]) <= measured + 64


def converse(elf, machine, requests):
    """Type at a board as a person would, one line after the other."""
    command = ["qemu-system-arm", "-M", machine, "-kernel", elf, "-display", "none"]
    command += ["-monitor", "none", "-serial", "stdio"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as qemu:
        try:
            assert qemu.stdout.readline().endswith("is ready\n")
            replies = []
            for request in requests:
                qemu.stdin.write(request + "\r\n")
                qemu.stdin.flush()
                replies.append(qemu.stdout.readline().strip())
            return replies
        finally:
            qemu.kill()


def test_an_input_as_large_as_an_image_takes_no_time_to_hand_over(tiny, tmp_path):
    require(*TOOLS)
    folder = tmp_path / "model"
    folder.mkdir()
    for path in tiny.iterdir():
        text = path.read_text().replace("TINY_INPUT_SIZE 6", "TINY_INPUT_SIZE 27648")
        text = text.replace("TINY_OUTPUT_OFFSET 16", "TINY_OUTPUT_OFFSET 27656")
        text = text.replace("TINY_ARENA_SIZE 20", "TINY_ARENA_SIZE 27660")
        folder.joinpath(path.name).write_text(text)
    x = random_inputs(10, 27648)

    result = simulate(folder, x, "stm32f405", timeout=5)

    np.testing.assert_array_equal(result.outputs, tiny_reference(x[:, :6]))


def test_hundreds_of_inputs_run_in_one_start_of_the_simulator(tiny):
    require(*TOOLS)
    x = random_inputs(500, 6)

    np.testing.assert_array_equal(simulate(tiny, x, "mps2-an386").outputs, tiny_reference(x))


NETWORKS = {
    "plain": flatbuffer_zoo.plain_network(),
    "depthwise": flatbuffer_zoo.depthwise_network(),
    "residual": flatbuffer_zoo.residual_network(),
    "dense": flatbuffer_zoo.dense_network(),
}
SOME_BOARDS = ["mps2-an386", "microbit", "mps3-an547"]  # DSP, neither, MVE


@pytest.mark.parametrize(
    "name, board",
    [("depthwise", board) for board in QEMU_BOARDS]
    + [(name, board) for name in ("plain", "residual", "dense") for board in SOME_BOARDS],
)
def test_generated_networks_give_the_bytes_of_tensorflow_lite_micro(name, board, tmp_path):
    require("tflite_micro", *TOOLS)
    write_files(to_c(NETWORKS[name], name="net"), tmp_path)
    size = read_network(tmp_path).input_size
    x = random_inputs(4, size)

    result = simulate(tmp_path, x, board)

    shape = read(NETWORKS[name]).tensors[read(NETWORKS[name]).inputs[0]].shape
    expected = run_tflite(NETWORKS[name], x.reshape(-1, *shape[1:]), interpreter="tflm")
    np.testing.assert_array_equal(result.outputs, expected.reshape(len(x), -1))
    assert sum(result.layers.values()) == result.instructions > 1000
    assert len(result.layers) > 1
    assert result.flash["program"] <= BOARDS[board].reserve.flash_bytes
    assert result.stack_bytes <= result.ram["stack"]


@pytest.mark.parametrize("board", ["host", *SOME_BOARDS])
def test_several_inputs_and_outputs_give_the_bytes_of_tensorflow_lite_micro(board, tmp_path):
    require("tflite_micro", *TOOLS)
    flatbuffer = flatbuffer_zoo.several_network()
    write_files(to_c(flatbuffer, name="net"), tmp_path)
    shapes = ((3, 4, 4, 1), (3, 4, 4, 2))
    inputs = [np.random.default_rng(0).normal(size=shape).astype("float32") for shape in shapes]

    result = simulate(tmp_path, inputs, board)

    expected = run_tflite(flatbuffer, inputs, interpreter="tflm")
    assert len(expected) == 2
    for scores, given in zip(result.scores, expected, strict=True):
        np.testing.assert_array_equal(scores, given.reshape(3, -1))


# Instructions, stack, flash, RAM


def test_the_layers_add_up_to_the_instructions_and_bear_their_names(tiny):
    require(*TOOLS)

    result = simulate(tiny, random_inputs(3, 6), "stm32f405")

    assert list(result.layers) == ["double", "pairs"]
    assert sum(result.layers.values()) == result.instructions


def test_a_layer_that_does_more_counts_more(tiny, tmp_path):
    require(*TOOLS)
    loop = "kp_multiply(input, double_weights, 6, arena);"
    folder = network_with(tiny, tmp_path, loop, loop + "\n    " + loop)

    once = simulate(tiny, random_inputs(1, 6), "mps2-an386")
    twice = simulate(folder, random_inputs(1, 6), "mps2-an386")

    assert twice.layers["pairs"] == once.layers["pairs"]
    assert twice.layers["double"] == pytest.approx(2 * once.layers["double"], abs=12)


def test_the_counts_are_the_same_every_time(tiny):
    require(*TOOLS)
    x = random_inputs(10, 6)

    first, second = (simulate(tiny, x, "mps2-an386") for _ in range(2))

    assert first.layers == second.layers
    assert (first.instructions, first.stack_bytes) == (second.instructions, second.stack_bytes)


def test_the_input_that_takes_most_is_the_one_reported(tiny):
    require(*TOOLS)
    x = random_inputs(3, 6)

    each = [simulate(tiny, x[i : i + 1], "mps2-an386").instructions for i in range(3)]

    assert len(set(each)) > 1  # clamp() branches on the values
    assert simulate(tiny, x, "mps2-an386").instructions == max(each)


def test_the_stack_is_exact_to_the_byte(tiny, tmp_path):
    require(*TOOLS)
    # Forces a frame of 400 bytes that is written to at its deepest word.
    deep = "volatile int8_t frame[400];\n    frame[0] = 1;\n    kp_multiply(input"
    folder = network_with(tiny, tmp_path, "kp_multiply(input", deep)

    shallow = simulate(tiny, random_inputs(1, 6), "mps2-an386").stack_bytes

    assert simulate(folder, random_inputs(1, 6), "mps2-an386").stack_bytes == shallow + 400


def test_flash_and_ram_add_up_to_what_the_linker_placed(tiny, tmp_path):
    require(*TOOLS)
    network = read_network(tiny)

    result = simulate(tiny, random_inputs(1, 6), "stm32f100")

    elf = build(network, BOARDS["stm32f100"], tmp_path)
    listing = subprocess.run(
        ["arm-none-eabi-size", elf], capture_output=True, text=True, check=True
    ).stdout
    text, data, bss = map(int, listing.splitlines()[1].split()[:3])
    assert result.flash_bytes == text + data
    assert result.ram_bytes == data + bss
    assert result.flash["weights"] == 6
    assert result.ram["arena"] == 20
    assert result.ram["stack"] == 2048


# What can go wrong


def test_what_is_too_large_for_the_flash_does_not_link_and_says_by_how_much(tiny, tmp_path):
    require(*TOOLS)
    weights = "static const int8_t double_weights[6] ="
    folder = network_with(tiny, tmp_path, weights, weights.replace("[6]", "[200000]"))

    with pytest.raises(DoesNotFitError, match=r"'tiny' does not fit board 'stm32f100'.*flash"):
        simulate(folder, random_inputs(1, 6), "stm32f100")


def test_what_is_too_large_for_the_ram_does_not_link_and_says_by_how_much(tiny, tmp_path):
    require(*TOOLS)
    folder = tmp_path / "model"
    folder.mkdir()
    for path in tiny.iterdir():
        text = path.read_text().replace("TINY_ARENA_SIZE 20", "TINY_ARENA_SIZE 131072")
        folder.joinpath(path.name).write_text(text)

    # QEMU's machine has 192 KiB in one piece; the part has 128.
    with pytest.raises(DoesNotFitError, match=r"'stm32f405': it needs [\d,]+ bytes more RAM"):
        simulate(folder, random_inputs(1, 6), "stm32f405")


@pytest.mark.parametrize("board", ["host", "mps2-an386"])
def test_an_endless_inference_is_a_timeout(board, tiny, tmp_path):
    require(*TOOLS)
    endless = "for (volatile int i = 0; i == 0;) {\n    }\n    kp_multiply(input"
    folder = network_with(tiny, tmp_path, "kp_multiply(input", endless)

    with pytest.raises(TimeoutError, match=rf"tiny on .*{board}.* within 2 s"):
        simulate(folder, random_inputs(1, 6), board, timeout=2)


def test_a_crash_of_the_program_is_told_with_its_signal(tiny, tmp_path):
    require("make", "cc")
    crash = "*(volatile int *)8 = 1;\n    kp_multiply(input"
    folder = network_with(tiny, tmp_path, "kp_multiply(input", crash)

    with pytest.raises(RuntimeError, match=r"tiny on the host ended before it answered.*SIGSEGV"):
        simulate(folder, random_inputs(1, 6))


def test_a_program_that_dies_between_two_requests_is_told_with_its_exit_code():
    dying = "echo '# kprune: hi'; exec <&-; sleep 0.2; exit 3"

    with (
        pytest.raises(RuntimeError, match=r"net ended before it answered: exit code 3"),
        start(["sh", "-c", dying], "net", 5) as program,
    ):
        time.sleep(0.5)
        program.ask("run 1")


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_that_is_no_time_is_refused(timeout, tiny):
    with pytest.raises(ValueError, match=r"timeout must be a number of seconds above 0"):
        simulate(tiny, random_inputs(1, 6), timeout=timeout)


def test_a_simulator_that_does_not_start_is_told_with_what_it_said(tiny, tmp_path, monkeypatch):
    require(*TOOLS)
    broken = tmp_path / "qemu-system-arm"
    broken.write_text("#!/bin/sh\necho 'error while loading shared libraries' >&2\nexit 127\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    with pytest.raises(RuntimeError, match=r"qemu-system-arm` failed with exit code 127: error wh"):
        simulate(tiny, random_inputs(1, 6), "mps2-an386")


@pytest.mark.parametrize("board", QEMU_BOARDS)
def test_a_processor_fault_is_told_with_its_address(board, tiny, tmp_path):
    require(*TOOLS)
    undefined = '__asm__ volatile("udf #1");\n    kp_multiply(input'
    folder = network_with(tiny, tmp_path, "kp_multiply(input", undefined)

    with pytest.raises(
        BoardFaultError, match=rf"tiny on {board} stopped: fault pc=0x[0-9a-f]{{8}}"
    ):
        simulate(folder, random_inputs(1, 6), board, timeout=20)


@pytest.mark.parametrize("board", ["stm32f405", "microbit", "mps3-an547"])
def test_a_stack_overflow_is_a_fault_and_no_wrong_answer(board, tiny, tmp_path):
    require(*TOOLS)
    greedy = "volatile int8_t frame[6000];\n    for (int i = 5999; i >= 0; i--) {\n"
    greedy += "        frame[i] = 1;\n    }\n    kp_multiply(input"
    folder = network_with(tiny, tmp_path, "kp_multiply(input", greedy)

    with pytest.raises(BoardFaultError, match=r"stopped: fault"):
        simulate(folder, random_inputs(1, 6), board, timeout=20)


def test_code_that_does_not_compile_is_told_by_its_first_error(tiny, tmp_path):
    require("make", "cc")
    folder = network_with(tiny, tmp_path, "kp_multiply(input", "kp_multiplied(inputs")

    with pytest.raises(
        RuntimeError, match=r"'tiny' did not build for board 'host': .*tiny.c.*error"
    ):
        simulate(folder, random_inputs(1, 6))


@pytest.mark.parametrize(
    "tool, package",
    [
        ("make", "make"),
        ("arm-none-eabi-gcc", "gcc-arm-none-eabi libnewlib-arm-none-eabi"),
        ("qemu-system-arm", "qemu-system-arm"),
    ],
)
def test_a_missing_tool_is_named_with_its_package(tool, package, tiny, tmp_path, monkeypatch):
    require(*TOOLS)
    found = shutil.which
    monkeypatch.setattr("shutil.which", lambda name: None if name == tool else found(name))

    with pytest.raises(ToolNotFoundError, match=rf"needs `{tool}`.*apt install {package}\."):
        simulate(tiny, random_inputs(1, 6), "mps2-an386")


def test_a_board_without_a_simulator_is_refused(tiny):
    with pytest.raises(ValueError, match=r"nothing simulates board 'nucleo_f446re'"):
        simulate(tiny, random_inputs(1, 6), "nucleo_f446re")


def test_a_simulator_that_does_not_know_the_board_is_refused(tiny):
    with pytest.raises(ValueError, match=r"renode has no model of board 'microbit': use .*'qemu'"):
        simulate(tiny, random_inputs(1, 6), "microbit", simulator="renode")


def test_a_folder_without_a_network_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"there is none.*kprune to-c"):
        simulate(tmp_path, random_inputs(1, 6))


def test_a_header_that_lacks_a_definition_is_refused(tiny, tmp_path):
    header = tiny.joinpath("tiny.h").read_text().replace("#define TINY_INPUT_SCALE", "//")
    tmp_path.joinpath("tiny.h").write_text(header)

    with pytest.raises(ValueError, match=r"tiny.h does not define TINY_INPUT_SCALE"):
        read_network(tmp_path)


# Inputs


def test_real_values_are_quantised_with_the_scale_of_the_header(tiny):
    network = read_network(tiny)

    steps = input_rows(np.array([[0.0, 0.5, -0.5, 1000.0, -1000.0, 1.2]]), network)

    assert steps.tolist() == [[-1, 0, -2, 127, -128, 1]]


def test_inputs_of_any_shape_are_taken_row_by_row(tiny):
    x = random_inputs(4, 6)

    np.testing.assert_array_equal(input_rows(x.reshape(4, 3, 2), read_network(tiny)), x)


@pytest.mark.parametrize("shape", [(6,), (1, 5), (2, 3), (0, 6), ()])
def test_inputs_of_the_wrong_size_are_refused(shape, tiny):
    with pytest.raises(ValueError, match=r"'tiny' takes inputs of 6 values, but x has shape"):
        input_rows(np.zeros(shape, np.int8), read_network(tiny))


def test_the_wrong_number_of_inputs_is_refused(tiny, tmp_path):
    write_files(to_c(flatbuffer_zoo.several_network(), name="net"), tmp_path)
    x = np.zeros((2, 16), np.int8)

    with pytest.raises(ValueError, match=r"'tiny' takes 1 inputs, but x is 2 arrays"):
        input_rows([x, x], read_network(tiny))
    with pytest.raises(ValueError, match=r"'net' takes 2 inputs, but x is 1 arrays"):
        input_rows(x, read_network(tmp_path))
    with pytest.raises(ValueError, match=r"inputs of 32 values, but x\[1\] has shape \(2, 16\)"):
        input_rows([x, x], read_network(tmp_path))
    with pytest.raises(ValueError, match=r"equally many samples for each input, got 2, 1"):
        input_rows([x, np.zeros((1, 32), np.int8)], read_network(tmp_path))


def test_integers_that_are_not_int8_are_refused(tiny):
    with pytest.raises(TypeError, match=r"floating point.*or int8.*got int64"):
        input_rows(np.zeros((1, 6), np.int64), read_network(tiny))


def test_nan_is_refused(tiny):
    with pytest.raises(ValueError, match=r"NaN"):
        input_rows(np.full((1, 6), np.nan), read_network(tiny))


# Renode: its files are checked everywhere, itself only where it is installed


def test_renode_gives_the_bytes_of_the_host(tiny):
    require("renode-test", *TOOLS)
    x = random_inputs(5, 6)

    for board in ("stm32f405", "stm32f746", "nano33ble"):
        result = simulate(tiny, x, board, simulator="renode")
        np.testing.assert_array_equal(result.outputs, tiny_reference(x))


def test_the_robot_file_is_well_formed(tiny):
    require("robot")
    stubs = tiny.parent / "stub_keywords.resource"
    script = microcontroller() / "renode" / "inference.robot"

    command = [sys.executable, "-m", "robot", "--dryrun"]
    command += ["--output", "NONE", "--log", "NONE", "--report", "NONE"]
    command += ["--variable", f"RENODEKEYWORDS:{stubs}", str(script)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stdout
    assert "1 passed" in result.stdout


STAND_IN = """
    #!{python}
    # Takes the arguments of renode-test; the board's part is played by QEMU.
    import subprocess, sys, time
    given = dict(a.split(":", 1) for a in sys.argv if ":" in a)
    assert sys.argv[-1].endswith("inference.robot")
    assert given["UART"] == "sysbus.usart1" and given["MIPS"] == "168"
    assert "usart1" in open(given["PLATFORM"]).read()
    {body}
"""
PLAY = """
    requests = open(given["REQUESTS"]).read().splitlines()
    qemu = subprocess.Popen(
        ["qemu-system-arm", "-M", "netduinoplus2", "-kernel", given["ELF"],
         "-display", "none", "-monitor", "none", "-serial", "stdio"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    lines = [qemu.stdout.readline()]
    for request in requests:
        qemu.stdin.write(request + "\\r")
        qemu.stdin.flush()
        lines.append(qemu.stdout.readline())
    open(given["LOG"], "w").writelines(lines)
    qemu.terminate()
    qemu.wait()
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Write an executable that is taken for renode-test."""

    def write(body):
        path = tmp_path / "renode-test"
        text = textwrap.dedent(STAND_IN).lstrip()
        body = textwrap.dedent(body).strip()
        path.write_text(text.format(python=sys.executable, body=body))
        path.chmod(0o755)
        monkeypatch.setenv("KPRUNE_RENODE_TEST", str(path))

    return write


def test_renode_is_handed_the_program_and_its_log_is_read(tiny, stand_in):
    require(*TOOLS)
    stand_in(PLAY)
    x = random_inputs(5, 6)

    result = simulate(tiny, x, "stm32f405", simulator="renode")

    np.testing.assert_array_equal(result.outputs, tiny_reference(x))
    assert (result.simulator, result.instructions) == ("renode", None)


def test_renode_that_fails_is_quoted(tiny, stand_in):
    require(*TOOLS)
    stand_in('print("There was an error: no such keyword"); sys.exit(3)')

    with pytest.raises(RuntimeError, match=r"answered 0 of 1 requests; There was an error"):
        simulate(tiny, random_inputs(1, 6), "stm32f405", simulator="renode")


def test_renode_that_hangs_is_ended_with_all_it_started(tiny, tmp_path, stand_in):
    require(*TOOLS)
    stand_in('subprocess.Popen(["sleep", "60"]); time.sleep(60)')

    with pytest.raises(TimeoutError, match=r"tiny on stm32f405 in Renode did not end within 1 s"):
        simulate(tiny, random_inputs(1, 6), "stm32f405", simulator="renode", timeout=0.5)


def test_a_fault_in_renode_is_a_fault(tiny, stand_in):
    require(*TOOLS)
    stand_in('open(given["LOG"], "w").write("# kprune\\n\\nfault pc=0x08000123 cfsr=0x1\\n")')

    with pytest.raises(BoardFaultError, match=r"fault pc=0x08000123"):
        simulate(tiny, random_inputs(1, 6), "stm32f405", simulator="renode")


def test_missing_renode_is_told_with_how_to_get_it(tiny, monkeypatch):
    require(*TOOLS)
    monkeypatch.setenv("KPRUNE_RENODE_TEST", "no-such-renode-test")

    with pytest.raises(ToolNotFoundError, match=r"no-such-renode-test.*KPRUNE_RENODE_TEST"):
        simulate(tiny, random_inputs(1, 6), "stm32f405", simulator="renode")
