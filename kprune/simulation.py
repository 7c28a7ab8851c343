"""C text → numbers: build the program for a board, run it on a simulator, read the scores back.

One conversation serves every simulator: the program in `microcontroller/app/` reads a line, runs
the network and answers with a line, whether the line goes through a pipe to a program on this
computer, through QEMU's serial port, or through Renode's.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kprune.boards import Board
from kprune.boards import board as find_board
from kprune.errors import ToolNotFoundError

Simulator = Literal["qemu", "renode", "host"]

# What provides each program, on Debian; None: not packaged there.
_PACKAGES = {
    "make": "make",
    "cc": "gcc",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
}


class DoesNotFitError(ValueError):
    """A network that is too large for a board's flash or RAM: the program did not link."""


class BoardFaultError(RuntimeError):
    """The simulated processor stopped in its fault handler; the message tells where."""


@dataclass(frozen=True)
class Simulation:
    """What a board answered, and what that took.

    Attributes:
        board: Name of the board.
        simulator: "host", "qemu" or "renode".
        outputs: int8 array of shape `(inputs, output size)`.
        scores: `outputs` as real numbers, `scale * (output - zero)`; float32, same shape.
        instructions: Instructions of one inference, the most that any input took; None where
            nothing counts them (host, Renode). Instructions are not cycles.
        layers: The same instructions by layer, in order of execution. They add up to
            `instructions`.
        stack_bytes: Deepest stack during an inference, the program around it included; None where
            nothing measures it.
        flash: Bytes of flash by part: weights, network, kernels, program. Empty for the host.
        ram: Bytes of RAM by part: arena, input and output, stack (reserved), program. Empty for
            the host.
    """

    board: str
    simulator: Simulator
    outputs: NDArray[np.int8]
    scores: NDArray[np.float32]
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
    x: ArrayLike,
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
            takes. Floating point is quantised with the scale and zero point of `<name>.h`; int8
            is passed on as it is.
        board: A board that something can run: `kprune boards` lists them.
        simulator: "qemu", "renode" or "host"; None takes the one that stands in for the board.
        timeout: Seconds the simulator may take for one inference.

    Returns:
        Scores, instructions, stack, flash and RAM.

    Raises:
        ValueError: The folder holds no network, `x` does not suit it, or nothing simulates the
            board.
        ToolNotFoundError: The compiler or the simulator is not installed.
        DoesNotFitError: Flash or RAM of the board are too small.
        BoardFaultError: The program ran into a processor fault.
        TimeoutError: An inference did not end in time.
        RuntimeError: The program did not compile, or the simulator ended on its own.
    """
    target = find_board(board)
    chosen = _choose_simulator(target, simulator)
    network = read_network(folder)
    inputs = quantize(x, network)
    with tempfile.TemporaryDirectory(prefix="kprune-") as scratch:
        elf = build(network, target, Path(scratch))
        requests = ["run " + " ".join(map(str, row)) for row in inputs.tolist()]
        run = {"host": _run_host, "qemu": _run_qemu, "renode": _run_renode}[chosen]
        replies, counts = run(elf, target, network, requests, timeout)
        outputs = np.array([_values(reply, board) for reply in replies], np.int8)
        outputs = outputs.reshape(len(inputs), network.output_size)
        flash, ram = ({}, {}) if chosen == "host" else part_sizes(elf.with_suffix(".map"), network)
    return Simulation(
        board=board,
        simulator=chosen,
        outputs=outputs,
        scores=network.output_scale * (outputs.astype(np.float32) - network.output_zero),
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


# The network in a folder


@dataclass(frozen=True)
class NetworkFiles:
    """What the header of a generated network says. Sizes count int8 values, the arena bytes."""

    folder: Path
    name: str
    input_size: int
    output_size: int
    arena_size: int
    input_scale: np.float32
    input_zero: int
    output_scale: np.float32
    output_zero: int


_DEFINE = r"^#define {}_(\w+)\s+\(?(-?[\d.]+(?:e[+-]?\d+)?)f?\)?"


def read_network(folder: str | Path) -> NetworkFiles:
    """Read name, sizes and quantisation from the header that `to_c` wrote into a folder.

    Raises:
        ValueError: The folder holds no network, or more than one.
    """
    folder = Path(folder)
    headers = [h for h in sorted(folder.glob("*.h")) if "_ARENA_SIZE " in h.read_text("utf-8")]
    if len(headers) != 1:
        found = ", ".join(h.name for h in headers) or "none"
        raise ValueError(
            f"simulate needs a folder with one network, but in {str(folder)!r} there is {found}. "
            f"Write one there with `kprune to-c model.tflite --name gesture -o {folder}`."
        )
    name = headers[0].stem
    pattern = re.compile(_DEFINE.format(name.upper()), re.MULTILINE)
    defined = dict(pattern.findall(headers[0].read_text("utf-8")))
    try:
        return NetworkFiles(
            folder=folder.resolve(),
            name=name,
            input_size=int(defined["INPUT_SIZE"]),
            output_size=int(defined["OUTPUT_SIZE"]),
            arena_size=int(defined["ARENA_SIZE"]),
            input_scale=np.float32(defined["INPUT_SCALE"]),
            input_zero=int(defined["INPUT_ZERO"]),
            output_scale=np.float32(defined["OUTPUT_SCALE"]),
            output_zero=int(defined["OUTPUT_ZERO"]),
        )
    except KeyError as missing:
        raise ValueError(
            f"{headers[0].name} does not define {name.upper()}_{missing.args[0]}: "
            "it was not written by this version of `kprune to-c`. Run that again."
        ) from None


def quantize(x: ArrayLike, network: NetworkFiles) -> NDArray[np.int8]:
    """Inputs as the network takes them: int8, one row per input.

    Raises:
        ValueError: The number of values does not suit the network, or there is a NaN among them.
        TypeError: `x` is neither floating point nor int8.
    """
    x = np.asarray(x)
    if x.ndim < 1 or x.shape[0] == 0 or x.size // x.shape[0] != network.input_size:
        raise ValueError(
            f"network {network.name!r} takes inputs of {network.input_size} values, but x has "
            f"shape {x.shape}. The first axis counts inputs: pass x[:1] for one of them."
        )
    rows = x.reshape(len(x), network.input_size)
    if rows.dtype == np.int8:
        return rows
    if not np.issubdtype(rows.dtype, np.floating):
        raise TypeError(
            f"x must be floating point (real values) or int8 (quantised values), got {x.dtype}. "
            "Scale it as for training, or convert it with x.astype('int8') if it is quantised."
        )
    if np.isnan(rows).any():
        raise ValueError("x has NaN values, which int8 cannot hold.")
    steps = np.round(rows / network.input_scale) + network.input_zero
    return np.clip(steps, -128, 127).astype(np.int8)


# Building


def microcontroller() -> Path:
    """The folder `microcontroller/`: inside the installed package, beside it in a checkout."""
    here = Path(__file__).parent
    installed = here / "microcontroller"
    return installed if installed.is_dir() else here.parent / "microcontroller"


def require_tool(name: str, purpose: str) -> str:
    """The path of a program.

    Raises:
        ToolNotFoundError: It is not on PATH; the message names the Debian package.
    """
    path = shutil.which(name)
    if path:
        return path
    hint = f" On Debian: apt install {_PACKAGES[name]}." if name in _PACKAGES else ""
    raise ToolNotFoundError(f"{purpose} needs `{name}`, which is not on PATH.{hint}")


def build(network: NetworkFiles, board: Board, folder: Path) -> Path:
    """Compile and link the program around `network` for `board`, with everything in `folder`.

    Returns:
        The executable, `firmware.elf`; the linker map lies beside it as `firmware.map`.

    Raises:
        ToolNotFoundError: The compiler or make is not installed.
        DoesNotFitError: Flash or RAM of the board are too small.
        RuntimeError: It did not compile; the message has the compiler's first complaint.
    """
    purpose = f"building for board {board.name!r}"
    make = require_tool("make", purpose)
    require_tool("cc" if board.program == "host" else "arm-none-eabi-gcc", purpose)
    command = [
        make,
        "-s",
        "-j2",
        f"--directory={microcontroller()}",
        f"BOARD={board.name}",
        f"MODEL={network.folder}",
        f"BUILD={folder}",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise _build_error(result.stderr, network, board)
    return folder / "firmware.elf"


def _build_error(log: str, network: NetworkFiles, board: Board) -> Exception:
    over = dict(re.findall(r"region `(\w+)' overflowed by (\d+) bytes", log))
    if over:
        sizes = {"FLASH": board.flash_bytes, "RAM": board.ram_bytes}
        lacks = " and ".join(
            f"{int(size):,} bytes more {region.lower() if region == 'FLASH' else region} "
            f"than its {sizes[region]:,}"
            for region, size in over.items()
        )
        return DoesNotFitError(
            f"network {network.name!r} does not fit board {board.name!r}: it needs {lacks}. "
            "Choose a smaller budget or a larger board."
        )
    complaints = [line for line in log.splitlines() if "error" in line.lower()] or log.splitlines()
    return RuntimeError(
        f"network {network.name!r} did not build for board {board.name!r}: "
        + (complaints[0] if complaints else "make gave no reason")
    )


# Sizes by part, from the linker map

_FLASH_SECTIONS = {".vectors", ".text", ".ARM.extab", ".ARM.exidx", ".init_array", ".data"}
_RAM_SECTIONS = {".stack", ".data", ".bss"}
_OUTPUT_SECTION = re.compile(r"^(\.[\w.]+)\s+0x[0-9a-f]+\s+0x([0-9a-f]+)", re.MULTILINE)
_INPUT_SECTION = re.compile(
    r"^ (\.[\w.$]+)\s+0x[0-9a-f]+\s+0x([0-9a-f]+)\s+(\S.*)$|^(\.[\w.]+)", re.MULTILINE
)


def part_sizes(map_file: Path, network: NetworkFiles) -> tuple[dict[str, int], dict[str, int]]:
    text = map_file.read_text("utf-8").partition("Linker script and memory map")[2]
    total = {name: int(size, 16) for name, size in _OUTPUT_SECTION.findall(text)}
    flash = {"weights": 0, "network": 0, "kernels": 0}
    ram = {"arena": 0, "input and output": 0, "stack": total[".stack"]}
    section = ""
    for name, size, origin, output_section in _INPUT_SECTION.findall(text):
        section = output_section or section
        if name and section in _FLASH_SECTIONS:
            _add(flash, _flash_part(name, Path(origin).name, network.name), int(size, 16))
        if name and section in _RAM_SECTIONS:
            _add(ram, _ram_part(name), int(size, 16))
    # The rest, alignment gaps included, so that the parts add up to what the linker counted.
    flash["program"] = sum(total.get(s, 0) for s in _FLASH_SECTIONS) - sum(flash.values())
    ram["program"] = sum(total.get(s, 0) for s in _RAM_SECTIONS) - sum(ram.values())
    return flash, ram


def _add(parts: dict[str, int], part: str | None, size: int) -> None:
    if part is not None:
        parts[part] += size


def _flash_part(section: str, origin: str, name: str) -> str | None:
    if origin == f"{name}.o":
        return "network" if section.startswith(".text") else "weights"
    return "kernels" if origin == "kp_nn.o" else None


def _ram_part(section: str) -> str | None:
    parts = {"network_arena": "arena"}
    parts |= dict.fromkeys(("network_input_buffer", "network_output_buffer"), "input and output")
    return parts.get(section.rpartition(".")[2])


# The conversation


@dataclass(frozen=True)
class _Counts:
    """What a simulator counted during the inferences."""

    instructions: int | None = None
    layers: dict[str, int] = field(default_factory=dict)
    stack_bytes: int | None = None


class _Conversation:
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

    def _read(self, is_reply: object) -> str:
        assert self._process.stdout is not None and callable(is_reply)
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
        how = f"exit code {status}"
        if status < 0:
            how = f"signal {signal.Signals(-status).name}"
        return f"{how}; {lines[-1]}" if lines else how

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
def _start(command: Sequence[str], who: str, timeout: float) -> Iterator[_Conversation]:
    """Start a program, wait until it listens, and end it afterwards."""
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        try:
            conversation = _Conversation(process, errors, who, timeout)
            conversation.greeting()
            yield conversation
            process.terminate()  # QEMU writes its counts when it is asked to end
            process.wait(timeout=10)
        finally:
            process.kill()


def _values(reply: str, board: str) -> list[int]:
    status, *words = reply.split()
    if status != "ok":
        raise RuntimeError(f"board {board!r} answered: {reply}")
    return [int(word) for word in words]


_Answer = tuple[list[str], _Counts]


def _run_host(
    elf: Path, board: Board, network: NetworkFiles, requests: list[str], timeout: float
) -> _Answer:
    with _start([str(elf)], f"{network.name} on the host", timeout) as program:
        return [program.ask(request) for request in requests], _Counts()


# QEMU


def _run_qemu(
    elf: Path, board: Board, network: NetworkFiles, requests: list[str], timeout: float
) -> _Answer:
    qemu = require_tool("qemu-system-arm", f"simulating board {board.name!r}")
    plugin = _build_plugin(qemu, elf.parent)
    report = elf.with_name("counts.txt")
    ranges = {
        "network": _function(elf, f"{network.name}_run"),
        "caller": _function(elf, "network_run"),
        "stack": (_symbols(elf)["kprune_stack_limit"][0], _symbols(elf)["kprune_stack_top"][0]),
    }
    options = [f"{name}={low:#x}-{high:#x}" for name, (low, high) in ranges.items()]
    assert board.qemu is not None
    command = [qemu, "-M", board.qemu, "-kernel", str(elf), "-display", "none"]
    command += ["-monitor", "none", "-serial", "stdio"]
    command += ["-d", "plugin", "-D", str(report), "-plugin", ",".join([str(plugin), *options])]
    with _start(command, f"{network.name} on {board.name}", timeout) as program:
        replies = [program.ask(request) for request in requests]
    return replies, _read_counts(report.read_text("utf-8"), elf, network)


def _build_plugin(qemu: str, folder: Path) -> Path:
    compiler = require_tool("cc", "counting instructions in QEMU")
    version = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True).stdout
    major = re.search(r"version (\d+)", version)
    # QEMU 9 raised the least version of the interface it takes from 0 to 2.
    interface = 2 if major and int(major[1]) >= 9 else 1
    plugin = folder / "count_plugin.so"
    source = microcontroller() / "sim" / "count_plugin.c"
    flags = ["-O2", "-shared", "-fPIC", f"-DPLUGIN_API={interface}"]
    subprocess.run([compiler, *flags, "-o", str(plugin), str(source)], check=True)
    return plugin


def _symbols(elf: Path) -> dict[str, tuple[int, int]]:
    """Address and size of every symbol of an ARM executable."""
    listing = subprocess.run(
        ["arm-none-eabi-nm", "-S", str(elf)], capture_output=True, text=True, check=True
    ).stdout
    found = re.findall(r"^([0-9a-f]{8}) (?:([0-9a-f]{8}) )?\w (\w+)$", listing, re.MULTILINE)
    return {name: (int(address, 16), int(size or "0", 16)) for address, size, name in found}


def _function(elf: Path, name: str) -> tuple[int, int]:
    address, size = _symbols(elf)[name]
    return address, address + size


def _read_counts(report: str, elf: Path, network: NetworkFiles) -> _Counts:
    figures = dict(re.findall(r"^(\w+) (\d+)$", report, re.MULTILINE))
    sites: dict[str, int] = {}
    for address, count in re.findall(r"^site (0x[0-9a-f]+) (\d+)$", report, re.MULTILINE):
        sites[address] = sites.get(address, 0) + int(count)
    return _Counts(
        instructions=int(figures["instructions"]),
        layers=_by_layer(sites, elf, network),
        stack_bytes=int(figures["stack"]),
    )


def _by_layer(sites: Mapping[str, int], elf: Path, network: NetworkFiles) -> dict[str, int]:
    """Add up what was spent at each address of `<name>_run` by the layer its line belongs to."""
    starts = _layer_lines(network)
    layers = dict.fromkeys(starts.values(), 0)
    for address, line in _source_lines(sites, elf, network).items():
        before = [name for start, name in starts.items() if start <= line]
        # What comes before the first layer is the function's own entry.
        layers[before[-1] if before else next(iter(layers))] += sites[address]
    return layers


# In <name>.c every layer begins with a comment such as /* conv1: (32, 32, 1) -> (32, 32, 2) */.
_LAYER_COMMENT = re.compile(r"^\s+/\* (.+?): .*->")


def _layer_lines(network: NetworkFiles) -> dict[int, str]:
    source = (network.folder / f"{network.name}.c").read_text("utf-8").splitlines()
    begin = next(i for i, line in enumerate(source) if line.startswith(f"void {network.name}_run("))
    found = {
        number: comment[1]
        for number, line in enumerate(source, start=1)
        if number > begin and (comment := _LAYER_COMMENT.match(line))
    }
    return found or {begin + 1: network.name}


def _source_lines(sites: Mapping[str, int], elf: Path, network: NetworkFiles) -> dict[str, int]:
    """The line of `<name>_run` that each address belongs to, functions inlined there included."""
    listing = subprocess.run(
        ["arm-none-eabi-addr2line", "-a", "-i", "-f", "-e", str(elf), *sites],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines: dict[str, int] = {}
    for entry in re.split(r"^(?=0x)", listing, flags=re.MULTILINE)[1:]:
        address, *frames = entry.splitlines()
        function = f"{network.name}_run"
        places = [
            place for name, place in zip(frames[::2], frames[1::2], strict=True) if name == function
        ]
        number = re.search(r":(\d+)", places[0]) if places else None
        lines[f"{int(address, 16):#x}"] = int(number[1]) if number else 0
    return lines


# Renode


def _run_renode(
    elf: Path, board: Board, network: NetworkFiles, requests: list[str], timeout: float
) -> _Answer:
    command = _renode_test(board)
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
    return replies, _Counts()


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
