"""Program → replies, in Renode, driven by `microcontroller/renode/inference.robot`."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kprune.boards import Board
from kprune.building import NetworkFiles, microcontroller
from kprune.conversation import Answer, Counts, run_lines
from kprune.errors import BoardFaultError, ToolNotFoundError


def run_renode(
    elf: Path, board: Board, network: NetworkFiles, inputs: NDArray[np.int8], timeout: float
) -> Answer:
    command = _renode_test(board)
    requests = run_lines(inputs)
    tree = microcontroller() / "renode"
    log = elf.with_name("uart.txt")
    asked = elf.with_name("requests.txt")
    asked.write_text("\n".join(requests) + "\n", "utf-8")
    variables = {
        "ELF": elf,
        "PLATFORM": tree / f"{board.name}.repl",
        "UART": board.renode,
        "MIPS": board.clock_hz // 1_000_000,
        "REQUESTS": asked,
        "LOG": log,
    }
    for name, value in variables.items():
        command += ["--variable", f"{name}:{value}"]
    command += ["--results-dir", str(elf.parent), str(tree / "inference.robot")]
    who = f"{network.name} on {board.name} in Renode"
    said = _wait_for(command, who, timeout * (1 + len(requests)))
    lines = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
    for line in lines:
        if line.startswith("fault"):
            raise BoardFaultError(f"{who} stopped: {line}")
    replies = [line for line in lines if line.startswith(("ok", "error"))]
    if len(replies) != len(requests):
        last = said.strip().splitlines()[-1:] or ["renode-test said nothing"]
        raise RuntimeError(
            f"{who} answered {len(replies)} of {len(requests)} requests; {last[0].strip()}"
        )
    return replies, Counts()


def _renode_test(board: Board) -> list[str]:
    named = os.environ.get("KPRUNE_RENODE_TEST")
    path = shutil.which(named or "renode-test")
    if path is None:
        raise ToolNotFoundError(
            f"simulating board {board.name!r} in Renode needs `{named or 'renode-test'}`, which is "
            "not on PATH. Get Renode from https://renode.io (no Debian package), or give the path "
            "of its renode-test in KPRUNE_RENODE_TEST."
        )
    return [path]


def _wait_for(command: Sequence[str], who: str, timeout: float) -> str:
    """Run a program to its end, with whatever it has started, and return what it said."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            return process.communicate(timeout=timeout)[0]
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{who} did not end within {timeout:g} s.") from None
        finally:
            # renode-test is a script: what it started outlives it unless the group is ended.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
