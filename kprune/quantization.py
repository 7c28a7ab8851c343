"""Keras model → the same model as int8 will compute it, to be trained on.

Where int8 loses accuracy (few channels, depthwise convolutions), some epochs of training on the
rounded network win it back. `kprune.folding` brings the model into the shape of the int8 network;
here every kernel, and every activation that is stored on the device, is rounded.
"""

import math
from collections.abc import Callable, Collection, Mapping
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
from kprune.rescaling import Rescale, RescaleSum
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

# The weight that is rounded, and its axes that run over the output channels.
_WEIGHTS: dict[type, tuple[str, tuple[int, ...]]] = {
    **{kind: ("kernel", axes) for kind, axes in OUTPUT_AXES.items()},
    layers.PReLU: ("alpha", ()),
}

_BATCH = 32
_LEAKY = 0.2  # Keras's slope where `leaky_relu` is given by its name.


def quantize_aware(model: keras.Model, representative_data: object, method: str = "native") -> Any:
    """Make a model that rounds as its int8 network will, to be trained for a few epochs.

    `compile` and `fit` the result as any Keras model, on any backend, with a small learning rate;
    then `to_tflite` writes the int8 network with the very ranges and weights that were trained.
    Use it where `validate` shows that int8 loses accuracy.

    BatchNorm is folded, with the statistics that it has: train the float model to the end first.
    Weights are rounded with one scale per output channel. Activations are rounded within ranges
    that start from the representative data and follow the batches.

    Outside of training (`predict`, `evaluate`, validation) the model computes what TensorFlow Lite
    Micro will, byte for byte, two roundings of every sum included; while training it rounds once.
    Values may still lie a step apart where the device reads them from tables (sigmoid, tanh,
    softmax), behind a sum of more than two tensors, an average of tensors, or a bounded ReLU that
    stands alone, and on JAX, whose single precision leaves out a few bits of the factors. A softmax
    or sigmoid at the end is not rounded.

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
        ['image_rounded', 'conv', 'relu', 'relu_rounded', 'relu_rescaled']

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
    rounding = {key: FakeQuant(limits, name=name) for key, (name, limits) in places.items()}
    model = _Rounding(folded, rounding).model()
    for key, bounds in _ranges(folded, list(rounding), samples).items():
        if rounding[key].limits is None:
            rounding[key].start(*bounds)
    return model


class _Rounding:
    """Rebuilds a folded graph in which kernels and stored activations are rounded.

    Args:
        graph: From `fold`.
        rounding: `id(tensor)` -> the layer behind it.
    """

    def __init__(self, graph: Graph, rounding: Mapping[int, FakeQuant]) -> None:
        self.graph, self.rounding = graph, rounding
        self.reading = readers(graph)
        self.makers = {id(call.outputs[0]): call for call in graph.calls}
        self.stored = _stored(graph, rounding, self.reading)
        self.weighted = {id(layer): _with_fake_quant(layer) for layer in graph.layers}
        # What stands for each tensor of the graph, and for the scale of each place.
        self.new: dict[int, Any] = {}
        self.steps: dict[int, Any] = {}
        self.taken = {layer.name for layer in [*graph.layers, *rounding.values()]}

    def model(self) -> keras.Model:
        return rebuild(self.graph, self.call)

    def call(self, step: Call, /, *args: Any, **kwargs: Any) -> Any:
        given = [t for t in tree.flatten((args, kwargs)) if isinstance(t, keras.KerasTensor)]
        for old, tensor in zip(step.inputs, given, strict=True):
            if id(old) not in self.new:  # An input of the model: no call makes it.
                self.new[id(old)] = self.round(id(old), tensor)
        swapped = {
            id(tensor): self.as_read(step, old)
            for old, tensor in zip(step.inputs, given, strict=True)
        }
        args, kwargs = tree.map_structure(lambda t: swapped.get(id(t), t), (args, kwargs))
        outputs = self.weighted.get(id(step.operation), step.operation)(*args, **kwargs)
        key = id(step.outputs[0])
        if type(step.operation) in _AVERAGES and key in self.stored:
            # In the range of their input, which they do not move.
            outputs = self.rounding[self.stored[key]](outputs, is_average=True)
        self.new[key] = self.round(key, self.rescaled(step, outputs))
        return self.new[key]

    def round(self, key: int, tensor: Any) -> Any:
        return self.rounding[key](tensor) if key in self.rounding else tensor

    def as_read(self, step: Call, old: keras.KerasTensor) -> Any:
        """What stands for a tensor, in the scale of the join that reads it."""
        tensor = self.new[id(old)]
        source, target = (self.stored.get(id(t)) for t in (old, step.outputs[0]))
        if type(step.operation) not in _JOINS or source is None or target in (None, source):
            return tensor
        scale = self.step(target, tensor)
        return Rescale(name=self.name(step))(tensor, units=[self.step(source)], scale=scale)

    def rescaled(self, step: Call, outputs: Any) -> Any:
        """The outputs of a call, if the device stores them, as its integer arithmetic has them."""
        maker = self.maker(step)
        rescale = _rescale(maker, self.name(step))
        place = self.stored.get(id(step.outputs[0]))
        if rescale is None or place is None or any(id(t) not in self.stored for t in maker.inputs):
            return outputs
        terms = [self.new[id(t)] for t in maker.inputs]
        units = [self.step(self.stored[id(t)]) for t in maker.inputs]
        scale = self.step(place, outputs)
        if isinstance(rescale, RescaleSum):
            return rescale(outputs, terms=terms, units=units, scale=scale)
        weighted = self.weighted.get(id(maker.operation))
        if isinstance(weighted, FakeQuantWeights):
            units.append(weighted(units[0], is_scale=True))
        if isinstance(maker.operation, layers.PReLU):
            return rescale(outputs, units=units, scale=scale, source=terms[0])
        return rescale(outputs, units=units, scale=scale)

    def maker(self, step: Call) -> Call:
        """The call whose operator a ReLU is part of; otherwise the call itself."""
        host = self.makers.get(id(step.inputs[0]))
        if host and type(host.operation) in _FUSING:
            return host if _is_rectified(host.outputs[0], self.reading) else step
        return step

    def step(self, place: Any, tensor: Any = None) -> Any:
        """The scale of a place; `tensor` is any, if the place has not been reached yet."""
        if place not in self.steps:
            read = self.new.get(place, tensor)
            self.steps[place] = self.rounding[place](read, is_step=True)
        return self.steps[place]

    def name(self, step: Call) -> str:
        return unique(f"{step.operation.name}_rescaled", self.taken)


def _rescale(call: Call, name: str) -> Rescale | RescaleSum | None:
    """What the device does with the sums of an operator; None for what it has tables for."""
    shape = call.inputs[0].shape
    match call.operation:
        case layers.Add() | layers.Subtract() if len(call.inputs) == 2:
            return RescaleSum(-1 if isinstance(call.operation, layers.Subtract) else 1, name=name)
        case layers.GlobalAveragePooling1D() | layers.GlobalAveragePooling2D():
            return Rescale(count=math.prod(shape[1:-1]), name=name)
        case (
            layers.LeakyReLU(negative_slope=slope)
            | layers.ReLU(negative_slope=slope, threshold=0, max_value=None)
        ) if slope > 0:
            return Rescale(slope=slope, name=name)
        case layers.Activation(activation=activations.leaky_relu):
            return Rescale(slope=_LEAKY, name=name)
        case (
            layers.ReLU(negative_slope=0, threshold=0, max_value=None)
            | layers.Activation(activation=activations.relu)
        ):
            return Rescale(name=name)
        case layers.Multiply() if len(call.inputs) == 2:
            return Rescale(name=name)
        case layer if type(layer) in _WEIGHTS:
            return Rescale(name=name)
    return None


def _stored(
    graph: Graph, places: Collection[int], reading: Mapping[int, list[Call | None]]
) -> dict[int, int]:
    """`id(tensor)` -> `id(tensor)` in `places` whose scale it has on the device."""

    def home(tensor: keras.KerasTensor) -> int | None:
        if id(tensor) in places:
            return id(tensor)
        join = _join(tensor, reading)
        return home(join.outputs[0]) if join else None

    found = {id(t): home(t) for t in tree.flatten(graph.inputs)}
    for call in graph.calls:
        keeps = type(call.operation) in _MOVES | _AVERAGES
        output = call.outputs[0]
        found[id(output)] = found[id(call.inputs[0])] if keeps else home(output)
    return {key: place for key, place in found.items() if place is not None}


def _with_fake_quant(layer: keras.layers.Layer) -> keras.layers.Layer:
    if type(layer) not in _WEIGHTS:
        return layer
    return FakeQuantWeights(layer, *_WEIGHTS[type(layer)], name=layer.name)


def _ranges(
    graph: Graph, tensors: list[int], samples: list[np.ndarray]
) -> dict[int, tuple[float, float]]:
    """`id(tensor)` -> least and greatest value on the samples; 0 is always within."""
    seen: dict[int, Any] = {}

    def call(step: Call, /, *args: Any, **kwargs: Any) -> Any:
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
        if not _join(tensor, reading):
            place(tensor, tensor.name)
    for call in graph.calls:
        kind, tensor = type(call.operation), call.outputs[0]
        limits = _limits(call.operation)
        merges = _join(tensor, reading) or (kind in _FUSING and _is_rectified(tensor, reading))
        # Rounding what softmax gives would leave small probabilities without a gradient.
        is_last = limits and reading[id(tensor)] == [None]
        if kind in _COMPUTES | _JOINS and not merges and not is_last:
            place(tensor, call.operation.name, limits)
    return places


def _join(tensor: keras.KerasTensor, reading: Mapping[int, list[Call | None]]) -> Call | None:
    """The join, if the value only goes into one, which gives it the scale of the whole."""
    match reading[id(tensor)]:
        case [Call(operation=operation, outputs=[output, *_]) as call]:
            if type(operation) in _MOVES:
                return _join(output, reading)
            return call if type(operation) in _JOINS else None
    return None


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
