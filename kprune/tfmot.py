"""Quantisation-aware training by tensorflow-model-optimization, for those who rely on it.

That package knows legacy Keras (tf-keras) only, and its import turns the caller's `tf.keras` into
it. So it is never imported here: the network goes through files to a process of its own
(`kprune.tfmot_training`), is built there anew with equal outputs, trained, and comes back as
weights and a flatbuffer.
"""

import importlib.util
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, tree

from kprune.calibration import read_samples
from kprune.child import run_in_child
from kprune.errors import ToolNotFoundError, UnsupportedLayerError
from kprune.folding import readers
from kprune.graph import Call, Graph, copy_model

_CONV = ("kernel_size", "strides", "padding", "dilation_rate", "use_bias", "activation")
_POOL = ("pool_size", "strides", "padding")

# What tensorflow-model-optimization quantises, and the arguments that both Keras versions share.
_ARGUMENTS: dict[type, tuple[str, ...]] = {
    layers.Conv2D: ("filters", *_CONV),
    layers.DepthwiseConv2D: ("depth_multiplier", *_CONV),
    layers.SeparableConv2D: ("filters", "depth_multiplier", *_CONV),
    layers.Conv2DTranspose: ("filters", *_CONV),
    layers.Dense: ("units", "use_bias", "activation"),
    layers.BatchNormalization: ("axis", "momentum", "epsilon", "center", "scale"),
    layers.ReLU: ("max_value", "negative_slope", "threshold"),
    layers.LeakyReLU: ("negative_slope",),
    layers.Softmax: ("axis",),
    layers.Activation: ("activation",),
    layers.Add: (),
    layers.Concatenate: ("axis",),
    layers.AveragePooling2D: _POOL,
    layers.MaxPooling2D: _POOL,
    layers.GlobalAveragePooling2D: ("keepdims",),
    layers.GlobalMaxPooling2D: ("keepdims",),
    layers.ZeroPadding2D: ("padding",),
    layers.Cropping2D: ("cropping",),
    layers.UpSampling2D: ("size", "interpolation"),
    layers.Flatten: (),
    layers.Reshape: ("target_shape",),
    layers.Permute: ("dims",),
    layers.Dropout: ("rate",),
    layers.SpatialDropout2D: ("rate",),
    layers.ActivityRegularization: (),
}

# Where Keras 2 has another word.
_OLD_WORDS = {(layers.LeakyReLU, "negative_slope"): "alpha"}

_ACTIVATIONS = ("linear", "relu", "sigmoid", "softmax", "tanh")
_NORMALISED = {layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Dense}

_TRAINING = "kprune.tfmot_training"

# Between the name of a layer and its number.
MARK = "-kp"


class TfmotModel:
    """A network that tensorflow-model-optimization trains, in a process of its own.

    It takes `compile`, `fit` and `predict` as a Keras model does, with what can be handed over in
    a file: names or Keras objects for optimizer and loss, names for metrics, arrays for data. Each
    call starts a process, which takes some seconds. From `quantize_aware(method="tfmot")`.

    Args:
        graph: A model without masks.
        samples: Some samples for each input; the network that is built anew must give the same
            outputs on them.

    Raises:
        ToolNotFoundError: tensorflow-model-optimization or tf-keras is not installed.
        UnsupportedLayerError: Layers that cannot be carried over, all of them by name.
    """

    def __init__(self, graph: Graph, samples: list[np.ndarray]) -> None:
        for tool in ("tensorflow_model_optimization", "tf_keras"):
            if importlib.util.find_spec(tool) is None:
                raise ToolNotFoundError(
                    f'method="tfmot" needs {tool}, which is not installed: '
                    "pip install 'kprune[tfmot]'. The native method needs nothing more."
                )
        _check_layers(graph)
        self.graph = graph
        self.name = graph.name
        self._network = json.dumps(_describe(graph))
        self._float_weights = [w for layer in graph.layers for w in layer.get_weights()]
        self._weights: list[np.ndarray] | None = None
        self._flatbuffer = b""
        self._settings: dict[str, Any] = {}
        few = [array[:32] for array in samples]
        expected = tree.flatten(copy_model(graph)(tree.pack_sequence_as(graph.inputs, few)))
        self._run("check", x=few, y=[keras.ops.convert_to_numpy(t) for t in expected])

    def compile(
        self, optimizer: Any = "adam", loss: Any = None, metrics: Sequence[str] = ()
    ) -> None:
        """Choose optimizer, loss and metrics.

        Raises:
            TypeError: One of them is neither a name nor an object of Keras.
        """
        if not all(isinstance(metric, str) for metric in metrics):
            raise TypeError("metrics must be names, such as 'accuracy': they go through a file.")
        self._settings = {
            "optimizer": _plain(optimizer, keras.optimizers.Optimizer, keras.optimizers.serialize),
            "loss": _plain(loss, keras.losses.Loss, keras.losses.serialize),
            "metrics": list(metrics),
        }

    def fit(
        self,
        x: object,
        y: np.ndarray,
        batch_size: int = 32,
        epochs: int = 1,
        validation_data: tuple | None = None,
    ) -> keras.callbacks.History:
        """Train; a further call goes on where the last one ended.

        Raises:
            ValueError: The network is not compiled, or the data do not fit it.
            RuntimeError: The process failed; the message has the end of what it wrote.
        """
        if not self._settings:
            raise ValueError("Compile the model first: model.compile(optimizer, loss).")
        data = {"x": read_samples(self.graph.inputs, x, 1, "x"), "y": [np.asarray(y)]}
        if validation_data is not None:
            x_val, y_val = validation_data
            data["x_val"] = read_samples(self.graph.inputs, x_val, 1, "validation_data")
            data["y_val"] = [np.asarray(y_val)]
        settings = {
            **self._settings,
            "batch_size": batch_size,
            "epochs": epochs,
            # So that keras.utils.set_random_seed makes this run repeatable, too.
            "seed": int(np.random.randint(2**31)),
        }
        results = self._run("train", settings, **data)
        self._weights = results["weights"]
        self._flatbuffer = results["flatbuffer"][0].tobytes()
        history = keras.callbacks.History()
        history.history = json.loads(results["history"][0].item())
        history.epoch = list(range(epochs))
        return history

    def predict(self, x: object) -> np.ndarray:
        """Outputs of the fake-quantised network after training.

        Raises:
            ValueError: The network is not trained yet.
        """
        self._check_trained()
        return self._run("predict", x=read_samples(self.graph.inputs, x, 1, "x"))["y"][0]

    def to_flatbuffer(self, format: str = "int8") -> bytes:
        """What the package's own export gives; `to_tflite` calls this."""
        if format != "int8":
            raise ValueError(f"tensorflow-model-optimization trains for int8, not for {format}.")
        self._check_trained()
        return self._flatbuffer

    def _check_trained(self) -> None:
        if self._weights is None:
            raise ValueError(
                f"Model {self.name!r} has not been trained, so its ranges are unknown: call fit."
            )

    def _run(
        self,
        function: str,
        settings: Mapping[str, Any] | None = None,
        **arrays: list[np.ndarray],
    ) -> dict[str, list[np.ndarray]]:
        arrays = {**arrays, "float_weights": self._float_weights, "weights": self._weights or []}
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "network.json").write_text(self._network)
            (folder / "settings.json").write_text(json.dumps(settings or {}))
            save_arrays(folder / "arguments.npz", arrays)
            run_in_child(
                _TRAINING, function, folder, TF_CPP_MIN_LOG_LEVEL="3", KERAS_BACKEND="tensorflow"
            )
            results = folder / "results.npz"
            return load_arrays(results) if results.is_file() else {}


def marked(name: str, number: int) -> str:
    """The name of a layer as TensorFlow takes it, with a number that leads back to the layer.

    The names of tensors are made of it. Keras takes any text for a name, TensorFlow does not.

    Example:
        >>> marked("größe 1", 7)
        'gr__e_1-kp7'
    """
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}{MARK}{number}"


def save_arrays(path: Path, lists: Mapping[str, list[np.ndarray]]) -> None:
    """Write lists of arrays, by name, as one file."""
    named: dict[str, Any] = {
        f"{key}/{i}": array for key, arrays in lists.items() for i, array in enumerate(arrays)
    }
    np.savez(path, **named)


def load_arrays(path: Path) -> dict[str, list[np.ndarray]]:
    """Read what `save_arrays` wrote; an empty list is left out."""
    lists: dict[str, list[np.ndarray]] = {}
    with np.load(path) as archive:
        for key in archive.files:
            lists.setdefault(key.split("/")[0], []).append(archive[key])
    return lists


def _describe(graph: Graph) -> dict:
    """The network as plain data: tensors by number, layers with the arguments both Keras share."""
    inputs = tree.flatten(graph.inputs)
    numbers = {id(t): n for n, t in enumerate(inputs)}
    calls = []
    for call in graph.calls:
        numbers[id(call.outputs[0])] = len(numbers)
        layer = call.operation
        calls.append(
            {
                "layer": graph.layers.index(layer),
                "inputs": [numbers[id(t)] for t in call.inputs],
                "is_list": isinstance(call.args[0], list | tuple),
                "output": numbers[id(call.outputs[0])],
            }
        )
    return {
        "inputs": [list(t.shape[1:]) for t in inputs],
        "layers": [
            {
                "kind": type(layer).__name__,
                # Keeps clear of the names that the package makes up itself.
                "name": marked(layer.name, n),
                "arguments": _arguments(layer),
                "num_weights": len(layer.get_weights()),
            }
            for n, layer in enumerate(graph.layers)
        ],
        "calls": calls,
        "outputs": [numbers[id(t)] for t in tree.flatten(graph.outputs)],
    }


def _arguments(layer: keras.layers.Layer) -> dict[str, Any]:
    config = layer.get_config()
    names = {name: _OLD_WORDS.get((type(layer), name), name) for name in _ARGUMENTS[type(layer)]}
    arguments = {old: config[name] for name, old in names.items()}
    if "activation" in arguments:
        arguments["activation"] = layer.activation.__name__
    return arguments


def _check_layers(graph: Graph) -> None:
    reading = readers(graph)
    makers = {id(t): call for call in graph.calls for t in call.outputs}
    refused = []
    for call in graph.calls:
        why = _why_not(call, makers.get(id(call.inputs[0])), reading)
        if why:
            refused.append(f"{call.operation.name!r} ({type(call.operation).__name__}): {why}")
    if refused:
        raise UnsupportedLayerError(
            "tensorflow-model-optimization cannot train these layers: "
            f'{"; ".join(dict.fromkeys(refused))}. Use method="native".'
        )


def _why_not(call: Call, maker: Call | None, reading: Mapping[int, list]) -> str:
    layer = call.operation
    if type(layer) not in _ARGUMENTS:
        return "it has no quantiser for this kind"
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "it needs channels last"
    activation = getattr(layer, "activation", keras.activations.linear)
    name = getattr(activation, "__name__", str(activation))
    if name not in _ACTIVATIONS or getattr(keras.activations, name) is not activation:
        return f"it has no quantiser for the activation {name}"
    if type(layer) is layers.BatchNormalization:
        is_behind = maker is not None and type(maker.operation) in _NORMALISED
        if not is_behind or len(reading[id(call.inputs[0])]) > 1:
            return "it takes BatchNorm only behind a convolution or dense layer"
    return ""


def _plain(value: Any, kind: type, serialize: Any) -> Any:
    """A name, or class and arguments, for the file."""
    if isinstance(value, str):
        return {"class_name": value, "config": {}}
    if isinstance(value, kind):
        found = serialize(value)
        return {"class_name": found["class_name"], "config": _simplify(found["config"])}
    raise TypeError(
        f"Expected a name or a {kind.__name__} of Keras, got {value!r}: with "
        'method="tfmot" it goes through a file to another process.'
    )


def _simplify(config: Any) -> Any:
    """Only numbers, texts and nested objects: what JSON has, and both Keras versions know."""
    if isinstance(config, dict):
        kept = ("class_name", "config") if "class_name" in config else tuple(config)
        return {key: _simplify(config[key]) for key in kept}
    return config.item() if isinstance(config, np.generic) else config
