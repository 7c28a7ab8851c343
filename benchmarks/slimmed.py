"""Instructions, flash and RAM of five networks on simulated boards, whole and slim.

    python -m benchmarks.slimmed [--board mps2-an386 --board mps3-an547] [--json FILE]

The networks are untrained, and for the slim ones channels are chosen at random under
Budget(macs=0.25): what a network takes does not depend on what it has learned. All is computed
by the stand-alone C of `to_c`, and every output compared with TensorFlow Lite Micro: a byte that
differs stops the benchmark. Instructions are not cycles: QEMU has no timing model.
"""

import argparse
import json
import tempfile
from pathlib import Path

import keras
import numpy as np
from keras import layers

import kprune
from benchmarks import networks
from kprune.channels import trace
from kprune.cost import Cost
from kprune.masking import write_gates
from kprune.projection import project

BUDGET = kprune.Budget(macs=0.25)
SAMPLES = 4


def handwriting() -> keras.Model:
    """The small CNN of many tutorials: 28 x 28 pixels, two convolutions, one dense layer."""
    x = inputs = keras.Input((28, 28, 1), name="image")
    for i, filters in enumerate((8, 16)):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{i}")(x)
        x = layers.MaxPooling2D(name=f"pool{i}")(x)
    return keras.Model(inputs, layers.Dense(10, name="scores")(layers.Flatten()(x)), name="cnn")


NETWORKS = {
    "KWS (DS-CNN)": networks.keyword_spotting,
    "IC (ResNet-8)": networks.image_classification,
    "VWW (MobileNet V1 0.25)": networks.visual_wake_words,
    "AD (autoencoder)": networks.anomaly_detection,
    "28 x 28 CNN": handwriting,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--board", action="append", help="default: M4F, M7 and M55")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    args = parser.parse_args()
    boards = args.board or ["mps2-an386", "mps2-an500", "mps3-an547"]
    rows = []
    print(
        f"{'network':26}{'':7}{'board':12}{'MACs':>12}{'instructions':>14}{'flash':>10}{'RAM':>9}"
    )
    for name, build in NETWORKS.items():
        for stage, model in (("whole", build()), ("slim", slimmed(build()))):
            for board in boards:
                row = measure(model, board) | {"network": name, "stage": stage, "board": board}
                rows.append(row)
                print(
                    f"{name:26}{stage:7}{board:12}{row['macs']:12,}{row['instructions']:14,}"
                    f"{row['flash_bytes']:10,}{row['ram_bytes']:9,}",
                    flush=True,
                )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


def slimmed(model: keras.Model) -> keras.Model:
    masked = kprune.add_masks(model)
    found = trace(masked)
    cost = Cost(found)
    limits = BUDGET.limits(cost.total(np.ones(found.num_channels, bool)))
    scores = np.random.default_rng(0).random(found.num_channels)
    write_gates(found, project(found, cost, limits, scores))
    return kprune.slim(masked)


def measure(model: keras.Model, board: str) -> dict:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, *model.input_shape[1:])).astype("float32")
    flatbuffer = kprune.to_tflite(model, representative_data=x)
    found = kprune.inspect(flatbuffer)
    source = found.network.tensors[found.network.inputs[0]]
    bytes_in = rng.integers(-128, 128, (SAMPLES, *source.shape[1:])).astype(np.int8)
    with tempfile.TemporaryDirectory() as folder:
        kprune.write_files(kprune.to_c(flatbuffer, "net"), folder)
        run = kprune.simulate(folder, bytes_in, board)
    expected = kprune.run_tflite(flatbuffer, bytes_in, "tflm").reshape(SAMPLES, -1)
    if not np.array_equal(run.outputs, expected):
        raise SystemExit(f"{model.name} on {board} differs from TensorFlow Lite Micro.")
    return {
        "macs": found.macs,
        "instructions": run.instructions,
        "flash_bytes": run.flash_bytes,
        "ram_bytes": run.ram_bytes - run.ram["stack"],
        "stack_bytes": run.stack_bytes,
    }


if __name__ == "__main__":
    main()
