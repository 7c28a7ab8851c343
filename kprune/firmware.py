"""Bytes → a project that flashes: the network, the program around it, and what builds both."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kprune.boards import BOARDS, Board
from kprune.boards import board as find_board
from kprune.building import microcontroller, read_network, split
from kprune.c.array import to_c_array
from kprune.c.network import to_c
from kprune.errors import ToolNotFoundError
from kprune.flatbuffer import read
from kprune.network import listed
from kprune.simulation import simulate

# Where each Arduino core comes from, pinned, so that the sketch builds the same next year.
_CORES = {
    "arduino:mbed_nano": "4.6.0",
    "arduino:mbed_portenta": "4.6.0",
    "arduino:mbed_giga": "4.6.0",
    "arduino:mbed_nicla": "4.6.0",
    "arduino:renesas_uno": "1.3.2",
    "arduino:renesas_portenta": "1.3.2",
    "arduino:esp32": "2.0.18-arduino.5",
    "rp2040:rp2040": "4.4.0",
}
_CORE_INDEX = {
    "rp2040:rp2040": "https://github.com/earlephilhower/arduino-pico/releases/download/global/"
    "package_rp2040_index.json",
}


# What people install for TensorFlow Lite Micro on Arduino, and the cores that it supports.
_TFLM_LIBRARY = "Chirale_TensorFLowLite (2.0.0)"
_TFLM_CORES = {
    "arduino:mbed_nano",
    "arduino:mbed_nicla",
    "arduino:mbed_portenta",
    "arduino:mbed_giga",
    "arduino:esp32",
}


def firmware(
    network: bytes | Mapping[str, str],
    board: str,
    name: str,
    runtime: Literal["c", "tflm"] = "c",
    golden: int = 3,
) -> dict[str, str]:
    """Write a complete project for a board: build, flash, type `test`, see the answers.

    Arduino boards get a library with a sketch in `examples/` and its `sketch.yaml`; STM32 boards
    a project for arm-none-eabi-gcc with a Makefile and a CMakeLists.txt. Both speak the line
    protocol of `microcontroller/app/protocol.h` over the serial port.

    Args:
        network: The content of a `.tflite` file; or, for runtime "c", what `to_c` made of it.
        board: A board with a project; the error for any other one lists them.
        name: A C identifier: begins every symbol, and names the library.
        runtime: "c": the code that `to_c` writes. "tflm": the flatbuffer itself, for a TensorFlow
            Lite Micro library that you have installed; the README in the project says which.
        golden: How many golden vectors to put in: inputs whose outputs this computer has
            computed, which the board is to reproduce bit for bit. They cost their outputs in
            flash. 0: none, and no C compiler is needed here.

    Returns:
        Text by path inside the project, for `write_project`.

    Raises:
        ValueError: kprune writes no project for the board, or none for that runtime, or none of
            that name.
        UnsupportedOpError: The runtime has no code for an operator of the network.
        ToolNotFoundError: `golden` is not 0, and there is no C compiler.

    Example:
        Given `flatbuffer` from `to_tflite`:

            files = firmware(flatbuffer, board="nucleo_f446re", name="gesture")
            write_project(files, "gesture_firmware")
    """
    target = find_board(board)
    if target.program not in ("arduino", "bare-metal"):
        able = ", ".join(b.name for b in BOARDS.values() if b.program in ("arduino", "bare-metal"))
        raise ValueError(f"kprune writes no project for board {board!r}, only for: {able}.")
    _check_name(name, target, runtime)
    model = _model_files(network, name, runtime)
    if golden:
        code = model if runtime == "c" else _model_files(network, name, "c")
        model[_GOLDEN] = golden_source(code, golden)
    make = _arduino_library if target.program == "arduino" else _stm32_project
    return make(model, target, name, runtime)


def _check_name(name: str, board: Board, runtime: str) -> None:
    """Refuse the few names that a C identifier may have and the project may not."""
    taken = {"arduino"} if board.program == "arduino" else set()
    if runtime == "tflm":
        # The resolver comes in a namespace of the network's name; nothing else may be called so.
        text = _source("app", "network.h") + _source("app", "network_tflm.cpp.in")
        taken |= set(re.findall(r"\b(?:network_\w+|tflite)\b", text))
    if name.lower() in taken:
        raise ValueError(
            f"the project for board {board.name!r} has a part that is called {name!r} already. "
            f"Use another name, for example {name + '_model'!r}."
        )


def _model_files(network: bytes | Mapping[str, str], name: str, runtime: str) -> dict[str, str]:
    if runtime not in ("c", "tflm"):
        raise ValueError(f"runtime must be 'c' or 'tflm', got {runtime!r}.")
    if isinstance(network, Mapping):
        if runtime == "tflm":
            raise ValueError("runtime='tflm' needs the flatbuffer, not the files of to_c.")
        return dict(network)
    _check_ends(network)
    if runtime == "tflm":
        return to_c_array(network, name, style="arduino")
    return to_c(network, name)


def _check_ends(flatbuffer: bytes) -> None:
    network = read(flatbuffer)
    for index in (*network.inputs, *network.outputs):
        tensor = network.tensors[index]
        if tensor.dtype != np.int8:
            raise ValueError(
                f"the program in the project takes and gives int8 values, but {tensor.name!r} is "
                f"{tensor.dtype}. Convert the model with to_tflite(model, data)."
            )


# Golden vectors

# With a hyphen, which the name of a network cannot have: its file may well be golden.c.
_GOLDEN = "golden-vectors.c"


def golden_source(model: Mapping[str, str], count: int, seed: int = 2463534242) -> str:
    """Run `count` made-up inputs on this computer and write the outputs down as C.

    Args:
        model: What `to_c` gave.
        count: Number of vectors, at least 1.
        seed: Of the first one, 1 to 2^32 - 1; the others follow it.

    Returns:
        The text of `golden-vectors.c`, for `microcontroller/app/golden.h`.
    """
    with tempfile.TemporaryDirectory(prefix="kprune-") as folder:
        for file, text in model.items():
            Path(folder, file).write_text(text, "utf-8")
        network = read_network(folder)
        # Far apart: neighbouring seeds begin with the same values.
        seeds = [(seed + i * 0x9E3779B9) % (1 << 32) or 1 for i in range(count)]
        rows = np.stack([random_input(s, network.input_size) for s in seeds])
        outputs = simulate(folder, split(rows, network.inputs)).outputs
    return _golden_text(_origin(model, network.name), seeds, np.hstack(listed(outputs)))


def _origin(model: Mapping[str, str], name: str) -> str:
    """Which network it is, as the generated C says it: its hash tells two of one name apart."""
    # Behind the word in a file of to_c, on the next line of the comment in one of to_c_array.
    digest = re.search(r"\bsha256[\s*]+([0-9a-f]{16})", model.get(f"{name}.h", ""))
    return f"{name}.tflite (sha256 {digest[1]})" if digest else name


def random_input(seed: int, size: int) -> NDArray[np.int8]:
    """The input that the board makes of a seed: the top bytes of a xorshift32 sequence.

    Example:
        >>> random_input(1, 4)
        array([  0,   4, -99,  18], dtype=int8)

    Source:
        Marsaglia, Xorshift RNGs, Journal of Statistical Software 8 (14), 2003.
    """
    values = np.empty(size, np.uint8)
    state = seed
    for i in range(size):
        state ^= state << 13 & 0xFFFFFFFF
        state ^= state >> 17
        state ^= state << 5 & 0xFFFFFFFF
        values[i] = state >> 24
    return values.view(np.int8)


def _golden_text(origin: str, seeds: list[int], outputs: NDArray[np.int8]) -> str:
    rows = [
        "    " + " ".join(f"{value}," for value in row[i : i + 16])
        for row in outputs.tolist()
        for i in range(0, len(row), 16)
    ]
    lines = [
        "/* Golden vectors: what this network gave on the computer that wrote the project,",
        f" * {origin}.",
        " * `test` fails with any other: after another `kprune to-c` or `kprune to-c-array`, write",
        " * the project anew with `kprune firmware`. */",
        "#include <stddef.h>",
        "#include <stdint.h>",
        "",
        f"const size_t golden_count = {len(seeds)};",
        f"const uint32_t golden_seeds[{len(seeds)}] = {{ {', '.join(f'{s}u' for s in seeds)} }};",
        f"const int8_t golden_outputs[{outputs.size}] = {{",
        *rows,
        "};",
    ]
    return "\n".join(lines) + "\n"


# Projects

_ADAPTERS = {"c": "network.c", "tflm": "network_tflm.cpp"}
_APP = ("network.h", "port.h", "protocol.h", "protocol.c", "stack.h", "stack.c", "golden.h")


def _arduino_library(
    model: Mapping[str, str], board: Board, name: str, runtime: str
) -> dict[str, str]:
    if runtime == "tflm" and _core(board) not in _TFLM_CORES:
        able = ", ".join(
            b.name for b in BOARDS.values() if b.program == "arduino" and _core(b) in _TFLM_CORES
        )
        raise ValueError(
            f"the TensorFlow Lite Micro library for Arduino does not support board {board.name!r}, "
            f"only {able}. Use runtime='c', which needs no library."
        )
    app = {file: _source("app", file) for file in _APP}
    adapter = _ADAPTERS[runtime]
    app[adapter] = _filled(f"app/{adapter}.in", name, board)
    app["protocol.c"] = app["protocol.c"].replace(
        '#define BOARD_NAME "unknown"', f'#define BOARD_NAME "{board.name}"'
    )
    app["port_arduino.cpp"] = _source("arduino", "port_arduino.cpp")
    app["golden.c"] = model.get(_GOLDEN) or _source("app", "no_golden.c")
    sketch = f"examples/{name}_serial"
    return {
        "README.md": _readme("arduino", name, board, runtime),
        "library.properties": _library_properties(name, board, runtime),
        f"{sketch}/{name}_serial.ino": _filled("arduino/serial.ino.in", name, board),
        f"{sketch}/sketch.yaml": _sketch_yaml(board, runtime),
        **{f"src/{file}": text for file, text in model.items() if file != _GOLDEN},
        **{f"src/kprune/{file}": text for file, text in app.items()},
    }


def _library_properties(name: str, board: Board, runtime: str) -> str:
    needs = "Standard C without dependencies"
    if runtime == "tflm":
        needs = "The flatbuffer for TensorFlow Lite Micro"
    text = _filled("arduino/library.properties.in", name, board, {"needs": needs})
    return text + (f"depends={_TFLM_LIBRARY.split()[0]}\n" if runtime == "tflm" else "")


def _core(board: Board) -> str:
    assert board.fqbn is not None
    return board.fqbn.rpartition(":")[0]


def _sketch_yaml(board: Board, runtime: str) -> str:
    core = _core(board)
    lines = [
        f"default_profile: {board.name}",
        "profiles:",
        f"  {board.name}:",
        f"    fqbn: {board.fqbn}",
        "    platforms:",
        f"      - platform: {core} ({_CORES[core]})",
    ]
    if core in _CORE_INDEX:
        lines.append(f"        platform_index_url: {_CORE_INDEX[core]}")
    lines += ["    libraries:", "      - dir: ../.."]
    if runtime == "tflm":
        lines.append(f"      - {_TFLM_LIBRARY}")
    return "\n".join(lines) + "\n"


def _stm32_project(
    model: Mapping[str, str], board: Board, name: str, runtime: str
) -> dict[str, str]:
    tree = microcontroller()
    unused = {f"{adapter}.in" for adapter in _ADAPTERS.values()} - {f"{_ADAPTERS[runtime]}.in"}
    app = sorted({path.name for path in (tree / "app").iterdir()} - unused)
    own = sorted(path.name for path in (tree / "boards" / board.name).iterdir())
    return {
        "README.md": _stm32_readme(model, name, board, runtime),
        "Makefile": _for_board(_source(".", "Makefile"), "BOARD ?= host", board),
        "CMakeLists.txt": _for_board(_source(".", "CMakeLists.txt"), "set(BOARD host", board),
        **{f"app/{file}": _source("app", file) for file in app},
        **{f"boards/common/{file}": _source("boards/common", file) for file in _shared(board)},
        **{f"boards/{board.name}/{file}": _source(f"boards/{board.name}", file) for file in own},
        **{f"model/{file}": text for file, text in model.items()},
    }


def _shared(board: Board) -> list[str]:
    """The files of `boards/common/` that a board is built from, headers included."""
    text = _source(f"boards/{board.name}", "board.mk")
    sources = re.findall(r"[\w-]+/\w+\.c\b", text)
    texts = [_source("boards", source) for source in sources]
    headers = sorted(path.name for path in (microcontroller() / "boards/common").glob("*.h"))
    used = [header for header in headers if any(f'"{header}"' in text for text in texts)]
    common = [s.removeprefix("common/") for s in sources if s.startswith("common/")]
    return [*common, *used, "sections.ld"]


def _for_board(text: str, default: str, board: Board) -> str:
    return text.replace(default, default.replace("host", board.name), 1)


def _source(folder: str, file: str) -> str:
    return (microcontroller() / folder / file).read_text("utf-8")


def _filled(template: str, name: str, board: Board, more: Mapping[str, str] | None = None) -> str:
    words = {"name": name, "NAME": name.upper(), "board": board.name, "title": board.title}
    words["MODEL"] = ".."  # from an Arduino library's src/kprune/ to its src/
    words |= more or {}
    text = (microcontroller() / template).read_text("utf-8")
    return re.sub(r"@(\w+)@", lambda word: words[word[1]], text)


def _readme(
    folder: str, name: str, board: Board, runtime: str, more: Mapping[str, str] | None = None
) -> str:
    text = _filled(f"{folder}/README.md.in", name, board, more)
    return text + ("\n" + _source(folder, "README_tflm.md") if runtime == "tflm" else "")


def _stm32_readme(model: Mapping[str, str], name: str, board: Board, runtime: str) -> str:
    tools = _flash_tools(_source(f"boards/{board.name}", "board.mk"))
    words = {
        "model": _model_row(model, name, runtime),
        "tools": "to flash " + " or ".join(f"`{tool}`" for tool in tools) if tools else "QEMU",
        "packages": _FLASH_TOOLS[tools[0]].package if tools else "qemu-system-arm",
        "start": _source("stm32", "start_flash.md" if tools else "start_sim.md").rstrip(),
    }
    return _readme("stm32", name, board, runtime, words)


def _model_row(model: Mapping[str, str], name: str, runtime: str) -> str:
    command = "kprune to-c"
    row = f"the network {_origin(model, name)}, as `{command}` wrote it"
    if runtime == "tflm":
        command = "kprune to-c-array --style arduino"
        row = f"the network {_origin(model, name)}: the flatbuffer as a C array"
    if _GOLDEN not in model:
        return row
    return (
        f"{row}; and its golden vectors, which no other network gives: after another `{command}`, "
        f"write the project anew, or delete `{_GOLDEN}` and do without `test`"
    )


def write_project(files: Mapping[str, str], folder: str | Path) -> Path:
    """Write a project whole: into a new folder beside the final one, then rename it.

    Args:
        files: Text by path inside the project.
        folder: Where to; must not exist yet, or be empty.

    Returns:
        The folder.

    Raises:
        FileExistsError: There is something in the folder already.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"{str(folder)!r} is not empty, and a project is written whole: "
            "choose another folder, or delete this one first."
        )
    target = Path(os.path.realpath(folder))  # a link stays
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".kprune-") as scratch:
        project = Path(scratch, "project")
        for name, text in files.items():
            path = project / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        project.replace(target)
    return folder


# Flashing


def flash(folder: str | Path, port: str | None = None) -> str:
    """Build a project that `firmware` wrote and put it on the board that is plugged in.

    Args:
        folder: The project.
        port: Serial port of an Arduino board, such as "/dev/ttyACM0"; `arduino-cli board list`
            shows it. An STM32 board is found by itself.

    Returns:
        What the tools said.

    Raises:
        ValueError: The folder is no project, an Arduino board needs `port`, or nothing flashes
            the board.
        ToolNotFoundError: No tool that can flash the board is installed.
        RuntimeError: No board is plugged in, or the build, or the tool, failed; the message has
            its last words.
    """
    folder = Path(folder)
    sketches = sorted(folder.glob("examples/*/sketch.yaml"))
    if sketches:
        commands = _arduino_commands(sketches[0].parent, port)
    elif (folder / "Makefile").is_file() and (folder / "boards").is_dir():
        commands = _stm32_commands(folder)
    else:
        raise ValueError(
            f"{str(folder)!r} is no firmware project: write one with "
            f"`kprune firmware model.tflite --board nucleo_f446re -o {folder}`."
        )
    return "".join(_run(command) for command in commands)


def _arduino_commands(sketch: Path, port: str | None) -> list[list[str]]:
    tool = shutil.which("arduino-cli")
    if tool is None:
        raise ToolNotFoundError(
            "flashing an Arduino board needs `arduino-cli` 1.3 or later, which is not on PATH. "
            "Get it from https://arduino.github.io/arduino-cli, or open the folder in the Arduino "
            "IDE as its README.md says."
        )
    if port is None:
        raise ValueError("which port? Pass one that `arduino-cli board list` shows.")
    upload = [tool, "upload", "--port", port, str(sketch)]
    return [[tool, "compile", str(sketch)], upload]


class _FlashTool(NamedTuple):
    setting: str  # in board.mk; a board without it is not flashed by this tool
    package: str  # Debian's


_FLASH_TOOLS = {
    "st-flash": _FlashTool("ORIGIN", "stlink-tools"),
    "openocd": _FlashTool("OPENOCD", "openocd"),
}


def _flash_tools(settings: str) -> list[str]:
    """The tools that can flash a board, by the text of its `board.mk`."""
    named = set(re.findall(r"^(\w+) *= *\S", settings, re.MULTILINE))
    return [name for name, tool in _FLASH_TOOLS.items() if tool.setting in named]


def _stm32_commands(folder: Path) -> list[list[str]]:
    flash_tools = _project_flash_tools(folder)
    for tool in ("make", "arm-none-eabi-gcc"):
        if shutil.which(tool) is None:
            raise ToolNotFoundError(
                f"flashing needs `{tool}`, which is not on PATH. "
                "On Debian: apt install make gcc-arm-none-eabi libnewlib-arm-none-eabi."
            )
    if not any(shutil.which(tool) for tool in flash_tools):
        packages = (f"apt install {_FLASH_TOOLS[tool].package}" for tool in flash_tools)
        raise ToolNotFoundError(
            f"flashing this board needs {' or '.join(f'`{tool}`' for tool in flash_tools)} "
            f"on PATH. On Debian: {', or '.join(packages)}."
        )
    return [["make", "-C", str(folder)], ["make", "-C", str(folder), "flash"]]


def _project_flash_tools(folder: Path) -> list[str]:
    makefile = (folder / "Makefile").read_text("utf-8")
    board = re.search(r"^BOARD \?= (\S+)", makefile, re.MULTILINE)
    settings = folder / "boards" / (board[1] if board else "") / "board.mk"
    if board is None or not settings.is_file():
        return list(_FLASH_TOOLS)  # the user's own Makefile by now: it knows
    tools = _flash_tools(settings.read_text("utf-8"))
    if not tools:
        raise ValueError(
            f"nothing here flashes {board[1]}: `make -C {folder} sim` runs the program in QEMU."
        )
    return tools


# How st-flash, OpenOCD (ST-LINK, CMSIS-DAP) and arduino-cli (itself, bossac) say so.
_NO_BOARD = re.compile(
    r"find any ST-Link|Error: open failed|find a matching CMSIS-DAP|port not found|No device found"
)


def _run(command: list[str]) -> str:
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if result.returncode != 0:
        last = "\n".join(result.stdout.strip().splitlines()[-5:])
        missing = _NO_BOARD.search(result.stdout)
        hint = (
            "no board answers: plug it in, with a USB cable that carries data. " if missing else ""
        )
        raise RuntimeError(f"{hint}`{' '.join(command)}` failed:\n{last}")
    return result.stdout
