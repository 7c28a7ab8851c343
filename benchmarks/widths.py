"""Whether there are better widths than those that kprune finds: many, trained from fresh weights.

    python -m benchmarks.widths --data FOLDER [--seeds 0 1 2]
    python -m benchmarks.widths --report

The small VGG at 5 % of its multiply-accumulates, where kprune finds nearly uniform widths. Each
training adds one line to a file, and what is in the file is not run again.
"""

import argparse
import itertools
import os
import statistics
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.selection import add_row, is_done, one_thread, rows

ROWS = Path("benchmarks/results/widths.jsonl")
TASK, KEPT = "fashion", 0.05
# What uniform width gives, what kprune finds with seeds 0 and 3, and from there channels moved to
# the front, to the middle and to the back.
WIDTHS = [
    (3, 7, 13, 13),
    (4, 7, 12, 13),
    (4, 8, 12, 11),
    (2, 7, 15, 15),
    (2, 8, 14, 14),
    (6, 6, 10, 11),
    (8, 6, 5, 6),
    (3, 4, 17, 13),
    (4, 4, 12, 20),
    (3, 5, 10, 26),
    (5, 9, 11, 5),
    (4, 9, 13, 6),
    (3, 9, 17, 5),
    (2, 4, 38, 5),
    (4, 6, 8, 22),
    (4, 6, 18, 7),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder with load.py and its sets")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--report", action="store_true", help="no training: the table")
    args = parser.parse_args()
    if args.report:
        report(rows(ROWS))
    else:
        run(args.data, args.seeds)


def run(data: Path, seeds: list[int]) -> None:
    one_thread()
    import keras

    from benchmarks.training import TASKS, Recipe

    recipe = Recipe(TASKS[TASK], data)
    for seed, widths in itertools.product(seeds, WIDTHS):
        key = {"task": TASK, "asked": list(widths), "seed": seed}
        if is_done(key, ROWS):
            continue
        keras.utils.set_random_seed(seed)
        model = narrowed(recipe.task.network(), widths)
        recipe.fit(model, seed)
        found = recipe.result(model)
        assert found.macs <= KEPT * recipe.macs, (widths, found.macs)
        add_row({**key, "accuracy": round(found.accuracy, 4), "macs": found.macs}, ROWS)
        keras.backend.clear_session()


def narrowed(model: Any, widths: tuple[int, ...]) -> Any:
    """The network with so many channels in its convolutions, and fresh weights."""
    import keras

    import kprune

    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    masked = kprune.add_masks(model)
    closed = {
        layer.name: range(width, layer.filters)
        for layer, width in zip(convolutions, widths, strict=True)
    }
    kprune.close_channels(masked, closed)
    return keras.models.clone_model(kprune.slim(masked))


def report(found: list[dict]) -> None:
    accuracies: dict[tuple, list[float]] = {}
    macs = {tuple(row["asked"]): row["macs"] for row in found}
    for row in found:
        accuracies.setdefault(tuple(row["asked"]), []).append(100 * row["accuracy"])
    print("| widths | MACs | accuracy by seed | mean |\n| --- | ---: | ---: | ---: |")
    for widths, of in sorted(accuracies.items(), key=lambda i: -statistics.mean(i[1])):
        each = ", ".join(f"{a:.1f}" for a in of)
        name = ", ".join(map(str, widths))
        print(f"| {name} | {macs[widths]:,} | {each} | {statistics.mean(of):.1f} |")


if __name__ == "__main__":
    main()
