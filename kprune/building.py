"""C text → program: the generated network with the program around it, compiled for a board."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
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
class Part:
    """An input or output: int8 values, `real = scale * (q - zero)`, and its place in the arena."""

    size: int
    scale: np.float32
    zero: int
    offset: int


@dataclass(frozen=True)
class NetworkFiles:
    """What the header of a generated network says; the arena's size is in bytes."""

    folder: Path
    name: str
    arena_size: int
    inputs: tuple[Part, ...]
    outputs: tuple[Part, ...]

    @property
    def input_size(self) -> int:
        """Values of all inputs."""
        return sum(part.size for part in self.inputs)

    @property
    def output_size(self) -> int:
        """Values of all outputs."""
        return sum(part.size for part in self.outputs)


_DEFINE = r"^#define {}_(\w+)\s+\(?(-?[\d.]+(?:e[+-]?\d+)?)f?\)?"


def read_network(folder: str | Path) -> NetworkFiles:
    """Read name, sizes and quantisation from the header that `to_c` wrote into a folder.

    Raises:
        ValueError: The folder holds no network, or more than one, or one of float values.
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
            arena_size=int(defined["ARENA_SIZE"]),
            inputs=_parts("INPUT", defined),
            outputs=_parts("OUTPUT", defined),
        )
    except KeyError as missing:
        raise ValueError(
            f"{headers[0].name} does not define {name.upper()}_{missing.args[0]}: its inputs and "
            "outputs are not all int8, or it was not written by this version of `kprune to-c`. "
            "Convert the model to int8 and run that again."
        ) from None


def split(values: np.ndarray, parts: Sequence[Part]) -> list[np.ndarray]:
    """The values of all parts, along the last axis → those of each."""
    return np.split(values, np.cumsum([part.size for part in parts[:-1]]), axis=-1)


def _parts(word: str, defined: Mapping[str, str]) -> tuple[Part, ...]:
    names = [key.removesuffix("_SIZE") for key in defined if re.fullmatch(rf"{word}_\d+_SIZE", key)]
    return tuple(
        Part(
            size=int(defined[f"{name}_SIZE"]),
            scale=np.float32(defined[f"{name}_SCALE"]),
            zero=int(defined[f"{name}_ZERO"]),
            offset=int(defined[f"{name}_OFFSET"]),
        )
        for name in names or [word]
    )


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
    ram = {"arena": 0, "stack": total[".stack"]}
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
    return "arena" if section.endswith(".network_arena") else None
