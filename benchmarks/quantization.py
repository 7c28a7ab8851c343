"""What training with the rounding of int8 wins back, natively and by tensorflow-model-optimization.

    python benchmarks/quantization.py [--data FOLDER --set NAME] [--seeds N] [--json FILE]

A very narrow network of depthwise convolutions is trained in float on scikit-learn's digits (or on
a set of a data folder with a `load.py`, such as har_wrist), quantised after training, and trained
for a few epochs more: plainly, for a fair comparison, and with rounding, by both methods. Accuracy
is that of TensorFlow Lite Micro on test data that steered nothing.

Ranges come from 200 training samples: drawn from all of them, or the first ones of the file. In
har_wrist the latter all show one and the same activity, as when somebody calibrates with what he
recorded in a minute. Training starts from these ranges, too.
"""

import argparse
import importlib.util
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

import kprune
from kprune.demo import load_digits

WIDTH, DEPTH = 3, 10
BATCH = 64
RATE, AWARE_RATE = 1e-2, 2e-3
MOST_SAMPLES = 4000
CALIBRATION = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder with load.py")
    parser.add_argument("--set", default="har_wrist", help="the set in that folder (har_wrist)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30, help="in float")
    parser.add_argument("--aware-epochs", type=int, default=8, help="further ones")
    parser.add_argument("--methods", default="native,tfmot", help="separated by commas")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    args = parser.parse_args()
    data = read_set(args.data, args.set) if args.data else load_digits()
    rows = []
    for seed in range(args.seeds):
        rows += run(data, seed, args)
        print_rows(rows)
        if args.json:
            write(args, rows)


def write(args: argparse.Namespace, rows: list[dict]) -> None:
    shown = ["FOLDER" if word == str(args.data) else word for word in sys.argv[1:]]
    found = {
        "command": " ".join(["python benchmarks/quantization.py", *shown]),
        "set": args.set if args.data else "digits",
        "versions": {name: version(name) for name in ("keras", "tensorflow")},
        "rows": rows,
    }
    args.json.write_text(json.dumps(found, indent=1) + "\n")


def run(data: tuple, seed: int, args: argparse.Namespace) -> list[dict]:
    (x, y), (x_test, _) = data
    keras.utils.set_random_seed(seed)
    network = narrow_network(x.shape[1:], int(y.max()) + 1)
    fit(network, x, y, RATE, args.epochs)
    mixed = np.random.default_rng(seed).permutation(len(x))[:CALIBRATION]
    rows = [
        row(seed, "float", network, network.predict(x_test, verbose=0), data),
        converted(seed, "int8, ranges of samples drawn from all", network, x[mixed], data),
        converted(seed, "int8, ranges of the first samples", network, x[:CALIBRATION], data),
    ]
    longer = keras.models.clone_model(network)
    longer.set_weights(network.get_weights())
    fit(longer, x, y, AWARE_RATE, args.aware_epochs)
    name = "the same after as many further epochs"
    rows.append(converted(seed, name, longer, x[:CALIBRATION], data))
    for method in args.methods.split(","):
        keras.utils.set_random_seed(seed)
        aware = kprune.quantize_aware(network, x[:CALIBRATION], method=method)
        fit(aware, x, y, AWARE_RATE, args.aware_epochs)
        rows.append(converted(seed, f"int8 trained, {method}", aware, x[:CALIBRATION], data))
    return rows


def narrow_network(shape: tuple[int, ...], classes: int) -> keras.Model:
    """Depthwise and pointwise convolutions in turn, without a way around them."""
    size = (3, 3) if shape[1] > 1 else (5, 1)
    strides = 2 if min(shape[:2]) > 8 else (1 if shape[1] > 1 else (2, 1))
    inputs = keras.Input(shape)
    x = layers.Conv2D(WIDTH, size, strides=strides, padding="same", use_bias=False)(inputs)
    x = normalised(x)
    for _ in range(DEPTH):
        x = normalised(layers.DepthwiseConv2D(size, padding="same", use_bias=False)(x))
        x = normalised(layers.Conv2D(WIDTH, 1, use_bias=False)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes)(x), name="narrow")


def normalised(x: keras.KerasTensor) -> keras.KerasTensor:
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def fit(model: object, x: np.ndarray, y: np.ndarray, rate: float, epochs: int) -> None:
    steps = epochs * -(-len(x) // BATCH)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if isinstance(model, keras.Model):
        model.compile(optimizer, loss, jit_compile=False)
        model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)
    else:
        model.compile(optimizer, loss)
        model.fit(x, y, batch_size=BATCH, epochs=epochs)


def converted(
    seed: int, name: str, model: object, calibration: np.ndarray, data: tuple
) -> dict[str, object]:
    flatbuffer = kprune.to_tflite(model, calibration)
    scores = kprune.run_tflite(flatbuffer, data[1][0], "tflm")
    return {**row(seed, name, model, scores, data), "bytes": len(flatbuffer)}


def row(seed: int, name: str, model: object, scores: np.ndarray, data: tuple) -> dict[str, object]:
    x_test, y_test = data[1]
    silent = {"verbose": 0} if isinstance(model, keras.Model) else {}
    classes = model.predict(x_test, **silent).argmax(-1)
    return {
        "seed": seed,
        "network": name,
        "accuracy": float((scores.argmax(-1) == y_test).mean()),
        "same_class_as_keras": float((scores.argmax(-1) == classes).mean()),
    }


def read_set(folder: Path, name: str) -> tuple:
    """Images or signals as floats; signals get an axis, so that both are (samples, n, m, c)."""
    spec = importlib.util.spec_from_file_location("load", folder / "load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    parts = []
    for x, y in module.load(name):
        x = np.asarray(x, "float32")
        x = x[:, :, np.newaxis, :] if x.ndim == 3 else x
        parts.append((x[:MOST_SAMPLES], np.asarray(y)[:MOST_SAMPLES].astype(int)))
    return tuple(parts)


def print_rows(rows: list[dict]) -> None:
    names = dict.fromkeys(r["network"] for r in rows)
    print(f"{'network':40} {'mean':>7}  by seed")
    for name in names:
        values = [r["accuracy"] for r in rows if r["network"] == name]
        print(f"{name:40} {np.mean(values):7.2%}  {'  '.join(f'{v:.2%}' for v in values)}")
    print(flush=True)


if __name__ == "__main__":
    main()
