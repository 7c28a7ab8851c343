"""Program → replies: the conversation with a running program, wherever it runs.

The program in `microcontroller/app/` reads a line, runs the network and answers with a line. Here
is who asks; time-outs, faults and early ends are told apart.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from kprune.boards import Board
from kprune.building import NetworkFiles
from kprune.child import ending
from kprune.errors import BoardFaultError


@dataclass(frozen=True)
class Counts:
    """What a simulator counted during the inferences."""

    instructions: int | None = None
    layers: dict[str, int] = field(default_factory=dict)
    stack_bytes: int | None = None


class Conversation:
    """A running program that answers every line with a line."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[str], who: str, timeout: float):
        self._process = process
        self._errors = errors
        self._who = who
        self._timeout = timeout

    def greeting(self) -> None:
        """Wait until the program listens; a serial port drops what comes earlier."""
        with self._watchdog("start"):
            self._read(lambda line: line.startswith("# kprune:"))

    def ask(self, request: str) -> str:
        """Send one line, return the reply."""
        assert self._process.stdin is not None
        with self._watchdog(request.partition(" ")[0]):
            # The reader tells better what went wrong than the broken pipe does.
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(request + "\n")
                self._process.stdin.flush()
            return self._read(lambda line: line.startswith(("ok", "error")))

    def _read(self, is_reply: Callable[[str], bool]) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("fault"):
                raise BoardFaultError(f"{self._who} stopped: {line.strip()}")
            if is_reply(line):
                return line.strip()
        raise RuntimeError(f"{self._who} ended before it answered: {self._last_words()}")

    def _last_words(self) -> str:
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return f"{ending(status)}; {lines[-1]}" if lines else ending(status)

    @contextlib.contextmanager
    def _watchdog(self, doing: str) -> Iterator[None]:
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(self._timeout, stop)
        timer.start()
        try:
            yield
        except RuntimeError as error:
            if late.is_set() and not isinstance(error, BoardFaultError):
                raise TimeoutError(
                    f"{self._who} did not answer `{doing}` within {self._timeout:g} s. "
                    "Pass a larger timeout if the network is that slow to simulate."
                ) from None
            raise
        finally:
            timer.cancel()


@contextlib.contextmanager
def start(command: Sequence[str], who: str, timeout: float) -> Iterator[Conversation]:
    """Start a program, wait until it listens, and end it afterwards."""
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        try:
            conversation = Conversation(process, errors, who, timeout)
            conversation.greeting()
            yield conversation
            process.terminate()  # QEMU writes its counts when it is asked to end
            process.wait(timeout=10)
        finally:
            process.kill()
            # What a dead program did not read is still in the buffer, and would be flushed later.
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()


def run_lines(inputs: NDArray[np.int8]) -> list[str]:
    return ["run " + " ".join(map(str, row)) for row in inputs.tolist()]


Answer = tuple[list[str], Counts]


def run_host(
    elf: Path, board: Board, network: NetworkFiles, inputs: NDArray[np.int8], timeout: float
) -> Answer:
    with start([str(elf)], f"{network.name} on the host", timeout) as program:
        return [program.ask(request) for request in run_lines(inputs)], Counts()
