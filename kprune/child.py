"""Runs a function in a Python process of its own, for what this process must not import."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from kprune import errors

_PROGRAM = """
import importlib, json, pathlib, sys
module, name, folder = sys.argv[1:]
folder = pathlib.Path(folder)
try:
    getattr(importlib.import_module(module), name)(folder)
except (ValueError, TypeError, RuntimeError) as error:
    kinds = [kind.__name__ for kind in type(error).__mro__]
    (folder / "error.json").write_text(json.dumps([kinds, str(error)]))
    sys.exit(2)
"""

_KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (ValueError, TypeError, RuntimeError, *vars(errors).values())
    if isinstance(kind, type)
}


def run_in_child(module: str, function: str, folder: Path, **environment: str) -> None:
    """Call `module.function(folder)` in a new process; files in the folder carry all data.

    Args:
        module: Name of the module, imported by the new process only.
        function: Name of the function.
        folder: Where arguments and results lie.
        environment: Variables that the new process has besides those of this one.

    Raises:
        ValueError, TypeError, RuntimeError: As the function raises them, or kprune's own kinds; or
            RuntimeError when the process ended otherwise, with its signal or exit code and the end
            of what it wrote.
    """
    path = os.pathsep.join(entry or os.curdir for entry in sys.path)
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM, module, function, str(folder)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if not result.returncode:
        return
    error = folder / "error.json"
    if error.is_file():
        kinds, message = json.loads(error.read_text())
        raise next(_KINDS[kind] for kind in kinds if kind in _KINDS)(message)
    tail = result.stdout.decode(errors="replace")[-2000:]
    failure = f"The process that ran {module}.{function} ended with {ending(result.returncode)}"
    raise RuntimeError(f"{failure}:\n{tail}" if tail.strip() else f"{failure}, without a word.")


def ending(status: int) -> str:
    """How a process ended: "exit code 3", or "signal SIGABRT"."""
    if status >= 0:
        return f"exit code {status}"
    named = -status in set(signal.Signals)  # Not all of the real-time ones are.
    return f"signal {signal.Signals(-status).name if named else -status}"
