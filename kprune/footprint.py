"""Flash and RAM of a network's int8 file, as functions of its live channels.

The network is converted once, whole. Its tensors are then told which channels lie along which of
their axes, so that the file of any slimmer network is known without converting again: activations
that are left are laid out as that file and TensorFlow Lite Micro will, and the bytes of a file
follow from the lengths of its vectors. What cannot be told counts in full, so neither figure is
ever too low.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import tree

from kprune.arena import arena, least_bytes, plan, plan_ahead, plan_bytes
from kprune.channels import LiveCounts, Trace
from kprune.flatbuffer import read
from kprune.ids import along_axis, spread, tighten, varying
from kprune.network import Network, Operator, Tensor
from kprune.repacking import repack
from kprune.slimming import shrink
from kprune.tflite import to_tflite

_SAMPLES = 8

# In a file: length, padding, int64.
_ZERO_POINT_BYTES = 16
# In a file: tables of a tensor and of its buffer, and their places among the others.
_TENSOR_BYTES = 36

# Ids of one tensor of the flatbuffer: for each axis along which channels lie, their numbers.
_Axes = dict[int, np.ndarray]


class Footprint:
    """The int8 file of a traced network, and the RAM that it needs, under any gate vector.

    Args:
        trace: The network, masked or not.

    Attributes:
        network: What the converter makes of the network with all its channels; constants that
            count channels stand apart, for each operator that reads them.

    Raises:
        ValueError, UnsupportedOpError: As `to_tflite`: the network cannot run in int8; or an input
            takes text.

    Example:
        >>> from kprune.channels import trace
        >>> model = keras.Sequential([
        ...     keras.Input((4,)), keras.layers.Dense(32, name="hidden"), keras.layers.Dense(2),
        ... ])
        >>> found = trace(model)
        >>> footprint = Footprint(found)
        >>> gates = np.ones(found.num_channels, bool)
        >>> whole = footprint.flash_bytes(gates)
        >>> gates[found.groups[1].channels[1:]] = False
        >>> whole - footprint.flash_bytes(gates) > 31 * (4 + 2)
        True
    """

    def __init__(self, trace: Trace) -> None:
        flatbuffer = _without_plan(to_tflite(*_generic(trace)))
        converted = read(flatbuffer)
        self._num_channels = trace.num_channels
        axes = _tensor_axes(converted, _made(trace))
        self.network = _with_own_counts(converted, axes)
        # Each axis with channels as a cell of the table of shapes, and as a vector to count.
        cells = [(tensor, axis) for tensor, of_tensor in axes.items() for axis in of_tensor]
        self._cells = np.array(cells, int).reshape(-1, 2)
        self.live = LiveCounts([axes[tensor][axis] for tensor, axis in cells])
        self._table = _Table(self.network, self._cells)
        self._plan = plan(self.network)
        whole = np.ones(trace.num_channels, bool)
        self._structure = (
            len(flatbuffer)
            - self._table.vector_bytes(self._shapes(whole))
            + _shared_constants_bytes(self.network)
            + _TENSOR_BYTES * (len(self.network.tensors) - len(converted.tensors))
            + _ZERO_POINT_BYTES * _shared_zero_points(self.network)
        )

    def flash_bytes(self, gates: np.ndarray) -> int:
        """Bytes of the file that `to_tflite` makes of the slim network, or a few more."""
        return self._file_bytes(gates, is_planned=bool(plan_ahead(self.slim(gates))))

    def ram_bytes(self, gates: np.ndarray) -> int:
        """Bytes of the arena that TensorFlow Lite Micro needs for it on a 32-bit core."""
        return _planned_bytes(self.slim(gates))

    def fits_flash(self, gates: np.ndarray, limit: float) -> bool:
        """Whether `flash_bytes` keeps within a limit; mostly told without a plan."""
        if self._file_bytes(gates, is_planned=True) <= limit:
            return True
        return self._file_bytes(gates, is_planned=False) <= limit and (
            self.flash_bytes(gates) <= limit
        )

    def fits_ram(self, gates: np.ndarray, limit: float) -> bool:
        """Whether `ram_bytes` keeps within a limit; mostly told without a plan."""
        network = self.slim(gates)
        if least_bytes(network) > limit:
            return False
        return arena(network).total <= limit or _planned_bytes(network) <= limit

    def _file_bytes(self, gates: np.ndarray, is_planned: bool) -> int:
        plan = plan_bytes(self.network) if is_planned else 0
        return int(_aligned(self._structure + plan + self._table.vector_bytes(self._shapes(gates))))

    def slim(self, gates: np.ndarray) -> Network:
        """The network without its closed channels; of its constants only the shapes are true."""
        shapes = self._shapes(gates).tolist()
        changed = {int(index) for index in self._cells[:, 0]}
        tensors = tuple(
            _slim(t, tuple(shapes[t.index][: len(t.shape)])) if t.index in changed else t
            for t in self.network.tensors
        )
        return dataclasses.replace(self.network, tensors=tensors)

    def flash_shares(self) -> np.ndarray:
        """Bytes of the file that each channel takes while all others are open."""
        table = self._table
        num_bytes = np.where(table.is_constant, table.num_bytes(table.shapes) + 4 * table.scales, 0)
        return self._shares(num_bytes)

    def ram_shares(self, limit: float) -> np.ndarray:
        """Bytes of RAM that each channel takes while all others are open.

        Only those steps count at which the whole network needs more than `limit`: what is never in
        the way costs nothing. Of these, the one at which the channel takes most.
        """
        records = arena(self.network).total - self._plan.peak
        shares = np.zeros(self._num_channels)
        for step in range(len(self.network.operators) + 1):
            alive = [i for i, b in enumerate(self._plan.buffers) if b.first <= step <= b.last]
            if sum(self._plan.buffers[i].size for i in alive) + records > limit:
                held = np.zeros(len(self.network.tensors))
                for index in (self._plan.tensors[i] for i in alive):
                    if index is not None:
                        held[index] = self.network.tensors[index].num_bytes
                shares = np.maximum(shares, self._shares(held))
        return shares

    def _shapes(self, gates: np.ndarray) -> np.ndarray:
        shapes = self._table.shapes.copy()
        shapes[self._cells[:, 0], self._cells[:, 1]] = self.live(gates)
        return shapes

    def _shares(self, num_bytes: np.ndarray) -> np.ndarray:
        """What belongs to each tensor, divided among the channels along each of its axes."""
        lengths = self._table.shapes[self._cells[:, 0], self._cells[:, 1]]
        return self.live.spread(num_bytes[self._cells[:, 0]] / lengths, self._num_channels)


class _Table:
    """The tensors of a network as arrays, a row each: sizes of all at once."""

    def __init__(self, network: Network, cells: np.ndarray) -> None:
        tensors = network.tensors
        rank = max(len(t.shape) for t in tensors)
        self.shapes = np.array([(*t.shape, *(1,) * (rank - len(t.shape))) for t in tensors])
        self._ranks = [len(t.shape) for t in tensors]
        self._itemsize = np.array([t.dtype.itemsize for t in tensors])
        self.scales = np.array([len(t.scale) for t in tensors])
        self.is_constant = np.array([t.data is not None for t in tensors])
        # Constants that change, and where the number of their scales stands.
        changing = self.is_constant & np.isin(np.arange(len(tensors)), cells[:, 0])
        self._changing = np.flatnonzero(changing)
        scaled = [tensors[i] for i in self._changing if self.scales[i]]
        self._scaled = np.array([t.index for t in scaled], int)
        self._axis = np.array([t.quantized_axis for t in scaled], int)
        self._per_channel = np.array([len(t.scale) > 1 for t in scaled], bool)
        steady = self.is_constant & (self.scales > 0)
        steady[self._scaled] = False
        self._steady_scales = self.scales[steady]

    def num_bytes(self, shapes: np.ndarray) -> np.ndarray:
        return shapes.prod(axis=1) * self._itemsize

    def vector_bytes(self, shapes: np.ndarray) -> int:
        """Bytes of a repacked file that depend on the lengths of its vectors.

        A constant takes its data, its length and its table, and starts at a multiple of 16. The
        zero points of weights are all 0, so those of one length are stored once, as are equal
        shapes.
        """
        data = _aligned(self.num_bytes(shapes)[self._changing] + 12)
        scales = np.where(self._per_channel, shapes[self._scaled, self._axis], 1)
        zero_points = np.unique([*scales, *self._steady_scales])
        known = {tuple(row[:rank]) for row, rank in zip(shapes.tolist(), self._ranks, strict=True)}
        return (
            int(data.sum())
            + int((4 + 4 * scales).sum())
            + int((_ZERO_POINT_BYTES + 8 * (zero_points - 1)).sum())
            + sum(4 + 4 * len(shape) for shape in known)
        )


def _generic(trace: Trace) -> tuple[keras.Model, list[np.ndarray]]:
    """The network with weights that have nothing special about them, and inputs for it.

    A converter leaves out what does nothing, such as adding a bias of zeros, and stores equal
    vectors once. After training nothing is left out.
    """
    for t in tree.flatten(trace.graph.inputs):
        if t.dtype == "string":
            raise ValueError(
                f"Input {t.name!r} takes text, which no int8 file does: let the network begin "
                "behind the layer that looks the numbers up."
            )
    rng = np.random.default_rng(0)
    model = shrink(trace, np.ones(trace.num_channels, bool))
    for layer in model.layers:
        layer.set_weights([_shifted(rng, value) for value in layer.get_weights()])
    samples = [
        rng.uniform(0, 2, (_SAMPLES, *t.shape[1:])).astype(t.dtype)
        for t in tree.flatten(model.inputs)
    ]
    return model, samples


def _without_plan(flatbuffer: bytes) -> bytes:
    names = {t.index: t.name for t in read(flatbuffer).tensors if t.name}
    return repack(flatbuffer, names, offsets=())


def _shifted(rng: np.random.Generator, value: np.ndarray) -> np.ndarray:
    # Vectors (biases, scales, statistics) go upwards, for there are variances among them, and by
    # so much that int8 sees it. Kernels keep their mean, or activations would explode.
    low, high = (0.1, 1.0) if value.ndim == 1 else (-0.01, 0.01)
    return value + rng.uniform(low, high, value.shape).astype(value.dtype)


def _made(trace: Trace) -> dict[str, np.ndarray]:
    """Name of a layer -> the channels of its output."""
    return {
        call.operation.name: flow.output
        for call, flow in trace.steps
        if isinstance(flow.output, np.ndarray)
    }


# --- Which channels lie along which axes of which tensor -----------------------------------------


def _tensor_axes(network: Network, made: dict[str, np.ndarray]) -> dict[int, _Axes]:
    """Index of a tensor -> its axes with channels. A tensor that is not there counts in full."""
    axes: dict[int, _Axes] = {}
    for operator in network.operators:
        rule = _RULES.get(operator.name, _elementwise)
        rule(_Site(operator, network, axes, made))
    return axes


@dataclasses.dataclass(frozen=True)
class _Site:
    """One operator, and what is known of the tensors before it."""

    operator: Operator
    network: Network
    axes: dict[int, _Axes]
    made: dict[str, np.ndarray]

    @property
    def output(self) -> Tensor:
        return self.network.tensors[self.operator.outputs[0]]

    def inputs(self, constant: bool) -> list[Tensor]:
        tensors = [self.network.tensors[i] for i in self.operator.inputs if i != -1]
        return [t for t in tensors if (t.data is not None) == constant]

    def ids(self, tensor: Tensor) -> np.ndarray | None:
        """The channels of an activation in its shape, if they lie along one axis."""
        axes = self.axes.get(tensor.index, {})
        if len(axes) != 1:
            return None
        ((axis, channels),) = axes.items()
        return spread(channels, axis, tensor.shape)

    def declare(self, tensor: Tensor, ids: np.ndarray | None) -> None:
        """The channels of an activation: `ids` in its shape, if they change along one axis."""
        if ids is not None and ids.shape == tensor.shape and len(varying(ids)) == 1:
            (axis,) = varying(ids)
            self.axes.setdefault(tensor.index, {axis: along_axis(ids, axis)})

    def along_last(self, tensor: Tensor) -> np.ndarray | None:
        """The channels along the last axis of an activation, shape `(channels,)`."""
        return self.axes.get(tensor.index, {}).get(len(tensor.shape) - 1)


def _weighted(site: _Site) -> None:
    """Convolutions and dense layers: the layer's own channels come out."""
    output, made = site.output, site.made.get(site.output.name)
    if made is not None:
        # A Conv1D becomes a two-dimensional one between two reshapes; its channels stay last.
        last = along_axis(made, -1)
        if len(last) == output.shape[-1] and varying(made) in ([], [made.ndim - 1]):
            site.declare(output, spread(last, -1, output.shape))
    tensors = [site.network.tensors[i] for i in site.operator.inputs[1:] if i != -1]
    constants = [t for t in tensors if t.data is not None]
    if not constants:
        return  # A product of two activations.
    weights, *biases = constants
    (source, *_) = site.inputs(constant=False)
    written, read_ = site.along_last(output), site.along_last(source)
    axes: _Axes = {}
    if written is not None:
        axes[0] = written
        for bias in biases:
            site.axes.setdefault(bias.index, {0: written})
    if read_ is not None:
        # A filter of a grouped convolution reads one group.
        axes[len(weights.shape) - 1] = read_[: weights.shape[-1]]
    site.axes.setdefault(weights.index, axes)


def _depthwise(site: _Site) -> None:
    (source,), (weights, *biases) = site.inputs(constant=False), site.inputs(constant=True)
    read_ = site.along_last(source)
    if read_ is not None:
        written = np.repeat(read_, site.output.shape[-1] // len(read_))
        site.declare(site.output, spread(written, -1, site.output.shape))
        site.axes.setdefault(weights.index, {3: written})
        for bias in biases:
            site.axes.setdefault(bias.index, {0: written})


def _moved(move: Callable[[np.ndarray, _Site], np.ndarray]) -> Callable[[_Site], None]:
    """An operator that moves values moves ids by the same NumPy function."""

    def rule(site: _Site) -> None:
        (source, *_) = site.inputs(constant=False)
        ids = site.ids(source)
        if ids is not None:
            site.declare(site.output, tighten(move(ids, site)))

    return rule


def _concatenated(site: _Site) -> None:
    parts = [site.network.tensors[i] for i in site.operator.inputs]
    axis = site.operator.options["axis"] % len(site.output.shape)
    known = [site.ids(t) for t in parts]
    if all(ids is not None and varying(ids) in ([], [axis]) for ids in known):
        last = [along_axis(ids, axis) for ids in known if ids is not None]
        site.declare(site.output, spread(np.concatenate(last), axis, site.output.shape))


def _elementwise(site: _Site) -> None:
    """Whatever leaves channels where they are: sums, activations, pooling, padding."""
    output = site.output
    for source in site.inputs(constant=False):
        ids = site.ids(source)
        if ids is None:
            continue
        if source.shape == output.shape:
            site.declare(output, ids)
        last = site.along_last(source)
        if last is not None and len(last) == output.shape[-1]:
            site.declare(output, spread(last, -1, output.shape))
    last = site.along_last(output)
    for constant in site.inputs(constant=True):
        if last is not None and constant.shape and constant.shape[-1] == len(last):
            site.axes.setdefault(constant.index, {len(constant.shape) - 1: last})


_reshaped = _moved(lambda ids, site: ids.reshape(site.output.shape))

_RULES: dict[str, Callable[[_Site], None]] = {
    "CONV_2D": _weighted,
    "FULLY_CONNECTED": _weighted,
    "TRANSPOSE_CONV": _weighted,
    "DEPTHWISE_CONV_2D": _depthwise,
    "RESHAPE": _reshaped,
    "EXPAND_DIMS": _reshaped,
    "SQUEEZE": _reshaped,
    "TRANSPOSE": _moved(lambda ids, site: ids.transpose(site.inputs(constant=True)[0].data)),
    "CONCATENATION": _concatenated,
}


def _with_own_counts(network: Network, axes: dict[int, _Axes]) -> Network:
    """Constants that count channels, once for each operator that reads them.

    Layers of one width share the shape that they reshape to. Slim they have widths of their own.
    """
    tensors = list(network.tensors)
    operators, known = [], set()
    for operator in network.operators:
        ends = (*operator.inputs, *operator.outputs)
        widths = {len(channels) for i in ends for channels in axes.get(i, {}).values()}
        inputs = list(operator.inputs)
        for place, index in enumerate(inputs):
            if index == -1 or not _counts(network.tensors[index], widths):
                continue
            if index in known:
                inputs[place] = len(tensors)
                tensors.append(dataclasses.replace(tensors[index], index=len(tensors)))
            known.add(index)
        operators.append(dataclasses.replace(operator, inputs=tuple(inputs)))
    return dataclasses.replace(network, tensors=tuple(tensors), operators=tuple(operators))


def _counts(tensor: Tensor, widths: set[int]) -> bool:
    """Whether a tensor is a constant argument, such as a shape, and states one of these widths."""
    if tensor.data is None or tensor.dtype.kind != "i" or len(tensor.scale):
        return False
    return not widths.isdisjoint(tensor.data.ravel().tolist())


# --- What is left of it ---------------------------------------------------------------------------


def _slim(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    scales = len(tensor.scale)
    if scales > 1:
        scales = shape[tensor.quantized_axis]
    return dataclasses.replace(
        tensor,
        shape=shape,
        scale=np.broadcast_to(np.float32(1), scales),
        zero_point=np.broadcast_to(np.int64(0), scales),
        data=None if tensor.data is None else np.broadcast_to(tensor.data.dtype.type(0), shape),
    )


def _planned_bytes(network: Network) -> int:
    """Bytes of the arena with the plan that the file brings."""
    return arena(dataclasses.replace(network, offsets=plan_ahead(network))).total


def _shared_constants_bytes(network: Network) -> int:
    """What the file would be longer if no two constants and no two of their scales were equal."""
    constants = [t for t in network.tensors if t.data is not None and t.size > 1]
    data = _repeated(t.data.tobytes() for t in constants if t.data is not None)
    scales = _repeated(t.scale.tobytes() for t in constants if len(t.scale))
    return sum(_aligned(n + 12) for n in data) + sum(4 + n for n in scales)


def _repeated(contents: Iterable[bytes]) -> list[int]:
    """The lengths of those that came before already."""
    return [len(c) for c, count in Counter(contents).items() for _ in range(count - 1)]


def _shared_zero_points(network: Network) -> int:
    """How many activations may have zero points of their own after training, and have none now.

    Only where one range serves several tensors their scales are equal.
    """
    single = [t for t in network.tensors if len(t.scale) == 1]
    return len({float(t.scale[0]) for t in single}) - len({int(t.zero_point[0]) for t in single})


def _aligned(size: Any) -> Any:
    return -(-size // 16) * 16
