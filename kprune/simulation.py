"""C text → numbers: build the program for a board, run it on a simulator, read the scores back."""

from __future__ import annotations

import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kprune.boards import Board
from kprune.boards import board as find_board
from kprune.building import NetworkFiles, Part, build, part_sizes, read_network, split
from kprune.conversation import run_host
from kprune.network import check_counts, to_real, to_steps, unlisted
from kprune.qemu import run_qemu
from kprune.renode import run_renode

Simulator = Literal["qemu", "renode", "host"]

_RUN = {"host": run_host, "qemu": run_qemu, "renode": run_renode}


@dataclass(frozen=True)
class Simulation:
    """What a board answered, and what that took.

    Attributes:
        board: Name of the board.
        simulator: "host", "qemu" or "renode".
        outputs: int8 array of shape `(inputs, output size)`; of a network of several outputs a list
            of such arrays, in the order of the flatbuffer.
        scores: `outputs` as real numbers, `scale * (output - zero)`; float32, same shapes.
        instructions: Instructions of one inference, the most that any input took; None where
            nothing counts them (host, Renode). Instructions are not cycles.
        layers: The same instructions by layer, in order of execution. They add up to
            `instructions`.
        stack_bytes: Deepest stack during an inference, the program around it included; None where
            nothing measures it.
        flash: Bytes of flash by part: weights, network, kernels, program. Empty for the host.
        ram: Bytes of RAM by part: arena (inputs and outputs lie in it), stack (reserved), program.
            Empty for the host.
    """

    board: str
    simulator: Simulator
    outputs: Any
    scores: Any
    instructions: int | None = None
    layers: dict[str, int] = field(default_factory=dict)
    stack_bytes: int | None = None
    flash: dict[str, int] = field(default_factory=dict)
    ram: dict[str, int] = field(default_factory=dict)

    @property
    def flash_bytes(self) -> int:
        """All of the flash."""
        return sum(self.flash.values())

    @property
    def ram_bytes(self) -> int:
        """All of the RAM, the whole reserved stack included."""
        return sum(self.ram.values())


def simulate(
    folder: str | Path,
    x: Any,
    board: str = "host",
    simulator: Simulator | None = None,
    timeout: float = 60.0,
) -> Simulation:
    """Run the generated C of a network on a simulated board.

    Builds `microcontroller/` around the network in a temporary folder, starts the simulator once,
    and runs every input. The result is the same every time.

    Args:
        folder: Where `to_c` was written to: `<name>.h`, `<name>.c` and the kernels.
        x: Inputs, batch first: shape `(inputs, ...)` with as many values per input as the network
            takes; for a network of several inputs a list of such arrays, in the order of the
            flatbuffer. Floating point is quantised with the scale and zero point of `<name>.h`;
            int8 is passed on as it is.
        board: A board that something can run: `kprune boards` lists them.
        simulator: "qemu", "renode" or "host"; None takes the one that stands in for the board.
        timeout: Seconds the simulator may take for one inference.

    Returns:
        Scores, instructions, stack, flash and RAM.

    Raises:
        ValueError: The folder holds no network, `x` does not suit it, nothing simulates the
            board, or `timeout` is no time.
        ToolNotFoundError: The compiler or the simulator is not installed.
        DoesNotFitError: Flash or RAM of the board are too small.
        BoardFaultError: The program ran into a processor fault.
        TimeoutError: An inference did not end in time.
        RuntimeError: The program did not compile, or the simulator ended on its own.
    """
    if not 0 < timeout <= threading.TIMEOUT_MAX:
        raise ValueError(f"timeout must be a number of seconds above 0, got {timeout:g}.")
    target = find_board(board)
    chosen = _choose_simulator(target, simulator)
    network = read_network(folder)
    inputs = input_rows(x, network)
    with tempfile.TemporaryDirectory(prefix="kprune-") as scratch:
        elf = build(network, target, Path(scratch))
        replies, counts = _RUN[chosen](elf, target, network, inputs, timeout)
        values = np.array([_values(reply, board) for reply in replies], np.int8)
        flash, ram = ({}, {}) if chosen == "host" else part_sizes(elf.with_suffix(".map"), network)
    outputs = split(values.reshape(len(inputs), network.output_size), network.outputs)
    pairs = zip(outputs, network.outputs, strict=True)
    scores = [to_real(steps, part.scale, part.zero) for steps, part in pairs]
    return Simulation(
        board=board,
        simulator=chosen,
        outputs=unlisted(outputs),
        scores=unlisted(scores),
        instructions=counts.instructions,
        layers=counts.layers,
        stack_bytes=counts.stack_bytes,
        flash=flash,
        ram=ram,
    )


def _choose_simulator(board: Board, simulator: Simulator | None) -> Simulator:
    able: dict[Simulator, bool] = {
        "host": board.program == "host",
        "qemu": board.qemu is not None,
        "renode": board.renode is not None,
    }
    usable = [name for name, is_able in able.items() if is_able]
    if simulator is None and usable:
        return usable[0]
    if simulator in usable:
        return simulator
    what = (
        f"{simulator} has no model of board {board.name!r}"
        if simulator
        else (f"nothing simulates board {board.name!r}")
    )
    instead = f"use simulator={usable[0]!r}" if usable else "`kprune boards` lists what runs where"
    raise ValueError(f"{what}: {instead}.")


def input_rows(x: Any, network: NetworkFiles) -> NDArray[np.int8]:
    """Inputs as the network takes them: int8, one row per input, of several inputs side by side.

    Raises:
        ValueError: The number of arrays or of values does not suit the network, or there is a NaN
            among them.
        TypeError: An array is neither floating point nor int8, such as one of text.
    """
    # Nested lists of numbers are one array; a list of arrays has one for each input.
    several = isinstance(x, list | tuple) and any(isinstance(values, np.ndarray) for values in x)
    given = list(x) if several else [x]
    if len(given) != len(network.inputs):
        raise ValueError(
            f"network {network.name!r} takes {len(network.inputs)} inputs, but x is {len(given)} "
            "arrays. Pass an array, samples first; for several inputs a list of such arrays."
        )
    rows = [
        _rows(np.asarray(values), part, f"x[{place}]" if several else "x", network.name)
        for place, (values, part) in enumerate(zip(given, network.inputs, strict=True))
    ]
    check_counts(rows)
    return np.hstack(rows)


def _rows(x: np.ndarray, part: Part, label: str, name: str) -> NDArray[np.int8]:
    if x.dtype.kind not in "biufc":
        raise TypeError(
            f"network {name!r} takes numbers, but {label} is an array of {_content(x.dtype)}. "
            "Expected floating point (real values) or int8 (quantised values)."
        )
    if x.ndim < 1 or x.size == 0 or x.size // x.shape[0] != part.size:
        raise ValueError(
            f"network {name!r} takes inputs of {part.size} values, but {label} has "
            f"shape {x.shape}{_cure(x, part, label)}."
        )
    rows = x.reshape(len(x), part.size)
    if rows.dtype == np.int8:
        return rows
    if not np.issubdtype(rows.dtype, np.floating):
        raise TypeError(
            f"{label} must be floating point (real values) or int8 (quantised values), got "
            f"{x.dtype}. Scale it as for training, or convert it with x.astype('int8') if it is "
            "quantised."
        )
    return to_steps(rows, part.scale, part.zero)


def _content(dtype: np.dtype) -> str:
    return "text" if dtype.kind in "US" else str(dtype)


def _cure(x: np.ndarray, part: Part, label: str) -> str:
    if x.size == 0:
        return ": it is empty. Pass at least one input"
    if x.size == part.size:
        return f". The first axis counts inputs: for this one, pass {label}[None]"
    return f". The first axis counts inputs: expected (inputs, ...) with {part.size} values each"


def _values(reply: str, board: str) -> list[int]:
    status, *words = reply.split()
    if status != "ok":
        raise RuntimeError(f"board {board!r} answered: {reply}")
    return [int(word) for word in words]
