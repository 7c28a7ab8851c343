"""The command line: each command is the function of the same name, with files at both ends.

Nothing heavy is imported before a command runs: `kprune --help` and the commands that only read
bytes answer at once.
"""

import argparse
import functools
import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from kprune.cli.registry import COMMANDS

# Importing them registers their commands, in the order of the road.
from kprune.cli import models, flatbuffers, projects  # isort: skip

__all__ = ["COMMANDS", "flatbuffers", "main", "models", "projects"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 if all went well, 2 for what the user can mend; that is told in one line on stderr. 1 if
        whoever read the output stopped (`| head`); that is nothing to tell.
    """
    args = _parser().parse_args(argv)
    try:
        result = COMMANDS[args.command].run(args)
        if args.json:
            print(json.dumps(result, indent=2))
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        if args.debug:
            raise
        print(f"kprune: {error}", file=sys.stderr)
        return 2
    return 0


@functools.cache
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kprune",
        description="Train a Keras network straight into a stated budget, "
        "and onto a microcontroller.",
        epilog="Begin with: kprune demo",
    )
    parser.add_argument("--version", action="version", version=f"kprune {version('kprune')}")
    words = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, entry in COMMANDS.items():
        sub = words.add_parser(
            name,
            help=entry.help,
            description=entry.help[0].upper() + entry.help[1:] + ".",
            epilog=f"example:\n  {entry.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        entry.arguments(sub)
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser
