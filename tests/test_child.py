"""What a function does in the new process comes back, however that process ends.

The functions that take a folder run there: their process imports this file by its name.
"""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from kprune import errors
from kprune.child import ending, run_in_child

OWN = [kind for kind in vars(errors).values() if isinstance(kind, type)]
KINDS = {kind.__name__: kind for kind in (ValueError, TypeError, RuntimeError, *OWN)}


def double(folder):
    np.save(folder / "y.npy", 2 * np.load(folder / "x.npy"))


def tell(folder):
    told = {"pid": os.getpid(), "environment": dict(os.environ), "path": sys.path}
    (folder / "told.json").write_text(json.dumps(told))


def fail(folder):
    raise KINDS[(folder / "kind").read_text()]("from 'far' away:\nµ")


def misread(folder):
    json.loads("{")


def trip(folder):
    return {}["missing"]


def leave(folder):
    os._exit(3)


def sink(folder):
    os.kill(os.getpid(), signal.SIGKILL)


def chatter(folder):
    print("first line", "x" * 3000, flush=True)
    print("last words", file=sys.stderr, flush=True)
    os.abort()


def succeed_loudly(folder):
    print("noise")
    print("noise", file=sys.stderr)


def told_by_child(folder, **environment):
    run_in_child(__name__, "tell", folder, **environment)
    return json.loads((folder / "told.json").read_text())


def test_files_carry_arguments_and_results(tmp_path):
    x = np.arange(6.0).reshape(2, 3)
    np.save(tmp_path / "x.npy", x)

    assert run_in_child(__name__, "double", tmp_path) is None

    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), 2 * x)


def test_the_function_runs_in_another_process(tmp_path):
    assert told_by_child(tmp_path)["pid"] != os.getpid()


def test_the_child_has_the_variables_of_this_process_and_those_given(tmp_path, monkeypatch):
    monkeypatch.setenv("KPRUNE_OLD", "old")
    monkeypatch.setenv("KPRUNE_BOTH", "old")

    told = told_by_child(tmp_path, KPRUNE_NEW="new", KPRUNE_BOTH="new")["environment"]

    assert [told[f"KPRUNE_{name}"] for name in ("OLD", "NEW", "BOTH")] == ["old", "new", "new"]
    assert "KPRUNE_NEW" not in os.environ and os.environ["KPRUNE_BOTH"] == "old"


def test_only_the_child_imports_the_module_and_from_where_this_process_would(tmp_path, monkeypatch):
    source = "def run(folder): (folder / 'done').touch()"
    (tmp_path / "only_in_child.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)

    run_in_child("only_in_child", "run", tmp_path)

    assert (tmp_path / "done").exists() and "only_in_child" not in sys.modules


def test_an_empty_entry_of_the_path_is_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "lying_here.py").write_text("def run(folder): (folder / 'done').touch()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])

    # Without it Python would look there by itself.
    run_in_child("lying_here", "run", tmp_path, PYTHONSAFEPATH="1")

    assert (tmp_path / "done").exists()


def test_what_the_child_writes_is_kept_from_the_terminal(tmp_path, capfd):
    run_in_child(__name__, "succeed_loudly", tmp_path)

    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", KINDS)
def test_an_exception_comes_back_with_type_and_message(name, tmp_path):
    (tmp_path / "kind").write_text(name)

    with pytest.raises(KINDS[name]) as caught:
        run_in_child(__name__, "fail", tmp_path)

    assert caught.type is KINDS[name]
    assert str(caught.value) == "from 'far' away:\nµ"


def test_a_kind_that_only_the_child_knows_comes_back_as_the_one_it_comes_of(tmp_path):
    with pytest.raises(ValueError, match="Expecting property name") as caught:
        run_in_child(__name__, "misread", tmp_path)

    assert caught.type is ValueError


def test_an_exception_that_no_one_expects_is_told_with_its_traceback(tmp_path):
    with pytest.raises(RuntimeError) as caught:
        run_in_child(__name__, "trip", tmp_path)

    message = str(caught.value)
    assert message.startswith(f"The process that ran {__name__}.trip ended with exit code 1:\n")
    assert "Traceback" in message and message.rstrip().endswith("KeyError: 'missing'")


@pytest.mark.parametrize(
    ("module", "function", "message"),
    [
        ("no_such_module", "run", "No module named 'no_such_module'"),
        (__name__, "no_such_function", "has no attribute 'no_such_function'"),
    ],
)
def test_a_function_that_does_not_exist_is_told(module, function, message, tmp_path):
    with pytest.raises(
        RuntimeError, match=rf"ran {module}\.{function} ended with (.|\n)*{message}"
    ):
        run_in_child(module, function, tmp_path)


@pytest.mark.parametrize(
    ("function", "end"), [("leave", "exit code 3"), ("sink", "signal SIGKILL")]
)
def test_a_child_that_dies_silently_is_told_of(function, end, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        run_in_child(__name__, function, tmp_path)

    process = f"The process that ran {__name__}.{function}"
    assert str(caught.value) == f"{process} ended with {end}, without a word."


def test_the_end_of_what_a_dying_child_wrote_is_told(tmp_path):
    with pytest.raises(RuntimeError, match=r"ended with signal SIGABRT:\n") as caught:
        run_in_child(__name__, "chatter", tmp_path)

    message = str(caught.value)
    assert "last words" in message and "first line" not in message
    assert len(message) < 2200


@pytest.mark.parametrize("program", ["import sys; sys.exit(5)", "import os; os.abort()"])
def test_an_ending_names_the_signal_or_the_exit_code(program):
    status = subprocess.run([sys.executable, "-c", program]).returncode

    assert ending(status) == ("exit code 5" if "exit" in program else "signal SIGABRT")


def test_a_signal_without_a_name_is_told_by_its_number():
    assert ending(-35) == "signal 35"
