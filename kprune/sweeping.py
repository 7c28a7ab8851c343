"""Many budgets, one folder each: what accuracy costs in MACs, flash and RAM."""

import contextlib
import json
import re
import runpy
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kprune.boards import BOARDS
from kprune.budget import Budget
from kprune.c.files import claim, write_files
from kprune.callbacks import PruneCallback
from kprune.channels import trace
from kprune.cost import KINDS, MEMORY
from kprune.errors import ToolNotFoundError
from kprune.feasibility import assess_memory
from kprune.network import unlisted
from kprune.quiet import quiet
from kprune.slimming import slim
from kprune.tflite import to_tflite

Train = Callable[[PruneCallback], tuple[keras.Model, Mapping[str, float]]]

_SAMPLES = 8


def sweep(
    train: Train | str | Path, budgets: Sequence[Budget], folder: str | Path, jobs: int = 1
) -> list[dict]:
    """Train under each of several budgets, and draw accuracy over cost.

    Each point has a folder of its own, named after its budget, with the slim network as
    `slim.keras` and the figures as `point.json`, written together when the point is done. Points
    that have one are not trained again: a sweep that was stopped goes on, and one with more
    budgets trains the new ones only. To train a point anew, remove its folder. `sweep.png` shows
    the points, the best that each cost buys, and the room that the boards leave for a network and
    TensorFlow Lite Micro.

    Args:
        train: Called with a `PruneCallback`, trains a masked model with it from the start, and
            returns the model and its figures: `(masked, {"accuracy": 0.91})`. The first figure,
            of which more is better, is drawn. Or the path of a Python file with a function `train`
            like that.
        budgets: What may be kept, a point each.
        folder: Where the points and the picture go.
        jobs: How many points are trained at the same time, each in a process of its own.

    Returns:
        The points in the order of `budgets`: what is in `point.json`, which is `"name"`,
        `"budget"`, `"metrics"`, and of the slim network `"macs"`, `"params"`, and, where it runs in
        int8, `"flash_bytes"` and `"ram_bytes"` (as `Budget` counts them) and `"file_bytes"` (of an
        int8 file calibrated on noise). A point that failed has `"error"`, the last line of the
        `error.txt` in its folder, and is tried again by the next sweep.

    Raises:
        ValueError: No budget, the same one twice, jobs below 1, or a damaged `point.json`.
        TypeError: `budgets` is no list of budgets.
        FileNotFoundError: There is no such Python file.
        OSError: The folder cannot be made or written to.
        ToolNotFoundError: `jobs` is above 1 and joblib is not installed.
    """
    folder = Path(folder)
    _check_budgets(budgets)
    _check(budgets, jobs)
    if not callable(train):
        train = _FromFile(Path(train))
        train.check()
    claim(folder)
    todo = [budget for budget in budgets if _read(folder, budget) is None]
    failed = dict(_run([(train, budget, folder) for budget in todo], jobs))
    points = [
        _read(folder, budget) or {**_key(budget), "error": failed[name_of(budget)]}
        for budget in budgets
    ]
    _plot([point for point in points if "error" not in point], folder / "sweep.png")
    return points


def name_of(budget: Budget) -> str:
    """The folder of a budget.

    Example:
        >>> name_of(Budget(macs=0.25, ram_bytes="60 KiB"))
        'macs-0.25_ram_bytes-60KiB'
    """
    return re.sub(r"[^\w.-]", "", "_".join(f"{key}-{value}" for key, value in budget.asked.items()))


@dataclass(frozen=True)
class _FromFile:
    """The function `train` of a Python file, loaded in the process that calls it."""

    path: Path

    def check(self) -> None:
        if not self.path.is_file():
            raise FileNotFoundError(
                f"No such file: {self.path}. Expected a Python file that defines train(prune)."
            )

    def __call__(self, prune: PruneCallback) -> tuple[keras.Model, Mapping[str, float]]:
        path = self.path.resolve()
        if str(path.parent) not in sys.path:  # For what it imports from beside itself.
            sys.path.insert(0, str(path.parent))
        names = runpy.run_path(str(path), run_name=path.stem)
        if not callable(names.get("train")):
            raise TypeError(
                f"{self.path} defines no function train(prune) -> (masked model, "
                '{"accuracy": ...}): sweep calls it once for each budget.'
            )
        return names["train"](prune)


def _check_budgets(budgets: Any) -> None:
    several = isinstance(budgets, list | tuple)
    if not several or not all(isinstance(budget, Budget) for budget in budgets):
        raise TypeError(
            "budgets must be a list of Budget objects, such as [Budget(macs=0.5), "
            f"Budget(macs=0.25)], got {budgets!r}."
        )


def _check(budgets: Sequence[Budget], jobs: int) -> None:
    names = [name_of(budget) for budget in budgets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        raise ValueError(
            f"The budget {twice[0]} is given twice: each one has a folder of its own."
            if twice
            else "sweep needs at least one budget: [Budget(macs=0.5), Budget(macs=0.25)]."
        )
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}.")


def _run(work: list[tuple[Train, Budget, Path]], jobs: int) -> Iterable[tuple[str, str]]:
    """Do it, and give name and error of each point; an error is empty where all went well."""
    if jobs == 1 or not work:
        return [_try(*each) for each in work]
    try:
        import joblib
    except ImportError as error:
        raise ToolNotFoundError(
            "Several trainings at a time need joblib, which is not installed: "
            "pip install 'kprune[sweep]', or jobs=1."
        ) from error
    return joblib.Parallel(jobs, backend="loky")(joblib.delayed(_try)(*each) for each in work)


def _try(train: Train, budget: Budget, folder: Path) -> tuple[str, str]:
    name = name_of(budget)
    try:
        write_files(_files(train, budget), folder / name)
        (folder / name / "error.txt").unlink(missing_ok=True)
        return name, ""
    except Exception as error:  # Whatever the user's training raises, the other points go on.
        write_files({"error.txt": traceback.format_exc()}, folder / name)
        return name, f"{type(error).__name__}: {error}"


def _files(train: Train, budget: Budget) -> dict[str, bytes | str]:
    keras.backend.clear_session()
    masked, metrics = _returned(train(PruneCallback(budget, verbose=0)))
    small = slim(masked)
    figures = {key: float(value) for key, value in metrics.items()}
    point = {**_key(budget), "metrics": figures, **_costs(small)}
    return {"slim.keras": _saved(small), "point.json": json.dumps(point, indent=2) + "\n"}


def _returned(result: Any) -> tuple[keras.Model, Mapping[str, float]]:
    """What `train` returned, if it is a model and its figures."""
    match result:
        case keras.Model() as masked, Mapping() as metrics if metrics:
            return masked, metrics
    got = result if isinstance(result, tuple) else (result,)
    raise TypeError(
        "train must return the masked model and at least one figure, as in "
        f'(masked, {{"accuracy": 0.91}}), got {", ".join(type(each).__name__ for each in got)}.'
    )


def _costs(model: keras.Model) -> dict[str, int]:
    """MACs and parameters, and what the int8 network takes, where there can be one."""
    cost = dict(assess_memory(trace(model), Budget(macs=1.0)).full)
    if set(MEMORY) <= set(cost):
        rng = np.random.default_rng(0)
        shapes = [(_SAMPLES, *source.shape[1:]) for source in model.inputs]
        noise = [rng.normal(size=shape).astype("float32") for shape in shapes]
        cost["file_bytes"] = len(to_tflite(model, unlisted(noise)))
    return cost


def _saved(model: keras.Model) -> bytes:
    with tempfile.TemporaryDirectory() as folder, quiet():
        model.save(Path(folder) / "slim.keras")
        return (Path(folder) / "slim.keras").read_bytes()


def _key(budget: Budget) -> dict[str, Any]:
    return {"name": name_of(budget), "budget": budget.asked}


def _read(folder: Path, budget: Budget) -> dict | None:
    path = folder / name_of(budget) / "point.json"
    if not path.is_file():
        return None
    with contextlib.suppress(ValueError):  # What is no JSON, and what is no UTF-8.
        point = json.loads(path.read_text("utf-8"))
        if isinstance(point, dict) and point.get("metrics"):
            return point
    raise ValueError(
        f"{path} is damaged: expected the figures of a point, as sweep writes them. Delete it, and "
        "the point is trained anew."
    )


def _plot(points: Sequence[Mapping], path: Path) -> None:
    import matplotlib.figure
    import matplotlib.ticker

    metric = next((name for point in points for name in point["metrics"]), None)
    points = [point for point in points if metric in point["metrics"]]
    kinds = [kind for kind in KINDS if kind != "params" and any(kind in p for p in points)]
    if not kinds:
        return
    figure = matplotlib.figure.Figure(figsize=(4.5 * len(kinds), 4), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        known = sorted((p[kind], p["metrics"][metric]) for p in points if kind in p)
        costs, figures = zip(*known, strict=True)
        axes.plot(costs, figures, "o")
        axes.step(costs, np.maximum.accumulate(figures), where="post", alpha=0.5)
        for limit, names in _board_limits(kind, known[0][0] / 4, known[-1][0] * 4).items():
            axes.axvline(limit, color="0.6", linestyle=":")
            axes.text(limit, axes.get_ylim()[0], f" {names}", rotation=90, va="bottom", size=7)
        axes.set(xscale="log", xlabel=KINDS[kind], ylabel=metric)
        axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _board_limits(kind: str, low: float, high: float) -> dict[int, str]:
    """What boards leave for a network between two sizes, with the names of the boards."""
    limits: dict[int, list[str]] = {}
    for name in BOARDS:
        try:
            room = Budget(board=name).room()
        except ValueError:  # No room for any network.
            continue
        if low <= room.get(kind, 0) <= high:
            limits.setdefault(room[kind], []).append(name)
    return {
        limit: names[0] + (f" and {len(names) - 1} more" if names[1:] else "")
        for limit, names in limits.items()
    }
