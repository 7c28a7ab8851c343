"""How channels flow through each Keras layer: one rule per kind. Nothing else is layer-specific.

A layer that has no rule here is a barrier. To teach kprune a layer, write one function; see "Add a
layer" in ARCHITECTURE.md.
"""

import math
from dataclasses import replace

import keras
import numpy as np
from keras import layers

from kprune.ids import along_axis, tighten, varying
from kprune.layers import ChannelMask
from kprune.rules import RULES, Flow, Site, Weight, barrier, fresh, rule

# --- Layers that make channels ------------------------------------------------------------------


@rule(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def conv(site: Site) -> Flow:
    layer = site.layer
    read, made = site.read(site.axis), site.make(layer.filters)
    _hold_mixing_activation(site, made)
    bias = Weight({0: made})
    if layer.groups == 1:
        kernel = Weight({-2: read, -1: made}, _positions(site), reads=-2)
        weights = {"kernel": kernel, "bias": bias}
        return Flow(site.spread(made), weights, {"filters": made}, mixes=True)
    # A group of filters reads only its own inputs: both go together, or not at all.
    rows = np.split(read, layer.groups), np.split(made, layer.groups)
    for inputs, outputs in zip(*rows, strict=True):
        site.ids.merge(outputs[0], np.concatenate([inputs, outputs]))
    kernel = Weight({-1: made}, uses=_positions(site))
    config = {"filters": made, "groups": made[:: layer.filters // layer.groups]}
    return Flow(site.spread(made), {"kernel": kernel, "bias": bias}, config)


@rule(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def conv_transpose(site: Site) -> Flow:
    read, made = site.read(site.axis), site.make(site.layer.filters)
    _hold_mixing_activation(site, made)
    # Every input position is multiplied by the whole kernel.
    uses = site.x.size // len(read)
    kernel = Weight({-2: made, -1: read}, uses, reads=-1)
    weights = {"kernel": kernel, "bias": Weight({0: made})}
    return Flow(site.spread(made), weights, {"filters": made}, mixes=True)


@rule(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def depthwise(site: Site) -> Flow:
    read = site.read(site.axis)
    made = np.repeat(read, site.layer.depth_multiplier)
    _hold_mixing_activation(site, made)
    kernel = Weight({-2: read}, uses=math.prod(site.shape) // len(made))
    return Flow(site.spread(made), {"kernel": kernel, "bias": Weight({0: made})})


@rule(layers.SeparableConv1D, layers.SeparableConv2D)
def separable(site: Site) -> Flow:
    read, made = site.read(site.axis), site.make(site.layer.filters)
    _hold_mixing_activation(site, made)
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
    _hold_mixing_activation(site, made)
    weights = {
        "kernel": Weight({0: read, 1: made}, math.prod(site.shape[:-1]), reads=0),
        "bias": Weight({0: made}),
    }
    return Flow(site.spread(made, -1), weights, {"units": made}, mixes=True)


@rule(layers.EinsumDense)
def einsum_dense(site: Site) -> Flow:
    """Letters of the equation are axes, which channels may lie along.

    One that only input and kernel have is mixed away, one that only kernel and output have is made.
    """
    x, k, y = _letters(site)
    channels = [x[axis] for axis in varying(site.x)]
    made = [letter for letter in y if letter not in x]
    uses = math.prod(n for n, letter in zip(site.x.shape, x, strict=True) if letter not in k)
    if "...," in site.layer.equation or not set(channels) <= set(k) - set(y) or len(made) != 1:
        return replace(barrier(site), weights={"kernel": Weight({}, uses)})
    axis = y.index(made[0])
    units = site.make(site.shape[axis])
    _hold_mixing_activation(site, units)
    output = site.spread(units, axis)
    axes = {k.index(c): site.read(x.index(c)) for c in channels} | {k.index(made[0]): units}
    bias = {axis - len(y): units} if made[0] in (site.layer.bias_axes or "") else {}
    # The argument leaves out the axes behind the ellipsis.
    stated = output[(0,) * (output.ndim - np.size(site.layer.partial_output_shape))]
    reads = k.index(channels[0]) if len(channels) == 1 else None
    weights = {"kernel": Weight(axes, uses, reads=reads), "bias": Weight(bias)}
    return Flow(output, weights, {"output_shape": stated}, mixes=True)


def _letters(site: Site) -> tuple[str, str, str]:
    """Input, kernel and output of the equation, without the batch axis."""
    x, k, y = site.layer.equation.replace(" ", "").replace("->", ",").split(",")
    rest = "".join(map(chr, range(0x3B1, 0x3B1 + site.x.ndim + 4 - len(x))))
    x, y = (term.replace("...", rest) for term in (x, y))
    return x[1:], k, y[1:]


@rule(layers.Embedding)
def embedding(site: Site) -> Flow:
    site.hold(site.x, "looks them up")
    made = site.make(site.layer.output_dim)
    weights = {"embeddings": Weight({1: made})}
    return Flow(site.spread(made, -1), weights, {"output_dim": made})


@rule(layers.LSTM, layers.GRU, layers.SimpleRNN, layers.Bidirectional)
def recurrent(site: Site) -> Flow:
    """Inputs can be removed. Units are read by all others at the next step, so they stay."""
    kinds = (layers.LSTM, layers.GRU, layers.SimpleRNN)
    if type(getattr(site.layer, "forward_layer", site.layer)) not in kinds:
        return barrier(site)
    for state in site.inputs[1:]:
        site.hold(state, "starts from them")
    steps = len(site.x)
    kernel = Weight({0: site.read()}, steps, reads=0)
    weights = {"kernel": kernel, "recurrent_kernel": Weight({}, steps)}
    return Flow(fresh(site, "feeds them back to itself"), weights, mixes=True)


@rule(layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)
def convolutional_recurrent(site: Site) -> Flow:
    for state in site.inputs[1:]:
        site.hold(state, "starts from them")
    channel_axis = 1 if site.axis == 0 else -1  # axis 0 is time
    steps = 1 if site.layer.return_sequences else len(site.x)
    uses = steps * _positions(site)
    weights = {
        "kernel": Weight({-2: site.read(channel_axis)}, uses, reads=-2),
        "recurrent_kernel": Weight({}, uses),
    }
    return Flow(fresh(site, "feeds them back to itself"), weights, mixes=True)


def _positions(site: Site) -> int:
    """Output positions: how often each kernel element is used."""
    return math.prod(site.shape) // site.layer.filters


# --- Layers that keep channels ------------------------------------------------------------------


@rule(
    ChannelMask,
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
    layers.Identity,
    layers.ActivityRegularization,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.GaussianDropout,
    layers.GaussianNoise,
)
def elementwise(site: Site) -> Flow:
    return Flow(site.x)


@rule(layers.Dropout, layers.AlphaDropout)
def dropout(site: Site) -> Flow:
    noise = (site.layer.noise_shape or (1,) * (site.x.ndim + 1))[1:]
    if any(noise[axis] not in (None, 1) for axis in varying(site.x)):
        site.hold(site.x, "states their number in noise_shape")
    return Flow(site.x)


@rule(layers.Activation)
def activation(site: Site) -> Flow:
    _hold_mixing_activation(site, site.x)
    return Flow(site.x)


@rule(layers.PReLU)
def prelu(site: Site) -> Flow:
    shared = {axis - 1 for axis in site.layer.shared_axes or ()}
    axes = {axis: site.read(axis) for axis in varying(site.x) if axis not in shared}
    return Flow(site.x, {"alpha": Weight(axes)})


@rule(layers.Rescaling)
def rescaling(site: Site) -> Flow:
    if np.size(site.layer.scale) > 1 or np.size(site.layer.offset) > 1:
        site.hold(site.x, "has a constant for each of them")
    return Flow(site.x)


@rule(layers.Normalization)
def normalization(site: Site) -> Flow:
    if site.layer.axis:
        site.hold(site.x, "has a mean and a variance for each of them, adapted to data")
    statistics = {n: Weight({}, statistic=True) for n in ("mean", "variance", "count")}
    return Flow(site.x, statistics)


@rule(layers.BatchNormalization)
def batch_normalization(site: Site) -> Flow:
    read = site.read(own_axis(site, site.layer.axis))
    weights = {n: Weight({0: read}) for n in ("gamma", "beta")}
    weights |= {n: Weight({0: read}, statistic=True) for n in _STATISTICS}
    return Flow(site.x, weights)


_STATISTICS = ("moving_mean", "moving_variance", "moving_stddev", "renorm_mean", "renorm_stddev")


@rule(layers.GroupNormalization)
def group_normalization(site: Site) -> Flow:
    """Channels that are normalised together go together, or not at all."""
    read, groups = site.read(own_axis(site, site.layer.axis)), site.layer.groups
    if groups == 1:
        return normalise_over(site)
    for together in np.split(read, groups):
        site.ids.merge(together[0], together)
    config = {"groups": read[:: len(read) // groups]}
    return Flow(site.x, {n: Weight({0: read}) for n in ("gamma", "beta")}, config)


@rule(layers.LayerNormalization, layers.RMSNormalization)
def normalise_over(site: Site) -> Flow:
    """The mean over channels depends on how many there are, so they stay."""
    if own_axes(site) & set(varying(site.x)):
        site.hold(site.x, "divides them by a mean over all of them")
    return Flow(site.x)


@rule(layers.UnitNormalization)
def unit_normalization(site: Site) -> Flow:
    """The sum of squares over channels is the same without those that are zero."""
    return Flow(site.x, mixes=bool(own_axes(site) & set(varying(site.x))))


@rule(layers.Softmax)
def softmax(site: Site) -> Flow:
    if site.layer.axis is None or own_axes(site) & set(varying(site.x)):
        site.hold(site.x, "needs all of them")
    return Flow(site.x)


# Layers that newer versions of Keras have.
_NEWER = [
    getattr(layers, f"Adaptive{kind}Pooling{n}D")
    for kind in ("Average", "Max")
    for n in (1, 2, 3)
    if hasattr(layers, f"Adaptive{kind}Pooling{n}D")
]


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
    layers.Resizing,
    layers.CenterCrop,
    layers.RandomCrop,
    layers.RandomFlip,
    layers.RandomRotation,
    layers.RandomTranslation,
    layers.RandomZoom,
    layers.RepeatVector,
    *_NEWER,
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
    if site.shape != (x.size,):
        return barrier(site)
    return Flow(x.reshape(-1), moves=True)


@rule(layers.Permute)
def permute(site: Site) -> Flow:
    return Flow(site.x.transpose([d - 1 for d in site.layer.dims]), moves=True)


@rule(layers.Reshape)
def reshape(site: Site) -> Flow:
    if math.prod(site.shape) != site.x.size:
        return barrier(site)
    output = tighten(site.x.reshape(site.shape))
    axes = varying(output)
    if len(axes) > 1:
        # Dense units as (height, width, channels): the units of one channel go together.
        output = site.spread(site.ids.along(output, axes[-1]), axes[-1])
    inferred = any(site.layer.target_shape[axis] == -1 for axis in axes[-1:])
    return Flow(output, config={} if inferred else {"target_shape": output}, moves=True)


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
        return Flow(fresh(site, "makes them of one axis of each of its inputs"))
    for x in whole[1:]:
        site.ids.merge(whole[0], x)
    return Flow(np.broadcast_to(whole[0], shape))


@rule(layers.Concatenate)
def concatenate(site: Site) -> Flow:
    axis = own_axis(site, site.layer.axis)
    axes = {a for x in site.inputs for a in varying(x)} or {site.x.ndim - 1}
    if axis < 0 or len(axes) > 1:
        return barrier(site)
    (channel_axis,) = axes
    parts = [along_axis(x, channel_axis) for x in site.inputs]
    if axis == channel_axis:
        return Flow(site.spread(np.concatenate(parts), axis))
    # Behind one another along another axis: there each part must have the same channels.
    for part in parts[1:]:
        site.ids.merge(parts[0], part)
    return Flow(site.spread(parts[0], channel_axis))


def own_axis(site: Site, axis: int) -> int:
    """An axis as Keras counts it, with the batch axis, as one of `site.x`; -1 is the batch axis."""
    return axis - 1 if axis >= 0 else axis + site.x.ndim


def own_axes(site: Site) -> set[int]:
    """The axis or axes of the layer, likewise."""
    return {own_axis(site, axis) for axis in np.atleast_1d(site.layer.axis).tolist()}


# --- Activations --------------------------------------------------------------------------------

# Keras activations in which one channel depends on others.
_MIXING = {"softmax", "log_softmax", "sparsemax", "glu"}
_LIBRARIES = {"keras", "tensorflow", "jax", "torch"}


def _hold_mixing_activation(site: Site, ids: np.ndarray) -> None:
    function = getattr(site.layer, "activation", None)
    if function is None or RULES.get(type(function)) is elementwise:
        return
    name = getattr(function, "__name__", type(function).__name__)
    library = getattr(function, "__module__", "").split(".")[0]
    if name in _MIXING:
        site.hold(ids, f"applies {name}, which needs all of them")
    elif library not in _LIBRARIES or not hasattr(keras.activations, name):
        site.hold(ids, f"applies {name}, a function of its own, which may need all of them")
