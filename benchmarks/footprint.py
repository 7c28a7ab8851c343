"""Flash and RAM as a budget counts them, against the real file and the measured arena.

    python -m benchmarks.footprint [--json FILE]

The networks are untrained, with random weights and statistics, and so are the channels that are
kept: what a network takes does not depend on what it has learned. Each is predicted from one
conversion of the whole network, then made smaller, converted and measured with TensorFlow Lite
Micro's recording allocator: as it is, and without the plan of the arena that the file may bring.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import kprune
from benchmarks.slimmed import NETWORKS
from kprune.channels import trace
from kprune.cost import MEMORY, Cost
from kprune.masking import write_gates
from kprune.projection import project
from kprune.repacking import repack
from kprune.tflm import measure_arena

KEPT = (1.0, 0.5, 0.25, 0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    args = parser.parse_args()
    rows = [row for name, make in NETWORKS.items() for row in measure(name, make())]
    for kind in MEMORY:
        above = [row[kind]["predicted"] / row[kind]["real"] - 1 for row in rows]
        print(f"{kind}: predicted {min(above):+.2%} to {max(above):+.2%} of the real bytes")
    spared = {name: spared_by_plan(rows, name) for name in NETWORKS}
    for name, shares in spared.items():
        print(
            f"{name}: a plan in the file spares {min(shares):.1%} to {max(shares):.1%} of the RAM"
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


def measure(name: str, model: object) -> list[dict]:
    scramble(model)
    masked = kprune.add_masks(model)
    found = trace(masked)
    cost = Cost(found, MEMORY)
    full = cost.total(np.ones(found.num_channels, bool))
    rows = []
    for kept in KEPT:
        scores = np.random.default_rng(0).random(found.num_channels)
        gates = project(found, cost, {"macs": kept * full["macs"]}, scores)
        write_gates(found, gates)
        predicted, real = cost.total(gates), real_bytes(kprune.slim(masked))
        row = {k: {"predicted": predicted[k], "real": real[k]} for k in MEMORY}
        row["ram_bytes"]["unplanned"] = real["unplanned"]
        rows.append({"network": name, "macs_kept": kept, **row})
        print(f"{name:26}{kept:5.0%}  " + "  ".join(f"{k} {row[k]}" for k in MEMORY), flush=True)
    return rows


def real_bytes(small: object) -> dict[str, int]:
    x = np.random.default_rng(0).normal(size=(32, *small.input_shape[1:])).astype("float32")
    flatbuffer = kprune.to_tflite(small, x)
    return {
        "flash_bytes": len(flatbuffer),
        "ram_bytes": measure_arena(flatbuffer).total,
        "unplanned": measure_arena(repack(flatbuffer, offsets=())).total,
    }


def spared_by_plan(rows: list[dict], name: str) -> list[float]:
    ram = [row["ram_bytes"] for row in rows if row["network"] == name]
    return [1 - r["real"] / r["unplanned"] for r in ram]


def scramble(model: object) -> None:
    """Move biases and statistics away from 0 and 1, which a converter would leave out."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        layer.set_weights(
            [w + rng.uniform(0.01, 0.1, w.shape).astype(w.dtype) for w in layer.get_weights()]
        )


if __name__ == "__main__":
    main()
