"""Torch-Pruning as its own examples use it: train, prune to the budget, go on training.

Half of the epochs come before the cut. Channels are removed in many small steps, ranked over all
layers at once or the same share of every layer, until the multiply-accumulates are within the
budget; the schedule of the learning rate runs through, so that epochs, samples and rates are those
of every other method.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp

from benchmarks.datasets import Augmented, Samples
from benchmarks.torch_twin import Twin, macs_of, predict, to_torch
from benchmarks.training import RATE, Recipe, Trained

_STEPS = 100
# Batches whose gradients its Taylor score takes before each of them.
_SCORED = 4


@dataclass(frozen=True)
class Training:
    """Batches, length and optimizer, whose rate falls along one cosine.

    `decay` is taken off the weights after every step, times the rate, as Keras does it.
    """

    batches: Augmented
    epochs: int
    optimizer: Callable[..., torch.optim.Optimizer]
    decay: float = 0.0


@dataclass(frozen=True)
class Ranking:
    """How Torch-Pruning scores, "magnitude" or "taylor", and whether layers are compared."""

    importance: str
    is_global: bool = True


def torch_pruning(ranking: Ranking, recipe: Recipe, kept: float, seed: int) -> Trained:
    """Torch-Pruning with one of its ways to rank."""
    adam = functools.partial(torch.optim.Adam, lr=RATE, eps=1e-7)
    training = Training(recipe.batches(seed), recipe.task.epochs, adam)
    model = Twin(recipe.task.network())
    shape = recipe.test[0].shape[1:]
    pruned(model, training, ranking, lambda m: macs_of(m, shape) <= kept * recipe.macs, seed)
    return result(model, recipe.test)


magnitude, taylor, magnitude_by_layer = (
    functools.partial(torch_pruning, ranking)
    for ranking in (Ranking("magnitude"), Ranking("taylor"), Ranking("magnitude", False))
)


def pruned(
    model: Twin,
    training: Training,
    ranking: Ranking,
    fits: Callable[[Twin], bool],
    seed: int,
) -> None:
    """Train half of the epochs, prune until it fits, train the other half."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    cut = training.epochs // 2
    _train(model, training, range(cut))
    _prune(model, ranking, training.batches, fits)
    _train(model, training, range(cut, training.epochs))


def result(model: Twin, test: Samples) -> Trained:
    x, y = test
    return Trained(
        accuracy=float((predict(model, x).argmax(-1) == y).mean()),
        macs=macs_of(model, x.shape[1:]),
        params=params_of(model),
        widths=[len(p.weight) for p in model.modules() if type(p) in _WEIGHTED],
    )


def params_of(model: Twin) -> int:
    return sum(p.numel() for p in model.parameters())


_WEIGHTED = (torch.nn.Conv2d, torch.nn.Linear)


def _train(model: Twin, training: Training, epochs: range) -> None:
    batches = training.batches
    total = training.epochs * len(batches)
    optimizer = training.optimizer(model.parameters())
    for epoch in epochs:
        for i in range(len(batches)):
            progress = (epoch * len(batches) + i) / total
            rate = optimizer.defaults["lr"] * (1 + math.cos(math.pi * progress)) / 2
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            _loss(model.train(), batches[i]).backward()
            optimizer.step()
            with torch.no_grad():
                for weights in model.parameters():
                    weights.mul_(1 - rate * training.decay)
        batches.on_epoch_end()


def _loss(model: Twin, batch: tuple) -> torch.Tensor:
    x, y = batch
    return torch.nn.functional.cross_entropy(model(to_torch(x)), torch.from_numpy(y).long())


def _prune(model: Twin, ranking: Ranking, batches: Augmented, fits: Callable[[Twin], bool]) -> None:
    scores: dict[str, Any] = {
        "magnitude": tp.importance.GroupMagnitudeImportance(p=2),
        "taylor": tp.importance.GroupTaylorImportance(),
    }
    *_, scoring = (p for p in model.modules() if isinstance(p, torch.nn.Linear))
    model.eval()
    pruner = tp.pruner.BasePruner(
        model,
        to_torch(batches.x[:2]),
        importance=scores[ranking.importance],
        global_pruning=ranking.is_global,
        pruning_ratio=1.0,
        iterative_steps=_STEPS,
        ignored_layers=[scoring],
    )
    for _ in range(_STEPS):
        if fits(model):
            return
        if ranking.importance == "taylor":
            # Its score is the gradient of the weights as they are now, over many samples.
            model.zero_grad()
            for i in range(_SCORED):
                _loss(model.eval(), batches[i]).backward()
        pruner.step()
    raise RuntimeError("Torch-Pruning removed all it can and did not reach the budget.")
