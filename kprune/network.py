"""A network as plain data, and what makes one sound."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from kprune.errors import FlatbufferError

# Ranks of the inputs and outputs that these operators cannot do without; 0 stands for any. Whoever
# asks for a convolution's kernel size may then rely on there being one.
_SIGNATURES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "AVERAGE_POOL_2D": ((4,), (4,)),
    "CONV_2D": ((4, 4), (4,)),
    "DEPTHWISE_CONV_2D": ((4, 4), (4,)),
    "FULLY_CONNECTED": ((0, 2), (0,)),
    "MAX_POOL_2D": ((4,), (4,)),
    "MEAN": ((0, 0), (0,)),
    "MIRROR_PAD": ((0, 2), (0,)),
    "PAD": ((0, 2), (0,)),
    "REDUCE_ALL": ((0, 0), (0,)),
    "REDUCE_MAX": ((0, 0), (0,)),
    "REDUCE_MIN": ((0, 0), (0,)),
    "SOFTMAX": ((0,), (0,)),
    "SUM": ((0, 0), (0,)),
    "TRANSPOSE_CONV": ((1, 4, 4), (4,)),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor: an activation, or a constant of the network.

    Attributes:
        index: Its place in `Network.tensors`.
        name: As the converter called it; may be empty.
        shape: The batch axis first: `(1, height, width, channels)`.
        dtype: Type of the elements.
        scale: float32, one for the tensor or one per index of `quantized_axis`; empty when the
            tensor is not quantized. `real = scale * (q - zero_point)`.
        zero_point: int64, as many as scales.
        quantized_axis: The axis that the scales belong to.
        data: The constant's values, read-only, of `shape` and `dtype`; None for an activation.
        is_variable: Whether it keeps its values from one run to the next.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    scale: np.ndarray
    zero_point: np.ndarray
    quantized_axis: int
    data: np.ndarray | None
    is_variable: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.size * self.dtype.itemsize


@dataclasses.dataclass(frozen=True, eq=False)
class Operator:
    """One operator: `name` as in the schema's BuiltinOperator, such as `"CONV_2D"`.

    Attributes:
        name: `"CUSTOM"` for a custom operator, whose own name is `options["custom_code"]`.
        version: Of the operator, as the converter stated it.
        inputs: Indices of tensors; -1 for an optional input that is absent.
        outputs: Indices of tensors.
        options: The schema's builtin options, field names in snake_case, enums as integers.
    """

    name: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A graph of operators, in the order in which they run.

    Attributes:
        tensors: All tensors, by index.
        operators: In an order that computes every tensor before it is read.
        inputs: Indices of the network's inputs.
        outputs: Indices of the network's outputs.
        description: Free text of the converter.
        subgraphs: The further graphs of the file, which operators such as IF and CALL_ONCE run.
        offsets: Where in the arena the file wants each tensor, in bytes; -1 leaves it to the
            interpreter. Empty: it leaves all of them.
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    description: str
    subgraphs: tuple["Network", ...] = ()
    offsets: tuple[int, ...] = ()


def listed(arrays: Any) -> list:
    """What a network takes or gives: one array, or a list of one for each input or output → a list.

    Example:
        >>> listed(7), listed([7, 8])
        ([7], [7, 8])
    """
    return list(arrays) if isinstance(arrays, list | tuple) else [arrays]


def unlisted(arrays: list) -> Any:
    """The opposite: of a single input or output, the array itself.

    Example:
        >>> unlisted([7]), unlisted([7, 8])
        (7, [7, 8])
    """
    return arrays if len(arrays) > 1 else arrays[0]


def check_counts(given: Sequence[np.ndarray]) -> None:
    """Raises ValueError unless all inputs have equally many samples."""
    if len({len(x) for x in given}) > 1:
        counts = ", ".join(str(len(x)) for x in given)
        raise ValueError(f"x must have equally many samples for each input, got {counts}.")


def to_steps(
    x: np.ndarray, scale: float | np.floating, zero_point: int, dtype: DTypeLike = np.int8
) -> np.ndarray:
    """Real values → what an integer tensor holds: `round(x / scale) + zero_point`.

    Values beyond the type become its least or its greatest.

    Raises:
        ValueError: There is a NaN among them.

    Example:
        >>> to_steps(np.array([0.0, 0.7, -1000.0]), 0.5, 3).tolist()
        [3, 4, -128]
    """
    if np.isnan(x).any():
        raise ValueError(f"x has NaN values, which {np.dtype(dtype)} cannot hold.")
    limits = np.iinfo(dtype)
    return np.clip(np.round(x / scale) + zero_point, limits.min, limits.max).astype(dtype)


def to_real(steps: np.ndarray, scale: float | np.floating, zero_point: int) -> np.ndarray:
    """What an integer tensor holds → real values, float32: `scale * (steps - zero_point)`.

    Example:
        >>> to_real(np.int8([3, 4, -128]), 0.5, 3).tolist()
        [0.0, 0.5, -65.5]
    """
    return (scale * (steps.astype(np.int32) - zero_point)).astype(np.float32)


def check(network: Network) -> None:
    """Check that the parts fit together, for all who read a network to rely on.

    Every index exists; every tensor is computed once, and before it is read; the shapes around
    convolutions, dense layers and pooling belong together, as the kernels take for granted.

    Raises:
        FlatbufferError: They do not; the message names the operator and the tensor.
    """
    tensors = network.tensors
    _check_indices("the network's inputs", network.inputs, len(tensors))
    _check_indices("the network's outputs", network.outputs, len(tensors))
    given = {t.index for t in tensors if t.data is not None} | set(network.inputs)
    # A variable starts as zeros, and an empty tensor has nothing to compute.
    known = given | {t.index for t in tensors if t.is_variable or not t.num_bytes}
    for place, operator in enumerate(network.operators):
        label = f"operator {place} ({operator.name})"
        read = [i for i in operator.inputs if i != -1]
        _check_indices(f"the inputs of {label}", read, len(tensors))
        _check_indices(f"the outputs of {label}", operator.outputs, len(tensors))
        if not known.issuperset(read):
            early = min(set(read) - known)
            raise FlatbufferError(f"{label} reads tensor {early} before it is computed")
        if not given.isdisjoint(operator.outputs):
            again = min(given & set(operator.outputs))
            raise FlatbufferError(f"{label} writes tensor {again}, which has its value already")
        _check_signature(label, operator, tensors)
        _check_shapes(label, operator, tensors)
        given |= set(operator.outputs)
        known |= set(operator.outputs)


def _check_indices(label: str, indices: Iterable[int], num_tensors: int) -> None:
    for index in indices:
        if not 0 <= index < num_tensors:
            raise FlatbufferError(f"{label} name tensor {index} of {num_tensors}")


def _check_signature(label: str, operator: Operator, tensors: Sequence[Tensor]) -> None:
    ends = zip(("input", "output"), (operator.inputs, operator.outputs), strict=True)
    for (end, indices), ranks in zip(ends, _SIGNATURES.get(operator.name, ((), ())), strict=True):
        if len(indices) < len(ranks) or -1 in indices[: len(ranks)]:
            raise FlatbufferError(f"{label} lacks one of its {len(ranks)} {end}s")
        for index, rank in zip(indices, ranks, strict=False):
            if rank and len(tensors[index].shape) != rank:
                raise FlatbufferError(
                    f"{label} has an {end} of shape {tensors[index].shape}, expected {rank} axes"
                )


def _check_shapes(label: str, operator: Operator, tensors: Sequence[Tensor]) -> None:
    rule = _SHAPE_RULES.get(operator.name)
    if not rule:
        return
    inputs = [tensors[i] for i in operator.inputs if i != -1]
    output = tensors[operator.outputs[0]]
    try:
        fits = rule(operator.options, inputs, output)
    except KeyError as missing:
        raise FlatbufferError(f"{label} lacks its option {missing}") from None
    if not fits:
        shapes = ", ".join(str(tensor.shape) for tensor in inputs)
        raise FlatbufferError(
            f"{label} makes {output.shape} of {shapes}, which its options do not allow"
        )


def _is_convolution(options: dict[str, Any], inputs: Sequence[Tensor], output: Tensor) -> bool:
    source, weights, *biases = inputs
    filters, height, width, channels = weights.shape
    return (
        0 < channels <= source.shape[3]
        and source.shape[3] % channels == 0
        and filters % (source.shape[3] // channels) == 0
        and output.shape[3] == filters
        and all(bias.size == filters for bias in biases)
        and _is_window(options, source, (height, width), output)
    )


def _is_depthwise(options: dict[str, Any], inputs: Sequence[Tensor], output: Tensor) -> bool:
    source, weights, *biases = inputs
    one, height, width, filters = weights.shape
    return (
        one == 1
        and source.shape[3] > 0
        and filters % source.shape[3] == 0
        and output.shape[3] == filters
        and all(bias.size == filters for bias in biases)
        and _is_window(options, source, (height, width), output)
    )


def _is_pooling(options: dict[str, Any], inputs: Sequence[Tensor], output: Tensor) -> bool:
    window = (options["filter_height"], options["filter_width"])
    return inputs[0].shape[3] == output.shape[3] and _is_window(options, inputs[0], window, output)


def _is_window(
    options: dict[str, Any], source: Tensor, window: tuple[int, int], output: Tensor
) -> bool:
    """Whether a window that slides over the source stops as often as the output has values."""
    strides = (options["stride_h"], options["stride_w"])
    dilations = (options.get("dilation_h_factor", 1), options.get("dilation_w_factor", 1))
    if min(*strides, *dilations, *window) < 1 or source.shape[0] != output.shape[0]:
        return False
    lengths = zip(source.shape[1:3], window, strides, dilations, strict=True)
    is_padded = options["padding"] == 0
    stops = [
        -(-length // stride) if is_padded else (length - (size - 1) * step - 1) // stride + 1
        for length, size, stride, step in lengths
    ]
    return tuple(stops) == output.shape[1:3]


def _is_dense(options: dict[str, Any], inputs: Sequence[Tensor], output: Tensor) -> bool:
    source, weights, *biases = inputs
    units, size = weights.shape
    return (
        size > 0
        and source.size % size == 0
        and output.size == source.size // size * units
        and all(bias.size == units for bias in biases)
    )


def _is_softmax(options: dict[str, Any], inputs: Sequence[Tensor], output: Tensor) -> bool:
    beta = options["beta"]
    return inputs[0].shape == output.shape and math.isfinite(beta) and beta > 0


_SHAPE_RULES: dict[str, Callable[[dict[str, Any], Sequence[Tensor], Tensor], bool]] = {
    "AVERAGE_POOL_2D": _is_pooling,
    "CONV_2D": _is_convolution,
    "DEPTHWISE_CONV_2D": _is_depthwise,
    "FULLY_CONNECTED": _is_dense,
    "MAX_POOL_2D": _is_pooling,
    "SOFTMAX": _is_softmax,
}
