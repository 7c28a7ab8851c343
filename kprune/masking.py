"""Model → masked model, and the gates of a masked model.

Masks stand in front of the layers that mix channels. Only there a closed channel is exactly a
removed channel, whatever comes before: BatchNorm's beta, a sigmoid, a residual Add. All masks in
front of one group are opened and closed together.
"""

from collections.abc import Iterable, Mapping, Sequence

import keras
import numpy as np
from keras import tree

from kprune.channels import Trace, mixing_points, trace
from kprune.graph import Call, copy_layers, give_weights, rebuild, unique
from kprune.ids import along_axis, core, varying
from kprune.layers import ChannelMask


def add_masks(model: keras.Model, exclude: Iterable[str | keras.layers.Layer] = ()) -> keras.Model:
    """Give every channel that can be removed a trainable 0/1 gate.

    All gates are open: the masked model gives the outputs of `model`. Compile and fit it with a
    `PruneCallback`, then make it smaller with `slim`. It saves and loads as any Keras model.

    Args:
        model: A built Sequential or functional model, trained or not. It is not changed. Nested
            models are flattened.
        exclude: Layers, or names of layers, that keep all their channels.

    Returns:
        A new, uncompiled functional model with copies of the layers and weights of `model`, and
        `ChannelMask` layers in between. Names of layers, inputs and outputs are those of `model`,
        and what was frozen is frozen. Compile it as you compiled `model`, whose optimizer and its
        state stay with `model`: its momenta belong to variables that the new model does not have.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: `model` is not built, is masked already, a name in `exclude` is unknown, or
            nothing can be removed; the message says why for every group of channels.
        UnsupportedLayerError: Layers that cannot be read or copied, all of them by name.

    Example:
        >>> model = keras.Sequential([
        ...     keras.Input((8, 8, 1)),
        ...     keras.layers.Conv2D(4, 3, name="conv"),
        ...     keras.layers.GlobalAveragePooling2D(name="mean"),
        ...     keras.layers.Dense(2, name="scores"),
        ... ])
        >>> [layer.name for layer in add_masks(model).layers][1:]
        ['conv', 'mean', 'mean_mask', 'scores']

    Source:
        Shen et al., Efficient Deep Structure Learning for Resource-Limited IoT Devices, GLOBECOM
        2020 (trainable masks, one training run).
    """
    names = {e if isinstance(e, str) else e.name for e in exclude}
    found = trace(model, names)
    _check_maskable(found, names)
    copies = copy_layers(found.graph)
    masks = _masks(found, {layer.name for layer in copies.values()})
    readers = {id(p.reader) for p in mixing_points(found.graph, found.flows, found.tensors)}

    def call(step: Call, *args: object, **kwargs: object) -> object:
        # Only what mixes reads behind the mask: a score then tells what is lost at this very
        # place, and a group adds up its places without counting a residual path twice.
        if id(step) in readers and id(step.inputs[0]) in masks:
            args, kwargs = _with_first(masks[id(step.inputs[0])], (args, kwargs))
        return copies[id(step.operation)](*args, **kwargs)

    masked = rebuild(found.graph, call)
    for layer in found.graph.layers:
        give_weights(copies[id(layer)], layer.weights)
    return masked


def close_channels(masked: keras.Model, channels: Mapping[str, Sequence[int]]) -> None:
    """Close channels by hand, for `slim` to remove; no training needed.

    Args:
        masked: A model with masks, from `add_masks`. Its gates are changed.
        channels: Name of a layer that makes channels -> which of its output channels to close,
            counted from 0. Channels that stand and fall with these (the other side of a residual
            Add, say) are closed as well. What is closed already stays closed.

    Raises:
        ValueError: An unknown layer, a channel that does not exist or must stay (with the reason),
            or all channels of a layer.

    Example:
        >>> model = keras.Sequential([
        ...     keras.Input((4,)), keras.layers.Dense(3, name="hidden"), keras.layers.Dense(2),
        ... ])
        >>> masked = add_masks(model)
        >>> close_channels(masked, {"hidden": [0, 2]})
        >>> read_gates(trace(masked))[trace(masked).groups[1].channels].tolist()
        [False, True, False]
    """
    found = trace(masked)
    gates = read_gates(found)
    for name, positions in channels.items():
        made = _made_by(found, name)
        for position in positions:
            if not 0 <= position < len(made):
                raise ValueError(
                    f"Layer {name!r} has channels 0 to {len(made) - 1}, not {position}."
                )
            gates[made[position]] = False
    write_gates(found, gates)


def read_gates(found: Trace) -> np.ndarray:
    """The gate vector of a traced model, boolean, shape `(found.num_channels,)`.

    Raises:
        ValueError: A gate that is neither 0 nor 1, masks that disagree on a channel, or a closed
            channel that must stay.
    """
    gates = np.ones(found.num_channels, bool)
    values = [(mask, c, keras.ops.convert_to_numpy(mask.gates)) for mask, c in found.masks]
    for mask, channels, value in values:
        if not np.isin(value, (0, 1)).all():
            raise ValueError(f"The gates of {mask.name!r} must be 0 or 1, got {value.tolist()}.")
        gates[channels[value == 0]] = False
    for mask, channels, value in values:
        if (gates[channels] != value).any():
            raise ValueError(
                f"Mask {mask.name!r} leaves channels open that another mask of their group closes. "
                "Close them with kprune.close_channels, which sets all masks of a group."
            )
    _check_closed(found, gates)
    return gates


def read_scores(found: Trace) -> np.ndarray:
    """The score of each channel: the sum over the masks it passes, float64."""
    scores = np.zeros(found.num_channels)
    for mask, channels in found.masks:
        np.add.at(scores, channels, keras.ops.convert_to_numpy(mask.scores))
    return scores


def write_gates(found: Trace, gates: np.ndarray) -> None:
    """Open and close the gates of all masks.

    Raises:
        ValueError: A layer would lose all its channels, or one that must stay.
    """
    _check_closed(found, gates)
    for mask, channels in found.masks:
        mask.gates.assign(gates[channels].astype("float32"))


def _check_closed(found: Trace, gates: np.ndarray) -> None:
    for name, channels in found.makers:
        if not gates[channels].any():
            raise ValueError(f"All channels of layer {name!r} would be closed: one must stay open.")
        for position in np.flatnonzero(~gates[channels]).tolist():
            why = found.held.get(int(channels[position]))
            if why:
                raise ValueError(f"Channel {position} of layer {name!r} must stay: {why}.")


def _masks(found: Trace, taken: set[str]) -> dict[int, ChannelMask]:
    """For each tensor that needs a mask, under its `id`, the mask."""
    makers = {id(t): call.operation.name for call in found.graph.calls for t in call.outputs}
    free = found.free
    masks = {}
    for point in mixing_points(found.graph, found.flows, found.tensors):
        channels = found.tensors[id(point.tensor)]
        if id(point.tensor) in masks or not free[core(channels)].any():
            continue
        axis = varying(channels)[0]
        fixed = np.flatnonzero(~free[along_axis(channels, axis)]).tolist()
        masks[id(point.tensor)] = ChannelMask(
            axis=-1 if axis == channels.ndim - 1 else axis + 1,
            fixed=fixed,
            dtype=point.tensor.dtype,
            name=unique(f"{makers[id(point.tensor)]}_mask", taken),
        )
    return masks


def _with_first(mask: ChannelMask, arguments: tuple[tuple, dict]) -> tuple[tuple, dict]:
    """The arguments of a call with its first tensor masked, by position or by keyword."""
    flat = tree.flatten(arguments)
    first = next(i for i, value in enumerate(flat) if isinstance(value, keras.KerasTensor))
    flat[first] = mask(flat[first])
    return tree.pack_sequence_as(arguments, flat)


def _made_by(found: Trace, name: str) -> np.ndarray:
    makers = dict(found.makers)
    if name not in makers:
        raise ValueError(f"No layer {name!r} makes channels. Those that do: {', '.join(makers)}.")
    return makers[name]


def _check_maskable(found: Trace, exclude: set[str]) -> None:
    unknown = exclude - {layer.name for layer in found.graph.layers}
    if unknown:
        raise ValueError(
            f"exclude names layers that {found.graph.name!r} does not have: {sorted(unknown)}."
        )
    if any(isinstance(layer, ChannelMask) for layer in found.graph.layers):
        raise ValueError(f"Model {found.graph.name!r} has masks already: fit it, or slim it.")
    if not found.free.any():
        reasons = "; ".join(f"{g.name}: {g.reason}" for g in found.groups)
        raise ValueError(f"No channel of {found.graph.name!r} can be removed ({reasons}).")
