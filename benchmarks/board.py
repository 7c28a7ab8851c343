"""A network that cannot run on a board, and the same one trained into that board's memory.

    python -m benchmarks.board --data FOLDER [--board uno_r4] [--train 3000] [--epochs 10]

MLPerf Tiny's ResNet-8 is trained twice from the same random weights with the same recipe: whole,
and under Budget(board=...). Both become int8 files, whose arena TensorFlow Lite Micro's recording
allocator measures, and stand-alone C, linked for the board's true memory and run in QEMU; every
output is compared with TensorFlow Lite Micro. FOLDER holds `cifar10_jpeg` with its `load.py`.
"""

import argparse
import dataclasses
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import kprune
from benchmarks.selection import one_thread
from benchmarks.training import TASKS, Recipe
from kprune.simulation import Simulation
from kprune.tflm import measure_arena

COMPARED = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with load.py")
    parser.add_argument("--board", default="uno_r4")
    parser.add_argument("--train", type=int, default=3000, help="images (3000)")
    parser.add_argument("--test", type=int, default=1000, help="images (1000)")
    parser.add_argument("--epochs", type=int, default=10, help="(10)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/board.json"))
    args = parser.parse_args()
    one_thread()
    task = dataclasses.replace(TASKS["cifar"], train=args.train, test=args.test, epochs=args.epochs)
    recipe = Recipe(task, args.data)
    setting = {key: value for key, value in vars(args).items() if key not in ("data", "json")}
    budget = kprune.Budget(board=args.board)
    found = {"setting": setting, "room": budget.room(), "networks": {}}
    for name, callbacks in {
        "slim": (kprune.PruneCallback(budget),),
        "whole": (),
    }.items():
        keras.utils.set_random_seed(args.seed)
        model = kprune.add_masks(task.network()) if callbacks else task.network()
        recipe.fit(model, args.seed, callbacks=callbacks)
        small = kprune.slim(model) if callbacks else model
        found["networks"][name] = measured(recipe, small, args.board)
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    Console().print(table(found))


def measured(recipe: Recipe, model: keras.Model, board: str) -> dict:
    """What a trained network is, and whether the board runs it."""
    trained = recipe.result(model)
    flatbuffer = kprune.to_tflite(model, representative_data=recipe.train[0][:200])
    return {
        "macs": trained.macs,
        "params": trained.params,
        "widths": trained.widths,
        "accuracy_float": round(trained.accuracy, 4),
        **figures(recipe, flatbuffer, board),
    }


def figures(recipe: Recipe, flatbuffer: bytes, board: str) -> dict:
    """Of an int8 network: bytes, accuracy, and what it takes on the board."""
    sizes = {"file_bytes": len(flatbuffer), "arena_bytes": measure_arena(flatbuffer).total}
    with tempfile.TemporaryDirectory() as folder:
        kprune.write_files(kprune.to_c(flatbuffer, "net"), folder)
        return sizes | accuracy(recipe, folder) | run(recipe, flatbuffer, folder, board)


def accuracy(recipe: Recipe, folder: str) -> dict:
    """Of the int8 network: its C on this computer, which gives the bytes that the board gives."""
    x, y = recipe.test
    scores = kprune.simulate(folder, x, "host").outputs
    return {"accuracy_int8": round(float((scores.argmax(-1) == y).mean()), 4)}


def checked(flatbuffer: bytes, folder: str, x: np.ndarray, board: str) -> Simulation:
    """A run of the C in the folder, every byte of which TensorFlow Lite Micro gives, too."""
    found = kprune.simulate(folder, x, board)
    expected = kprune.run_tflite(flatbuffer, x, "tflm").reshape(len(x), -1)
    if not np.array_equal(found.scores, expected):
        raise SystemExit(f"{board} differs from TensorFlow Lite Micro.")
    return found


def run(recipe: Recipe, flatbuffer: bytes, folder: str, board: str) -> dict:
    try:
        found = checked(flatbuffer, folder, recipe.test[0][:COMPARED], board)
    except kprune.DoesNotFitError as error:
        return {"runs": False, "why": str(error)}
    return {
        "runs": True,
        "instructions": found.instructions,
        "flash_bytes": found.flash_bytes,
        "ram_bytes": found.ram_bytes,
        "stack_bytes": found.stack_bytes,
    }


LINES = {
    "MACs": "macs",
    "parameters": "params",
    "accuracy, float": "accuracy_float",
    "accuracy, int8": "accuracy_int8",
    "int8 file, bytes": "file_bytes",
    "arena of TensorFlow Lite Micro, bytes": "arena_bytes",
    "stand-alone C: flash, bytes": "flash_bytes",
    "stand-alone C: RAM and stack, bytes": "ram_bytes",
    "instructions": "instructions",
    "runs": "runs",
}


def table(found: dict) -> Table:
    setting = found["setting"]
    shown = Table(title=f"ResNet-8, CIFAR-10 (JPEG), on a simulated {setting['board']}")
    for heading in ("", "whole", "slim"):
        shown.add_column(heading, justify="right" if heading else "left")
    for title, key in LINES.items():
        shown.add_row(title, *(_text(found["networks"][n].get(key)) for n in ("whole", "slim")))
    return shown


def _text(value: float | bool | None) -> str:
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    return f"{value:.1%}" if isinstance(value, float) else f"{value:,}"


if __name__ == "__main__":
    main()
