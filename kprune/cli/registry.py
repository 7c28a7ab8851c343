"""A command: a word, what it does, its arguments and its function."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import kprune
from kprune.c.files import standard_stream

Arguments = Callable[[argparse.ArgumentParser], None]
Run = Callable[[argparse.Namespace], dict]


@dataclass(frozen=True)
class Command:
    """What `kprune --help` shows of a command, and what runs it."""

    help: str
    example: str
    arguments: Arguments
    run: Run


COMMANDS: dict[str, Command] = {}


def command(name: str, help: str, example: str, arguments: Arguments) -> Callable[[Run], Run]:
    """Register the function below; what it returns is what `--json` prints."""

    def register(run: Run) -> Run:
        COMMANDS[name] = Command(help, example, arguments, run)
        return run

    return register


def code_arguments(parser: argparse.ArgumentParser) -> None:
    """What the commands take that write code for a network."""
    parser.add_argument("flatbuffer", type=Path, help="a .tflite file")
    parser.add_argument("--name", help="begins every symbol; by default the name of the file")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the folder to write to")


def write_output(path: Path, content: bytes) -> None:
    """Write the one file that `-o` names."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: the output must be a file.")
    kprune.write_files({path.name: content}, path.parent)


def say(args: argparse.Namespace, text: object) -> None:
    """Tell a person; `--json` prints only the result, and `-o /dev/stdout` only the output."""
    output = getattr(args, "output", None)
    if not args.json and not (output and standard_stream(output) == 1):
        print(text)
