"""C text → program: the generated network with the program around it, compiled for a board."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kprune.boards import Board
from kprune.errors import DoesNotFitError, ToolNotFoundError

# What provides each program, on Debian; None: not packaged there.
_PACKAGES = {
    "make": "make",
    "cc": "gcc",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
}


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
    input_offset: int | None = None  # in the arena, where the input may lie there


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
            input_offset=int(defined["INPUT_OFFSET"]) if "INPUT_OFFSET" in defined else None,
        )
    except KeyError as missing:
        raise ValueError(
            f"{headers[0].name} does not define {name.upper()}_{missing.args[0]}: "
            "it was not written by this version of `kprune to-c`. Run that again."
        ) from None


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
    # make cannot name a folder with a space in it, and the user's may have one.
    model = folder / "source"
    model.mkdir(parents=True, exist_ok=True)
    for path in network.folder.glob("*.[ch]"):
        shutil.copy(path, model)
    command = [make, "-s", "-j2", f"--directory={microcontroller()}"]
    command += [f"BOARD={board.name}", f"MODEL={model}", f"BUILD={folder}"]
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
