"""MLPerf Tiny's open division: how small a network may be that is as good as the whole one.

    python -m benchmarks.open_division --data FOLDER [--tasks wrist keywords cifar] [--seeds 0 1]

Each network is trained whole, and then under ever smaller shares of its flash and RAM (which falls
half as far: much of it no pruning touches), always from random weights with the same recipe. The
last fifth of every class in the training set is held back; the smallest network whose mean int8
accuracy there is within a point of the whole one's is the entry. Test samples choose nothing.
Files, arenas, instructions, flash and RAM are measured as in `benchmarks.board`, on a simulated
Cortex-M4F, every compared byte equal to TensorFlow Lite Micro's. Each training adds a line to the
file as soon as it ends, and what is in the file is not run again.
"""

import argparse
import copy
import dataclasses
import itertools
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import kprune
from benchmarks import networks
from benchmarks.board import figures
from benchmarks.datasets import draw, read_set
from benchmarks.selection import add_row, is_done, one_thread, rows
from benchmarks.training import TASKS, Recipe, Task

ROWS = Path("benchmarks/results/open_division.jsonl")
BOARD = "mps2-an386"
SHARES = [1.0, 0.85, 0.7, 0.5, 0.25]
# What "as good" means, in accuracy.
POINT = 0.01

ENTRIES = {
    "cifar": dataclasses.replace(TASKS["cifar"], train=20_000, test=5000, epochs=20),
    "keywords": dataclasses.replace(TASKS["keywords"], epochs=40),
    "wrist": Task("har_wrist", networks.wrist_motion, 3179, 902, 30, (4, 0), False),
}
TITLES = {
    "cifar": "ResNet-8, CIFAR-10 (JPEG)",
    "keywords": "DS-CNN, keywords (kws_arabic)",
    "wrist": "1-D CNN, wrist motion (har_wrist)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with load.py")
    parser.add_argument("--tasks", nargs="+", default=list(ENTRIES), choices=ENTRIES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rows", type=Path, default=ROWS)
    args = parser.parse_args()
    one_thread()
    for task in args.tasks:
        recipe = Recipe(ENTRIES[task], args.data)
        parts = recipe, *held_back(recipe, args.data)
        for share, seed in itertools.product(SHARES, args.seeds):
            key = {"task": task, "share": share, "seed": seed}
            if not is_done(key, args.rows):
                add_row(key | trained(*parts, share, seed), args.rows)
                keras.backend.clear_session()
    Console(width=140).print(table(rows(args.rows)))


def held_back(recipe: Recipe, folder: Path) -> tuple[Recipe, Recipe]:
    """The recipe on four fifths of its training samples; and one that tests on the last fifth.

    In the order of the set: windows cut from one recording are then on one side.
    """
    (x, y), _ = read_set(folder, recipe.task.data)
    last = np.zeros(len(y), bool)
    for label in np.unique(y):
        mine = np.flatnonzero(y == label)
        last[mine[len(mine) * 4 // 5 :]] = True
    fitting, judging = copy.copy(recipe), copy.copy(recipe)
    fitting.train = draw((x[~last], y[~last]), recipe.task.train * 4 // 5)
    judging.test = draw((x[last], y[last]), recipe.task.train // 5)
    return fitting, judging


def trained(recipe: Recipe, fitting: Recipe, judging: Recipe, share: float, seed: int) -> dict:
    keras.utils.set_random_seed(seed)
    model = recipe.task.network()
    if share == 1.0:
        fitting.fit(model, seed)
    else:
        masked = kprune.add_masks(model)
        budget = kprune.Budget(flash_bytes=share, ram_bytes=(1 + share) / 2)
        try:
            fitting.fit(masked, seed, callbacks=(kprune.PruneCallback(budget, verbose=0),))
        except kprune.BudgetError as error:
            return {"refused": str(error)}
        model = kprune.slim(masked)
    flatbuffer = kprune.to_tflite(model, representative_data=fitting.train[0][:200])
    x, y = judging.test
    classes = kprune.run_tflite(flatbuffer, x, "tflm").argmax(-1)
    return {
        "train": len(fitting.train[0]),
        "epochs": recipe.task.epochs,
        "accuracy_held_back": round(float((classes == y).mean()), 4),
        **dataclasses.asdict(recipe.result(model)),
        **figures(recipe, flatbuffer, BOARD),
    }


COLUMNS = {
    "accuracy, int8": ("accuracy_int8", "{:.1%}"),
    "held back": ("accuracy_held_back", "{:.1%}"),
    "MACs": ("macs", "{:,.0f}"),
    "file": ("file_bytes", "{:,.0f}"),
    "arena": ("arena_bytes", "{:,.0f}"),
    "instructions": ("instructions", "{:,.0f}"),
    "flash": ("flash_bytes", "{:,.0f}"),
    "RAM": ("ram_bytes", "{:,.0f}"),
}


def table(found: list[dict]) -> Table:
    """A line per network and share: means over the seeds."""
    shown = Table(title=f"shares of flash, on a simulated {BOARD}", caption="* the entry")
    for heading in ("network", "kept", *COLUMNS):
        shown.add_column(heading, justify="left" if heading == "network" else "right")
    for task in TITLES:
        mine = {
            share: [row for row in found if (row["task"], row["share"]) == (task, share)]
            for share in SHARES
        }
        for share, same in mine.items():
            if same and "refused" not in same[0]:
                kept = f"{share:.0%}" + "*" * (share == entry(mine))
                means = (f.format(np.mean([r[key] for r in same])) for key, f in COLUMNS.values())
                shown.add_row(TITLES[task], kept, *means)
    return shown


def entry(found: dict[float, list[dict]]) -> float:
    """The smallest share that is within a point of the whole network, as are all above it."""
    accuracy = {
        share: np.mean([row["accuracy_held_back"] for row in same])
        for share, same in found.items()
        if same and "refused" not in same[0]
    }
    able = itertools.takewhile(lambda share: accuracy[share] >= accuracy[1.0] - POINT, accuracy)
    return list(able)[-1]


if __name__ == "__main__":
    main()
