"""Boards that QEMU stands in for: the bytes of the host, and exact counts."""

import os
import subprocess

import numpy as np
import pytest
from conftest import require
from tiny import QEMU_BOARDS, TINY, TOOLS, network_with, random_inputs, tiny_reference

from kprune.boards import BOARDS
from kprune.building import build, read_network
from kprune.errors import BoardFaultError
from kprune.simulation import simulate


@pytest.mark.parametrize("board", QEMU_BOARDS)
def test_every_board_gives_the_bytes_of_the_host(board):
    require(*TOOLS)
    x = random_inputs(20, 6)

    result = simulate(TINY, x, board)

    np.testing.assert_array_equal(result.outputs, tiny_reference(x))


@pytest.mark.parametrize("board", QEMU_BOARDS)
def test_every_board_reads_inputs_and_nonsense_from_its_serial_port(board, tmp_path):
    require(*TOOLS)
    elf = build(read_network(TINY), BOARDS[board], tmp_path)
    said = ["run 1 2 3 4 5 6", "run 1 2", "jump", "sizes", "stack"]

    replies = converse(elf, BOARDS[board].qemu, said)

    assert replies[:-1] == [
        "ok 5 25 61",
        "error run needs 6 values, got 2",
        "error unknown command jump: try help",
        "ok 6 3 20",
    ]
    # The painted stack and the plugin see the same; the program's own needs come on top.
    measured = simulate(TINY, random_inputs(1, 6), board).stack_bytes
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


def test_an_input_as_large_as_an_image_takes_no_time_to_hand_over(tmp_path):
    require(*TOOLS)
    large = {
        "TINY_INPUT_SIZE 6": "TINY_INPUT_SIZE 27648",
        "TINY_OUTPUT_OFFSET 16": "TINY_OUTPUT_OFFSET 27656",
        "TINY_ARENA_SIZE 20": "TINY_ARENA_SIZE 27660",
    }
    folder = network_with(tmp_path, large, "tiny.h")
    x = random_inputs(10, 27648)

    result = simulate(folder, x, "stm32f405", timeout=5)

    np.testing.assert_array_equal(result.outputs, tiny_reference(x[:, :6]))


def test_hundreds_of_inputs_run_in_one_start_of_the_simulator():
    require(*TOOLS)
    x = random_inputs(500, 6)

    np.testing.assert_array_equal(simulate(TINY, x, "mps2-an386").outputs, tiny_reference(x))


def test_the_layers_add_up_to_the_instructions_and_bear_their_names():
    require(*TOOLS)

    result = simulate(TINY, random_inputs(3, 6), "stm32f405")

    assert list(result.layers) == ["double", "pairs"]
    assert sum(result.layers.values()) == result.instructions


def test_a_layer_that_does_more_counts_more(tmp_path):
    require(*TOOLS)
    loop = "kp_multiply(input, double_weights, 6, arena);"
    folder = network_with(tmp_path, {loop: loop + "\n    " + loop})

    once = simulate(TINY, random_inputs(1, 6), "mps2-an386")
    twice = simulate(folder, random_inputs(1, 6), "mps2-an386")

    assert twice.layers["pairs"] == once.layers["pairs"]
    assert twice.layers["double"] == pytest.approx(2 * once.layers["double"], abs=12)


def test_the_counts_are_the_same_every_time():
    require(*TOOLS)
    x = random_inputs(10, 6)

    first, second = (simulate(TINY, x, "mps2-an386") for _ in range(2))

    assert first.layers == second.layers
    assert (first.instructions, first.stack_bytes) == (second.instructions, second.stack_bytes)


def test_the_input_that_takes_most_is_the_one_reported():
    require(*TOOLS)
    x = random_inputs(3, 6)

    each = [simulate(TINY, x[i : i + 1], "mps2-an386").instructions for i in range(3)]

    assert len(set(each)) > 1  # clamp() branches on the values
    assert simulate(TINY, x, "mps2-an386").instructions == max(each)


def test_the_stack_is_exact_to_the_byte(tmp_path):
    require(*TOOLS)
    # Forces a frame of 400 bytes that is written to at its deepest word.
    deep = "volatile int8_t frame[400];\n    frame[0] = 1;\n    kp_multiply(input"
    folder = network_with(tmp_path, {"kp_multiply(input": deep})

    shallow = simulate(TINY, random_inputs(1, 6), "mps2-an386").stack_bytes

    assert simulate(folder, random_inputs(1, 6), "mps2-an386").stack_bytes == shallow + 400


def test_a_simulator_that_does_not_start_is_told_with_what_it_said(tmp_path, monkeypatch):
    require(*TOOLS)
    broken = tmp_path / "qemu-system-arm"
    broken.write_text("#!/bin/sh\necho 'error while loading shared libraries' >&2\nexit 127\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    with pytest.raises(RuntimeError, match=r"qemu-system-arm` failed with exit code 127: error wh"):
        simulate(TINY, random_inputs(1, 6), "mps2-an386")


@pytest.mark.parametrize("board", QEMU_BOARDS)
def test_a_processor_fault_is_told_with_its_address(board, tmp_path):
    require(*TOOLS)
    undefined = '__asm__ volatile("udf #1");\n    kp_multiply(input'
    folder = network_with(tmp_path, {"kp_multiply(input": undefined})

    with pytest.raises(
        BoardFaultError, match=rf"tiny on {board} stopped: fault pc=0x[0-9a-f]{{8}}"
    ):
        simulate(folder, random_inputs(1, 6), board, timeout=20)


@pytest.mark.parametrize("board", ["stm32f405", "microbit", "mps3-an547"])
def test_a_stack_overflow_is_a_fault_and_no_wrong_answer(board, tmp_path):
    require(*TOOLS)
    greedy = "volatile int8_t frame[6000];\n    for (int i = 5999; i >= 0; i--) {\n"
    greedy += "        frame[i] = 1;\n    }\n    kp_multiply(input"
    folder = network_with(tmp_path, {"kp_multiply(input": greedy})

    with pytest.raises(BoardFaultError, match=r"stopped: fault"):
        simulate(folder, random_inputs(1, 6), board, timeout=20)
