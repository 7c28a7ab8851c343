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
from kprune.folding import (
    FUSED,
    OUTPUT_AXES,
    PARTED,
    bounds,
    fold,
    is_bare,
    is_rectified,
    only_reader,
    readers,
)
from kprune.graph import Call, Graph, read_graph, rebuild, tensors_in, unique
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
    layers.Softmax,
    layers.Activation,
    layers.Rescaling,
}

# Layers whose inputs must all have the scale of the output; `_is_join` knows more.
_JOINS = {layers.Concatenate, layers.Maximum, layers.Minimum}

# Functions whose int8 form has a range that the format prescribes.
_LIMITS = {
    activations.sigmoid: (0.0, 255 / 256),
    activations.softmax: (0.0, 255 / 256),
    activations.tanh: (-1.0, 127 / 128),
    activations.log_softmax: (-255 / 16, 0.0),
}

# Functions that become operators which int8 does not have on the device.
_FLOAT_FUNCTIONS = {
    activations.celu,
    activations.elu,
    activations.exponential,
    activations.gelu,
    activations.log_sigmoid,
    activations.mish,
    activations.selu,
    activations.soft_shrink,
    activations.softplus,
    activations.sparse_plus,
    activations.sparsemax,
    activations.squareplus,
}

# The weight that is rounded, and its axes that run over the output channels.
_WEIGHTS: dict[type, tuple[str, tuple[int, ...]]] = {
    **{kind: ("kernel", axes) for kind, axes in OUTPUT_AXES.items()},
    layers.PReLU: ("alpha", ()),
}

# The slope of a leaky ReLU that only brings a tensor to another scale. The converter drops a slope
# of 1, and of two roundings without an operator in between it loses one.
_CARRYING = 1 - 2**-24

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
    softmax), and on JAX, whose single precision leaves out a few bits of the factors. A softmax or
    sigmoid at the end is not rounded.

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
        ['image_rounded', 'conv', 'relu_rounded', 'conv_rescaled', 'relu']

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
    for key, (low, high) in _ranges(folded, list(rounding), samples).items():
        if rounding[key].limits is None:
            rounding[key].start(low, high)
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
        self.taken = graph.taken | {layer.name for layer in rounding.values()}

    def model(self) -> keras.Model:
        return rebuild(self.graph, self.call)

    def call(self, step: Call, /, *args: Any, **kwargs: Any) -> Any:
        given = tensors_in((args, kwargs))
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
        if source is not None and self.is_beside(step):
            tensor = self.carried(step, tensor, source, source)
            return self.rounding[source](tensor, is_term=True)
        if target is None or not _is_join(step) or self.is_merged(step):
            return tensor
        if len(step.inputs) > 1 and all(self.stored.get(id(t)) == target for t in step.inputs):
            return tensor
        if source == target and _has_scale(step):
            # The converter would give what it parts this from a range of its own.
            tensor = self.carried(step, self.rounding[target](tensor, is_term=True), source, target)
        if source not in (None, target):
            tensor = self.carried(step, tensor, source, target)
        # All of them, or the converter may take the scale of one that has its own for the join.
        return self.rounding[target](tensor, is_term=True)

    def carried(self, step: Call, tensor: Any, source: int, target: int) -> Any:
        """A tensor in another scale, by an operator of its own."""
        carry = layers.LeakyReLU(
            _CARRYING, name=unique(f"{step.operation.name}_carried", self.taken)
        )
        rescale = Rescale(slope=_CARRYING, name=self.name(step))
        scale = self.step(target, tensor)
        return rescale(carry(tensor), units=[self.step(source)], scale=scale)

    def rescaled(self, step: Call, outputs: Any) -> Any:
        """The outputs of a call, if the device stores them, as its integer arithmetic has them."""
        rescale = _rescale(step, self.name(step))
        place = self.stored.get(id(step.outputs[0]))
        is_stored = place is not None and all(id(t) in self.stored for t in step.inputs)
        if rescale is None or not is_stored or self.is_merged(step) or _is_move(step):
            return outputs
        terms = [self.new[id(t)] for t in step.inputs]
        units = [self.step(self.stored[id(t)]) for t in step.inputs]
        scale = self.step(place, outputs)
        if isinstance(rescale, RescaleSum):
            return rescale(outputs, terms=terms, units=units, scale=scale)
        weighted = self.weighted.get(id(step.operation))
        if isinstance(weighted, FakeQuantWeights):
            units.append(weighted(units[0], is_scale=True))
        if isinstance(step.operation, layers.PReLU):
            return rescale(outputs, units=units, scale=scale, source=terms[0])
        return rescale(outputs, units=units, scale=scale)

    def is_merged(self, step: Call) -> bool:
        """Whether it is a ReLU that is part of the operator in front."""
        host = self.makers.get(id(step.inputs[0]))
        return host is not None and is_rectified(host, self.reading)

    def is_beside(self, step: Call) -> bool:
        """Whether it is a ReLU for whose sake the converter would compute a dense layer twice."""
        host = self.makers.get(id(step.inputs[0]))
        if host is None or type(host.operation) is not layers.Dense or self.is_merged(step):
            return False
        return bounds(step.operation) == FUSED[activations.relu]

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
        case layers.Add() | layers.Subtract():
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
        case layers.Multiply():
            return Rescale(name=name)
        case layers.Rescaling(scale=factor):
            return Rescale(factor=factor, name=name)
        case layer if type(layer) in _WEIGHTS or bounds(layer) == FUSED[activations.relu]:
            return Rescale(name=name)
    return None


def _stored(
    graph: Graph, places: Collection[int], reading: Mapping[int, list[Call | None]]
) -> dict[int, int]:
    """`id(tensor)` -> `id(tensor)` in `places` whose scale it has on the device."""
    makers = {id(call.outputs[0]): call for call in graph.calls}

    def home(tensor: keras.KerasTensor) -> int | None:
        if id(tensor) in places:
            return id(tensor)
        maker = makers.get(id(tensor))
        is_merged = maker is not None and is_rectified(maker, reading)
        then = only_reader(tensor, reading) if is_merged else _join(tensor, reading)
        return home(then.outputs[0]) if then else None

    found = {id(t): home(t) for t in tree.flatten(graph.inputs)}
    for call in graph.calls:
        keeps = type(call.operation) in _AVERAGES or _is_move(call)
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
        given = tensors_in((args, kwargs))
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
    taken = graph.taken
    places: dict[int, tuple[str, tuple[float, float] | None]] = {}

    def place(tensor: keras.KerasTensor, name: str, limits: Any = None) -> None:
        places[id(tensor)] = (unique(f"{name}_rounded", taken), limits)

    for tensor in tree.flatten(graph.inputs):
        # One that no layer reads is never rounded.
        if any(reading[id(tensor)]) and not _join(tensor, reading):
            place(tensor, tensor.name)
    for call in graph.calls:
        kind, tensor = type(call.operation), call.outputs[0]
        limits = _limits(call.operation)
        merges = is_rectified(call, reading) or (_join(tensor, reading) and not _has_scale(call))
        # Rounding what softmax gives would leave small probabilities without a gradient.
        is_last = limits and reading[id(tensor)] == [None]
        is_new = kind in _COMPUTES | _JOINS and not _is_move(call)
        if is_new and not merges and not is_last:
            place(tensor, call.operation.name, limits)
    return places


def _join(tensor: keras.KerasTensor, reading: Mapping[int, list[Call | None]]) -> Call | None:
    """The join, if the value only goes into one, which gives it the scale of the whole."""
    match only_reader(tensor, reading):
        case Call(outputs=[output, *_]) as call:
            if _is_move(call):
                return _join(output, reading)
            return call if _is_join(call) else None
    return None


def _is_move(call: Call) -> bool:
    """Whether its outputs are values of its inputs, in their scale."""
    match call.operation:
        case (
            layers.GlobalAveragePooling1D(keepdims=True)
            | layers.GlobalAveragePooling2D(keepdims=True)
        ):
            # A mean of one value, which the converter drops.
            return math.prod(call.inputs[0].shape[1:-1]) == 1
    return type(call.operation) in _MOVES


def _is_join(call: Call) -> bool:
    """Whether its inputs must have the scale of its output, if it is an operator of its own."""
    _, most = bounds(call.operation) or (None, None)
    return type(call.operation) in _JOINS or most is not None


def _has_scale(call: Call) -> bool:
    """Whether its outputs have a scale that no join behind it can give them."""
    return bool(_limits(call.operation)) or bounds(call.operation) not in (None, *FUSED.values())


def _limits(layer: keras.layers.Layer) -> tuple[float, float] | None:
    if type(layer) is layers.Softmax:
        return _LIMITS[activations.softmax]
    return _LIMITS.get(getattr(layer, "activation", None))


def _check_layers(graph: Graph) -> None:
    refused = [
        f"{call.operation.name!r} ({type(call.operation).__name__})"
        for call in graph.calls
        if not (_is_known(call.operation) or is_bare(call))
        or getattr(call.operation, "data_format", None) == "channels_first"
    ]
    if refused:
        raise UnsupportedLayerError(
            f"quantize_aware cannot round as int8 does in {', '.join(dict.fromkeys(refused))}. "
            "Replace these layers, or quantise those that int8 has without training: "
            "kprune.to_tflite(model, data)."
        )
    for tensor in tree.flatten(graph.inputs):
        if not keras.backend.is_float_dtype(tensor.dtype):
            raise UnsupportedLayerError(
                f"quantize_aware needs inputs of floating-point type; input {tensor.name!r} is "
                f"{tensor.dtype}."
            )


def _is_known(operation: keras.Operation) -> bool:
    known = _MOVES | _AVERAGES | _COMPUTES | _JOINS | PARTED
    return (
        type(operation) in known
        and getattr(operation, "activation", None) not in _FLOAT_FUNCTIONS
        and not _is_float_only(operation)
    )


def _is_float_only(operation: keras.Operation) -> bool:
    """Whether arguments make it operators that the converter, or the device, has in float only."""
    match operation:
        case layers.UpSampling1D(size=times) | layers.RepeatVector(n=times):
            return times > 1
        case layers.UpSampling2D(interpolation=interpolation):
            return interpolation not in ("nearest", "bilinear")
        case (
            layers.Conv1DTranspose(dilation_rate=rates)
            | layers.Conv2DTranspose(dilation_rate=rates)
        ):
            return max(rates) > 1
        case layers.Softmax(axis=[_, _, *_]):
            return True
        case layers.ReLU(negative_slope=slope, threshold=0, max_value=most):
            return slope > 0 and most is not None
    return False


_METHODS: dict[str, Callable[[Graph, list[np.ndarray]], Any]] = {
    "native": _native,
    "tfmot": TfmotModel,
}
