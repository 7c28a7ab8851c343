"""Keras model → the operators that an int8 network has, still in float.

Quantisation-aware training must round where the device rounds. So what the converter will part is
parted beforehand (a separable convolution, an activation that is an operator of its own), and what
it will merge is merged (BatchNorm into its neighbour). The outputs stay the same.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import activations, layers, tree

from kprune.errors import UnsupportedLayerError
from kprune.fakequant import BIASED
from kprune.graph import (
    Call,
    Graph,
    copy_layers,
    give_weights,
    read_graph,
    rebuild,
    tensors_in,
    unique,
)

# For each layer whose `kernel` is quantised: the kernel's axes that run over the output channels.
OUTPUT_AXES: dict[type, tuple[int, ...]] = {
    layers.Conv1D: (-1,),
    layers.Conv2D: (-1,),
    layers.Conv1DTranspose: (-2,),
    layers.Conv2DTranspose: (-2,),
    layers.DepthwiseConv1D: (-2, -1),
    layers.DepthwiseConv2D: (-2, -1),
    layers.Dense: (-1,),
}

# What the converter makes part of the operator in front, and the bounds that it has.
FUSED: dict[Callable, tuple[float | None, float | None]] = {
    activations.linear: (None, None),
    activations.relu: (0, None),
    activations.relu6: (0, 6),
}

# The operators that it becomes part of.
_FUSING = {*OUTPUT_AXES, layers.Add, layers.Subtract, layers.Multiply, layers.Rescaling}

# Layers of many tensors, of which the device takes two at a time, and what it does with these.
_CHAINED: dict[type, type] = {
    **{kind: kind for kind in (layers.Add, layers.Multiply, layers.Maximum, layers.Minimum)},
    layers.Average: layers.Add,
}

# Depthwise and pointwise part.
_SEPARABLE = {
    layers.SeparableConv1D: (layers.DepthwiseConv1D, layers.Conv1D),
    layers.SeparableConv2D: (layers.DepthwiseConv2D, layers.Conv2D),
}

# By the number of axes of the input.
_DEPTHWISE = {2: layers.DepthwiseConv1D, 3: layers.DepthwiseConv1D, 4: layers.DepthwiseConv2D}

# Classes of `keras.ops`, which have no public names, and the layers that do the same.
_JOINING = {kind.__name__: kind for kind in (layers.Add, layers.Subtract, layers.Multiply)}
_JOINING.update({kind.__name__: kind for kind in (layers.Maximum, layers.Minimum)})
_APPLYING = {"Relu": "relu", "Relu6": "relu6", "Sigmoid": "sigmoid", "Silu": "silu", "Tanh": "tanh"}


def fold(graph: Graph) -> keras.Model:
    """Rebuild a model from the layers that stay operators in int8.

    Separable convolutions become two layers, and activations other than ReLU and ReLU6 layers of
    their own. BatchNorm goes into the convolution or dense layer in front of it, or into the dense
    layer behind it; elsewhere it becomes a depthwise convolution of size 1, as Rescaling and
    Normalization do. Its statistics stay what they are. Sums of many tensors become sums of two.

    Args:
        graph: A model without masks.

    Returns:
        An uncompiled functional model with the outputs of the old one.

    Raises:
        UnsupportedLayerError: A normalisation is not one factor per channel of the last axis.

    Example:
        >>> model = keras.Sequential([
        ...     keras.Input((8, 8, 1)),
        ...     keras.layers.SeparableConv2D(4, 3, use_bias=False, name="conv"),
        ...     keras.layers.BatchNormalization(),
        ...     keras.layers.Activation("sigmoid", name="gate"),
        ... ])
        >>> [layer.name for layer in fold(read_graph(model)).layers[1:]]
        ['conv_depthwise', 'conv_pointwise', 'gate']
    """
    folded = _Folding(read_graph(_Parting(graph).model())).model()
    return _in_operators(read_graph(folded))


def readers(graph: Graph) -> dict[int, list[Call | None]]:
    """`id(tensor)` -> the calls that read it; None stands for an output of the model."""
    found: dict[int, list[Call | None]] = {id(t): [] for t in tree.flatten(graph.inputs)}
    for call in graph.calls:
        for tensor in call.inputs:
            found[id(tensor)].append(call)
        found.update((id(t), []) for t in call.outputs)
    for tensor in tree.flatten(graph.outputs):
        found[id(tensor)].append(None)
    return found


def only_reader(tensor: keras.KerasTensor, reading: Mapping[int, list[Call | None]]) -> Call | None:
    """The call that reads a tensor, be it more than once, if there is but one."""
    first, *others = reading[id(tensor)] or [None]
    return first if all(other is first for other in others) else None


def bounds(operation: keras.Operation) -> tuple[float | None, float | None] | None:
    """What a ReLU cuts its inputs to, in whichever way a folded model writes it.

    Linear is one that has no bounds. None stands for everything else.
    """
    match operation:
        case layers.ReLU(negative_slope=0, threshold=0, max_value=most):
            return 0, most
        case layers.Activation(activation=function):
            return FUSED.get(function)
    return None


def is_rectified(host: Call, reading: Mapping[int, list[Call | None]]) -> bool:
    """Whether a ReLU follows, which becomes part of the operator."""
    then = only_reader(host.outputs[0], reading)
    is_fused = then is not None and bounds(then.operation) in FUSED.values()
    return is_fused and type(host.operation) in _FUSING


def is_bare(call: Call) -> bool:
    """Whether it is an operation such as `x + y`, for which there is a layer, too."""
    kind, shapes = type(call.operation).__name__, {t.shape for t in call.inputs}
    if isinstance(call.operation, layers.Layer):
        return False
    return kind in _APPLYING or (kind in _JOINING and len(call.inputs) == 2 and len(shapes) == 1)


class _Rewriting:
    """Rebuilds a graph in which some layers become others."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.copies = copy_layers(graph, {id(layer): self.changes(layer) for layer in graph.layers})
        self.taken = graph.taken
        # (id of the old layer, suffix) -> new layer: a layer that is called twice stays one.
        self.parts: dict[tuple[int, str], keras.layers.Layer] = {}

    def model(self) -> keras.Model:
        model = rebuild(self.graph, self.call)
        for layer in self.graph.layers:
            copy = self.copies[id(layer)]
            if copy.built:  # The others were replaced.
                give_weights(copy, self.weights(layer))
        return model

    def changes(self, layer: keras.layers.Layer) -> dict[str, object]:
        return {}

    def weights(self, layer: keras.layers.Layer) -> list[np.ndarray]:
        return layer.get_weights()

    def call(self, step: Call, /, *args: Any, **kwargs: Any) -> Any:
        return self.copies[id(step.operation)](*args, **kwargs)

    def part(self, layer: keras.Operation, suffix: str, x: Any, make: Callable[[str], Any]) -> Any:
        """Apply one of the layers that `layer` becomes; `make` gets its name."""
        key = (id(layer), suffix)
        if key not in self.parts:
            self.parts[key] = make(unique(f"{layer.name}_{suffix}", self.taken))
        return self.parts[key](x)


class _Parting(_Rewriting):
    """One layer → several operators."""

    def changes(self, layer: keras.layers.Layer) -> dict[str, object]:
        return {"activation": "linear"} if _has_own_activation(layer) else {}

    def call(self, step: Call, /, *args: Any, **kwargs: Any) -> Any:
        layer = step.operation
        if is_bare(step):
            return self.bare(layer, tensors_in((args, kwargs)))
        if type(layer) in _SEPARABLE:
            return self.activate(layer, self.separable(layer, args[0]))
        if type(layer) is layers.Activation and layer.activation is activations.silu:
            return self.activate(layer, args[0])
        outputs = super().call(step, *args, **kwargs)
        return self.activate(layer, outputs) if _has_own_activation(layer) else outputs

    def bare(self, operation: keras.Operation, tensors: list) -> Any:
        kind = type(operation).__name__
        if kind in _JOINING:
            return self.part(operation, "layer", tensors, lambda n: _JOINING[kind](name=n))
        function = activations.get(_APPLYING[kind])
        return self.apply(operation, function, tensors[0])

    def activate(self, layer: keras.layers.Layer, x: Any) -> Any:
        return self.apply(layer, layer.activation, x)

    def apply(self, layer: keras.Operation, function: Callable, x: Any) -> Any:
        if function is activations.silu:
            gate = self.part(layer, "sigmoid", x, lambda n: layers.Activation("sigmoid", name=n))
            return self.part(layer, "multiply", [x, gate], lambda n: layers.Multiply(name=n))
        if function is activations.linear:
            return x
        return self.part(layer, "activation", x, lambda n: layers.Activation(function, name=n))

    def separable(self, layer: keras.layers.Layer, x: Any) -> Any:
        kinds = _SEPARABLE[type(layer)]
        values = {v.name: keras.ops.convert_to_numpy(v) for v in layer.weights}
        kernel = values.pop("depthwise_kernel")
        names = ("strides", "padding", "depth_multiplier", "data_format", "dilation_rate")
        config = {name: getattr(layer, name) for name in names}

        def depthwise(name: str) -> keras.layers.Layer:
            made = kinds[0](layer.kernel_size, use_bias=False, name=name, **config)
            return _with_weights(made, x.shape, [kernel])

        between = self.part(layer, "depthwise", x, depthwise)

        def pointwise(name: str) -> keras.layers.Layer:
            made = kinds[1](
                layer.filters,
                1,
                use_bias=layer.use_bias,
                data_format=layer.data_format,
                name=name,
            )
            return _with_weights(made, between.shape, list(values.values()))

        return self.part(layer, "pointwise", between, pointwise)


class _Folding(_Rewriting):
    """`x * scale + offset` → part of the neighbour, or a depthwise convolution."""

    def __init__(self, graph: Graph) -> None:
        self.times = Counter(id(call.operation) for call in graph.calls)
        self.reading = readers(graph)
        self.absorbed: set[int] = set()
        self.behind: dict[int, _Scale] = {}
        self.in_front: dict[int, _Scale] = {}
        for call in graph.calls:
            self.absorb(call)
        super().__init__(graph)

    def absorb(self, first: Call) -> None:
        """Pair a call with the only one that reads it, where one takes up the other."""
        match self.reading[id(first.outputs[0])]:
            case [Call() as then] if self.is_free(first) and self.is_free(then):
                if _takes_up_behind(first, then):
                    self.behind[id(first.operation)] = _batch_norm(then.operation)
                    self.absorbed.add(id(then))
                elif _takes_up_in_front(first, then):
                    self.in_front[id(then.operation)] = _batch_norm(first.operation)
                    self.absorbed.add(id(first))

    def is_free(self, call: Call) -> bool:
        return self.times[id(call.operation)] == 1 and id(call) not in self.absorbed

    def changes(self, layer: keras.layers.Layer) -> dict[str, object]:
        takes_up = id(layer) in self.behind or id(layer) in self.in_front
        return {"use_bias": True} if takes_up else {}

    def weights(self, layer: keras.layers.Layer) -> list[np.ndarray]:
        if id(layer) not in self.behind and id(layer) not in self.in_front:
            return layer.get_weights()
        values = {v.name: keras.ops.convert_to_numpy(v) for v in layer.weights}
        kernel, bias = values["kernel"], values.get("bias", 0.0)
        if id(layer) in self.in_front:
            norm = self.in_front[id(layer)]
            bias = bias + norm.offset @ kernel
            kernel = kernel * norm.scale[:, np.newaxis]
        if id(layer) in self.behind:
            norm = self.behind[id(layer)]
            axes = [axis % kernel.ndim for axis in OUTPUT_AXES[type(layer)]]
            over = [n if axis in axes else 1 for axis, n in enumerate(kernel.shape)]
            bias = bias * norm.scale + norm.offset
            kernel = kernel * norm.scale.reshape(over)
        return [kernel, bias]

    def call(self, step: Call, /, *args: Any, **kwargs: Any) -> Any:
        if id(step) in self.absorbed:
            return args[0]
        if type(step.operation) in _SCALES:
            return self.scale(step.operation, args[0])
        return super().call(step, *args, **kwargs)

    def scale(self, layer: keras.layers.Layer, x: Any) -> Any:
        channels = x.shape[-1]
        found = _SCALES[type(layer)](layer)
        axes = np.atleast_1d(getattr(layer, "axis", -1))
        per_channel = all(_is_last(int(axis), x) for axis in axes)
        if len(x.shape) not in _DEPTHWISE or not (per_channel or found.scale.size == 1):
            raise UnsupportedLayerError(
                f"quantize_aware cannot make layer {layer.name!r} ({type(layer).__name__}) one "
                "factor per channel of the last axis, as int8 has it. Normalise the data before "
                "they reach the network, or quantise without training: kprune.to_tflite."
            )
        weights = [np.broadcast_to(v.ravel(), channels) for v in (found.scale, found.offset)]

        def depthwise(name: str) -> keras.layers.Layer:
            made = _DEPTHWISE[len(x.shape)](1, name=name)
            made.build((None,) * (made.rank + 1) + (channels,))
            made.set_weights([weights[0].reshape(made.kernel.shape), weights[1]])
            made.trainable = type(layer) is layers.BatchNormalization
            return made

        if len(x.shape) > 2:
            return self.part(layer, "scale", x, depthwise)
        row = self.part(layer, "row", x, lambda n: layers.Reshape((1, channels), name=n))
        scaled = self.part(layer, "scale", row, depthwise)
        return self.part(layer, "flat", scaled, lambda n: layers.Flatten(name=n))


def _in_operators(folded: Graph) -> keras.Model:
    """The same layers, but those that the converter would still part.

    What lies between its parts would have no trained range.
    """
    reading = readers(folded)
    chained = {c.operation.name for c in folded.calls if type(c.operation) in _CHAINED}
    taken = folded.taken - chained
    biased = {
        id(call.operation): _with_bias(call.operation)
        for call in folded.calls
        if type(call.operation) in BIASED
        and (call.operation.activation is not activations.linear or is_rectified(call, reading))
    }

    def call(step: Call, /, *args: Any, **kwargs: Any) -> Any:
        if type(step.operation) in _CHAINED:
            return _chain(step.operation, tensors_in((args, kwargs)), taken)
        return biased.get(id(step.operation), step.operation)(*args, **kwargs)

    return rebuild(folded, call)


def _with_bias(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer with a bias of zeros, if it has none, as if it had taken up a BatchNorm."""
    if layer.use_bias:
        return layer
    made = type(layer).from_config({**layer.get_config(), "use_bias": True})
    made.build(layer.input.shape)
    made.set_weights([*layer.get_weights(), np.zeros(layer.filters)])
    return made


def _chain(layer: keras.Operation, tensors: list, taken: set[str]) -> Any:
    """A layer of many tensors, applied to two at a time; the last one keeps its name."""
    kind, (total, *others, last) = _CHAINED[type(layer)], tensors
    for tensor in others:
        total = kind(name=unique(f"{layer.name}_part", taken))([total, tensor])
    if isinstance(layer, layers.Average):
        total = kind(name=unique(f"{layer.name}_sum", taken))([total, last])
        return layers.Rescaling(1 / len(tensors), name=unique(layer.name, taken))(total)
    return kind(name=unique(layer.name, taken))([total, last])


@dataclass(frozen=True)
class _Scale:
    """`x * scale + offset`, one number for all channels or one for each."""

    scale: np.ndarray
    offset: np.ndarray


def _batch_norm(layer: keras.layers.Layer) -> _Scale:
    values = {v.name: keras.ops.convert_to_numpy(v) for v in layer.weights}
    scale = values.get("gamma", 1.0) / np.sqrt(values["moving_variance"] + layer.epsilon)
    return _Scale(scale, values.get("beta", 0.0) - values["moving_mean"] * scale)


def _rescaling(layer: keras.layers.Layer) -> _Scale:
    return _Scale(np.asarray(layer.scale, "float32"), np.asarray(layer.offset, "float32"))


def _normalization(layer: keras.layers.Layer) -> _Scale:
    mean, variance = (keras.ops.convert_to_numpy(v) for v in (layer.mean, layer.variance))
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    if layer.invert:
        return _Scale(deviation, mean)
    return _Scale(1 / deviation, -mean / deviation)


_SCALES: dict[type, Callable[[keras.layers.Layer], _Scale]] = {
    layers.BatchNormalization: _batch_norm,
    layers.Rescaling: _rescaling,
    layers.Normalization: _normalization,
}

# What `fold` replaces by other layers.
PARTED = {*_SEPARABLE, *_SCALES}


def _has_own_activation(layer: keras.Operation) -> bool:
    return type(layer) in OUTPUT_AXES and layer.activation not in FUSED


def _takes_up_behind(host: Call, norm: Call) -> bool:
    layer = host.operation
    return (
        _is_batch_norm(norm)
        and type(layer) in OUTPUT_AXES
        and layer.activation is activations.linear
    )


def _takes_up_in_front(norm: Call, host: Call) -> bool:
    return _is_batch_norm(norm) and type(host.operation) is layers.Dense


def _is_batch_norm(call: Call) -> bool:
    layer = call.operation
    return type(layer) is layers.BatchNormalization and _is_last(layer.axis, call.inputs[0])


def _is_last(axis: int, tensor: Any) -> bool:
    return axis in (-1, len(tensor.shape) - 1)


def _with_weights(
    layer: keras.layers.Layer, input_shape: tuple, values: list[np.ndarray]
) -> keras.layers.Layer:
    layer.build(input_shape)
    layer.set_weights(values)
    return layer
