"""Who asks a running program: replies, time-outs, faults and early ends are told apart."""

import time

import numpy as np
import pytest
from conftest import require
from tiny import TOOLS, network_with, random_inputs

from kprune.conversation import run_lines, start
from kprune.errors import BoardFaultError
from kprune.simulation import simulate

READY = "echo '# kprune: net is ready'; "


def conversation(script, timeout=5):
    return start(["sh", "-c", script], "net", timeout)


def test_every_line_is_answered_with_a_line():
    with conversation(READY + "while read word rest; do echo ok $rest; done") as program:
        assert [program.ask(f"run {i}") for i in range(3)] == ["ok 0", "ok 1", "ok 2"]


def test_what_is_no_reply_is_passed_over():
    chatty = "echo boot; " + READY + "read line; echo '# thinking'; echo; echo error no such thing"

    with conversation(chatty) as program:
        assert program.ask("jump") == "error no such thing"


def test_the_program_is_asked_to_end():
    with conversation("trap 'exit 7' TERM; " + READY + "while :; do sleep 0.05; done") as program:
        pass

    assert program._process.returncode == 7


def test_the_program_is_ended_when_the_caller_fails():
    with pytest.raises(KeyError), conversation(READY + "exec sleep 60") as program:
        raise KeyError

    assert program._process.returncode == -9


@pytest.mark.parametrize(
    "script, doing",
    [("exec sleep 60", "start"), (READY + "exec sleep 60", "run")],
)
def test_silence_is_a_timeout_that_says_what_was_asked(script, doing):
    begin = time.monotonic()

    with (
        pytest.raises(TimeoutError, match=rf"net did not answer `{doing}` within 0.3 s. Pass a"),
        conversation(script, timeout=0.3) as program,
    ):
        program.ask("run 1 2 3")

    assert time.monotonic() - begin < 30


def test_a_fault_is_told_as_the_board_tells_it():
    with (
        pytest.raises(BoardFaultError, match=r"^net stopped: fault pc=0x08000123 cfsr=0x1$"),
        conversation(READY + "read line; echo fault pc=0x08000123 cfsr=0x1") as program,
    ):
        program.ask("run 1")


def test_a_program_that_ends_early_is_told_with_its_last_words():
    dying = "echo first >&2; echo 'no such machine' >&2; exit 2"

    with (
        pytest.raises(RuntimeError, match=r"net ended before it answered: exit code 2; no such ma"),
        conversation(dying),
    ):
        pass


def test_a_program_that_dies_between_two_requests_is_told_with_its_exit_code():
    with (
        pytest.raises(RuntimeError, match=r"net ended before it answered: exit code 3$"),
        conversation(READY + "exec <&-; sleep 0.2; exit 3") as program,
    ):
        time.sleep(0.5)
        program.ask("run 1")


def test_inputs_are_asked_one_by_one():
    assert run_lines(np.array([[1, -2], [3, 127]], np.int8)) == ["run 1 -2", "run 3 127"]


@pytest.mark.parametrize("board", ["host", "mps2-an386"])
def test_an_endless_inference_is_a_timeout(board, tmp_path):
    require(*TOOLS)
    endless = "for (volatile int i = 0; i == 0;) {\n    }\n    kp_multiply(input"
    folder = network_with(tmp_path, {"kp_multiply(input": endless})

    with pytest.raises(TimeoutError, match=rf"tiny on .*{board}.* within 2 s"):
        simulate(folder, random_inputs(1, 6), board, timeout=2)


def test_a_crash_of_the_program_is_told_with_its_signal(tmp_path):
    require("make", "cc")
    crash = "*(volatile int *)8 = 1;\n    kp_multiply(input"
    folder = network_with(tmp_path, {"kp_multiply(input": crash})

    with pytest.raises(RuntimeError, match=r"tiny on the host ended before it answered.*SIGSEGV"):
        simulate(folder, random_inputs(1, 6))
