"""Which channels to keep: kprune against its rivals, at equal epochs and an equal budget.

    python -m benchmarks.selection --data FOLDER [--tasks ...] [--methods ...] [--seeds ...]
    python -m benchmarks.selection --report

Each training adds one line to a file as soon as it ends, and what is in the file is not run again:
stop it, go on, add seeds, or give two processes different tasks. `--report` writes what
docs/benchmarks.md shows.
"""

import argparse
import itertools
import json
import os
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROWS = Path("benchmarks/results/selection.jsonl")
KEY = ("task", "method", "kept", "seed")
# Where each lives; a rival's packages are imported when it is run.
METHODS = {
    "dense": "training.dense",
    "taylor": "training.taylor",
    "learned": "training.learned",
    "magnitude": "training.magnitude",
    "uniform": "training.uniform",
    "torch-pruning magnitude": "torch_pruning.magnitude",
    "torch-pruning magnitude by layer": "torch_pruning.magnitude_by_layer",
    "torch-pruning taylor": "torch_pruning.taylor",
    "tfmot": "tfmot_pruning.magnitude_of_weights",
    "taylor, distilled": "training.distilled",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder with load.py and its sets")
    parser.add_argument("--tasks", nargs="+", default=["keywords", "fashion", "cifar"])
    parser.add_argument("--methods", nargs="+", default=["dense", "taylor", "uniform"])
    parser.add_argument("--kept", nargs="+", type=float, default=[0.25, 0.1, 0.05])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--report", action="store_true", help="no training: table and plot")
    args = parser.parse_args()
    if args.report:
        from benchmarks.selection_report import report

        report(rows())
    else:
        run(args)


def run(args: argparse.Namespace) -> None:
    one_thread()
    import keras

    from benchmarks.training import BATCH, RATE, TASKS, Recipe

    recipes: dict[str, Recipe] = {}
    for seed, task, kept, method in itertools.product(
        args.seeds, args.tasks, args.kept, args.methods
    ):
        key = dict(zip(KEY, (task, method, 1.0 if method == "dense" else kept, seed), strict=True))
        if is_done(key):
            continue
        if task not in recipes:
            recipes[task] = Recipe(TASKS[task], args.data)
        found = train(recipes[task], method, kept, seed)
        setting = TASKS[task]
        add_row(
            {
                **key,
                **found,
                "epochs": setting.epochs,
                "train": setting.train,
                "test": setting.test,
                "batch": BATCH,
                "rate": RATE,
                "keras": version("keras"),
                "tensorflow": version("tensorflow"),
            }
        )
        keras.backend.clear_session()


def train(recipe: Any, method: str, kept: float, seed: int) -> dict:
    import keras

    module, function = METHODS[method].split(".")
    keras.utils.set_random_seed(seed)
    start = _cpu_seconds()
    result = getattr(import_module(f"benchmarks.{module}"), function)(recipe, kept, seed)
    return {
        "accuracy": round(result.accuracy, 4),
        "macs": result.macs,
        "macs_kept": round(result.macs / recipe.macs, 4),
        "params": result.params,
        "widths": result.widths,
        "cpu_seconds": round(_cpu_seconds() - start, 1),
    }


def _cpu_seconds() -> float:
    """Of this process and its children: what one quiet core would take."""
    times = os.times()
    return sum(times[:4])


def one_thread() -> None:
    """Two of these processes then share two cores without waiting for each other."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def rows(path: Path = ROWS) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def is_done(key: dict, path: Path = ROWS) -> bool:
    return any(all(row[k] == v for k, v in key.items()) for row in rows(path))


def add_row(row: dict, path: Path = ROWS) -> None:
    """One write of one line at the end of the file: nothing is lost, whoever else writes."""
    line = json.dumps(row) + "\n"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)
    print(line, end="", flush=True)


if __name__ == "__main__":
    main()
