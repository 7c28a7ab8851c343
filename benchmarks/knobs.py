"""What the schedule, the scores and the projection are set to, and what others would give.

    python -m benchmarks.knobs --data FOLDER [--task NAME] [--variants ...] [--seeds ...]
    python -m benchmarks.knobs --report

Every run differs from kprune's defaults in one setting; the defaults' own accuracies are those of
`benchmarks.selection`. "structure alone" takes the channels that the default run has found, and
trains that network from fresh weights: what the structure is worth without what was learned on the
way to it.
"""

import argparse
import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks import training
from benchmarks.selection import add_row, is_done, one_thread, rows
from kprune import callbacks, projection
from kprune.channels import Trace
from kprune.cost import Cost

ROWS = Path("benchmarks/results/knobs.jsonl")


@dataclass(frozen=True)
class Variant:
    """Arguments of the schedule, and names in kprune that stand for something else."""

    schedule: dict[str, float] = field(default_factory=dict)
    replaced: dict[str, object] = field(default_factory=dict)
    from_scratch: bool = False


def raw(cost: Cost, expense: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Layers compared by their scores as they are."""
    return scores / expense**projection.EXPONENT


def same_share(
    trace: Trace, cost: Cost, limits: Mapping[str, float], scores: np.ndarray, round_to: int
) -> np.ndarray:
    """The same share of every layer: scores choose within layers only."""
    return training.multiplied(trace, training.widest(trace, cost, limits), scores)


def at_least(share: float) -> Callable:
    """Every layer keeps this share of its channels, the worthiest ones."""

    def least(self: Any) -> np.ndarray:
        gates = ~self.trace.free
        for _, channels in self.trace.makers:
            blocks = np.unique(self._of[channels[~gates[channels]]])
            missing = math.ceil(share * len(channels)) - int(gates[channels].sum())
            gates = self.open(gates, blocks[: max(missing, 0)])
        return gates

    return least


def ramp(exponent: float) -> Callable:
    """The shape of the ramp: 1 is a straight line, 3 the default."""
    cubic = callbacks.Schedule.excess
    return lambda schedule, progress: cubic(schedule, progress) ** (exponent / 3)


def nothing(*args: object) -> None:
    """Closed channels hand on nothing."""


LEAST = "kprune.projection._Blocks.least"
VARIANTS = {
    "nothing handed on": Variant(replaced={"kprune.callbacks.reconstruct": nothing}),
    "not scaled back": Variant(replaced={"kprune.reconstruction._Search._norm": nothing}),
    "structure alone": Variant(from_scratch=True),
    "ramp to 0.3": Variant({"end": 0.3}),
    "ramp to 0.3, freeze at 0.4": Variant({"end": 0.3, "freeze": 0.4}),
    "ramp to 0.7, freeze at 0.85": Variant({"end": 0.7, "freeze": 0.85}),
    "start at 0.2": Variant({"start": 0.2}),
    "start at 0.2, ramp to 0.6": Variant({"start": 0.2, "end": 0.6}),
    "straight ramp": Variant(replaced={"kprune.callbacks.Schedule.excess": ramp(1)}),
    "square ramp": Variant(replaced={"kprune.callbacks.Schedule.excess": ramp(2)}),
    "ramp to the 5th power": Variant(replaced={"kprune.callbacks.Schedule.excess": ramp(5)}),
    "free exchange": Variant(replaced={"kprune.callbacks.STAY": 1.0}),
    "stay 3": Variant(replaced={"kprune.callbacks.STAY": 3.0}),
    "stay 1000": Variant(replaced={"kprune.callbacks.STAY": 1000.0}),
    "exponent 0": Variant(replaced={"kprune.projection.EXPONENT": 0.0}),
    "exponent 0.25": Variant(replaced={"kprune.projection.EXPONENT": 0.25}),
    "exponent 1": Variant(replaced={"kprune.projection.EXPONENT": 1.0}),
    "raw scores": Variant(replaced={"kprune.projection._worth": raw}),
    "the same share of every layer": Variant(replaced={"kprune.callbacks.project": same_share}),
    "at least 10 % of a layer": Variant(replaced={LEAST: at_least(0.1)}),
    "at least 20 % of a layer": Variant(replaced={LEAST: at_least(0.2)}),
    "momentum 0.9": Variant(replaced={"kprune.importance.MOMENTUM": 0.9}),
    "momentum 0.999": Variant(replaced={"kprune.importance.MOMENTUM": 0.999}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder with load.py")
    parser.add_argument("--task", default="keywords")
    parser.add_argument("--kept", nargs="+", type=float, default=[0.1])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--report", action="store_true", help="no training: print the tables")
    args = parser.parse_args()
    if args.report:
        found = rows(ROWS)
        print(tables(defaults(found) + found))
    else:
        run(args)


def run(args: argparse.Namespace) -> None:
    one_thread()
    import keras

    recipe = training.Recipe(training.TASKS[args.task], args.data)
    for seed, kept, name in itertools.product(args.seeds, args.kept, args.variants):
        key = {"task": args.task, "variant": name, "kept": kept, "seed": seed}
        if not is_done(key, ROWS):
            found = train(recipe, variant(name), kept, seed)
            add_row({**key, **found, "epochs": recipe.task.epochs}, ROWS)
            keras.backend.clear_session()


def variant(name: str) -> Variant:
    """One setting, or several joined by plus signs."""
    parts = [VARIANTS[part] for part in name.split(" + ")]
    return Variant(
        schedule={k: v for part in parts for k, v in part.schedule.items()},
        replaced={k: v for part in parts for k, v in part.replaced.items()},
        from_scratch=any(part.from_scratch for part in parts),
    )


def train(recipe: object, variant: Variant, kept: float, seed: int) -> dict:
    import keras

    import kprune

    keras.utils.set_random_seed(seed)
    with replaced(variant.replaced):
        masked = kprune.add_masks(recipe.task.network())
        schedule = kprune.Schedule(**variant.schedule)
        prune = kprune.PruneCallback(kprune.Budget(macs=kept), schedule, verbose=0)
        recipe.fit(masked, seed, callbacks=(prune,))
    model = kprune.slim(masked)
    if variant.from_scratch:
        model = keras.models.clone_model(model)
        recipe.fit(model, seed)
    result = recipe.result(model)
    return {"accuracy": round(result.accuracy, 4), "macs": result.macs, "widths": result.widths}


def defaults(found: list[dict]) -> list[dict]:
    """kprune as it is, which `benchmarks.selection` trains by the same recipe."""
    wanted = {(row["task"], row["kept"], row["seed"]) for row in found}
    return [
        {**row, "variant": "default"}
        for row in rows()
        if row["method"] == "taylor" and (row["task"], row["kept"], row["seed"]) in wanted
    ]


def tables(found: list[dict]) -> str:
    """Markdown: a table per task, a line per variant, a column per budget; accuracy by seed."""
    tasks = sorted({row["task"] for row in found})
    return "\n\n".join(table(task, [r for r in found if r["task"] == task]) for task in tasks)


def table(task: str, found: list[dict]) -> str:
    shares = sorted({row["kept"] for row in found}, reverse=True)
    lines = [
        f"| {task} | " + " | ".join(f"{kept:.0%}" for kept in shares) + " |",
        "| --- |" + " ---: |" * len(shares),
    ]
    for name in sorted({row["variant"] for row in found}, key=lambda n: (n != "default", n)):
        cells = []
        for kept in shares:
            mine = [r for r in found if (r["variant"], r["kept"]) == (name, kept)]
            mine.sort(key=lambda row: row["seed"])
            cells.append(", ".join(f"{100 * row['accuracy']:.1f}" for row in mine))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


@contextlib.contextmanager
def replaced(names: dict[str, object]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name, value in names.items():
            stack.enter_context(mock.patch(name, value))
        yield


if __name__ == "__main__":
    main()
