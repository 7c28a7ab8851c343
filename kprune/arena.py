"""Network → the RAM that TensorFlow Lite Micro needs, without an interpreter.

Its arena has two ends. The head holds the activations: `plan` lays them out as the greedy planner
does, byte for byte, around what a file has planned itself. The tail holds the interpreter's
records: `tail_bytes` bounds them. Both are pure functions of sizes and lifetimes, so a budget can
ask for them thousands of times. `plan_ahead` finds the plan that a file should bring.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from kprune.errors import UnsupportedOpError
from kprune.flatbuffer import Network, Operator, Tensor
from kprune.packing import Buffer, height, lowest, pack, peak_bytes

_ALIGNMENT = 16

# sizeof of the kernels' records on a 64-bit host, where pointers make them largest; kinds that
# are not listed stay below the default. Measured, one operator each.
_RECORD_BYTES = {
    "ADD": 68,
    "ADD_N": 48,
    "AVERAGE_POOL_2D": 32,
    "BATCH_MATMUL": 160,
    "CONCATENATION": 80,
    "CONV_2D": 80,
    "DEPTHWISE_CONV_2D": 80,
    "ELU": 256,
    "FULLY_CONNECTED": 72,
    "HARD_SWISH": 20,
    "LEAKY_RELU": 24,
    "LOGISTIC": 16,
    "MAX_POOL_2D": 32,
    "MEAN": 44,
    "MUL": 44,
    "PAD": 56,
    "QUANTIZE": 32,
    "RELU": 28,
    "RELU6": 28,
    "RESHAPE": 0,
    "RESIZE_NEAREST_NEIGHBOR": 0,
    "SOFTMAX": 80,
    "STRIDED_SLICE": 96,
    "SUB": 60,
    "SUM": 44,
    "TANH": 16,
    "TRANSPOSE_CONV": 88,
}
_LARGEST_RECORD = 256

# Kernels whose scratch buffers are not modelled here.
_UNPLANNED = ("CUSTOM", "SVDF", "UNIDIRECTIONAL_SEQUENCE_LSTM")
_PER_CHANNEL = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")

_MAX_ROOM_BYTES = 2**28

# By which an operator's record is larger with CMSIS-NN, at the most.
_CMSIS_RECORD_BYTES = 32

# A plan in a file, without its offsets: name, tables, alignment.
_PLAN_BYTES = 112


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where each tensor lies while it is needed.

    Attributes:
        buffers: What was placed: tensors in order of index, then scratch buffers of operators.
            Step 0 is before the first operator, step `i + 1` is operator `i`.
        offsets: In bytes from the start of the arena, one per buffer.
        tensors: Index of the tensor in each buffer; None for a scratch buffer.
        peak: Bytes that the activations need; TensorFlow Lite Micro calls it the head.
    """

    buffers: tuple[Buffer, ...]
    offsets: tuple[int, ...]
    tensors: tuple[int | None, ...]
    peak: int


@dataclasses.dataclass(frozen=True)
class Arena:
    """The RAM that `tflite::MicroInterpreter` needs on a 32-bit core, in bytes.

    Attributes:
        head: Activations, and scratch buffers of the reference kernels.
        tail: The interpreter's records, never below the truth.
        margin: What CMSIS-NN's kernels want besides.
        start: What the interpreter needs before it runs, where the activations come to lie.
        source: Where `head` and `tail` come from, to be printed beside them.
    """

    head: int
    tail: int
    margin: int
    start: int
    source: str

    @property
    def low(self) -> int:
        """Bytes at the low end: activations, or the start where that takes more."""
        return max(self.head, self.start)

    @property
    def total(self) -> int:
        return _aligned(self.low + self.tail + self.margin)


def arena(network: Network) -> Arena:
    """Predict the arena of a network for TensorFlow Lite Micro on a 32-bit core.

    Args:
        network: As from `kprune.flatbuffer.read`.

    Returns:
        The parts of the arena; `total` is what a program should reserve.

    Raises:
        UnsupportedOpError: As for `plan`.
    """
    return Arena(
        plan(network).peak,
        tail_bytes(network),
        cmsis_margin(network),
        start_bytes(network),
        "planned by kprune",
    )


def plan(network: Network) -> Plan:
    """Lay out the activations of a network as TensorFlow Lite Micro does.

    Args:
        network: As from `kprune.flatbuffer.read`.

    Returns:
        The plan. `peak` equals the head that TensorFlow Lite Micro's recording allocator reports
        for its reference kernels.

    Raises:
        UnsupportedOpError: The network has further subgraphs, whose lifetimes depend on the
            operator that runs them, or an operator whose scratch buffers are not known.
    """
    return _plan(network, _reference_scratch)


def plan_ahead(network: Network) -> tuple[int, ...]:
    """Offsets for all tensors that need less RAM than where the interpreter would put them.

    The interpreter places the largest tensors first, which leaves gaps between layers of unequal
    width, such as pruning makes.

    Args:
        network: As from `kprune.flatbuffer.read`; a plan of its own is not looked at.

    Returns:
        One offset per tensor, -1 for constants, as `repack` writes them. Empty where they would
        spare less RAM than they take flash, or where `plan` knows too little of the network.
    """
    bare = dataclasses.replace(network, offsets=())
    try:
        whole = arena(bare).total
    except UnsupportedOpError:
        return ()
    if whole - least_bytes(bare) <= plan_bytes(bare):
        return ()
    # The scratch buffers have to find room between the tensors.
    buffers, tensors = _buffers(bare, _cmsis_scratch)
    offsets = [-1] * len(network.tensors)
    for tensor, offset in zip(tensors, pack(buffers), strict=True):
        if tensor is not None:
            offsets[tensor] = offset
    planned = dataclasses.replace(bare, offsets=tuple(offsets))
    return planned.offsets if whole - arena(planned).total > plan_bytes(bare) else ()


def plan_bytes(network: Network) -> int:
    """What a plan takes in the file, or a few bytes more."""
    return _PLAN_BYTES + 4 * len(network.tensors)


def cmsis_margin(network: Network) -> int:
    """Bytes that CMSIS-NN on a core with DSP (M4, M7, M33) needs beyond the reference kernels.

    Its scratch buffers change the head, and the operators' records grow.
    """
    head = _plan(network, _cmsis_scratch).peak - _plan(network, _reference_scratch).peak
    return max(head, 0) + _CMSIS_RECORD_BYTES * len(network.operators)


def least_bytes(network: Network) -> int:
    """What the arena takes at the least, however its activations are laid out."""
    buffers, _ = _buffers(network, _cmsis_scratch)
    records = tail_bytes(network) + _CMSIS_RECORD_BYTES * len(network.operators)
    return _aligned(max(peak_bytes(buffers), start_bytes(network)) + records)


def tail_bytes(network: Network, pointer_bytes: int = 4) -> int:
    """Bound the interpreter's records: tensors, operators, requantisation per channel.

    Args:
        network: As from `kprune.flatbuffer.read`.
        pointer_bytes: 4 for a microcontroller, where it is never below what
            `kprune.tflm.measure_arena` states; 8 for this computer, where the recording allocator
            of the tflite-micro wheel tells the truth to compare with.
    """
    num_operators = len(network.operators)
    num_ends = len(network.inputs) + len(network.outputs)
    # Sizes of TFLite Micro's structs, in pointers: TfLiteEvalTensor 3, TfLiteTensor 8,
    # NodeAndRegistration 8. What else there is counts as on this computer, as `measure_arena` does:
    # 4 for each quantization, 3.5 for each operator, and 70 for the allocator and its graph.
    pointers = 3 * len(network.tensors) + 8 * num_ends + 8 * num_operators
    others = 4 * num_ends + 3.5 * num_operators + 70
    records = sum(_record_bytes(operator, network) for operator in network.operators)
    variables = sum(_aligned(t.num_bytes) for t in network.tensors if t.is_variable)
    structs = pointers * pointer_bytes + math.ceil(8 * others)
    return structs + 16 * num_ends + records + variables


def start_bytes(network: Network, pointer_bytes: int = 4) -> int:
    """What the interpreter needs while it starts: for a small network, more than its activations.

    First each kernel looks at its tensors, then the planner lays all of them out.

    Args:
        network: As from `kprune.flatbuffer.read`.
        pointer_bytes: As for `tail_bytes`.

    Source:
        tflite-micro: `TfLiteTensor` and its zero points; `ScratchBufferRequest`, 12 in reserve;
        `AllocationInfo` of all tensors and scratch buffers; the greedy planner's `per_buffer_size`.
    """
    requests = sum(len(_cmsis_scratch(operator, network)) for operator in network.operators)
    asked = 2 * pointer_bytes * (requests + 12) + 2 * _ALIGNMENT
    seen = max((_seen_bytes(o, network, pointer_bytes) for o in network.operators), default=0)
    placed = sum(_is_planned(tensor) for tensor in network.tensors)
    infos = (16 + 2 * pointer_bytes) * (len(network.tensors) + requests)
    return asked + max(seen, infos + 40 * (placed + requests))


def _seen_bytes(operator: Operator, network: Network, pointer_bytes: int) -> int:
    tensors = [network.tensors[i] for i in (*operator.inputs, *operator.outputs) if i != -1]
    return sum(12 * pointer_bytes + 4 * len(t.zero_point) + 20 for t in tensors)


def room_bytes(network: Network) -> int:
    """An arena on this computer with room enough: every activation at once, and ample records."""
    activations = sum(t.num_bytes + 16 for t in network.tensors if t.data is None)
    records = tail_bytes(network, pointer_bytes=8)
    return min(8 * activations + 2 * records + 2**20, _MAX_ROOM_BYTES)


def _record_bytes(operator: Operator, network: Network) -> int:
    """What a kernel keeps: its record, then multiplier and shift of every channel."""
    size = _aligned(_RECORD_BYTES.get(operator.name, _LARGEST_RECORD))
    if operator.name in _PER_CHANNEL:
        weights = network.tensors[operator.inputs[1]]
        # A dense layer with one scale keeps it in its record; a convolution repeats it.
        is_dense = operator.name == "FULLY_CONNECTED"
        if not is_dense or len(weights.scale) > 1:
            channels = weights.shape[0] if is_dense else _channels(operator, network)
            size += 2 * _aligned(4 * channels)
    if operator.name == "SOFTMAX" and network.tensors[operator.inputs[0]].dtype == "int16":
        # softmax_common.cc: tables of exp(x) and of 1 / (1 + x), 513 values of int16 each.
        size += 2 * _aligned(2 * 513)
    if operator.name == "BATCH_MATMUL":
        # It keeps transposed copies.
        size += sum(_aligned(network.tensors[i].num_bytes) for i in operator.inputs if i != -1)
    return size + _ALIGNMENT


def place(buffers: Sequence[Buffer], planned: Mapping[int, int] | None = None) -> list[int]:
    """Give each buffer an offset such that no two share a byte at the same time.

    The largest first, each into the lowest gap between those already placed that are alive
    together with it.

    Args:
        buffers: Those to be placed.
        planned: Position in `buffers` -> offset of those that have one already.

    Example:
        >>> place([Buffer(32, 0, 1), Buffer(64, 1, 2), Buffer(32, 2, 3)])
        [64, 0, 64]

    Source:
        tflite-micro, memory_planner/greedy_memory_planner.cc. Among equal sizes the later
        buffer goes first there, so also here.
    """
    placed = dict(planned or {})
    order = sorted(range(len(buffers)), key=lambda i: (-buffers[i].size, -i))
    for i in (i for i in order if i not in placed):
        taken = sorted(
            (offset, offset + buffers[j].size)
            for j, offset in placed.items()
            if buffers[j].meets(buffers[i])
        )
        placed[i] = lowest(buffers[i].size, taken)
    return [placed[i] for i in range(len(buffers))]


def _plan(network: Network, scratch: "_Rule") -> Plan:
    if network.subgraphs:
        raise UnsupportedOpError(
            f"plan cannot lay out a network with {len(network.subgraphs)} further subgraphs "
            "(IF, WHILE, CALL_ONCE): only a run tells when their tensors live."
        )
    unplanned = sorted({o.name for o in network.operators if o.name in _UNPLANNED})
    if unplanned:
        raise UnsupportedOpError(
            f"plan does not know the scratch buffers of {', '.join(unplanned)}: measure the arena "
            "with TensorFlow Lite Micro instead (kprune.tflm.measure_arena)."
        )
    buffers, tensors = _buffers(network, scratch)
    planned = {
        i: network.offsets[tensor]
        for i, tensor in enumerate(tensors)
        if network.offsets and tensor is not None and network.offsets[tensor] != -1
    }
    offsets = place(buffers, planned)
    return Plan(tuple(buffers), tuple(offsets), tuple(tensors), height(buffers, offsets))


def _buffers(network: Network, scratch: "_Rule") -> tuple[list[Buffer], list[int | None]]:
    """What the planner has to place, and the tensor in each, None for a scratch buffer."""
    first, last = _lifetimes(network)
    held = [t for t in network.tensors if _is_planned(t)]
    tensors: list[int | None] = [t.index for t in held]
    buffers = [
        Buffer(_aligned(t.num_bytes), first.get(t.index, -1), last.get(t.index, -1)) for t in held
    ]
    for step, operator in enumerate(network.operators, 1):
        for size in scratch(operator, network):
            tensors.append(None)
            buffers.append(Buffer(_aligned(size), step, step))
    return buffers, tensors


def _lifetimes(network: Network) -> tuple[dict[int, int], dict[int, int]]:
    """The first and the last step at which each tensor is needed."""
    first = dict.fromkeys(network.inputs, 0)
    last = dict.fromkeys(network.inputs, 0)
    for step, operator in enumerate(network.operators, 1):
        for index in operator.outputs:
            first.setdefault(index, step)
        for index in (*operator.inputs, *operator.outputs):
            last[index] = step
    for index in network.outputs:
        last[index] = len(network.operators)
    return first, last


def _is_planned(tensor: Tensor) -> bool:
    # Constants stay in flash; variables have memory of their own, outside the plan.
    return tensor.data is None and not tensor.is_variable and tensor.num_bytes > 0


_Rule = Callable[[Operator, Network], list[int]]


def _reference_scratch(operator: Operator, network: Network) -> list[int]:
    """Bytes of each buffer that the reference kernel wants besides inputs and outputs."""
    rule = _REFERENCE_SCRATCH.get(operator.name)
    return rule(operator, network) if rule else []


def _cmsis_scratch(operator: Operator, network: Network) -> list[int]:
    rule = _CMSIS_SCRATCH.get(operator.name)
    return rule(operator, network) if rule else _reference_scratch(operator, network)


def _axes_scratch(operator: Operator, network: Network) -> list[int]:
    source, axes = (network.tensors[i] for i in operator.inputs[:2])
    return [4 * len(source.shape), 4 * axes.size]


def _mean_scratch(operator: Operator, network: Network) -> list[int]:
    output = network.tensors[operator.outputs[0]]
    sums = [4 * output.size] if output.dtype.kind == "i" else []
    return sums + _axes_scratch(operator, network)


def _transposed_scratch(operator: Operator, network: Network) -> list[int]:
    output = network.tensors[operator.outputs[0]]
    sum_bytes = {"int8": 4, "int16": 8}.get(output.dtype.name, 0)
    return [sum_bytes * output.size] if sum_bytes else []


def _mirror_scratch(operator: Operator, network: Network) -> list[int]:
    return [4 * len(network.tensors[operator.inputs[0]].shape)] * 2


def _pointers_scratch(operator: Operator, network: Network) -> list[int]:
    return [8 * len(operator.inputs)]


def _convolution_scratch(operator: Operator, network: Network) -> list[int]:
    # Two patches as int16; a 1x1 kernel reads the input where it lies.
    _, height, width, channels = network.tensors[operator.inputs[1]].shape
    return [] if height == width == 1 else [4 * height * width * channels]


def _depthwise_scratch(operator: Operator, network: Network) -> list[int]:
    # The kernels for 3x3 and for a channel multiplier need none.
    source, weights = (network.tensors[i] for i in operator.inputs[:2])
    if weights.shape[1:3] == (3, 3) or weights.shape[-1] != source.shape[-1]:
        return []
    return [2 * weights.size]


def _channels_scratch(operator: Operator, network: Network) -> list[int]:
    return [4 * _channels(operator, network)]


def _channels(operator: Operator, network: Network) -> int:
    return network.tensors[operator.outputs[0]].shape[-1]


_REFERENCE_SCRATCH: dict[str, _Rule] = {
    "ADD_N": _pointers_scratch,
    "MEAN": _mean_scratch,
    "MIRROR_PAD": _mirror_scratch,
    "REDUCE_ALL": _axes_scratch,
    "REDUCE_MAX": _axes_scratch,
    "REDUCE_MIN": _axes_scratch,
    "SUM": _mean_scratch,
    "TRANSPOSE_CONV": _transposed_scratch,
}

# arm_..._get_buffer_size of CMSIS-NN, for cores with DSP instructions.
_CMSIS_SCRATCH: dict[str, _Rule] = {
    "AVERAGE_POOL_2D": _channels_scratch,
    "CONV_2D": _convolution_scratch,
    "DEPTHWISE_CONV_2D": _depthwise_scratch,
}


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
