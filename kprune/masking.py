"""Model → masked model, and the gates of a masked model.

Masks stand in front of the layers that mix channels. Only there a closed channel is exactly a
removed channel, whatever comes before: BatchNorm's beta, a sigmoid, a residual Add. All masks in
front of one group are opened and closed together.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import tree

from kprune.channels import Trace, mixing_points, trace
from kprune.graph import Call, copy_layers, freeze_like, give_weights, rebuild, unique
from kprune.ids import along_axis, core, varying
from kprune.importance import IMPORTANCES, check_importance, magnitudes
from kprune.layers import ChannelMask

# What a model of one's own may do in its own way, and a plain keras.Model would not.
TRAINING = ("train_step", "test_step", "predict_step", "compute_loss", "compute_metrics")
# What the constructor of any functional model takes.
ENDS = {"inputs", "outputs", "name", "trainable"}


def add_masks(
    model: keras.Model,
    exclude: Iterable[str | keras.layers.Layer] = (),
    importance: str = "taylor",
) -> keras.Model:
    """Give every channel that can be removed a trainable 0/1 gate.

    All gates are open: the masked model gives the outputs of `model`. Compile and fit it with a
    `PruneCallback`, then make it smaller with `slim`. It saves and loads as any Keras model.

    Args:
        model: A built Sequential or functional model, trained or not. It is not changed. Nested
            models are flattened.
        exclude: A list of layers that keep all their channels, or of their names. A name stands for
            every layer that bears it, in whichever nested model.
        importance: What ranks the channels when `PruneCallback` closes some. "taylor": what the
            loss would change without the channel, a running estimate over the batches; and what is
            closed hands on its work to the others, as far as these can take it. "learned":
            a number per channel, trained with the weights; compile with `CompressionLoss`.
            "magnitude": the norm of the channel's weights.

    Returns:
        A new, uncompiled functional model with copies of the layers and weights of `model`, and
        `ChannelMask` layers in between. Names of layers, inputs and outputs are those of `model`,
        and what was frozen is frozen. Compile it as you compiled `model`, whose optimizer and its
        state stay with `model`: its momenta belong to variables that the new model does not have.

        If `model` is of a class of your own, with a `train_step` say, so is the new model. It is
        made as `YourClass(inputs, outputs, name=...)`: attributes that you set on `model` are not
        copied, set them again. For "taylor" a `train_step` may call the model once only: of two
        calls the masks' "gradients" add up, and these are the next scores, which then double with
        every step. Where it clips the gradients all together (`clip_by_global_norm`), let it leave
        out those of variables with `overwrite_with_gradient`, for the same reason.

    Raises:
        TypeError: `model` is no Keras model, or `exclude` no list of layers and names.
        ValueError: `model` is not built, is masked already, a layer in `exclude` or the importance
            is unknown, nothing can be removed (the message says why for every group of channels),
            or `model` trains in a way of its own and its class cannot be made from inputs and
            outputs.
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
    check_importance(importance)
    excluded = _listed(exclude)
    found = _holding(trace(model, [e for e in excluded if isinstance(e, str)]), excluded)
    _check_excluded(model, found, excluded)
    _check_maskable(found)
    copies = copy_layers(found.graph)
    masks = _masks(found, importance, found.graph.taken)
    readers = {id(p.reader) for p in mixing_points(found.graph, found.flows, found.tensors)}
    behind: dict[int, keras.KerasTensor] = {}

    def masked_once(source: int, tensor: keras.KerasTensor) -> keras.KerasTensor:
        # However many read it: of a mask with two calls the "gradients" add up, and these are the
        # score's next value, which would double with every step.
        if source not in behind:
            behind[source] = masks[source](tensor)
        return behind[source]

    def call(step: Call, /, *args: object, **kwargs: object) -> object:
        # Only what mixes reads behind the mask: a score then tells what is lost at this very
        # place, and a group adds up its places without counting a residual path twice.
        if id(step) in readers and (source := id(step.inputs[0])) in masks:
            mask = functools.partial(masked_once, source)
            args, kwargs = _with_first(mask, (args, kwargs))
        return copies[id(step.operation)](*args, **kwargs)

    masked = rebuild(found.graph, call)
    for layer in found.graph.layers:
        give_weights(copies[id(layer)], layer.weights)
        freeze_like(copies[id(layer)], layer)
    return _of_class(type(model), masked)


def find_masked(model: keras.Model) -> keras.Model:
    """The masked model that is trained: `model` itself, or the one inside a model of one's own.

    What else is inside, a teacher say, may be of any kind.

    Raises:
        ValueError: No model inside has masks, or several have.
    """
    masked = _masked_inside(model)
    if not masked:
        raise ValueError(f"Model {model.name!r} has no masks: fit kprune.add_masks(model).")
    if len(masked) > 1:
        names = ", ".join(repr(m.name) for m in masked)
        raise ValueError(
            f"Model {model.name!r} holds several masked models ({names}), and a PruneCallback "
            "holds the budget of one: mask one of them only."
        )
    return masked[0]


def close_channels(masked: keras.Model, channels: Mapping[str, Sequence[int]]) -> None:
    """Close channels by hand, for `slim` to remove; no training needed.

    Args:
        masked: A model with masks, from `add_masks`. Its gates are changed.
        channels: Name of a layer that makes channels -> which of its output channels to close,
            counted from 0. Channels that stand and fall with these (the other side of a residual
            Add, say) are closed as well. What is closed already stays closed; a later `fit` with a
            `PruneCallback` may open it again, where its budget has room.

    Raises:
        TypeError: `channels` is no dict of lists of numbers.
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
    if not isinstance(channels, Mapping):
        raise TypeError(f'Expected a dict such as {{"conv1": [0, 2]}}, got {channels!r}.')
    found = trace(masked)
    gates = read_gates(found)
    for name, positions in channels.items():
        made = _made_by(found, name)
        for position in _counted(name, positions):
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
    """The score of each channel, never negative, float64, shape `(found.num_channels,)`.

    Raises:
        ValueError: Masks that learn in different ways: their scores cannot be compared.
    """
    kind = IMPORTANCES[importance_of(found)]
    if kind.score is None:
        return magnitudes(_indexed(found), [g.channels for g in found.groups], found.num_channels)
    scores, places = np.zeros((2, found.num_channels))
    for mask, channels in found.masks:
        np.add.at(scores, channels, kind.score(mask))
        np.add.at(places, channels, 1)
    return scores / np.maximum(places, 1) if kind.shared else scores


def importance_of(found: Trace) -> str:
    """How the masks of a model learn what its channels are worth."""
    first, *others = dict.fromkeys(mask.importance for mask, _ in found.masks)
    if others:
        raise ValueError(
            f"The masks of {found.graph.name!r} learn in different ways ({first}, "
            f"{', '.join(others)}), so that their scores cannot be compared: "
            "use kprune.add_masks(model, importance=...)."
        )
    return first


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


def _indexed(found: Trace) -> list[tuple[np.ndarray, Mapping[int, np.ndarray]]]:
    """Every weight but statistics that channels index, once, with these channels."""
    flows = {id(step.operation): (step.operation, flow) for step, flow in found.steps}
    return [
        (keras.ops.convert_to_numpy(variable), flow.weights[variable.name].axes)
        for layer, flow in flows.values()
        if isinstance(layer, keras.layers.Layer) and not isinstance(layer, ChannelMask)
        for variable in layer.weights
        if variable.name in flow.weights and not flow.weights[variable.name].statistic
    ]


def _masked_inside(layer: keras.layers.Layer) -> list[keras.Model]:
    if any(isinstance(inner, ChannelMask) for inner in _graph_layers(layer)):
        return [layer]
    # Not the layers of a graph alone: a model may hold others beside it.
    inside = layer._flatten_layers(include_self=False, recursive=False)
    found = {id(m): m for inner in inside for m in _masked_inside(inner)}
    return list(found.values())


def _graph_layers(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """The layers of a functional model, those of nested ones included; none of anything else."""
    if isinstance(layer, keras.Sequential | keras.Function):
        for inner in layer.layers:
            yield inner
            yield from _graph_layers(inner)


def _of_class(kind: type, masked: keras.Model) -> keras.Model:
    """The masked model as one of the class that the user gave, whose training is its own."""
    if issubclass(kind, type(masked)) and _takes_ends(kind):
        return kind(masked.input, masked.output, name=masked.name)
    own = [name for name in TRAINING if getattr(kind, name) is not getattr(keras.Model, name)]
    if own:
        raise ValueError(
            f"{kind.__name__} trains in a way of its own ({', '.join(own)}), but cannot be made "
            f"as {kind.__name__}(inputs, outputs, name=...), which add_masks needs, or takes "
            "arguments besides, which would be lost. Give it that constructor, or mask a "
            "functional model and train it inside of yours."
        )
    return masked


def _takes_ends(kind: type) -> bool:
    """Whether the constructor takes inputs and outputs, and no value of its own to be lost."""
    signature = inspect.signature(kind.__init__)  # type: ignore[misc]
    try:
        signature.bind(None, inputs=None, outputs=None, name=None)
    except TypeError:
        return False
    _, *given = signature.parameters.values()
    return {p.name for p in given if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)} <= ENDS


def _masks(found: Trace, importance: str, taken: set[str]) -> dict[int, ChannelMask]:
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
            importance=importance,
            dtype=point.tensor.dtype,
            name=unique(f"{makers[id(point.tensor)]}_mask", taken),
        )
    return masks


def _with_first(mask: Callable, arguments: tuple[tuple, dict]) -> tuple[tuple, dict]:
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


def _counted(name: str, positions: Any) -> list[int]:
    found: list = list(positions) if isinstance(positions, Iterable) else [None]
    if not all(isinstance(p, int | np.integer) and not isinstance(p, bool) for p in found):
        raise TypeError(
            f"The channels of layer {name!r} must be a list of their numbers, counted from 0, got "
            f"{positions!r}. Of a boolean array, np.flatnonzero makes them."
        )
    return found


def _listed(exclude: Any) -> list[str | keras.layers.Layer]:
    is_list = isinstance(exclude, Iterable) and not isinstance(exclude, str)
    found = list(exclude) if is_list else [None]
    if not all(isinstance(e, str | keras.layers.Layer) for e in found):
        raise TypeError(
            f"exclude must be a list of layers or of their names, got {exclude!r}: "
            'exclude=["conv1"].'
        )
    # Inputs keep their channels anyway, and those of nested models are no layers of their own.
    return [e for e in found if not isinstance(e, keras.layers.InputLayer)]


def _holding(found: Trace, excluded: list[str | keras.layers.Layer]) -> Trace:
    """Hold what these layers make; names are held already. Two layers may have the same name."""
    layers = {id(e) for e in excluded if not isinstance(e, str)}
    outputs = [flow.output for step, flow in found.steps if id(step.operation) in layers]
    made = {c for channels in tree.flatten(outputs) for c in np.unique(core(channels)).tolist()}
    return replace(found, held={**dict.fromkeys(made, "excluded by the caller"), **found.held})


def _check_excluded(
    model: keras.Model, found: Trace, excluded: list[str | keras.layers.Layer]
) -> None:
    layers = found.graph.layers
    known = {*map(id, layers), *(layer.name for layer in layers)}
    unknown = [e for e in excluded if (e if isinstance(e, str) else id(e)) not in known]
    if not unknown:
        return
    names = sorted({getattr(e, "name", e) for e in unknown})
    nested = {inner.name for inner in model._flatten_layers() if isinstance(inner, keras.Model)}
    flat = ", ".join(sorted(nested & set(names)))
    raise ValueError(
        f"exclude names layers that {found.graph.name!r} does not have: {names}."
        + (f" Nested models are flattened: name the layers inside of {flat}." if flat else "")
    )


def _check_maskable(found: Trace) -> None:
    if any(isinstance(layer, ChannelMask) for layer in found.graph.layers):
        raise ValueError(f"Model {found.graph.name!r} has masks already: fit it, or slim it.")
    if not found.free.any():
        reasons = "; ".join(f"{g.name}: {g.reason}" for g in found.groups)
        raise ValueError(f"No channel of {found.graph.name!r} can be removed ({reasons}).")
