"""One training of one network under one budget, by one method: the same recipe for all of them.

Every method gets the same samples, augmentation, optimizer, learning-rate schedule and number of
epochs, counted from random weights to the network that is reported. Test samples steer nothing.
"""

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np

import kprune
from benchmarks import networks
from benchmarks.datasets import Augmented, Samples, draw, read_set
from kprune.channels import Trace, trace
from kprune.cost import Cost
from kprune.masking import write_gates

BATCH = 64
RATE = 3e-3
TEMPERATURE = 4.0


@dataclass(frozen=True)
class Task:
    """Data, network and length of training. `train` of the training samples are drawn once."""

    data: str
    network: Callable[[], keras.Model]
    train: int
    test: int
    epochs: int
    shift: tuple[int, int]
    flip: bool


TASKS = {
    "keywords": Task(
        "kws_arabic", functools.partial(networks.keyword_spotting, 40), 7200, 2400, 8, (3, 0), False
    ),
    "fashion": Task("fashion_mnist", networks.small_vgg, 6000, 4000, 10, (2, 2), True),
    "cifar": Task("cifar10_jpeg", networks.image_classification, 5000, 3000, 8, (4, 4), True),
}
# What becomes of a lead that comes of training being short.
TASKS |= {f"{name}, longer": replace(task, epochs=3 * task.epochs) for name, task in TASKS.items()}


@dataclass(frozen=True)
class Trained:
    """What a training gives: test accuracy after the last epoch, and what the network costs."""

    accuracy: float
    macs: int
    params: int
    widths: list[int]


class Recipe:
    """A task with its data: trains any Keras network the way every network is trained."""

    def __init__(self, task: Task, folder: Path) -> None:
        train, test = read_set(folder, task.data)
        self.task, self.train, self.test = task, draw(train, task.train), draw(test, task.test)
        self.macs = cost_of(task.network())["macs"]

    def batches(self, seed: int) -> Augmented:
        return Augmented(self.train, BATCH, self.task.shift, self.task.flip, seed)

    def fit(
        self,
        model: keras.Model,
        seed: int,
        loss: keras.losses.Loss | None = None,
        callbacks: tuple = (),
    ) -> None:
        batches = self.batches(seed)
        steps = self.task.epochs * len(batches)
        model.compile(
            keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, steps)),
            loss or cross_entropy(),
            jit_compile=False,
        )
        model.fit(batches, epochs=self.task.epochs, callbacks=list(callbacks), verbose=0)

    def result(self, model: keras.Model) -> Trained:
        """Of a plain model: slim a masked one first."""
        return result(model, self.test)


def cross_entropy() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def cost_of(model: keras.Model) -> dict[str, int]:
    found = trace(model)
    return Cost(found).total(np.ones(found.num_channels, bool))


def widths_of(model: keras.Model) -> list[int]:
    return [len(group.channels) for group in trace(model).groups]


def result(model: keras.Model, test: Samples) -> Trained:
    x, y = test
    accuracy = float((model.predict(x, batch_size=250, verbose=0).argmax(-1) == y).mean())
    cost = cost_of(model)
    return Trained(accuracy, cost["macs"], cost["params"], widths_of(model))


def dense(recipe: Recipe, kept: float, seed: int) -> Trained:
    """The whole network: what the others are compared with."""
    model = recipe.task.network()
    recipe.fit(model, seed)
    return recipe.result(model)


def scored(importance: str, recipe: Recipe, kept: float, seed: int) -> Trained:
    """kprune, with one of its ways to score channels."""
    masked = kprune.add_masks(recipe.task.network(), importance=importance)
    budget = kprune.Budget(macs=kept)
    loss = cross_entropy()
    if importance == "learned":
        loss = kprune.CompressionLoss(loss, masked, budget)
    recipe.fit(masked, seed, loss, (kprune.PruneCallback(budget, verbose=0),))
    return recipe.result(kprune.slim(masked))


def uniform(recipe: Recipe, kept: float, seed: int) -> Trained:
    """All widths multiplied by one factor, and trained from the start."""
    model = narrowed(recipe.task.network(), kprune.Budget(macs=kept))
    recipe.fit(model, seed)
    return recipe.result(model)


def narrowed(model: keras.Model, budget: kprune.Budget) -> keras.Model:
    """The widest network within the budget, all widths multiplied by one factor; fresh weights."""
    masked = kprune.add_masks(model)
    found = trace(masked)
    cost = Cost(found)
    limits = budget.limits(cost.total(np.ones(found.num_channels, bool)))
    write_gates(found, multiplied(found, widest(found, cost, limits)))
    return keras.models.clone_model(kprune.slim(masked))


def widest(found: Trace, cost: Cost, limits: Mapping[str, float]) -> float:
    """The greatest factor for all widths that keeps within the limits."""

    def fits(factor: float) -> bool:
        total = cost.total(multiplied(found, factor))
        return all(total[kind] <= limit for kind, limit in limits.items())

    low, high = 0.0, 1.0
    if fits(high):
        return high
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def multiplied(found: Trace, factor: float, scores: np.ndarray | None = None) -> np.ndarray:
    """Gates that leave this share of every group, the best scored ones."""
    gates = np.ones(found.num_channels, bool)
    for group in found.groups:
        if group.prunable:
            worth = np.zeros(len(group.channels)) if scores is None else scores[group.channels]
            ranking = group.channels[np.argsort(-worth, kind="stable")]
            gates[ranking[max(1, round(factor * len(ranking))) :]] = False
    return gates


taylor, learned, magnitude = (
    functools.partial(scored, importance) for importance in ("taylor", "learned", "magnitude")
)


def distilled(recipe: Recipe, kept: float, seed: int) -> Trained:
    """kprune on labels that are half a trained whole network's: its training comes on top."""
    teacher = recipe.task.network()
    recipe.fit(teacher, seed)
    x, y = recipe.train
    scores = teacher.predict(x, batch_size=250, verbose=0)
    soft = keras.ops.convert_to_numpy(keras.ops.softmax(scores / TEMPERATURE))
    labels = (np.eye(scores.shape[1])[y] + soft) / 2
    masked = kprune.add_masks(recipe.task.network())
    student = copy.copy(recipe)
    student.train = x, labels.astype("float32")
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    student.fit(masked, seed, loss, (kprune.PruneCallback(kprune.Budget(macs=kept), verbose=0),))
    return recipe.result(kprune.slim(masked))
