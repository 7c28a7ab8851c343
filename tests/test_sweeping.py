"""Many budgets: a folder each, none trained twice, none that stops the others."""

import json
import re
from pathlib import Path
from typing import Any

import keras
import pytest

from kprune import Budget, PruneCallback, add_masks, sweep
from kprune.cli import main

TRAIN = """
import keras
import numpy as np
import kprune
import beside


def train(prune):
    beside.note(prune.budget.macs)
    if prune.budget.macs == 0.3 and not beside.is_mended():
        raise ZeroDivisionError("no data")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((6,)), keras.layers.Dense(20, "relu"), keras.layers.Dense(2),
    ])
    masked = kprune.add_masks(model)
    masked.compile("adam", "mse", jit_compile=False)
    x = np.random.default_rng(0).normal(size=(80, 6)).astype("float32")
    masked.fit(x, x[:, :2], batch_size=8, epochs=3, callbacks=[prune], verbose=0)
    return masked, {"accuracy": 1 - masked.evaluate(x, x[:, :2], verbose=0)}
"""

BESIDE = """
from pathlib import Path

here = Path(__file__).parent


def note(macs):
    with (here / "trained.txt").open("a") as file:
        file.write(f"{macs}\\n")


def is_mended():
    return (here / "mended").exists()
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text(BESIDE)
    (tmp_path / "train.py").write_text(TRAIN)
    return tmp_path / "train.py"


def trained(script: Path) -> list[str]:
    return (script.parent / "trained.txt").read_text().split()


def test_a_sweep_goes_on_where_it_stopped_and_a_failed_point_stops_no_other(
    script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("joblib")
    folder = script.parent / "points"
    command = ["sweep", str(script), "--macs", "0.5", "0.3", "-o", str(folder)]

    assert main([*command, "--jobs", "2"]) == 2

    said = capsys.readouterr()
    assert "macs-0.3: ZeroDivisionError: no data" in said.out
    assert "1 of 2 points failed: macs-0.3" in said.err
    assert 'raise ZeroDivisionError("no data")' in (folder / "macs-0.3/error.txt").read_text()
    assert not (folder / "macs-0.3/point.json").exists()
    assert sorted(trained(script)) == ["0.3", "0.5"]

    (script.parent / "mended").touch()
    assert main([*command, "--json"]) == 0

    points = json.loads(capsys.readouterr().out)["points"]
    assert sorted(trained(script)) == ["0.3", "0.3", "0.5"]
    assert [point["name"] for point in points] == ["macs-0.5", "macs-0.3"]
    for point in points:
        small = keras.models.load_model(folder / point["name"] / "slim.keras")
        assert point["params"] == small.count_params()
        assert point["macs"] <= point["budget"]["macs"] * 160
        assert point["file_bytes"] <= point["flash_bytes"]
        assert set(point["metrics"]) == {"accuracy"}
    assert not (folder / "macs-0.3/error.txt").exists()
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")


def failing(prune: object) -> tuple:
    raise OSError("the disk is full")


def test_a_point_that_fails_is_in_the_result_by_name(tmp_path: Path) -> None:
    [point] = sweep(failing, [Budget(params=0.5)], tmp_path)

    assert point == {
        "name": "params-0.5",
        "budget": {"params": 0.5},
        "error": "OSError: the disk is full",
    }
    assert not (tmp_path / "sweep.png").exists()


def untrained(prune: PruneCallback) -> tuple:
    """Its figure goes by another name under every budget but 0.5."""
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dense(20)(inputs)))
    name = "accuracy" if prune.budget.macs == 0.5 else "other"
    return add_masks(model), {name: 0.5}


def test_points_without_the_figure_that_is_drawn_are_left_out_of_the_picture(
    tmp_path: Path,
) -> None:
    points = sweep(untrained, [Budget(macs=0.5), Budget(macs=0.3)], tmp_path)

    assert [point["metrics"] for point in points] == [{"accuracy": 0.5}, {"other": 0.5}]
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("content", [b"", b'{"name": "macs', b"\xff", b"[]", b"{}"])
def test_a_damaged_point_is_named_before_anything_is_trained(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "macs-0.5" / "point.json"
    path.parent.mkdir()
    path.write_bytes(content)

    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} is damaged.*Delete it"):
        sweep(failing, [Budget(macs=0.3), Budget(macs=0.5)], tmp_path)

    assert [each.name for each in tmp_path.iterdir()] == ["macs-0.5"]


@pytest.mark.parametrize("budgets", [Budget(macs=0.5), 0.5, None, [0.5], [Budget(macs=0.5), "60"]])
def test_budgets_that_are_no_list_of_budgets_are_refused(budgets: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"budgets must be a list of Budget objects.*, got "):
        sweep(failing, budgets, tmp_path)


@pytest.mark.parametrize(
    ("result", "got"),
    [
        (3, "int"),
        (None, "NoneType"),
        ((3, {"accuracy": 0.5}), "int, dict"),
        ((keras.Sequential(), 0.5), "Sequential, float"),
        ((keras.Sequential(), {}), "Sequential, dict"),
    ],
)
def test_a_train_that_returns_something_else_is_told_what_to_return(
    result: Any, got: str, tmp_path: Path
) -> None:
    [point] = sweep(lambda prune: result, [Budget(macs=0.5)], tmp_path)

    assert point["error"] == (
        "TypeError: train must return the masked model and at least one figure, as in "
        f'(masked, {{"accuracy": 0.91}}), got {got}.'
    )


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    trainings: list[object] = []

    for folder in (tmp_path / "file", tmp_path / "file" / "points"):
        with pytest.raises(OSError, match=re.escape(f"cannot write to '{folder}'")):
            sweep(trainings.append, [Budget(macs=0.5)], folder)

    assert trainings == []
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("budgets", "jobs", "message"),
    [
        ([], 1, "at least one budget"),
        ([Budget(macs=0.5), Budget(macs=0.5)], 1, "macs-0.5 is given twice"),
        ([Budget(macs=0.5)], 0, "jobs must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_swept_is_said_before_anything_is_trained(
    budgets: list, jobs: int, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        sweep(failing, budgets, tmp_path, jobs)


def test_a_file_without_the_function_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing.py. Expected a Python file"):
        sweep(tmp_path / "missing.py", [Budget(macs=0.5)], tmp_path)
    (tmp_path / "empty.py").touch()

    [point] = sweep(tmp_path / "empty.py", [Budget(macs=0.5)], tmp_path / "points")

    assert "defines no function train(prune)" in point["error"]


def test_without_joblib_the_message_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "joblib", None)

    with pytest.raises(RuntimeError, match=r"pip install 'kprune\[sweep\]', or jobs=1"):
        sweep(failing, [Budget(macs=0.5)], tmp_path, jobs=2)
