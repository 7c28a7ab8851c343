"""A function runs behind the import of a module, once."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from kprune.imports import when_imported
import sys
when_imported("later", lambda: print("run", sys.modules["later"].value))
print("watched")
import later
import later
"""


def python(folder: Path, program: str) -> str:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_it_runs_once_the_module_is_complete_and_only_then(tmp_path: Path) -> None:
    (tmp_path / "later.py").write_text("print('executed')\nvalue = 7\n")

    assert python(tmp_path, PROGRAM).split("\n") == ["watched", "executed", "run 7", ""]


def test_a_module_that_is_not_installed_is_missed_as_ever(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failure:
        python(tmp_path, PROGRAM)

    assert "ModuleNotFoundError: No module named 'later'" in failure.value.stderr


def test_kprune_itself_imports_nothing_slow(tmp_path: Path) -> None:
    program = "import sys, kprune; print(*sorted(sys.modules))"

    loaded = set(python(tmp_path, program).split())

    assert not loaded & {"asyncio", "wrapt", "numpy", "rich", "keras", "tensorflow"}
