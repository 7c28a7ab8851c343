"""The other side of `kprune.tfmot`: runs in a process where `tf.keras` may become Keras 2.

Each public function gets a folder with `network.json`, `settings.json` and `arguments.npz`, and
leaves `results.npz` there. Nothing here may be imported where a user's code runs, so the imports
are inside.
"""

import inspect
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from kprune.tfmot import load_arrays, save_arrays

# Two implementations of float arithmetic, relative to the greatest output.
_TOLERANCE = 1e-4


def check(folder: Path) -> None:
    """Build the network anew, and compare its outputs with those of the original."""
    arguments = load_arrays(folder / "arguments.npz")
    model = _float_model(folder, arguments)
    outputs = _flat(model.predict(_unpacked(arguments["x"]), verbose=0))
    for given, expected in zip(outputs, arguments["y"], strict=True):
        error = np.abs(given - expected).max() / max(np.abs(expected).max(), 1e-6)
        if not error < _TOLERANCE:
            raise RuntimeError(
                f"The network that was built anew in tf-keras gives other outputs: they differ by "
                f"{error:.2g} of the greatest. This is a fault of kprune; use method='native'."
            )
    _quantised(model)


def train(folder: Path) -> None:
    """Train, and leave weights, history and flatbuffer."""
    arguments = load_arrays(folder / "arguments.npz")
    settings = json.loads((folder / "settings.json").read_text())
    import_module("tf_keras").utils.set_random_seed(settings["seed"])
    model = _aware_model(folder, arguments)
    model.compile(
        _made("optimizers", settings["optimizer"]),
        _made("losses", settings["loss"]),
        metrics=settings["metrics"],
    )
    validation = None
    if "x_val" in arguments:
        validation = (_unpacked(arguments["x_val"]), arguments["y_val"][0])
    history = model.fit(
        _unpacked(arguments["x"]),
        arguments["y"][0],
        batch_size=settings["batch_size"],
        epochs=settings["epochs"],
        validation_data=validation,
        verbose=0,
    )
    figures = {name: [float(v) for v in values] for name, values in history.history.items()}
    results = {
        "weights": model.get_weights(),
        "history": [np.array(json.dumps(figures))],
        "flatbuffer": [np.frombuffer(_flatbuffer(folder, arguments, model), np.uint8)],
    }
    save_arrays(folder / "results.npz", results)


def predict(folder: Path) -> None:
    """Outputs of the trained network."""
    arguments = load_arrays(folder / "arguments.npz")
    model = _aware_model(folder, arguments)
    outputs = model.predict(_unpacked(arguments["x"]), verbose=0)
    save_arrays(folder / "results.npz", {"y": _flat(outputs)})


def _float_model(folder: Path, arguments: dict, batch_size: int | None = None) -> Any:
    keras2: Any = import_module("tf_keras")
    network = json.loads((folder / "network.json").read_text())
    layers = [
        getattr(keras2.layers, entry["kind"])(name=entry["name"], **entry["arguments"])
        for entry in network["layers"]
    ]
    # `kprune.tflite.in_order` goes by the numbers.
    tensors = {
        n: keras2.Input(shape, batch_size=batch_size, name=f"input_{n}")
        for n, shape in enumerate(network["inputs"])
    }
    inputs = list(tensors.values())
    for call in network["calls"]:
        given = [tensors[n] for n in call["inputs"]]
        outputs = layers[call["layer"]](given if call["is_list"] else given[0])
        tensors[call["output"]] = outputs
    model = keras2.Model(inputs, [tensors[n] for n in network["outputs"]])
    weights = iter(arguments.get("float_weights", []))
    for layer, entry in zip(layers, network["layers"], strict=True):
        layer.set_weights([next(weights) for _ in range(entry["num_weights"])])
    return model


def _aware_model(folder: Path, arguments: dict, batch_size: int | None = None) -> Any:
    model = _quantised(_float_model(folder, arguments, batch_size))
    if "weights" in arguments:
        model.set_weights(arguments["weights"])
    return model


def _quantised(model: Any) -> Any:
    tfmot: Any = import_module("tensorflow_model_optimization")
    return tfmot.quantization.keras.quantize_model(model)


def _flatbuffer(folder: Path, arguments: dict, trained: Any) -> bytes:
    import tensorflow as tf

    # With an open batch size the converter adds operators that find it out.
    model = _aware_model(folder, arguments, batch_size=1)
    model.set_weights(trained.get_weights())
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def _made(module: str, description: dict) -> Any:
    """An optimizer or loss of Keras 2 from its description in Keras 3."""
    known = getattr(import_module("tf_keras"), module)
    if not description["config"]:
        return known.get(description["class_name"])
    kind = getattr(known, description["class_name"])
    taken = inspect.signature(kind.__init__).parameters
    config = {k: v for k, v in description["config"].items() if k in taken and v is not None}
    if isinstance(config.get("learning_rate"), dict):
        config["learning_rate"] = known.schedules.deserialize(config["learning_rate"])
    return kind(**config)


def _unpacked(arrays: list[np.ndarray]) -> Any:
    return arrays[0] if len(arrays) == 1 else arrays


def _flat(outputs: Any) -> list[np.ndarray]:
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]
