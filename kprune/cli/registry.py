"""A command: a word, what it does, its arguments and its function."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

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


def say(args: argparse.Namespace, text: object) -> None:
    """Tell a person; with `--json` only the result is printed."""
    if not args.json:
        print(text)
