"""Commands on generated C: boards, simulators, firmware projects."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import kprune
from kprune.cli.arrays import load_arrays, save_arrays
from kprune.cli.inputs import read_flatbuffer
from kprune.cli.registry import code_arguments, command, say


def _boards_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="only this board")


@command(
    "boards",
    "the boards: core, flash, RAM, what simulates them, and the kind of project written for them",
    "kprune boards uno_r4",
    _boards_arguments,
)
def _boards(args: argparse.Namespace) -> dict:
    from kprune.boards import BOARDS, board

    chosen = [board(args.name)] if args.name else list(BOARDS.values())
    if not args.json:
        _show_boards(chosen)
    return {b.name: asdict(b) for b in chosen}


_PIPE_COLUMNS = 200


def _show_boards(boards: list) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE, collapse_padding=True, pad_edge=False)  # So 80 columns suffice.
    for heading, justify in (
        ("board", "left"),
        ("core", "left"),
        ("MHz", "right"),
        ("flash\nKiB", "right"),
        ("RAM\nKiB", "right"),
        ("runs in", "left"),
        ("project", "left"),
    ):
        # Where a terminal is too narrow, cells get lines, but no name is cut: it is typed again.
        table.add_column(
            heading,
            justify=justify,  # type: ignore[arg-type]
            overflow="fold",
            no_wrap=heading == "board",
        )
    for b in boards:
        simulators = [s for s, able in (("qemu", b.qemu), ("renode", b.renode)) if able]
        table.add_row(
            b.name,
            b.core,
            f"{b.clock_hz / 1e6:.0f}",
            f"{b.flash_bytes / 1024:,.0f}",
            f"{b.ram_bytes / 1024:,.0f}",
            ", ".join(simulators),
            b.program or "",
        )
    # What goes into a pipe or a file has no width: a line for each board.
    Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS).print(table)


def _simulate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="where `kprune to-c` wrote")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help=".npy of shape (samples, ...), or .npz: one for each input",
    )
    parser.add_argument("--board", default="host", help="`kprune boards` lists them (host)")
    parser.add_argument("--simulator", choices=("qemu", "renode", "host"))
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds per inference (60)")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help=".npy for the scores; .npz if the network has several outputs",
    )


@command(
    "simulate",
    "build stand-alone C for a board and run it on the board's simulator",
    "kprune simulate firmware/ --board stm32f405 --data test.npy",
    _simulate_arguments,
)
def _simulate(args: argparse.Namespace) -> dict:
    from kprune.network import listed, unlisted

    x = load_arrays(args.data)
    run = kprune.simulate(args.folder, x, args.board, args.simulator, args.timeout)
    if args.output:
        save_arrays(args.output, run.scores)
    figures = {
        "instructions": run.instructions,
        "stack_bytes": run.stack_bytes,
        "flash_bytes": run.flash_bytes or None,
        "ram_bytes": run.ram_bytes or None,
    }
    for name, value in figures.items():
        if value is not None:
            say(args, f"{name.replace('_', ' '):14}{value:>12,}")
    for layer, count in run.layers.items():
        say(args, f"  {layer:30}{count:>12,} instructions")
    parts = {"flash": run.flash, "ram": run.ram, "layers": run.layers}
    return {"board": run.board, "simulator": run.simulator, **figures, **parts} | {
        "scores": unlisted([scores.tolist() for scores in listed(run.scores)])
    }


def _firmware_arguments(parser: argparse.ArgumentParser) -> None:
    code_arguments(parser)
    parser.add_argument("--board", required=True, help="`kprune boards` lists those with a project")
    parser.add_argument(
        "--runtime",
        default="c",
        choices=("c", "tflm"),
        help="stand-alone C, or TensorFlow Lite Micro as installed by you (c)",
    )


@command(
    "firmware",
    "write a complete Arduino or STM32 project around a network",
    "kprune firmware gesture.tflite --board nucleo_f446re -o gesture-firmware",
    _firmware_arguments,
)
def _firmware(args: argparse.Namespace) -> dict:
    from kprune.firmware import write_project

    name = args.name or args.flatbuffer.stem
    flatbuffer = read_flatbuffer(args.flatbuffer)
    files = kprune.firmware(flatbuffer, args.board, name, args.runtime)
    folder = write_project(files, args.output)
    say(args, f"{folder}: {len(files)} files; its README says how to flash them")
    return {"folder": str(folder), "files": sorted(files)}


def _flash_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="what `kprune firmware` wrote")
    parser.add_argument("--port", help="serial port of an Arduino board: /dev/ttyACM0")


@command(
    "flash",
    "build a firmware project and put it on the board that is plugged in",
    "kprune flash gesture-firmware",
    _flash_arguments,
)
def _flash(args: argparse.Namespace) -> dict:
    said = kprune.flash(args.folder, args.port)
    say(args, said)
    return {"output": said}
