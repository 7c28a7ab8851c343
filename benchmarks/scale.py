"""How the work of kprune grows with the number of channels and of layers.

    python -m benchmarks.scale

One network of convolutions is made wider and deeper, tenfold and a hundredfold. Each step is timed
as a multiple of what the smallest network takes, all in one process, the least of some rounds; the
projection is that of the callback, at a quarter of the MACs. Written to
`benchmarks/results/scale.json` and `docs/scale.png`.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib.figure
import numpy as np
from keras import layers

import kprune
from benchmarks.selection import one_thread
from kprune.channels import trace
from kprune.cost import Cost
from kprune.masking import write_gates
from kprune.projection import project

JSON = Path("benchmarks/results/scale.json")
PLOT = Path("docs/scale.png")
# Two hundred convolutions are 800 layers in a row once masked. Keras recurses, and Python
# ends that at some 980.
LAYERS, WIDTH = 2, 8
FACTORS = (1, 10, 100)
ROUNDS = 3
STEPS = ("build", "trace", "add_masks", "project", "slim")


def main() -> None:
    one_thread()
    measure(LAYERS, WIDTH)  # Loads what is loaded once.
    rows = []
    for axis, sizes in {
        "channels": [(LAYERS, WIDTH * factor) for factor in FACTORS],
        "layers": [(LAYERS * factor, WIDTH) for factor in FACTORS],
    }.items():
        base: dict[str, float] = {}
        for factor, size in zip(FACTORS, sizes, strict=True):
            rounds = [measure(*size) for _ in range(ROUNDS if factor < max(FACTORS) else 1)]
            found = {step: min(r[step] for r in rounds) for step in STEPS}
            base = base or found
            ratios = {step: round(found[step] / base[step], 2) for step in STEPS}
            rows.append({"axis": axis, "factor": factor, "channels": size[0] * size[1], **ratios})
            print(json.dumps(rows[-1]), flush=True)
    JSON.write_text(json.dumps(rows, indent=1) + "\n")
    draw(rows)


def measure(depth: int, width: int) -> dict[str, float]:
    """Processor seconds of each step."""
    times = {}

    def timed(step: str, run: Callable[[], Any]) -> Any:
        start = process_time()
        result = run()
        times[step] = process_time() - start
        return result

    model = timed("build", lambda: network(depth, width))
    timed("trace", lambda: trace(model))
    masked = timed("add_masks", lambda: kprune.add_masks(model))
    found = trace(masked)
    cost = Cost(found)
    limits = kprune.Budget(macs=0.25).limits(cost.total(np.ones(found.num_channels, bool)))
    scores = np.random.default_rng(0).random(found.num_channels)
    gates = timed("project", lambda: project(found, cost, limits, scores))
    write_gates(found, gates)
    timed("slim", lambda: kprune.slim(masked))
    keras.backend.clear_session()
    return times


def network(depth: int, width: int) -> keras.Model:
    x = inputs = keras.Input((8, 8, 3), name="image")
    for i in range(depth):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"conv{i}")(x)
        x = layers.ReLU(name=f"relu{i}")(layers.BatchNormalization(name=f"bn{i}")(x))
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(inputs, layers.Dense(10, name="scores")(x))


def draw(rows: list[dict]) -> None:
    figure = matplotlib.figure.Figure(figsize=(9, 4), layout="constrained")
    for axes, axis in zip(figure.subplots(1, 2, sharey=True), ("channels", "layers"), strict=True):
        for step in STEPS:
            axes.plot(FACTORS, [r[step] for r in rows if r["axis"] == axis], "o-", label=step)
        axes.plot(FACTORS, FACTORS, "k:", label="proportional")
        axes.set(xscale="log", yscale="log", xlabel=f"{axis}, times as many")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("time, times as long")
    figure.axes[0].legend()
    figure.savefig(PLOT, dpi=110)


if __name__ == "__main__":
    main()
