"""What the schedule, the scores and the projection are set to, and what others would give.

    python -m benchmarks.knobs --data FOLDER [--task NAME] [--variants ...] [--seeds ...]

Every run differs from kprune's defaults in one setting. "structure alone" takes the channels that
the default run has found, and trains that network from fresh weights: what the structure is worth
without what was learned on the way to it.
"""

import argparse
import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks import training
from benchmarks.selection import add_row, is_done, one_thread
from kprune import masking, projection
from kprune.channels import Trace
from kprune.cost import Cost

ROWS = Path("benchmarks/results/knobs.jsonl")


@dataclass(frozen=True)
class Variant:
    """Arguments of the schedule, and names in kprune that stand for something else."""

    schedule: dict[str, float] = field(default_factory=dict)
    replaced: dict[str, object] = field(default_factory=dict)
    from_scratch: bool = False


def at_least(share: float) -> Callable:
    """Every layer keeps this share of its channels, or as much of it as fits."""

    def least(trace: Trace, worth: np.ndarray) -> np.ndarray:
        gates = ~trace.free
        for _, channels in trace.makers:
            missing = math.ceil(share * len(channels)) - int(gates[channels].sum())
            closed = channels[~gates[channels]]
            gates[closed[(-worth[closed]).argsort(kind="stable")[: max(missing, 0)]]] = True
        return gates

    return least


def over_mean(found: Trace) -> np.ndarray:
    """Scores in units of the mean of their group: as if all layers were worth the same."""
    scores = masking.read_scores(found)
    for group in found.groups:
        scores[group.channels] /= max(scores[group.channels].mean(), np.finfo(float).tiny)
    return scores


def half_over_mean(found: Trace) -> np.ndarray:
    """Half way there: scores over the square root of that mean."""
    scores = masking.read_scores(found)
    for group in found.groups:
        scores[group.channels] /= max(scores[group.channels].mean(), np.finfo(float).tiny) ** 0.5
    return scores


def same_share(
    trace: Trace, cost: Cost, limits: Mapping[str, float], scores: np.ndarray
) -> np.ndarray:
    """The same share of every group: scores choose within groups only."""
    return training.multiplied(trace, training.widest(trace, cost, limits), scores)


def floor(share: float) -> Callable:
    """Every layer keeps this share of what the same factor for all widths would leave it."""

    def project(
        trace: Trace, cost: Cost, limits: Mapping[str, float], scores: np.ndarray
    ) -> np.ndarray:
        least = at_least(share * training.widest(trace, cost, limits))
        with mock.patch("kprune.projection._least", least):
            return projection.project(trace, cost, limits, scores)

    return project


VARIANTS = {
    "default": Variant(),
    "structure alone": Variant(from_scratch=True),
    "ramp to 0.3, freeze at 0.4": Variant({"end": 0.3, "freeze": 0.4}),
    "ramp to 0.15, freeze at 0.2": Variant({"end": 0.15, "freeze": 0.2}),
    "ramp to 0.7, freeze at 0.85": Variant({"end": 0.7, "freeze": 0.85}),
    "start at 0.2": Variant({"start": 0.2}),
    "start at 0.4, ramp to 0.6": Variant({"start": 0.4, "end": 0.6}),
    "exponent 0": Variant(replaced={"kprune.projection.EXPONENT": 0.0}),
    "exponent 1": Variant(replaced={"kprune.projection.EXPONENT": 1.0}),
    "scores over the mean of their group": Variant(
        replaced={"kprune.callbacks.read_scores": over_mean}
    ),
    "the same share of every layer": Variant(replaced={"kprune.callbacks.project": same_share}),
    "at least half the same share": Variant(replaced={"kprune.callbacks.project": floor(0.5)}),
    "at least 3/4 of the same share": Variant(replaced={"kprune.callbacks.project": floor(0.75)}),
    "scores over the root of their group's mean": Variant(
        replaced={"kprune.callbacks.read_scores": half_over_mean}
    ),
    "scores over the mean, exponent 0": Variant(
        replaced={"kprune.callbacks.read_scores": over_mean, "kprune.projection.EXPONENT": 0.0}
    ),
    "momentum 0.9": Variant(replaced={"kprune.importance.MOMENTUM": 0.9}),
    "momentum 0.999": Variant(replaced={"kprune.importance.MOMENTUM": 0.999}),
    "at least 10 % of a layer": Variant(replaced={"kprune.projection._least": at_least(0.10)}),
    "at least 20 % of a layer": Variant(replaced={"kprune.projection._least": at_least(0.20)}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with load.py")
    parser.add_argument("--task", default="keywords")
    parser.add_argument("--kept", nargs="+", type=float, default=[0.1])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    args = parser.parse_args()
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


@contextlib.contextmanager
def replaced(names: dict[str, object]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name, value in names.items():
            stack.enter_context(mock.patch(name, value))
        yield


if __name__ == "__main__":
    main()
