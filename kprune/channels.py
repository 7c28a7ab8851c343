"""Which channels does each tensor carry? The trace of a model, that everything else reads.

The rules of `kprune.rules` are applied call by call, what must be the same channel is merged, and
the channels that remain are numbered from 0. A **gate vector** is a boolean array over these
numbers; the live part of any tensor, weight or layer argument is then one NumPy lookup.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np
from keras import tree

from kprune import layer_rules, operation_rules  # noqa: F401, they fill the tables of rules
from kprune.graph import Call, Graph, read_graph
from kprune.ids import ChannelIds, along_axis, connected, core, spread, tighten, varying
from kprune.layers import ChannelMask
from kprune.rules import Flow, Site, flow, shape_of


@dataclass(frozen=True)
class Group:
    """Channels that stand and fall with the same layers.

    Attributes:
        makers: Names of the layers that make them.
        channels: Their numbers, shape `(n,)`.
        held: Number of a channel that must stay -> why.
    """

    makers: tuple[str, ...]
    channels: np.ndarray
    held: Mapping[int, str]

    @property
    def name(self) -> str:
        return self.makers[0]

    @property
    def prunable(self) -> bool:
        """Whether any channel of the group can be removed."""
        return len(self.held) < len(self.channels)

    @property
    def reason(self) -> str:
        """Why channels of the group must stay; empty if all but one can be removed."""
        if not self.prunable:
            return "; ".join(dict.fromkeys(self.held.values()))
        return "; ".join(
            f"{count} of {len(self.channels)}: {why}"
            for why, count in Counter(self.held.values()).items()
        )


@dataclass(frozen=True, eq=False)
class Trace:
    """A model and its channels.

    Attributes:
        graph: The calls of the model.
        flows: For each call of the graph, what its rule declares; ids are channel numbers.
        tensors: `id(tensor)` -> the channels of its elements, in its shape without the batch axis.
        num_channels: Length of a gate vector.
        held: Number of a channel that must stay -> why.
        makers: (layer name, channels it makes): each must keep at least one of them.
    """

    graph: Graph
    flows: list[Flow]
    tensors: Mapping[int, np.ndarray]
    num_channels: int
    held: Mapping[int, str]
    makers: list[tuple[str, np.ndarray]]

    @property
    def steps(self) -> list[tuple[Call, Flow]]:
        return list(zip(self.graph.calls, self.flows, strict=True))

    @property
    def groups(self) -> list[Group]:
        """All groups in the order of the model, the untouchable ones included."""
        edges = [np.stack([np.full_like(c, c[0]), c]) for _, c in self.makers]
        root = connected(self.num_channels, edges)
        makers: dict[int, list[str]] = {}
        for name, channels in self.makers:
            makers.setdefault(int(root[channels[0]]), []).append(name)
        return [self._group(names, np.flatnonzero(root == r)) for r, names in makers.items()]

    def _group(self, makers: list[str], channels: np.ndarray) -> Group:
        held = {c: self.held[c] for c in channels.tolist() if c in self.held}
        return Group(tuple(dict.fromkeys(makers)), channels, held)

    @property
    def free(self) -> np.ndarray:
        """The channels that may be closed, as a boolean array over all channels."""
        free = np.ones(self.num_channels, bool)
        free[list(self.held)] = False
        return free

    @property
    def uncounted(self) -> list[str]:
        """Layers with weights, and no rule that says how often these are used: no MACs."""
        return [
            f"{layer.name!r} ({type(layer).__name__})"
            for layer, f in {id(c.operation): (c.operation, f) for c, f in self.steps}.values()
            if getattr(layer, "weights", ()) and not f.weights and type(layer) is not ChannelMask
        ]

    @property
    def masks(self) -> list[tuple[ChannelMask, np.ndarray]]:
        """The mask layers, each with the channels that its gates stand for."""
        return [
            (call.operation, _gated(call, self.tensors))
            for call in self.graph.calls
            if isinstance(call.operation, ChannelMask)
        ]


def trace(model: keras.Model, exclude: Iterable[str] = ()) -> Trace:
    """Follow the channels through a model.

    Args:
        model: A built Sequential or functional model, masked or not. It is not changed.
        exclude: Names of layers whose output channels must all stay.

    Returns:
        The trace. In a masked model, channels that are mixed without a mask in front must stay.

    Raises:
        TypeError, ValueError, UnsupportedLayerError: As `kprune.graph.read_graph`.

    Example:
        >>> model = keras.Sequential([
        ...     keras.Input((8, 8, 3), name="image"),
        ...     keras.layers.Conv2D(4, 3, name="conv"),
        ...     keras.layers.Flatten(),
        ...     keras.layers.Dense(2, name="scores"),
        ... ])
        >>> [(g.name, len(g.channels), g.reason) for g in trace(model).groups]
        [('image', 3, 'input of the model'), ('conv', 4, ''), ('scores', 2, 'output of the model')]
    """
    graph = read_graph(model)
    ids = ChannelIds()
    tensors = {id(t): _input(ids, t) for t in tree.flatten(graph.inputs)}
    names = graph.names
    flows = []
    for call in graph.calls:
        inputs = [tensors[id(t)] for t in call.inputs]
        declared = flow(Site(call, inputs, ids, names[id(call.operation)]))
        made = declared.output if isinstance(declared.output, list) else [declared.output]
        tensors.update((id(t), o) for t, o in zip(call.outputs, made, strict=True))
        if call.operation.name in exclude:
            for output in made:
                ids.hold(output, "excluded by the caller")
        flows.append(declared)
    for t in tree.flatten(graph.outputs):
        ids.hold(tensors[id(t)], "output of the model")
    _tie_shared_layers(graph, flows, ids)
    labels = ids.labels()
    _hold_only_ones(ids, labels)
    _hold_unmasked(graph, flows, tensors, ids)
    return _number(graph, flows, tensors, ids, labels)


@dataclass(frozen=True, eq=False)
class MixingPoint:
    """Where a mask belongs: `reader` takes `tensor`, whose channels `mixer` then mixes.

    The reader is the mixing layer itself or, where layers in between only move values (Flatten),
    the first of these: before it a channel is still one slice, and its score one number.
    """

    mixer: Call
    reader: Call
    tensor: keras.KerasTensor


def mixing_points(
    graph: Graph, flows: list[Flow], tensors: Mapping[int, np.ndarray]
) -> list[MixingPoint]:
    """All places where channels are mixed, in the order of the graph."""
    movers = {
        id(call.outputs[0]): call
        for call, f in zip(graph.calls, flows, strict=True)
        if f.moves and len(varying(tensors[id(call.inputs[0])])) == 1
    }
    points = []
    for call, f in zip(graph.calls, flows, strict=True):
        if f.mixes:
            reader = call
            while id(reader.inputs[0]) in movers:
                reader = movers[id(reader.inputs[0])]
            points.append(MixingPoint(call, reader, reader.inputs[0]))
    return points


def live_shape(channels: np.ndarray, live: np.ndarray) -> tuple[int, ...]:
    """The shape that is left of a traced tensor (or vector) under a gate vector."""
    shape = list(channels.shape)
    for axis in varying(channels):
        shape[axis] = int(live[along_axis(channels, axis)].sum())
    return tuple(shape)


class LiveCounts:
    """How many live channels vectors of channels have, all at once.

    Args:
        vectors: Channel numbers, shape `(n,)` each.
    """

    def __init__(self, vectors: Sequence[np.ndarray]) -> None:
        self.vectors = list(vectors)
        self._start = np.cumsum([0, *map(len, self.vectors)])[:-1]
        self._channels = np.concatenate([*self.vectors, np.empty(0, int)])

    def __call__(self, gates: np.ndarray) -> np.ndarray:
        """The counts under a gate vector, shape `(vectors,)`."""
        if not self.vectors:
            return np.empty(0, int)
        return np.add.reduceat(gates[self._channels].astype(np.int64), self._start)

    def spread(self, values: np.ndarray, num_channels: int) -> np.ndarray:
        """For each channel, the sum of the values of the vectors that it is in."""
        per_entry = np.repeat(values, [len(vector) for vector in self.vectors])
        return np.bincount(self._channels, per_entry, num_channels)


def _input(ids: ChannelIds, tensor: keras.KerasTensor) -> np.ndarray:
    shape = shape_of(tensor)
    made = ids.make(tensor.name, shape[-1] if shape else 1)
    ids.hold(made, "input of the model")
    return spread(made, -1, shape)


def _gated(call: Call, tensors: Mapping[int, np.ndarray]) -> np.ndarray:
    """What the gates of a mask stand for, shape `(gates,)`."""
    axis = call.operation.axis
    return along_axis(tensors[id(call.inputs[0])], axis - 1 if axis > 0 else axis)


def _tie_shared_layers(graph: Graph, flows: list[Flow], ids: ChannelIds) -> None:
    """A layer that is called twice has one set of weights, so the same channels each time."""
    first: dict[int, Flow] = {}
    for call, f in zip(graph.calls, flows, strict=True):
        before, now = _indexing(first.setdefault(id(call.operation), f)), _indexing(f)
        for key in before.keys() & now.keys():
            ids.merge(before[key], now[key])
        for key in before.keys() ^ now.keys():
            why = f"{call.operation.name!r} is called on them along one axis, and along another"
            ids.hold({**before, **now}[key], why)


def _indexing(f: Flow) -> dict[tuple[str, int], np.ndarray]:
    """Weight and axis, or argument of the constructor, -> the channels that it counts."""
    weights = {(n, axis): ids for n, w in f.weights.items() for axis, ids in w.axes.items()}
    return weights | {(name, 0): channels for name, channels in f.config.items()}


def _hold_only_ones(ids: ChannelIds, labels: np.ndarray) -> None:
    """Channels without which a layer would make none."""
    for name, made in ids.makers:
        if (labels[made] == labels[made[0]]).all():
            why = (
                f"the only channel of {name!r}"
                if len(made) == 1
                else f"the {len(made)} channels of {name!r} stand and fall together"
            )
            ids.hold(made, why)


def _hold_unmasked(
    graph: Graph, flows: list[Flow], tensors: Mapping[int, np.ndarray], ids: ChannelIds
) -> None:
    """In a masked model, only what stands behind masks can be closed.

    `add_masks` leaves out the mask of channels of which none can go. What else can hold them back
    is known by now, so it was the caller who did.
    """
    masks = [c for c in graph.calls if isinstance(c.operation, ChannelMask)]
    if not masks:
        return
    masked = {id(c.outputs[0]) for c in masks}
    for point in mixing_points(graph, flows, tensors):
        if id(point.tensor) not in masked:
            channels = tensors[id(point.tensor)]
            reader = point.mixer.operation.name
            ids.hold(channels, f"excluded by the caller: no mask in front of {reader!r}")
    for call in masks:
        ids.hold(_gated(call, tensors)[list(call.operation.fixed)], "excluded by the caller")


def _number(
    graph: Graph,
    flows: list[Flow],
    tensors: Mapping[int, np.ndarray],
    ids: ChannelIds,
    labels: np.ndarray,
) -> Trace:
    """Replace ids by channel numbers."""

    def number(a: np.ndarray) -> np.ndarray:
        return tighten(np.broadcast_to(labels[core(a)], a.shape))

    def renumber(f: Flow) -> Flow:
        weights = {
            name: replace(w, axes={axis: number(a) for axis, a in w.axes.items()})
            for name, w in f.weights.items()
        }
        output = [number(o) for o in f.output] if isinstance(f.output, list) else number(f.output)
        config = {name: number(a) for name, a in f.config.items()}
        return replace(f, output=output, weights=weights, config=config)

    makers = [(name, labels[made]) for name, made in ids.makers]
    return Trace(
        graph=graph,
        flows=[renumber(f) for f in flows],
        tensors={key: number(a) for key, a in tensors.items()},
        num_channels=int(labels.max()) + 1,
        held=ids.reasons(labels),
        makers=makers,
    )
