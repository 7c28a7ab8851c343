"""What masks cost while training: time of a step, memory, and the time of a projection.

    python -m benchmarks.overhead [--rounds 60] [--json FILE]

Time: all variants of a network in one process, in turn, a few steps at a time, so that a busy
moment hits all alike; the ratio to the plain network of the least round, and the median of the
ratios of all rounds.
Memory: fresh processes for each variant, as the order of TensorFlow's threads moves its peak;
growth of the peak from before the network was built, the ratio of the least and of the median
process, and what each further sample of a larger batch takes.
Projection: scores to gates of ResNet50 (more than 10,000 channels), against the training between
two projections.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from benchmarks.networks import build, vgg16
from kprune import Budget, CompressionLoss, add_masks
from kprune.callbacks import PROJECTIONS, Schedule
from kprune.channels import trace
from kprune.cost import Cost
from kprune.importance import IMPORTANCES
from kprune.masking import read_scores, write_gates
from kprune.projection import project

BUDGET = Budget(macs=0.25)
VARIANTS = ["plain", *IMPORTANCES]
STEPS = 3
# That memory is measured in, for each variant: with the batch that is timed, and a larger one.
PROCESSES = 7
PROCESSES_OF_LARGER = 3
SUMMARIES = {"least": min, "median": statistics.median}
# A fit of this many steps is what a projection is compared with.
FIT = 10_000


# Name -> how to build it, and the batch to train it with.
NETWORKS: dict[str, tuple[Callable[[], keras.Model], int]] = {
    "ResNet-8": (lambda: build("MLPerf Tiny IC (ResNet-8)"), 64),
    "DS-CNN": (lambda: build("MLPerf Tiny KWS (DS-CNN)"), 64),
    "VGG-16, 1/4": (lambda: vgg16(0.25), 64),
    "MobileNet, 1/4": (lambda: build("MLPerf Tiny VWW (MobileNet V1)"), 32),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        name, variant, batch = args.peak
        print(peak(name, variant, int(batch)))
        return
    result: dict[str, object] = {}
    for name in args.networks:
        result[name] = {"time": times(name, args.rounds), **memory(name)}
        print(name, json.dumps(result[name]), flush=True)
    result["projection"] = projection()
    print("projection", json.dumps(result["projection"]))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


def trainer(name: str, variant: str, batch: int) -> Callable[[], object]:
    """A compiled network of that variant; calling it trains one step."""
    model = NETWORKS[name][0]()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if variant != "plain":
        model = add_masks(model, importance=variant)
    # Keras models are cycles: the one without masks is garbage by now, and no part of training.
    gc.collect()
    if variant == "learned":
        loss = CompressionLoss(loss, model, BUDGET)
    model.compile("adam", loss, jit_compile=False)
    x = keras.random.normal((batch, *model.input_shape[1:]))
    y = np.arange(batch) % model.output_shape[-1]
    return lambda: model.train_on_batch(x, y)


def times(name: str, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of a step of the plain network; of the others, the ratio."""
    batch = NETWORKS[name][1]
    steps = {variant: trainer(name, variant, batch) for variant in VARIANTS}
    for step in steps.values():
        step()
        step()
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for _ in range(rounds):
        for variant, step in steps.items():
            start = time.perf_counter()
            for _ in range(STEPS):
                step()
            seconds[variant].append((time.perf_counter() - start) / STEPS)
    # Rounds in pairs: what a busy machine does to one of them, it does to its neighbour too.
    paired = {
        variant: statistics.median(np.divide(seconds[variant], seconds["plain"]))
        for variant in VARIANTS
    }
    return {
        "least": relative("seconds", {variant: min(of) for variant, of in seconds.items()}),
        "median": row("seconds", statistics.median(seconds["plain"]), paired),
    }


def relative(unit: str, values: dict[str, float]) -> dict[str, float]:
    plain = values["plain"]
    return row(unit, plain, {variant: values[variant] / plain for variant in VARIANTS})


def row(unit: str, plain: float, ratios: dict[str, float]) -> dict[str, float]:
    rounded = {variant: round(ratios[variant], 3) for variant in VARIANTS[1:]}
    return {f"plain_{unit}": round(plain, 4), **rounded}


def memory(name: str) -> dict[str, object]:
    """Megabytes by which the peak of training the plain network grows; of the others, the ratio.

    With the batch that is timed, and for each further sample.
    """
    batch = NETWORKS[name][1]
    timed, larger = peaks(name, batch, PROCESSES), peaks(name, 4 * batch, PROCESSES_OF_LARGER)
    further = {
        variant: (statistics.median(larger[variant]) - statistics.median(timed[variant]))
        / (3 * batch)
        for variant in VARIANTS
    }
    return {
        "memory": {
            how: relative("megabytes", {variant: of(timed[variant]) for variant in VARIANTS})
            for how, of in SUMMARIES.items()
        },
        "memory_per_sample": relative("megabytes", further),
    }


def peaks(name: str, batch: int, processes: int) -> dict[str, list[float]]:
    """Of each variant, in turn, so that what else the machine does hits all alike."""
    found: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for _ in range(processes):
        for variant in VARIANTS:
            found[variant].append(peak_of_process(name, variant, batch))
    return found


def peak_of_process(name: str, variant: str, batch: int) -> float:
    command = [sys.executable, "-m", "benchmarks.overhead", "--peak", name, variant, str(batch)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak(name: str, variant: str, batch: int) -> float:
    keras.ops.zeros(1)  # what TensorFlow takes for itself
    before = high_water()
    step = trainer(name, variant, batch)
    for _ in range(8):
        step()
    return high_water() - before


def high_water() -> float:
    """Peak memory of this process, megabytes. (`ru_maxrss` would be that of its parent.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def projection() -> dict[str, float]:
    model = add_masks(build("ResNet50"))
    found = trace(model)
    cost = Cost(found)
    limits = {"macs": 0.5 * cost.total(np.ones(found.num_channels, bool))["macs"]}
    rng = np.random.default_rng(0)
    for mask, _ in found.masks:
        mask.scores.assign(rng.exponential(size=mask.scores.shape))
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        write_gates(found, project(found, cost, limits, read_scores(found)))
        seconds.append(time.perf_counter() - start)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True), jit_compile=False)
    x, y = rng.normal(size=(32, 64, 64, 3)), np.arange(32) % 10
    steps = []
    for _ in range(5):
        start = time.perf_counter()
        model.train_on_batch(x, y)
        steps.append(time.perf_counter() - start)
    schedule = Schedule()
    times_ = (schedule.freeze - schedule.start) * PROJECTIONS
    return {
        "channels": found.num_channels,
        "projection_seconds": round(statistics.median(seconds), 4),
        "step_seconds": round(statistics.median(steps), 3),
        f"share_of_{FIT}_steps": round(min(seconds) * times_ / (FIT * min(steps)), 6),
    }


if __name__ == "__main__":
    main()
