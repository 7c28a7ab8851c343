"""The networks of the literature on CIFAR-10, under a budget, at equal epochs.

    python -m benchmarks.cifar --keras-dataset --network vgg16 --macs 0.238 --params 0.059
    python -m benchmarks.cifar --data FOLDER --network resnet56 --macs 0.47
    python -m benchmarks.cifar --report

With `--keras-dataset` the images are those that Keras downloads; `--data` takes `cifar10_jpeg` from
a folder with its `load.py`, whose accuracies stand only beside each other. Standard recipe: shifts
by 4 pixels with zeros, flips, SGD with momentum and a cosine, the same for every method, counted
from random weights. Test images steer nothing, the last epoch counts. Any Keras backend, with or
without a GPU: set KERAS_BACKEND. Each training adds a line to the file as soon as it ends, and what
is in the file is not run again.
"""

import argparse
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import kprune
from benchmarks import networks
from benchmarks.cifar_report import report
from benchmarks.datasets import Augmented, Samples, draw, read_set, standardized
from benchmarks.knobs import VARIANTS, replaced
from benchmarks.selection import add_row, is_done, rows
from benchmarks.training import Trained, cost_of, cross_entropy, narrowed, result

MOMENTUM = 0.9
# Keras takes it off the weights, not through the momentum: this is the usual 5e-4 of PyTorch.
DECAY = 5e-4 / (1 - MOMENTUM)

NETWORKS = {
    "vgg16": networks.vgg16,
    "resnet20": partial(networks.resnet, 20),
    "resnet56": partial(networks.resnet, 56),
}


@dataclass(frozen=True)
class Setting:
    """What all rows that are compared have in common; None: all images."""

    network: str
    width: float
    data: str
    train: int | None
    test: int | None
    epochs: int
    batch: int
    rate: float


@dataclass(frozen=True)
class Bench:
    """A setting with its images: trains any network for it."""

    setting: Setting
    train: Samples
    test: Samples

    def network(self) -> keras.Model:
        return NETWORKS[self.setting.network](width=self.setting.width)

    def batches(self, seed: int) -> Augmented:
        return Augmented(self.train, self.setting.batch, (4, 4), True, seed, border="constant")

    def fit(self, model: keras.Model, seed: int, callbacks: tuple = ()) -> Trained:
        setting, batches = self.setting, self.batches(seed)
        rate = keras.optimizers.schedules.CosineDecay(setting.rate, setting.epochs * len(batches))
        model.compile(
            keras.optimizers.SGD(rate, MOMENTUM, nesterov=True, weight_decay=DECAY),
            cross_entropy(),
            # JAX is nothing without XLA; on TensorFlow it makes small networks slower on a CPU.
            jit_compile=keras.backend.backend() == "jax",
        )
        model.fit(batches, epochs=setting.epochs, callbacks=list(callbacks), verbose=2)
        return result(kprune.slim(model) if callbacks else model, self.test)


def dense(bench: Bench, budget: kprune.Budget, seed: int) -> Trained:
    """The whole network: what the others are compared with."""
    return bench.fit(bench.network(), seed)


def uniform(bench: Bench, budget: kprune.Budget, seed: int) -> Trained:
    """All widths multiplied by one factor, and trained from the start."""
    return bench.fit(narrowed(bench.network(), budget), seed)


def pruned(
    importance: str, schedule: kprune.Schedule, bench: Bench, budget: kprune.Budget, seed: int
) -> Trained:
    """kprune in one fit, with one of its ways to score channels."""
    masked = kprune.add_masks(bench.network(), importance=importance)
    return bench.fit(masked, seed, (kprune.PruneCallback(budget, schedule),))


def handing_on_nothing(schedule: kprune.Schedule, *args: object) -> Trained:
    """kprune, where the work of closed channels is lost."""
    with replaced(VARIANTS["nothing handed on"].replaced):
        return pruned("taylor", schedule, *args)


def torch_pruning(is_global: bool, bench: Bench, budget: kprune.Budget, seed: int) -> Trained:
    """Torch-Pruning by magnitude: the same network, weights and batches in PyTorch."""
    import torch

    from benchmarks import torch_pruning as rival
    from benchmarks.torch_twin import Twin, macs_of

    limits = budget.limits(cost_of(bench.network()))
    shape = bench.test[0].shape[1:]

    def fits(model: Twin) -> bool:
        cost = {"macs": macs_of(model, shape), "params": rival.params_of(model)}
        return all(cost[kind] <= limit for kind, limit in limits.items())

    sgd = partial(torch.optim.SGD, lr=bench.setting.rate, momentum=MOMENTUM, nesterov=True)
    training = rival.Training(bench.batches(seed), bench.setting.epochs, sgd, DECAY)
    model = Twin(bench.network())
    rival.pruned(model, training, rival.Ranking("magnitude", is_global), fits, seed)
    return rival.result(model, bench.test)


# For networks that learn next to nothing in the first epochs.
LATER = kprune.Schedule(start=0.2, end=0.6)
METHODS: dict[str, Callable[[Bench, kprune.Budget, int], Trained]] = {
    "dense": dense,
    "kprune": partial(pruned, "taylor", kprune.Schedule()),
    "kprune, later": partial(pruned, "taylor", LATER),
    "kprune, nothing handed on": partial(handing_on_nothing, kprune.Schedule()),
    "kprune, later, nothing handed on": partial(handing_on_nothing, LATER),
    "magnitude": partial(pruned, "magnitude", kprune.Schedule()),
    "uniform": uniform,
    "torch-pruning": partial(torch_pruning, True),
    "torch-pruning by layer": partial(torch_pruning, False),
}


def main() -> None:
    args = _arguments()
    if args.report:
        report(rows(args.rows), [field.name for field in fields(Setting)])
    else:
        run(args)


def run(args: argparse.Namespace) -> None:
    setting = Setting(
        args.network,
        args.width,
        "CIFAR-10" if args.keras_dataset else "CIFAR-10 (JPEG)",
        args.train,
        args.test,
        args.epochs,
        args.batch,
        args.rate,
    )
    train, test = _images(args.data)
    bench = Bench(
        setting, draw(train, args.train or len(train[0])), draw(test, args.test or len(test[0]))
    )
    budget = kprune.Budget(macs=args.macs, params=args.params)
    for seed, method in itertools.product(args.seeds, args.methods):
        asked = {} if method == "dense" else budget.asked
        key = {**asdict(setting), "method": method, "budget": asked, "seed": seed}
        if not is_done(key, args.rows):
            add_row(key | _trained(bench, method, budget, seed), args.rows)
            keras.backend.clear_session()


def _trained(bench: Bench, method: str, budget: kprune.Budget, seed: int) -> dict:
    keras.utils.set_random_seed(seed)
    whole = cost_of(bench.network())
    start = time.perf_counter()
    found = METHODS[method](bench, budget, seed)
    return {
        **asdict(found),
        "accuracy": round(found.accuracy, 4),
        "macs_kept": round(found.macs / whole["macs"], 4),
        "params_kept": round(found.params / whole["params"], 4),
        "seconds": round(time.perf_counter() - start, 1),
        "keras": version("keras"),
        "backend": keras.backend.backend(),
    }


def _images(folder: Path | None) -> tuple[Samples, Samples]:
    if folder:
        return read_set(folder, "cifar10_jpeg")
    (x, y), (x_test, y_test) = keras.datasets.cifar10.load_data()
    return standardized((x, y[:, 0]), (x_test, y_test[:, 0]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--data", type=Path, help="a folder with load.py and cifar10_jpeg")
    data.add_argument("--keras-dataset", action="store_true", help="keras.datasets.cifar10")
    data.add_argument("--report", action="store_true", help="no training: print the tables")
    parser.add_argument("--network", choices=NETWORKS, default="vgg16")
    parser.add_argument("--width", type=float, default=1.0, help="of all layers (1.0)")
    parser.add_argument("--macs", type=float, help="share to keep")
    parser.add_argument("--params", type=float, help="share to keep")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.1, help="learning rate at the start (0.1)")
    parser.add_argument("--train", type=int, help="images (all)")
    parser.add_argument("--test", type=int, help="images (all)")
    parser.add_argument("--rows", type=Path, default=Path("benchmarks/results/cifar.jsonl"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
