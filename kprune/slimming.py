"""Masked model → smaller model, same outputs."""

from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from kprune.channels import Trace, live_shape, trace
from kprune.graph import Call, copy_layers, freeze_like, give_weights, rebuild
from kprune.ids import varying
from kprune.layers import ChannelMask
from kprune.masking import read_gates
from kprune.rules import Flow


def slim(model: keras.Model) -> keras.Model:
    """Remove the closed channels of a masked model for good.

    A channel is removed from the layer that makes it, from every layer that it passes and from
    every layer that reads it, so the slim model gives the outputs of `model` with fewer weights.

    Args:
        model: A model with `ChannelMask` layers, from `add_masks`. It is not changed. Gates are
            read at their present value.

    Returns:
        A new, uncompiled functional model of plain Keras layers: it needs no kprune to load. The
        names of inputs, outputs and layers are those of `model`; only channel counts differ.

    Raises:
        ValueError: `model` has no masks, or its masks disagree.
        UnsupportedLayerError: As `add_masks`.

    Example:
        >>> import kprune
        >>> model = keras.Sequential([
        ...     keras.Input((8, 8, 1)),
        ...     keras.layers.Conv2D(4, 3, name="conv"),
        ...     keras.layers.GlobalAveragePooling2D(),
        ...     keras.layers.Dense(2),
        ... ])
        >>> masked = kprune.add_masks(model)
        >>> kprune.close_channels(masked, {"conv": [1, 3]})
        >>> model.count_params(), slim(masked).count_params()
        (50, 26)
    """
    found = trace(model)
    if not found.masks:
        raise ValueError(
            f"Model {model.name!r} has no masks to tell what to remove. "
            "Add them with kprune.add_masks, then fit with kprune.PruneCallback."
        )
    return shrink(found, read_gates(found))


def shrink(found: Trace, live: np.ndarray) -> keras.Model:
    """The traced model as plain layers with the live channels only.

    Args:
        found: The model, masked or not.
        live: A gate vector.
    """
    sizes = {id(step.operation): _sizes(step, flow, live) for step, flow in found.steps}
    layers = copy_layers(found.graph, sizes)

    def call(step: Call, /, *args: object, **kwargs: object) -> object:
        if isinstance(step.operation, ChannelMask):
            return args[0]
        return layers[id(step.operation)](*args, **kwargs)

    small = rebuild(found.graph, call)
    for step, flow in found.steps:
        layer = step.operation
        if isinstance(layer, keras.layers.Layer) and not isinstance(layer, ChannelMask):
            give_weights(layers[id(layer)], _slices(layer, flow, live))
            freeze_like(layers[id(layer)], layer)
    return small


def _sizes(step: Call, flow: Flow, live: np.ndarray) -> dict[str, object]:
    """The constructor's arguments that state a number of channels, or a shape of them."""
    old = step.operation.get_config() if flow.config else {}
    sizes = {name: _resize(old[name], channels, live) for name, channels in flow.config.items()}
    return {**sizes, **_initializers(step.operation, flow, live)}


def _initializers(layer: keras.Operation, flow: Flow, live: np.ndarray) -> dict[str, object]:
    """Zeros for those that give a fixed array, a pretrained table say, which is too large now."""
    zeros: dict[str, object] = {}
    for variable in getattr(layer, "weights", ()):
        name = f"{variable.name}_initializer"
        if variable.name in flow.weights and hasattr(layer, name):
            axes = flow.weights[variable.name].axes
            if not _gives(getattr(layer, name), _live_shape(variable.shape, axes, live)):
                zeros[name] = "zeros"
    return zeros


def _gives(initializer: Callable, shape: tuple[int, ...]) -> bool:
    """Whether an initializer can make a weight of this shape."""
    try:
        return tuple(initializer(shape).shape) == shape
    except Exception:  # Whatever a backend, or a function of the user's, says to a wrong shape.
        return False


def _live_shape(
    shape: tuple[int, ...], axes: Mapping[int, np.ndarray], live: np.ndarray
) -> tuple[int, ...]:
    left = {axis % len(shape): int(live[channels].sum()) for axis, channels in axes.items()}
    return tuple(left.get(axis, length) for axis, length in enumerate(shape))


def _resize(old: object, channels: np.ndarray, live: np.ndarray) -> object:
    lengths = live_shape(channels, live)
    if not isinstance(old, Sequence):
        return lengths[0]
    # Elsewhere a -1 or None stays what it is.
    return tuple(lengths[a] if a in varying(channels) else n for a, n in enumerate(old))


def _slices(layer: keras.layers.Layer, flow: Flow, live: np.ndarray) -> list[np.ndarray]:
    """The weights of the layer without their closed channels, in Keras's order."""
    values = []
    for variable in layer.weights:
        value = keras.ops.convert_to_numpy(variable)
        if variable.name in flow.weights:
            for axis, channels in flow.weights[variable.name].axes.items():
                value = value.take(np.flatnonzero(live[channels]), axis)
        values.append(value)
    return values
