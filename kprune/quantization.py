"""Keras model → the same model as int8 will compute it, to be trained on.

Where int8 loses accuracy (few channels, depthwise convolutions), some epochs of training on the
rounded network win it back. `kprune.folding` brings the model into the shape of the int8 network;
here every kernel, and every activation that is stored on the device, is rounded.
"""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import activations, layers, tree

from kprune.calibration import read_samples
from kprune.errors import UnsupportedLayerError
from kprune.fakequant import FakeQuant, FakeQuantWeights
from kprune.folding import FUSED, OUTPUT_AXES, PARTED, fold, is_bare, readers
from kprune.graph import Call, Graph, read_graph, rebuild, unique
from kprune.layers import ChannelMask
from kprune.tfmot import TfmotModel

# Layers whose outputs are values of their inputs (or zeros), in the scale of the input.
_MOVES = {
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.UpSampling1D,
    layers.Flatten,
    layers.Reshape,
    layers.Permute,
    layers.RepeatVector,
    layers.Identity,
    layers.ActivityRegularization,
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.AlphaDropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
}

# Layers that compute new values, but in the scale of the input.
_AVERAGES = {layers.AveragePooling1D, layers.AveragePooling2D, layers.UpSampling2D}

# Layers that compute values with a range of their own.
_COMPUTES = {
    *OUTPUT_AXES,
    layers.Add,
    layers.Subtract,
    layers.Multiply,
    layers.Average,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.ReLU,
    layers.LeakyReLU,
    layers.PReLU,
    layers.ELU,
    layers.Softmax,
    layers.Activation,
}

# Layers whose inputs must all have the scale of the output.
_JOINS = {layers.Concatenate, layers.Maximum, layers.Minimum}

# Functions whose int8 form has a range that the format prescribes.
_LIMITS = {
    activations.sigmoid: (0.0, 255 / 256),
    activations.softmax: (0.0, 255 / 256),
    activations.tanh: (-1.0, 127 / 128),
}

# Layers that a ReLU behind them becomes part of.
_FUSING = {*OUTPUT_AXES, layers.Add, layers.Subtract, layers.Multiply}

_BATCH = 32


def quantize_aware(model: keras.Model, representative_data: object, method: str = "native") -> Any:
    """Make a model that rounds as its int8 network will, to be trained for a few epochs.

    `compile` and `fit` the result as any Keras model, on any backend, with a small learning rate;
    then `to_tflite` writes the int8 network with the very ranges and weights that were trained.
    Use it where `validate` shows that int8 loses accuracy.

    BatchNorm is folded, with the statistics that it has: train the float model to the end first.
    Weights are rounded with one scale per output channel. Activations are rounded within ranges
    that start from the representative data and follow the batches.

    The int8 network gives the classes of the trained model, but where two scores are so close (a
    few steps of the output) that the device's second rounding of sums decides, which is left out.

    Args:
        model: A trained Sequential or functional model without masks, from `slim`. It is not
            changed.
        representative_data: As for `to_tflite`; some 100 samples.
        method: `"native"`, or `"tfmot"` for tensorflow-model-optimization (extra `kprune[tfmot]`),
            which trains in a process of its own: see `kprune.tfmot.TfmotModel`.

    Returns:
        An uncompiled functional model with the inputs and outputs of `model`. It can be saved as
        `.keras`.

    Raises:
        UnsupportedLayerError: Layers that cannot be trained in this way, all of them by name; or
            as `add_masks`.
        ValueError: `model` still has masks, or `representative_data` are wrong (see `to_tflite`),
            or `method` is unknown.
        TypeError: As `add_masks`.
        ToolNotFoundError: `method="tfmot"`, and tensorflow-model-optimization is not installed.

    Example:
        >>> model = keras.Sequential([
        ...     keras.Input((8, 8, 1), name="image"),
        ...     keras.layers.Conv2D(4, 3, use_bias=False, name="conv"),
        ...     keras.layers.BatchNormalization(),
        ...     keras.layers.ReLU(name="relu"),
        ... ])
        >>> x = np.random.default_rng(0).normal(size=(64, 8, 8, 1)).astype("float32")
        >>> aware = quantize_aware(model, x)
        >>> [layer.name for layer in aware.layers[1:]]
        ['image_rounded', 'conv', 'relu', 'relu_rounded']

    Source:
        Jacob et al., Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference, CVPR 2018.
    """
    if method not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(_METHODS)}, got {method!r}.")
    graph = read_graph(model)
    check_unmasked(graph)
    return _METHODS[method](graph, read_samples(graph.inputs, representative_data))


def check_unmasked(graph: Graph) -> None:
    """Refuse a model that still has masks."""
    if any(isinstance(layer, ChannelMask) for layer in graph.layers):
        raise ValueError(
            f"Model {graph.name!r} still has masks, and closed channels would take their full "
            "room. Pass kprune.slim(model)."
        )


def _native(graph: Graph, samples: list[np.ndarray]) -> keras.Model:
    _check_layers(graph)
    folded = read_graph(fold(graph))
    places = _places(folded)
    rounding: dict[int, Any] = {
        key: FakeQuant(limits, name=name) for key, (name, limits) in places.items()
    }
    # Averages are rounded in the range of their input, which they do not move.
    averages: dict[int, Any] = {
        key: partial(rounding[source], is_average=True)
        for key, source in _averages(folded, places).items()
    }
    weighted = {id(layer): _with_fake_quant(layer) for layer in folded.layers}
    model = _insert(folded, weighted, rounding | averages)
    for key, bounds in _ranges(folded, list(rounding), samples).items():
        if rounding[key].limits is None:
            rounding[key].set_weights([np.float32(bound) for bound in bounds])
    return model


def _insert(
    graph: Graph,
    weighted: Mapping[int, keras.layers.Layer],
    rounding: Mapping[int, Callable[[Any], Any]],
) -> keras.Model:
    """Rebuild the graph with other layers, and with one more behind some tensors.

    Args:
        graph: A model.
        weighted: `id(layer)` -> the layer in its place.
        rounding: `id(tensor)` -> the layer behind it, or how it is called.
    """
    inputs = {id(t) for t in tree.flatten(graph.inputs)}
    rounded: dict[int, Any] = {}

    def call(step: Call, *args: Any, **kwargs: Any) -> Any:
        # No call makes the inputs of the model: each is rounded where it is first read.
        given = [t for t in tree.flatten((args, kwargs)) if isinstance(t, keras.KerasTensor)]
        for old, new in zip(step.inputs, given, strict=True):
            if id(old) in inputs and id(old) in rounding and id(new) not in rounded:
                rounded[id(new)] = rounding[id(old)](new)
        args, kwargs = tree.map_structure(lambda t: rounded.get(id(t), t), (args, kwargs))
        outputs = weighted.get(id(step.operation), step.operation)(*args, **kwargs)
        key = id(step.outputs[0])
        return rounding[key](outputs) if key in rounding else outputs

    return rebuild(graph, call)


def _with_fake_quant(layer: keras.layers.Layer) -> keras.layers.Layer:
    axes = OUTPUT_AXES.get(type(layer))
    return layer if axes is None else FakeQuantWeights(layer, "kernel", axes, name=layer.name)


def _ranges(
    graph: Graph, tensors: list[int], samples: list[np.ndarray]
) -> dict[int, tuple[float, float]]:
    """`id(tensor)` -> least and greatest value on the samples; 0 is always within."""
    seen: dict[int, Any] = {}

    def call(step: Call, *args: Any, **kwargs: Any) -> Any:
        given = [t for t in tree.flatten((args, kwargs)) if isinstance(t, keras.KerasTensor)]
        seen.update((id(old), new) for old, new in zip(step.inputs, given, strict=True))
        outputs = step.operation(*args, **kwargs)
        seen.update(zip(map(id, step.outputs), tree.flatten(outputs), strict=True))
        return outputs

    model = rebuild(graph, call)
    tapped = keras.Model(model.inputs, [seen[key] for key in tensors])
    ranges = dict.fromkeys(tensors, (0.0, 0.0))
    for start in range(0, len(samples[0]), _BATCH):
        batch = [array[start : start + _BATCH] for array in samples]
        for key, value in zip(tensors, tree.flatten(tapped(batch, training=False)), strict=True):
            low, high = ranges[key]
            value = keras.ops.convert_to_numpy(value)
            ranges[key] = (min(low, float(value.min())), max(high, float(value.max())))
    return ranges


def _places(graph: Graph) -> dict[int, tuple[str, tuple[float, float] | None]]:
    """`id(tensor)` -> the name of its rounding, and the limits that the format prescribes.

    A tensor is rounded where the device stores it in a scale of its own.
    """
    reading = readers(graph)
    taken = {call.operation.name for call in graph.calls}
    places: dict[int, tuple[str, tuple[float, float] | None]] = {}

    def place(tensor: keras.KerasTensor, name: str, limits: Any = None) -> None:
        places[id(tensor)] = (unique(f"{name}_rounded", taken), limits)

    for tensor in tree.flatten(graph.inputs):
        if not _is_joined(tensor, reading):
            place(tensor, tensor.name)
    for call in graph.calls:
        kind, tensor = type(call.operation), call.outputs[0]
        limits = _limits(call.operation)
        merges = _is_joined(tensor, reading) or (kind in _FUSING and _is_rectified(tensor, reading))
        # Rounding what softmax gives would leave small probabilities without a gradient.
        is_last = limits and reading[id(tensor)] == [None]
        if kind in _COMPUTES | _JOINS and not merges and not is_last:
            place(tensor, call.operation.name, limits)
    return places


def _averages(graph: Graph, places: Collection[int]) -> dict[int, int]:
    """`id(tensor)` that an average gives -> `id(tensor)` in `places` whose scale it has."""
    source = {key: key for key in places}
    found: dict[int, int] = {}
    for call in graph.calls:
        kind, key = type(call.operation), id(call.outputs[0])
        if kind in _MOVES | _AVERAGES and id(call.inputs[0]) in source:
            source[key] = source[id(call.inputs[0])]
            if kind in _AVERAGES:
                found[key] = source[key]
    return found


def _is_joined(tensor: keras.KerasTensor, reading: Mapping[int, list[Call | None]]) -> bool:
    """Whether the value only goes into a join, which gives it the scale of the whole."""
    match reading[id(tensor)]:
        case [Call(operation=operation, outputs=[output, *_])]:
            if type(operation) in _MOVES:
                return _is_joined(output, reading)
            return type(operation) in _JOINS
    return False


def _is_rectified(tensor: keras.KerasTensor, reading: Mapping[int, list[Call | None]]) -> bool:
    """Whether a ReLU follows, which becomes part of the operator."""
    match reading[id(tensor)]:
        case [Call(operation=layers.ReLU(negative_slope=0, threshold=0))]:
            return True
        case [Call(operation=layers.Activation(activation=function))]:
            return function in FUSED
    return False


def _limits(layer: keras.layers.Layer) -> tuple[float, float] | None:
    if type(layer) is layers.Softmax:
        return _LIMITS[activations.softmax]
    return _LIMITS.get(getattr(layer, "activation", None))


def _check_layers(graph: Graph) -> None:
    known = _MOVES | _AVERAGES | _COMPUTES | _JOINS | PARTED
    refused = [
        f"{call.operation.name!r} ({type(call.operation).__name__})"
        for call in graph.calls
        if not (type(call.operation) in known or is_bare(call))
        or getattr(call.operation, "data_format", None) == "channels_first"
    ]
    if refused:
        raise UnsupportedLayerError(
            f"quantize_aware cannot round as int8 does in {', '.join(dict.fromkeys(refused))}. "
            "Replace these layers, or quantise without training: kprune.to_tflite(model, data)."
        )
    for tensor in tree.flatten(graph.inputs):
        if not keras.backend.is_float_dtype(tensor.dtype):
            raise UnsupportedLayerError(
                f"quantize_aware needs inputs of floating-point type; input {tensor.name!r} is "
                f"{tensor.dtype}."
            )


_METHODS: dict[str, Callable[[Graph, list[np.ndarray]], Any]] = {
    "native": _native,
    "tfmot": TfmotModel,
}
