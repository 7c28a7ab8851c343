"""What masks cost while training: time of a step, memory, and the time of a projection.

    python -m benchmarks.overhead [--rounds 200] [--json FILE]

Everything both as Keras compiles by itself ("xla") and operation by operation ("graph",
`jit_compile=False`), which is faster for small networks on a processor.
Time: all variants of a network in one process, in turn, a few steps at a time, so that a busy
moment hits all alike; the ratio to the plain network of the least round, and the median of the
ratios of all rounds.
Memory: fresh processes for each variant, as the order of TensorFlow's threads moves its peak; the
ratio of the least and of the median process, and of the median with a batch four times as large.
Of the whole process, as a user sees it, and of what it grows by from before the network was built:
without TensorFlow itself, but with the graphs and programs that it makes of every operation.
Projection: scores to gates of ResNet50 (more than 10,000 channels), and what closed channels hand
on, against the training of a whole fit.
"""

import argparse
import gc
import itertools
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
from kprune.callbacks import PROJECTIONS, STAY, Schedule
from kprune.channels import trace
from kprune.cost import Cost
from kprune.importance import IMPORTANCES
from kprune.masking import read_scores, write_gates
from kprune.projection import project
from kprune.reconstruction import find_readers, reconstruct

BUDGET = Budget(macs=0.25)
VARIANTS = ["plain", *IMPORTANCES]
# How Keras runs a step -> `jit_compile`.
WAYS = {"graph": False, "xla": True}
STEPS = 3
# That memory is measured in, for each variant: with the batch that is timed, and a larger one.
PROCESSES = {"graph": 5, "xla": 3}  # Compiling takes long.
PROCESSES_OF_LARGER = 3
LARGER = 4
PEAKS = ["process", "growth"]
SUMMARIES = {"least": min, "median": statistics.median}
# A fit of this many steps is what a projection is compared with.
FIT = 10_000
# Of the multiply-accumulates of ResNet50, what may stay: some of a fit's projections.
SHARES = np.linspace(0.99, 0.25, 25)


# Name -> how to build it, and the batch to train it with.
NETWORKS: dict[str, tuple[Callable[[], keras.Model], int]] = {
    "ResNet-8": (lambda: build("MLPerf Tiny IC (ResNet-8)"), 64),
    "DS-CNN": (lambda: build("MLPerf Tiny KWS (DS-CNN)"), 64),
    "VGG-16, 1/4": (lambda: vgg16(0.25), 64),
    "MobileNet, 1/4": (lambda: build("MLPerf Tiny VWW (MobileNet V1)"), 32),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        name, variant, way, batch = args.peak
        print(*peak(name, variant, way, int(batch)))
        return
    result: dict[str, dict] = {}
    # All of the times first: memory does not mind what else the machine does.
    settings = list(itertools.product(args.networks, WAYS))
    seconds = {setting: times(*setting, args.rounds) for setting in settings}
    of_projection = projection()
    for name, way in settings:
        found = {"time": seconds[name, way], **memory(name, way)}
        result.setdefault(name, {})[way] = found
        print(name, way, json.dumps(found), flush=True)
    result["projection"] = of_projection
    print("projection", json.dumps(result["projection"]))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


def trainer(name: str, variant: str, way: str, batch: int) -> Callable[[], object]:
    """A compiled network of that variant; calling it trains one step."""
    model = NETWORKS[name][0]()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if variant != "plain":
        model = add_masks(model, importance=variant)
    # Keras models are cycles: the one without masks is garbage by now, and no part of training.
    gc.collect()
    if variant == "learned":
        loss = CompressionLoss(loss, model, BUDGET)
    model.compile("adam", loss, jit_compile=WAYS[way])
    x = keras.random.normal((batch, *model.input_shape[1:]))
    y = np.arange(batch) % model.output_shape[-1]
    return lambda: model.train_on_batch(x, y)


def times(name: str, way: str, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of a step of the plain network; of the others, the ratio."""
    batch = NETWORKS[name][1]
    steps = {variant: trainer(name, variant, way, batch) for variant in VARIANTS}
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


def memory(name: str, way: str) -> dict[str, object]:
    """Megabytes of training the plain network at its peak; of the others, the ratio.

    Of the process and of its growth with the batch that is timed, and of the growth with a larger.
    """
    batch = NETWORKS[name][1]
    timed = peaks(name, way, batch, PROCESSES[way])
    larger = peaks(name, way, LARGER * batch, PROCESSES_OF_LARGER)
    return {
        "memory_of_process": summaries(timed["process"]),
        "memory": summaries(timed["growth"]),
        "memory_of_larger_batch": summaries(larger["growth"])["median"],
    }


def summaries(megabytes: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    return {
        how: relative("megabytes", {variant: of(values) for variant, values in megabytes.items()})
        for how, of in SUMMARIES.items()
    }


def peaks(name: str, way: str, batch: int, processes: int) -> dict[str, dict[str, list[float]]]:
    """Of each variant, in turn, so that what else the machine does hits all alike."""
    found: dict[str, dict[str, list[float]]] = {
        what: {variant: [] for variant in VARIANTS} for what in PEAKS
    }
    for _ in range(processes):
        for variant in VARIANTS:
            measured = peak_of_process(name, variant, way, batch)
            for what, megabytes in zip(PEAKS, measured, strict=True):
                found[what][variant].append(megabytes)
    return found


def peak_of_process(name: str, variant: str, way: str, batch: int) -> list[float]:
    given = ["--peak", name, variant, way, str(batch)]
    command = [sys.executable, "-m", "benchmarks.overhead", *given]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(megabytes) for megabytes in done.stdout.split()]


def peak(name: str, variant: str, way: str, batch: int) -> tuple[float, float]:
    keras.ops.zeros(1)  # what TensorFlow takes for itself
    before = high_water()
    step = trainer(name, variant, way, batch)
    for _ in range(8):
        step()
    return high_water(), high_water() - before


def high_water() -> float:
    """Peak memory of this process, megabytes. (`ru_maxrss` would be that of its parent.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def projection() -> dict[str, float]:
    """Projecting ResNet50 as in a fit: each time a little less may stay, and scores have moved."""
    model = add_masks(build("ResNet50"))
    found = trace(model)
    cost, readers = Cost(found), find_readers(found)
    rng = np.random.default_rng(0)
    for mask, _ in found.masks:
        size = mask.scores.shape[0]
        mask.scores.assign(rng.exponential(size=size))
        seen = np.maximum(rng.normal(size=(2 * size, size)), 0)
        mask.gram.assign(seen.T @ seen)
    gates = np.ones(found.num_channels, bool)
    whole = cost.total(gates)["macs"]
    scores, seconds = read_scores(found), {"projection": [], "handing on": []}
    for share in SHARES:
        scores = scores * rng.lognormal(sigma=0.05, size=len(scores))
        start = time.perf_counter()
        opened = project(found, cost, {"macs": share * whole}, np.where(gates, STAY, 1) * scores)
        write_gates(found, opened)
        middle = time.perf_counter()
        reconstruct(readers, gates, opened)
        seconds["projection"].append(middle - start)
        seconds["handing on"].append(time.perf_counter() - middle)
        gates = opened
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True), jit_compile=False)
    x, y = rng.normal(size=(32, 64, 64, 3)), np.arange(32) % 10
    steps = []
    for _ in range(5):
        start = time.perf_counter()
        model.train_on_batch(x, y)
        steps.append(time.perf_counter() - start)
    schedule = Schedule()
    in_all = (schedule.freeze - schedule.start) * PROJECTIONS
    mean = {what: statistics.mean(of) for what, of in seconds.items()}
    return {
        "channels": found.num_channels,
        "projection_seconds": round(mean["projection"], 4),
        "handing_on_seconds": round(mean["handing on"], 4),
        "step_seconds": round(statistics.median(steps), 3),
        f"share_of_{FIT}_steps": round(
            sum(mean.values()) * in_all / (FIT * statistics.median(steps)), 5
        ),
    }


if __name__ == "__main__":
    main()
