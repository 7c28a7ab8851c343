"""One rule per kind of Keras layer: how channels flow through it. Nothing else is layer-specific.

A rule looks at one call and declares (a `Flow`) which channels its output carries, and which axis
of which weight is indexed by which channels. Tracing, cost, slimming and the report all read that
one declaration. To teach kprune a layer, write one function; see "Add a layer" in ARCHITECTURE.md.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import keras
import numpy as np
from keras import layers

from kprune.graph import Call
from kprune.ids import ChannelIds, core, spread, tighten, varying
from kprune.layers import ChannelMask


@dataclass(frozen=True)
class Weight:
    """How channels index one weight of a layer.

    Attributes:
        axes: Axis of the weight -> ids of the channels along it. Other axes have fixed length.
        uses: How often one inference multiplies by each element: the weight's MACs per element.
        statistic: True for running statistics, which are no parameters.
    """

    axes: Mapping[int, np.ndarray]
    uses: int = 0
    statistic: bool = False


@dataclass(frozen=True)
class Flow:
    """What a rule declares of one call.

    Attributes:
        output: Ids of the output, in its shape without the batch axis; a list for several outputs.
        weights: Name of the weight -> how channels index it.
        config: Argument of the layer's constructor -> ids whose number (or shape) it states.
        mixes: Each output depends on all input channels, so closed ones must be zero at the input.
        moves: The output holds the very values of the input, in another shape.
    """

    output: np.ndarray | list[np.ndarray]
    weights: Mapping[str, Weight] = field(default_factory=dict)
    config: Mapping[str, np.ndarray] = field(default_factory=dict)
    mixes: bool = False
    moves: bool = False


@dataclass(frozen=True)
class Site:
    """One call, as its rule sees it. Shapes are without the batch axis; None counts as 1."""

    call: Call
    inputs: list[np.ndarray]
    ids: ChannelIds

    @property
    def layer(self) -> keras.layers.Layer:
        return self.call.operation

    @property
    def x(self) -> np.ndarray:
        return self.inputs[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return shape_of(self.call.outputs[0])

    @property
    def axis(self) -> int:
        """The channel axis of the layer's `data_format`."""
        return 0 if getattr(self.layer, "data_format", None) == "channels_first" else -1

    def read(self, axis: int = -1) -> np.ndarray:
        """The ids of the channels that the layer reads along `axis`, shape `(channels,)`."""
        return self.ids.along(self.x, axis)

    def make(self, count: int) -> np.ndarray:
        return self.ids.make(self.layer.name, count)

    def spread(self, ids: np.ndarray, axis: int | None = None) -> np.ndarray:
        return spread(ids, self.axis if axis is None else axis, self.shape)

    def hold(self, ids: np.ndarray, why: str) -> None:
        """These channels stay, because of this layer."""
        self.ids.hold(ids, f"{self.layer.name!r} ({type(self.layer).__name__}) {why}")


Rule = Callable[[Site], Flow]
RULES: dict[type, Rule] = {}


def rule(*kinds: type) -> Callable[[Rule], Rule]:
    """Register the function below as the rule of these layer classes (exactly these)."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(kinds, function))
        return function

    return register


def flow(site: Site) -> Flow:
    """Apply the rule of the layer of this call; an unknown layer is a barrier."""
    return RULES.get(type(site.layer), barrier)(site)


def shape_of(tensor: keras.KerasTensor) -> tuple[int, ...]:
    return tuple(1 if d is None else d for d in tensor.shape[1:])


def barrier(site: Site) -> Flow:
    """A layer that channels cannot be followed through: all its inputs and outputs stay whole."""
    for ids in site.inputs:
        site.hold(ids, "reads them, and channels cannot be followed through it")
    return Flow([_stay(site, shape_of(t)) for t in site.call.outputs])


def _stay(site: Site, shape: tuple[int, ...]) -> np.ndarray:
    made = site.make(shape[-1] if shape else 1)
    site.hold(made, "makes them, and channels cannot be followed through it")
    return spread(made, -1, shape) if shape else made[0]


# --- Layers that make channels ------------------------------------------------------------------


@rule(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def conv(site: Site) -> Flow:
    layer = site.layer
    read, made = site.read(site.axis), site.make(layer.filters)
    _hold_unknown_activation(site, made)
    kernel = {-2: read, -1: made}
    config = {"filters": made}
    if layer.groups > 1:
        # A group of filters reads only its own inputs: both go together, or not at all.
        for inputs, outputs in zip(
            np.split(read, layer.groups), np.split(made, layer.groups), strict=True
        ):
            site.ids.merge(outputs[0], np.concatenate([inputs, outputs]))
        kernel = {-1: made}
        config["groups"] = made[:: layer.filters // layer.groups]
    weights = {"kernel": Weight(kernel, uses=_positions(site)), "bias": Weight({0: made})}
    return Flow(site.spread(made), weights, config, mixes=layer.groups == 1)


@rule(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def conv_transpose(site: Site) -> Flow:
    read, made = site.read(site.axis), site.make(site.layer.filters)
    _hold_unknown_activation(site, made)
    # Every input position is multiplied by the whole kernel.
    uses = site.x.size // len(read)
    weights = {"kernel": Weight({-2: made, -1: read}, uses), "bias": Weight({0: made})}
    return Flow(site.spread(made), weights, {"filters": made}, mixes=True)


@rule(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def depthwise(site: Site) -> Flow:
    read = site.read(site.axis)
    made = np.repeat(read, site.layer.depth_multiplier)
    _hold_unknown_activation(site, made)
    kernel = Weight({-2: read}, uses=math.prod(site.shape) // len(made))
    return Flow(site.spread(made), {"kernel": kernel, "bias": Weight({0: made})})


@rule(layers.SeparableConv1D, layers.SeparableConv2D)
def separable(site: Site) -> Flow:
    read, made = site.read(site.axis), site.make(site.layer.filters)
    _hold_unknown_activation(site, made)
    between = np.repeat(read, site.layer.depth_multiplier)
    uses = _positions(site)
    weights = {
        "depthwise_kernel": Weight({-2: read}, uses),
        "pointwise_kernel": Weight({-2: between, -1: made}, uses),
        "bias": Weight({0: made}),
    }
    return Flow(site.spread(made), weights, {"filters": made}, mixes=True)


@rule(layers.Dense)
def dense(site: Site) -> Flow:
    read, made = site.read(), site.make(site.layer.units)
    _hold_unknown_activation(site, made)
    weights = {
        "kernel": Weight({0: read, 1: made}, uses=math.prod(site.shape[:-1])),
        "bias": Weight({0: made}),
    }
    return Flow(site.spread(made, -1), weights, {"units": made}, mixes=True)


def _positions(site: Site) -> int:
    """Output positions: how often each kernel element is used."""
    return math.prod(site.shape) // site.layer.filters


# --- Layers that keep channels ------------------------------------------------------------------


@rule(layers.BatchNormalization)
def batch_normalization(site: Site) -> Flow:
    axis = site.layer.axis
    read = site.read(axis - 1 if axis > 0 else axis)
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    weights = {n: Weight({0: read}, statistic=n.startswith("moving")) for n in names}
    return Flow(site.x, weights)


@rule(
    ChannelMask,
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
    layers.Identity,
    layers.ActivityRegularization,
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.AlphaDropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
)
def elementwise(site: Site) -> Flow:
    return Flow(site.x)


@rule(layers.Activation)
def activation(site: Site) -> Flow:
    _hold_unknown_activation(site, site.x)
    return Flow(site.x)


@rule(layers.Softmax)
def softmax(site: Site) -> Flow:
    axes = np.atleast_1d(site.layer.axis)
    rank = site.x.ndim
    if {int(a) - 1 if a > 0 else int(a) + rank for a in axes} & set(varying(site.x)):
        site.hold(site.x, "normalises over them")
    return Flow(site.x)


@rule(layers.PReLU)
def prelu(site: Site) -> Flow:
    shared = {a - 1 for a in site.layer.shared_axes or ()}
    axes = {a: site.read(a) for a in varying(site.x) if a not in shared}
    return Flow(site.x, {"alpha": Weight(axes)})


@rule(layers.Rescaling)
def rescaling(site: Site) -> Flow:
    if np.size(site.layer.scale) > 1 or np.size(site.layer.offset) > 1:
        site.hold(site.x, "has one constant per channel")
    return Flow(site.x)


@rule(layers.Normalization)
def normalization(site: Site) -> Flow:
    site.hold(site.x, "has one mean and variance per channel of the data")
    statistics = {n: Weight({}, statistic=True) for n in ("mean", "variance", "count")}
    return Flow(site.x, statistics)


@rule(
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.UpSampling3D,
)
def spatial(site: Site) -> Flow:
    return Flow(site.spread(site.read(site.axis)))


@rule(
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
)
def global_pooling(site: Site) -> Flow:
    axis = site.axis if site.layer.keepdims else -1
    return Flow(site.spread(site.read(site.axis), axis))


# --- Layers that move channels ------------------------------------------------------------------


@rule(layers.Flatten)
def flatten(site: Site) -> Flow:
    # Flatten always gives the channels-last order.
    x = np.moveaxis(site.x, 0, -1) if site.axis == 0 else site.x
    return Flow(x.reshape(-1), moves=True)


# --- Layers that join tensors -------------------------------------------------------------------


@rule(
    layers.Add,
    layers.Subtract,
    layers.Multiply,
    layers.Average,
    layers.Maximum,
    layers.Minimum,
)
def join(site: Site) -> Flow:
    """Element by element, with broadcasting: what meets in one element is one channel."""
    shape = site.shape
    inputs = [x.reshape((1,) * (len(shape) - x.ndim) + x.shape) for x in site.inputs]
    channel_axes = {axis for x in inputs for axis in varying(x)}
    whole = [x for x in inputs if all(x.shape[a] == shape[a] for a in channel_axes)]
    for x in inputs:
        if not any(x is w for w in whole):
            site.hold(x, "repeats it over the channels of another tensor")
    if not whole:
        return Flow(_stay(site, shape))
    for x in whole[1:]:
        site.ids.merge(whole[0], x)
    return Flow(np.broadcast_to(whole[0], shape))


@rule(layers.Concatenate)
def concatenate(site: Site) -> Flow:
    axis = site.layer.axis
    axis = axis - 1 if axis > 0 else axis + len(site.shape)
    parts = [core(x, but=axis) for x in site.inputs]
    lengths = np.max([p.shape for p in parts], axis=0)
    parts = [
        np.broadcast_to(p, [p.shape[a] if a == axis else n for a, n in enumerate(lengths)])
        for p in parts
    ]
    return Flow(tighten(np.broadcast_to(np.concatenate(parts, axis), site.shape)))


# --- Activations --------------------------------------------------------------------------------

# Keras activations in which one channel depends on others.
_MIXING = {"softmax", "log_softmax", "sparsemax", "glu"}


def _hold_unknown_activation(site: Site, ids: np.ndarray) -> None:
    function = getattr(site.layer, "activation", None)
    name = getattr(function, "__name__", str(function))
    if name in _MIXING:
        site.hold(ids, f"applies {name}, which needs all of them")
    elif function is not None and getattr(keras.activations, name, None) is not function:
        site.hold(ids, f"applies {name}, which may need all of them")
