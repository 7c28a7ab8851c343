"""Renode: its files are checked everywhere, itself only where it is installed."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from conftest import require
from tiny import TINY, TOOLS, random_inputs, tiny_reference

from kprune.building import microcontroller
from kprune.errors import BoardFaultError, ToolNotFoundError
from kprune.simulation import simulate


def test_renode_gives_the_bytes_of_the_host():
    require("renode-test", *TOOLS)
    x = random_inputs(5, 6)

    for board in ("stm32f405", "stm32f746", "nano33ble"):
        result = simulate(TINY, x, board, simulator="renode")
        np.testing.assert_array_equal(result.outputs, tiny_reference(x))


def test_the_robot_file_is_well_formed():
    require("robot")
    stubs = TINY.parent / "stub_keywords.resource"
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


def test_renode_is_handed_the_program_and_its_log_is_read(stand_in):
    require(*TOOLS)
    stand_in(PLAY)
    x = random_inputs(5, 6)

    result = simulate(TINY, x, "stm32f405", simulator="renode")

    np.testing.assert_array_equal(result.outputs, tiny_reference(x))
    assert (result.simulator, result.instructions) == ("renode", None)


def test_renode_that_fails_is_quoted(stand_in):
    require(*TOOLS)
    stand_in('print("There was an error: no such keyword"); sys.exit(3)')

    with pytest.raises(RuntimeError, match=r"answered 0 of 1 requests; There was an error"):
        simulate(TINY, random_inputs(1, 6), "stm32f405", simulator="renode")


def test_renode_that_hangs_is_ended_with_all_it_started(tmp_path, stand_in):
    require(*TOOLS)
    stand_in('subprocess.Popen(["sleep", "60"]); time.sleep(60)')

    with pytest.raises(TimeoutError, match=r"tiny on stm32f405 in Renode did not end within 1 s"):
        simulate(TINY, random_inputs(1, 6), "stm32f405", simulator="renode", timeout=0.5)


def test_a_fault_in_renode_is_a_fault(stand_in):
    require(*TOOLS)
    stand_in('open(given["LOG"], "w").write("# kprune\\n\\nfault pc=0x08000123 cfsr=0x1\\n")')

    with pytest.raises(BoardFaultError, match=r"fault pc=0x08000123"):
        simulate(TINY, random_inputs(1, 6), "stm32f405", simulator="renode")


def test_missing_renode_is_told_with_how_to_get_it(monkeypatch):
    require(*TOOLS)
    monkeypatch.setenv("KPRUNE_RENODE_TEST", "no-such-renode-test")

    with pytest.raises(ToolNotFoundError, match=r"no-such-renode-test.*KPRUNE_RENODE_TEST"):
        simulate(TINY, random_inputs(1, 6), "stm32f405", simulator="renode")
