"""Torch-Pruning as its own examples use it: train, prune to the budget, go on training.

Half of the epochs come before the cut. Channels are removed in many small steps, over all layers at
once, until the multiply-accumulates are within the budget; the schedule of the learning rate runs
through, so that epochs, samples and rates are those of every other method.
"""

import functools
import math
from typing import Any

import torch
import torch_pruning as tp

from benchmarks.datasets import Augmented
from benchmarks.torch_twin import Twin, macs_of, predict, to_torch
from benchmarks.training import RATE, Recipe, Trained

_STEPS = 100
# Batches whose gradients its Taylor score takes before each of them.
_SCORED = 4


def torch_pruning(importance: str, recipe: Recipe, kept: float, seed: int) -> Trained:
    """Torch-Pruning with one of its ways to score: "magnitude" or "taylor"."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    model = Twin(recipe.task.network())
    batches = recipe.batches(seed)
    cut = recipe.task.epochs // 2
    _train(model, batches, range(cut), recipe)
    _prune(model, importance, batches, kept * recipe.macs)
    _train(model, batches, range(cut, recipe.task.epochs), recipe)
    x, y = recipe.test
    return Trained(
        accuracy=float((predict(model, x).argmax(-1) == y).mean()),
        macs=macs_of(model, x.shape[1:]),
        params=sum(p.numel() for p in model.parameters()),
        widths=[len(p.weight) for p in model.modules() if type(p) in _WEIGHTED],
    )


magnitude, taylor = (
    functools.partial(torch_pruning, importance) for importance in ("magnitude", "taylor")
)

_WEIGHTED = (torch.nn.Conv2d, torch.nn.Linear)


def _train(model: Twin, batches: Augmented, epochs: range, recipe: Recipe) -> None:
    """Adam and its cosine as Keras has them, from one epoch to another of the whole training."""
    total = recipe.task.epochs * len(batches)
    optimizer = torch.optim.Adam(model.parameters(), eps=1e-7)
    for epoch in epochs:
        for i in range(len(batches)):
            progress = (epoch * len(batches) + i) / total
            optimizer.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * progress)) / 2
            optimizer.zero_grad()
            _loss(model.train(), batches[i]).backward()
            optimizer.step()
        batches.on_epoch_end()


def _loss(model: Twin, batch: tuple) -> torch.Tensor:
    x, y = batch
    return torch.nn.functional.cross_entropy(model(to_torch(x)), torch.from_numpy(y).long())


def _prune(model: Twin, importance: str, batches: Augmented, limit: float) -> None:
    scores: dict[str, Any] = {
        "magnitude": tp.importance.GroupMagnitudeImportance(p=2),
        "taylor": tp.importance.GroupTaylorImportance(),
    }
    shape = batches.x.shape[1:]
    *_, scoring = (p for p in model.modules() if isinstance(p, torch.nn.Linear))
    model.eval()
    pruner = tp.pruner.BasePruner(
        model,
        to_torch(batches.x[:2]),
        importance=scores[importance],
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=_STEPS,
        ignored_layers=[scoring],
    )
    for _ in range(_STEPS):
        if macs_of(model, shape) <= limit:
            return
        if importance == "taylor":
            # Its score is the gradient of the weights as they are now, over many samples.
            model.zero_grad()
            for i in range(_SCORED):
                _loss(model.eval(), batches[i]).backward()
        pruner.step()
    raise RuntimeError(f"Torch-Pruning removed all it can and did not reach {limit:,} MACs.")
