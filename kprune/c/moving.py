"""Operators that move bytes and compute nothing: slices, paddings, concatenations, resizing."""

import math
from collections.abc import Sequence

import numpy as np

from kprune.c.step import (
    Argument,
    Array,
    Call,
    Constant,
    Op,
    Place,
    Record,
    Refusal,
    Step,
    describe,
    int8,
    record,
    same_scale,
    size,
)
from kprune.flatbuffer import Tensor

# These only rename the memory of their input; `program` gives both tensors the same place.
RENAMES = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})


def rename(op: Op) -> Step:
    """A plain copy, for the rare case that input and output cannot be the same memory."""
    if op.output.dtype != op.input(0).dtype or size(op.output) != size(op.input(0)):
        raise Refusal(f"input {op.input(0).shape} and output {op.output.shape} differ in size")
    arguments = (Place(op.output.index), Place(op.input(0).index), str(op.output.num_bytes))
    name = op.operator.name.title().replace("_", "")
    return Step(name, (), (Call("memcpy", arguments),))


def pad(op: Op) -> Step:
    source = op.input(0)
    _, zero = int8(op.output)
    if not same_scale(source, op.output):
        raise Refusal("input and output have different scales")
    amounts = op.constant(1, "int32").reshape(-1, 2).tolist()
    value = zero
    if op.optional_input(2) is not None:
        value = int(op.constant(2, "int8").ravel()[0])
    padded = [length + sum(pair) for length, pair in zip(source.shape, amounts, strict=True)]
    if tuple(padded) != op.output.shape or np.min(amounts, initial=0) < 0:
        raise Refusal(f"{source.shape} padded by {amounts} is not {op.output.shape}")
    strides = _strides(op.output.shape)
    offset = sum(before * step for (before, _), step in zip(amounts, strides, strict=True))
    block = _block("block", source.shape, _strides(source.shape), strides)
    fill = Call("memset", (Place(op.output.index), str(value), str(size(op.output))))
    copy = _copy("block", Place(source.index), Place(op.output.index, offset))
    return Step("ZeroPadding" if value == zero else "Padding", (block,), (fill, copy))


def concatenation(op: Op) -> Step:
    output = op.output
    axis = op.option("axis") % len(output.shape)
    strides = _strides(output.shape)
    constants: list[Record] = []
    calls = []
    position = 0
    if op.option("fused_activation_function"):
        raise Refusal("it has a fused activation")
    for source in op.inputs:
        if not same_scale(source, output):
            raise Refusal(f"{describe(source)} has another scale than {describe(output)}")
        # Everything behind the axis is one run in both tensors.
        shape = (math.prod(source.shape[:axis]), math.prod(source.shape[axis:]))
        steps = ((shape[1], 1), (math.prod(output.shape[axis:]), 1))
        suffix = f"block{len(constants) + 1}"
        constants.append(_block(suffix, shape, *steps))
        place = Place(output.index, position * strides[axis])
        calls.append(_copy(suffix, Place(source.index), place))
        position += source.shape[axis]
    if position != output.shape[axis]:
        raise Refusal(f"its inputs fill {position} of {output.shape[axis]} along axis {axis}")
    return Step(f"Concatenate, axis {axis}", tuple(constants), tuple(calls))


def strided_slice(op: Op) -> Step:
    source = op.input(0)
    if op.option("ellipsis_mask") or op.option("new_axis_mask"):
        raise Refusal("an ellipsis or a new axis in its slice")
    bounds = [op.constant(position, "int32").ravel().tolist() for position in (1, 2, 3)]
    ranges = [_chosen(op, axis, *bound) for axis, bound in enumerate(zip(*bounds, strict=True))]
    ranges += [range(length) for length in source.shape[len(ranges) :]]
    return _slice(op, "Slice", [ranges])


def _chosen(op: Op, axis: int, begin: int, end: int, step: int) -> range:
    """The positions that a strided slice takes along an axis, bounds clamped as in Python."""
    length = op.input(0).shape[axis]

    def masked(name: str) -> bool:
        return bool(op.option(name) >> axis & 1)

    if step == 0:
        raise Refusal(f"stride 0 along axis {axis}")
    start, _, _ = slice(None if masked("begin_mask") else begin, None, step).indices(length)
    if masked("shrink_axis_mask"):
        # TensorFlow Lite Micro clamps here, too, but walks only forwards.
        if step < 0 or start == length:
            raise Refusal(f"index {begin}, stride {step} along axis {axis} of {length}")
        return range(start, start + 1)
    if op.option("offset"):
        end += start
    _, stop, _ = slice(None, None if masked("end_mask") else end, step).indices(length)
    return range(start, stop, step)


def slice_(op: Op) -> Step:
    source = op.input(0)
    begins, sizes = (op.constant(position, "int32").ravel().tolist() for position in (1, 2))
    ranges = [
        range(begin, length if count == -1 else begin + count)
        for begin, count, length in zip(begins, sizes, source.shape, strict=True)
    ]
    return _slice(op, "Slice", [ranges])


def split(op: Op) -> Step:
    source = op.input(1)
    axis = int(op.constant(0, "int32").ravel()[0]) % len(source.shape)
    parts, position = [], 0
    for output in op.operator.outputs:
        length = op.network.tensors[output].shape[axis]
        ranges = [range(length) for length in source.shape]
        ranges[axis] = range(position, position + length)
        parts.append(ranges)
        position += length
    if position != source.shape[axis]:
        raise Refusal(f"its outputs cover {position} of {source.shape[axis]} along axis {axis}")
    return _slice(op, f"Split, axis {axis}", parts, source)


def _slice(
    op: Op, name: str, parts: Sequence[Sequence[range]], source: Tensor | None = None
) -> Step:
    """One copy per output, of the elements in the ranges of its part."""
    source = source or op.input(0)
    strides = _strides(source.shape)
    constants, calls = [], []
    for number, (index, ranges) in enumerate(zip(op.operator.outputs, parts, strict=True), 1):
        output = op.network.tensors[index]
        shape = tuple(map(len, ranges))
        if not same_scale(source, output) or math.prod(shape) != size(output):
            raise Refusal(f"{describe(source)} does not fit {describe(output)}")
        steps = [stride * chosen.step for stride, chosen in zip(strides, ranges, strict=True)]
        offset = sum(stride * chosen.start for stride, chosen in zip(strides, ranges, strict=True))
        suffix = f"block{number}" if len(parts) > 1 else "block"
        constants.append(_block(suffix, shape, steps, _strides(shape)))
        calls.append(_copy(suffix, Place(source.index, offset), Place(index)))
    return Step(name, tuple(constants), tuple(calls))


def transpose(op: Op) -> Step:
    source = op.input(0)
    order = op.constant(1, "int32").ravel().tolist()
    if sorted(order) != list(range(len(source.shape))) or not same_scale(source, op.output):
        raise Refusal(f"{source.shape} in the order {order} is not {op.output.shape}")
    strides = _strides(source.shape)
    block = _block(
        "block", op.output.shape, [strides[axis] for axis in order], _strides(op.output.shape)
    )
    copy = _copy("block", Place(source.index), Place(op.output.index))
    return Step(f"Permute {order}", (block,), (copy,))


def tile(op: Op) -> Step:
    source, output = op.input(0), op.output
    counts = op.constant(1, "int32").ravel().tolist()
    wanted = [length * count for length, count in zip(source.shape, counts, strict=True)]
    if tuple(wanted) != output.shape or not same_scale(source, output):
        raise Refusal(f"{source.shape} repeated {counts} times is not {output.shape}")
    strides, out_strides = _strides(source.shape), _strides(output.shape)
    # Each axis becomes two: its repetitions, which read the same again, and its elements.
    shape, steps, out_steps = [], [], []
    for axis, length in enumerate(source.shape):
        shape += [counts[axis], length]
        steps += [0, strides[axis]]
        out_steps += [out_strides[axis] * length, out_strides[axis]]
    block = _block("block", shape, steps, out_steps)
    copy = _copy("block", Place(source.index), Place(output.index))
    return Step(f"Tile {counts}", (block,), (copy,))


def resize_nearest(op: Op) -> Step:
    source, output = op.input(0), op.output
    if not same_scale(source, output) or len(source.shape) != 4 or source.shape[0] != 1:
        raise Refusal(f"{describe(source)} must be one image of the output's scale")
    if (output.shape[0], output.shape[3]) != (1, source.shape[3]):
        raise Refusal(f"{source.shape} resized is not {output.shape}")
    options = (op.option("align_corners"), op.option("half_pixel_centers"))
    constants = [
        Array(
            suffix,
            "uint16_t",
            _nearest(source.shape[axis], output.shape[axis], *options),
        )
        for axis, suffix in ((1, "rows"), (2, "columns"))
    ]
    window = record(
        "window",
        "kp_window",
        (source.shape[1:], "input: height, width, channels"),
        (output.shape[1:], "output"),
        ((1, 1, 1, 1, 1, 1, 0, 0, 1), "not used"),
    )
    names = (Constant("rows"), Constant("columns"), Constant("window"))
    call = Call("kp_resize_nearest", (*names, Place(source.index), Place(output.index)))
    return Step("UpSampling2D, nearest", (*constants, window), (call,))


def _nearest(length: int, out_length: int, align: bool, half_pixel: bool) -> np.ndarray:
    """The input position for each output position, in float32 as TensorFlow Lite Micro."""
    scale = np.float32(length) / np.float32(out_length)
    if align and out_length > 1:
        scale = np.float32(length - 1) / np.float32(out_length - 1)
    positions = (np.arange(out_length, dtype=np.float32) + np.float32(0.5 * half_pixel)) * scale
    rounded = np.floor(positions + np.float32(0.5)) if align else np.floor(positions)
    return np.clip(rounded, 0, length - 1).astype(np.uint16)


LOWERINGS = {
    **dict.fromkeys(RENAMES, rename),
    "PAD": pad,
    "PADV2": pad,
    "CONCATENATION": concatenation,
    "STRIDED_SLICE": strided_slice,
    "SLICE": slice_,
    "SPLIT": split,
    "TRANSPOSE": transpose,
    "TILE": tile,
    "RESIZE_NEAREST_NEIGHBOR": resize_nearest,
}


def _copy(suffix: str, source: Argument, output: Argument) -> Call:
    return Call("kp_copy", (Constant(suffix), source, output))


def _block(
    suffix: str, shape: Sequence[int], steps: Sequence[int], out_steps: Sequence[int]
) -> Record:
    """kp_block, with the axes joined that are one run in both layouts."""
    axes: list[tuple[int, int, int]] = []
    for length, step, out_step in zip(shape, steps, out_steps, strict=True):
        if length == 1:
            continue
        if axes and axes[-1][1:] == (step * length, out_step * length):
            axes[-1] = (axes[-1][0] * length, step, out_step)
        else:
            axes.append((length, step, out_step))
    if len(axes) > 4:
        raise Refusal(f"a block of shape {tuple(shape)} has more than 4 separate axes")
    axes = axes or [(1, 1, 1)]
    columns = zip(*[(1, 0, 0)] * (4 - len(axes)), *axes, strict=True)
    texts = [f"{{ {', '.join(map(str, column))} }}" for column in columns]
    return record(
        suffix,
        "kp_block",
        (texts[0], "size"),
        (texts[1], "strides in the input"),
        (texts[2], "strides in the output"),
    )


def _strides(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
