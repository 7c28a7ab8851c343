"""What a closed channel gave to the layers behind it, the open channels give, as far as they can.

The values of a channel can be told in part from those of its neighbours. A layer that adds up
products with them gets weights by which the open ones make up for the closed one, so that training
goes on with a network that computes what the larger one did, as nearly as the smaller one can.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import activations, layers

from kprune import folding
from kprune.channels import MixingPoint, Trace, mixing_points
from kprune.graph import Call
from kprune.ids import along_axis, varying
from kprune.layers import ChannelMask
from kprune.rules import Weight

# What is added to the square of each channel, in shares of their mean: how little is made of
# channels that are almost multiples of each other.
RIDGE = 0.03
# Channels that take over together, at the most. Of a layer of 2,048, least squares over all would
# take longer than the steps of training in between.
HELPERS = 256


@dataclass(frozen=True, eq=False)
class Norm:
    """The BatchNormalization behind a layer, to which the scale of what comes in is all the same.

    Attributes:
        layer: The BatchNormalization.
        axis: The axis of the reader's weight that counts the channels which it normalises.
    """

    layer: keras.layers.Layer
    axis: int


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that adds up products with masked channels.

    Attributes:
        layer: The layer.
        weights: What it multiplies by; several in a layer of two directions.
        axis: The axis of these weights along which it adds up.
        rows: Positions of each channel along this axis, shape `(channels, copies)`: behind a
            Flatten there is one for each place of an image.
        channels: The numbers of these channels, shape `(channels,)`.
        masks: What stands in front of the layer, one for each call.
        norm: What makes the scale of its outputs be all the same, if anything does.
    """

    layer: keras.layers.Layer
    weights: Sequence[keras.Variable]
    axis: int
    rows: np.ndarray
    channels: np.ndarray
    masks: Sequence[ChannelMask]
    norm: Norm | None


@dataclass(frozen=True, eq=False)
class Handover:
    """What the channels in front of a reader hand on, by their positions there.

    Attributes:
        was: Which were open, shape `(channels,)`, boolean.
        now: Which are open from now on.
        changed: Those that were closed or opened.
        helpers: Those that take over, from among the ones that stay open.
        shares: How much of each changed one each helper takes, shape `(helpers, changed)`;
            negative for one that comes back.
    """

    was: np.ndarray
    now: np.ndarray
    changed: np.ndarray
    helpers: np.ndarray
    shares: np.ndarray


def find_readers(found: Trace) -> list[Reader]:
    """The layers of a masked model that can make up for closed channels, in its order.

    Layers that are frozen are left as they are, and only "taylor" learns what this takes.
    """
    return _Search(found).readers


def reconstruct(readers: Sequence[Reader], before: np.ndarray, after: np.ndarray) -> None:
    """Make the readers do under new gates what they did under the old ones, as nearly as they can.

    Least squares over the samples that the masks have seen. A channel that is opened again brings
    back what it gave, so the others give that much less.

    With fewer inputs of larger weights a layer in front of a BatchNormalization would hardly learn
    any more: steps as long as ever turn large weights less. So these are scaled back to the size
    that they had, which the BatchNormalization makes up for.

    Args:
        readers: From `find_readers`. Their weights are changed.
        before: The gate vector until now.
        after: The gate vector from now on.

    Source:
        He, Zhang, Sun, Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017 (least
        squares); van Laarhoven, L2 Regularization versus Batch and Weight Normalization, 2017
        (steps and the size of weights).
    """
    for reader in readers:
        if handover := _handover(reader, before[reader.channels], after[reader.channels]):
            for weight in reader.weights:
                _take_over(reader, weight, handover)


def _handover(reader: Reader, was: np.ndarray, now: np.ndarray) -> Handover | None:
    changed, stay = np.flatnonzero(was != now), np.flatnonzero(was & now)
    if not len(changed) or not len(stay):
        return None
    gram = np.sum([keras.ops.convert_to_numpy(m.gram) for m in reader.masks], axis=0)
    helpers = _helpers(gram, stay, changed)
    shares = _shares(gram, helpers, changed) * np.where(now[changed], -1, 1)
    return Handover(was, now, changed, helpers, shares)


def _helpers(gram: np.ndarray, stay: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """Those of the channels in `stay` that tell most of the changed ones, each by itself.

    Example:
        >>> x = np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 3.0]])
        >>> _helpers(x.T @ x, np.array([0, 1]), np.array([2])).tolist()
        [0, 1]
    """
    if len(stay) <= HELPERS:
        return stay
    told = np.square(gram[np.ix_(stay, changed)]).sum(axis=1) / gram[stay, stay].clip(1e-30)
    return np.sort(stay[np.argsort(told)[-HELPERS:]])


def _shares(gram: np.ndarray, stay: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """How much of each channel in `stay` makes the best sum for each one in `changed`.

    Example:
        >>> x = np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 3.0]])
        >>> _shares(x.T @ x, np.array([0, 1]), np.array([2])).round(1)
        array([[1.9],
               [2.9]])
    """
    squares = gram[np.ix_(stay, stay)].astype(float)
    ridge = RIDGE * np.trace(squares) / len(stay)
    if not ridge > 0:  # Nothing has been seen yet, or nothing but zeros.
        return np.zeros((len(stay), len(changed)))
    return np.linalg.solve(squares + ridge * np.eye(len(stay)), gram[np.ix_(stay, changed)])


def _take_over(reader: Reader, weight: keras.Variable, handover: Handover) -> None:
    value, norm = _value(weight), reader.norm
    size = _size(value, reader, norm, handover.was) if norm else None
    by_row = np.moveaxis(value, reader.axis, 0)  # the same numbers, as are those by output
    given = by_row[reader.rows[handover.changed]]
    by_row[reader.rows[handover.helpers]] += np.tensordot(handover.shares, given, 1)
    if norm:
        factor = size / _size(value, reader, norm, handover.now)
        by_output = np.moveaxis(value, norm.axis, -1)
        by_output *= factor
        _scale_behind(reader.layer, norm.layer, factor)
    weight.assign(value)


def _size(weight: np.ndarray, reader: Reader, norm: Norm, gates: np.ndarray) -> np.ndarray:
    """The root mean square of what each output multiplies open inputs by, shape `(outputs,)`."""
    read = weight.take(reader.rows[gates].ravel(), reader.axis)
    others = tuple(axis for axis in range(weight.ndim) if axis != norm.axis)
    return np.sqrt(np.square(read).mean(axis=others) + np.finfo("float32").tiny)


def _scale_behind(layer: keras.layers.Layer, norm: keras.layers.Layer, factor: np.ndarray) -> None:
    """What else has the scale of the layer's outputs, which grow by a factor each."""
    powers = [(layer.bias, 1), (norm.moving_mean, 1), (norm.moving_variance, 2)]
    for variable, power in powers:
        if variable is not None:
            variable.assign(_value(variable) * factor**power)


def _value(variable: keras.Variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable).astype(float)


class _Search:
    """What is looked up to tell the readers of a traced model."""

    def __init__(self, found: Trace) -> None:
        self.tensors = found.tensors
        self.flows = {id(call.operation): flow for call, flow in found.steps}
        self.calls = Counter(id(call.operation) for call in found.graph.calls)
        self.reading = folding.readers(found.graph)
        self.masks = {
            id(call.outputs[0]): call.operation
            for call in found.graph.calls
            if isinstance(call.operation, ChannelMask) and hasattr(call.operation, "gram")
        }
        points: dict[int, list[MixingPoint]] = {}
        for point in mixing_points(found.graph, found.flows, found.tensors):
            points.setdefault(id(point.mixer.operation), []).append(point)
        self.readers = [r for r in map(self._reader, points.values()) if r is not None]

    def _reader(self, points: Sequence[MixingPoint]) -> Reader | None:
        """The layer that is called at these points."""
        call, tensor = points[0].mixer, self.tensors[id(points[0].tensor)]
        masks = [self.masks[id(p.tensor)] for p in points if id(p.tensor) in self.masks]
        declared = self.flows[id(call.operation)].weights.items()
        adding = [(name, w, w.reads) for name, w in declared if w.reads is not None]
        if len(masks) < len(points) or len(adding) != 1 or len(varying(tensor)) != 1:
            return None
        ((name, kernel, axis),) = adding
        weights = [w for w in call.operation.weights if w.name == name]
        channels = along_axis(tensor, varying(tensor)[0])
        rows = _rows(kernel.axes[axis], channels)
        if rows is None or not all(w.trainable for w in weights):
            return None
        axis %= len(weights[0].shape)
        return Reader(
            call.operation, weights, axis, rows, channels, masks, self._norm(call, kernel)
        )

    def _norm(self, call: Call, kernel: Weight) -> Norm | None:
        """The BatchNormalization behind a call, if it takes up all that the layer makes."""
        then = folding.only_reader(call.outputs[0], self.reading)
        made = [axis for axis in kernel.axes if axis != kernel.reads]
        is_plain = getattr(call.operation, "activation", None) is activations.linear
        if then is None or not _normalises(then) or not is_plain or len(made) != 1:
            return None
        normalised = self.flows[id(then.operation)].weights["moving_mean"].axes[0]
        is_shared = self.calls[id(call.operation)] > 1 or self.calls[id(then.operation)] > 1
        if is_shared or not np.array_equal(normalised, kernel.axes[made[0]]):
            return None
        return Norm(then.operation, made[0] % len(call.operation.kernel.shape))


def _normalises(call: Call) -> bool:
    layer = call.operation
    return (
        type(layer) is layers.BatchNormalization
        and layer.trainable
        # It keeps more statistics than those of the outputs.
        and not getattr(layer, "renorm", False)
    )


def _rows(along: np.ndarray, channels: np.ndarray) -> np.ndarray | None:
    """Where each channel is along an axis, shape `(channels, copies)`; None if some lie otherwise.

    Example:
        >>> _rows(np.array([7, 5, 7, 5]), np.array([7, 5])).tolist()
        [[0, 2], [1, 3]]
    """
    copies = len(along) // len(channels)
    order = np.argsort(channels)
    if not np.array_equal(np.sort(along), np.repeat(channels[order], copies)):
        return None
    if len(np.unique(channels)) < len(channels):
        return None  # One may be behind the mask twice: which row is which?
    rows = np.empty((len(channels), copies), int)
    rows[order] = np.argsort(along, kind="stable").reshape(-1, copies)
    return rows
