"""Program → replies and counts, in QEMU.

QEMU hands a serial port its bytes one by one, some kilobytes a second. So inputs are written to the
board's memory as a debugger would do it, and the conversation only says `go`. An own plugin
(`microcontroller/sim/count_plugin.c`) counts.
"""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kprune.boards import Board
from kprune.building import NetworkFiles, microcontroller, require_tool, split
from kprune.child import ending
from kprune.conversation import Answer, Counts, start


def run_qemu(
    elf: Path, board: Board, network: NetworkFiles, inputs: NDArray[np.int8], timeout: float
) -> Answer:
    qemu = require_tool("qemu-system-arm", f"simulating board {board.name!r}")
    symbols = _symbols(elf)
    report = elf.with_name("counts.txt")
    socket_path = elf.with_name("debugger")
    plugin = ",".join([str(_build_plugin(qemu, elf.parent)), *_plugin_options(symbols, network)])
    assert board.qemu is not None
    command = [qemu, "-M", board.qemu, "-kernel", str(elf), "-display", "none"]
    command += ["-monitor", "none", "-serial", "stdio"]
    command += ["-chardev", f"socket,id=gdb,path={socket_path},server=on,wait=off"]
    command += ["-gdb", "chardev:gdb"]
    command += ["-d", "plugin", "-D", str(report), "-plugin", plugin]
    arena, _ = symbols["network_arena"]
    replies = []
    with (
        start(command, f"{network.name} on {board.name}", timeout) as program,
        _Debugger(socket_path, timeout) as debugger,
    ):
        for row in inputs:
            for part, values in zip(network.inputs, split(row, network.inputs), strict=True):
                debugger.write(arena + part.offset, values.tobytes())
            debugger.resume()
            replies.append(program.ask("go"))
    return replies, _read_counts(report.read_text("utf-8"), elf, network)


def _plugin_options(symbols: _Symbols, network: NetworkFiles) -> list[str]:
    ranges = {
        "network": _range(symbols, f"{network.name}_run"),
        "caller": _range(symbols, "network_invoke"),
        "stack": (symbols["kprune_stack_limit"][0], symbols["kprune_stack_top"][0]),
    }
    return [f"{name}={low:#x}-{high:#x}" for name, (low, high) in ranges.items()]


class _Debugger:
    """Writes to the memory of a running simulation.

    Source:
        GDB manual, appendix "GDB Remote Serial Protocol".
    """

    # QEMU takes packets of 4096 characters; a byte is two of them.
    _CHUNK = 1536

    def __init__(self, path: Path, timeout: float):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        self._socket.connect(str(path))  # stops the processor
        self._received = b""
        self._reply()  # that it has stopped
        self._stopped = True

    def __enter__(self) -> _Debugger:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def write(self, address: int, data: bytes) -> None:
        """Stop the processor, and write."""
        if not self._stopped:
            self._socket.sendall(b"\x03")
            self._reply()  # that it has stopped
            self._stopped = True
        for offset in range(0, len(data), self._CHUNK):
            part = data[offset : offset + self._CHUNK]
            self._send(f"M{address + offset:x},{len(part):x}:{part.hex()}")
            reply = self._reply()
            if reply != b"OK":
                raise RuntimeError(f"QEMU did not write to {address + offset:#x}: {reply!r}")

    def resume(self) -> None:
        self._send("c")
        self._stopped = False

    def _send(self, packet: str) -> None:
        checksum = sum(packet.encode()) % 256
        self._socket.sendall(f"${packet}#{checksum:02x}".encode())

    def _reply(self) -> bytes:
        # Acknowledgements, "+", come before a packet: "$", content, "#", two digits.
        while not (packet := re.search(rb"\$([^#]*)#..", self._received)):
            received = self._socket.recv(4096)
            if not received:
                raise RuntimeError("QEMU closed the debugger's connection.")
            self._received += received
        self._received = self._received[packet.end() :]
        self._socket.sendall(b"+")
        return packet[1]


def _build_plugin(qemu: str, folder: Path) -> Path:
    compiler = require_tool("cc", "counting instructions in QEMU")
    major = re.search(r"version (\d+)", _said([qemu, "--version"]))
    # QEMU 9 raised the least version of the interface it takes from 0 to 2.
    interface = 2 if major and int(major[1]) >= 9 else 1
    plugin = folder / "count_plugin.so"
    source = microcontroller() / "sim" / "count_plugin.c"
    flags = ["-O2", "-shared", "-fPIC", f"-DPLUGIN_API={interface}"]
    _said([compiler, *flags, "-o", str(plugin), str(source)])
    return plugin


def _said(command: Sequence[str]) -> str:
    """Run a program to its end, and return what it said."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RuntimeError(f"`{command[0]}` failed with {ending(result.returncode)}: {last}")
    return result.stdout


_Symbols = Mapping[str, tuple[int, int]]


def _symbols(elf: Path) -> _Symbols:
    """Address and size of every symbol of an ARM executable."""
    listing = _said(["arm-none-eabi-nm", "-S", str(elf)])
    found = re.findall(r"^([0-9a-f]{8}) (?:([0-9a-f]{8}) )?\w (\w+)$", listing, re.MULTILINE)
    return {name: (int(address, 16), int(size or "0", 16)) for address, size, name in found}


def _range(symbols: _Symbols, function: str) -> tuple[int, int]:
    address, size = symbols[function]
    return address, address + size


def _read_counts(report: str, elf: Path, network: NetworkFiles) -> Counts:
    figures = dict(re.findall(r"^(\w+) (\d+)$", report, re.MULTILINE))
    sites: dict[str, int] = {}
    for address, count in re.findall(r"^site (0x[0-9a-f]+) (\d+)$", report, re.MULTILINE):
        sites[address] = sites.get(address, 0) + int(count)
    return Counts(
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
    listing = _said(["arm-none-eabi-addr2line", "-a", "-i", "-f", "-e", str(elf), *sites])
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
