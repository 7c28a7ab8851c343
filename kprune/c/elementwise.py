"""Operators on two inputs, element by element; reductions and softmax."""

import math

import numpy as np

from kprune.c import fixedpoint, rescale
from kprune.c.fixedpoint import multiply, quantize_multiplier
from kprune.c.step import (
    Array,
    Call,
    Constant,
    Op,
    Overlap,
    Place,
    Refusal,
    Step,
    describe,
    int8,
    record,
    same_scale,
    size,
)


def _pairs(op: Op) -> tuple[int, ...]:
    """The fields of kp_pairs: sizes and strides of both inputs, neighbouring axes joined."""
    a, b, output = op.input(0).shape, op.input(1).shape, op.output.shape
    if np.broadcast_shapes(a, b) != output:
        raise Refusal(f"inputs {a} and {b} do not broadcast to {output}")
    strides = [_broadcast_strides(shape, output) for shape in (a, b)]
    axes: list[list[int]] = []  # size, stride of a, stride of b
    for axis, length in enumerate(output):
        steps = [strides[0][axis], strides[1][axis]]
        if length == 1:
            continue
        if axes and axes[-1][1:] == [step * length for step in steps]:
            axes[-1] = [axes[-1][0] * length, *steps]
        else:
            axes.append([length, *steps])
    if len(axes) > 4:
        raise Refusal(f"inputs {a} and {b} repeat along more than 4 axes")
    padded = [[1, 0, 0]] * (4 - len(axes)) + axes
    return tuple(axis[field] for field in range(3) for axis in padded)


def _broadcast_strides(shape: tuple[int, ...], output: tuple[int, ...]) -> list[int]:
    lengths = (1,) * (len(output) - len(shape)) + shape
    return [
        0 if length == 1 else math.prod(lengths[axis + 1 :]) for axis, length in enumerate(lengths)
    ]


def _paired(op: Op, name: str, function: str, *constants: tuple[str, str, list]) -> Step:
    a, b = op.input(0), op.input(1)
    fields = _pairs(op)
    records = [
        record(
            "pairs",
            "kp_pairs",
            (f"{{ {', '.join(map(str, fields[:4]))} }}", "size"),
            (f"{{ {', '.join(map(str, fields[4:8]))} }}", "strides of the first input"),
            (f"{{ {', '.join(map(str, fields[8:]))} }}", "strides of the second"),
        ),
        *(record(suffix, type, *lines) for suffix, type, lines in constants),
    ]
    names = [Constant("pairs"), *(Constant(suffix) for suffix, _, _ in constants)]
    places = (Place(a.index), Place(b.index), Place(op.output.index))
    return Step(
        name,
        tuple(records),
        (Call(function, (*names, *places)),),
        overlaps={t.index: Overlap() for t in (a, b) if t.shape == op.output.shape},
    )


def add(op: Op) -> Step:
    (a, _), (b, _), (out, _) = int8(op.input(0)), int8(op.input(1)), int8(op.output)
    twice_larger = 2 * float(max(a, b))
    factors = (
        float(a) / twice_larger,
        float(b) / twice_larger,
        twice_larger / (2**20 * float(out)),
    )
    return _sum(op, "Add", "kp_add", rescale.terms(factors))


def sub(op: Op) -> Step:
    """As `add`, but TensorFlow Lite Micro computes these factors in float32."""
    (a, _), (b, _), (out, _) = int8(op.input(0)), int8(op.input(1)), int8(op.output)
    twice_larger = np.float32(2) * max(a, b)
    factors = (a / twice_larger, b / twice_larger, twice_larger / (np.float32(2**20) * out))
    return _sum(op, "Subtract", "kp_sub", rescale.terms([float(factor) for factor in factors]))


def _sum(op: Op, name: str, function: str, terms: list[int]) -> Step:
    zeros = [int8(tensor)[1] for tensor in (op.input(0), op.input(1), op.output)]
    lines = [
        ((zeros[0], *terms[0:2]), "first input: zero point, multiplier, shift"),
        ((zeros[1], *terms[2:4]), "second input"),
        (tuple(terms[4:6]), "sum: multiplier, shift"),
        ((zeros[2], *rescale.activation_limits(op)), "output: zero point, lowest, highest"),
    ]
    activation = rescale.ACTIVATION_NAMES[op.option("fused_activation_function")]
    return _paired(op, name + activation, function, ("sum", "kp_sum", lines))


def mul(op: Op) -> Step:
    (a, a_zero), (b, b_zero), (out, zero) = (
        int8(op.input(0)),
        int8(op.input(1)),
        int8(op.output),
    )
    lines = [
        ((a_zero, b_zero), "zero points of the inputs"),
        (quantize_multiplier(float(a) * float(b) / float(out)), "multiplier, exponent"),
        ((zero, *rescale.activation_limits(op)), "output: zero point, lowest, highest"),
    ]
    activation = rescale.ACTIVATION_NAMES[op.option("fused_activation_function")]
    return _paired(op, f"Multiply{activation}", "kp_mul", ("product", "kp_product", lines))


def larger_or_smaller(op: Op) -> Step:
    tensors = (op.input(0), op.input(1), op.output)
    if not all(same_scale(tensor, op.output) for tensor in tensors):
        raise Refusal("inputs and output have different scales")
    name, function = {
        "MAXIMUM": ("Maximum", "kp_maximum"),
        "MINIMUM": ("Minimum", "kp_minimum"),
    }[op.operator.name]
    return _paired(op, name, function)


def prelu(op: Op) -> Step:
    (scale, zero), (alpha, alpha_zero), (out, out_zero) = (
        int8(op.input(0)),
        int8(op.input(1)),
        int8(op.output),
    )
    ratio, slope = float(scale) / float(out), float(scale) * float(alpha) / float(out)
    lines = [
        ((zero, alpha_zero), "zero points of input and alpha"),
        (quantize_multiplier(ratio), "multiplier, exponent of positive values"),
        (quantize_multiplier(slope), "of negative values times alpha"),
        ((out_zero,), "zero point of the output"),
    ]
    return _paired(op, "PReLU", "kp_prelu", ("scales", "kp_prelu_scales", lines))


# --- Reductions ---


def mean(op: Op) -> Step:
    source = op.input(0)
    (scale, zero), (out, out_zero) = int8(source), int8(op.output)
    outer, reduced, inner = _reduction(op)
    multiplier, exponent = quantize_multiplier(float(scale) / float(out))
    shift = min(reduced.bit_length() - 1, 32, 31 + exponent)
    if reduced * 255 > fixedpoint.INT32_MAX or shift < 0:
        raise Refusal(f"the mean of {reduced} values can overflow 32 bits")
    shape = record(
        "shape",
        "kp_mean_shape",
        ((outer, reduced, inner), "outer, reduced, inner size"),
        ((zero,), "zero point of the input"),
        (((multiplier << shift) // reduced, exponent - shift), "multiplier, exponent"),
        ((out_zero,), "zero point of the output"),
    )
    places = (Place(source.index), Place(op.output.index))
    return Step("Mean", (shape,), (Call("kp_mean", (Constant("shape"), *places)),))


def reduce_max(op: Op) -> Step:
    if not same_scale(op.input(0), op.output):
        raise Refusal("input and output have different scales")
    sizes = map(str, _reduction(op))
    places = (Place(op.input(0).index), Place(op.output.index))
    return Step("Max", (), (Call("kp_reduce_max", (*sizes, *places)),))


def _reduction(op: Op) -> tuple[int, int, int]:
    """Sizes before, along and behind the axes that vanish, which must be neighbours."""
    shape = op.input(0).shape
    axes = {int(axis) % len(shape) for axis in op.constant(1, "int32").ravel()}
    axes = {axis for axis in axes if shape[axis] > 1}
    first, last = min(axes, default=0), max(axes, default=-1)
    if any(shape[axis] > 1 for axis in set(range(first, last + 1)) - axes):
        raise Refusal(f"its axes {sorted(axes)} of {shape} are not neighbours")
    outer, inner = math.prod(shape[:first]), math.prod(shape[last + 1 :])
    if outer * inner != size(op.output):
        raise Refusal(f"{shape} without axes {sorted(axes)} is not {op.output.shape}")
    return outer, size(op.input(0)) // (outer * inner), inner


def softmax(op: Op) -> Step:
    source = op.input(0)
    scale, _ = int8(source)
    if int8(op.output) != (np.float32(1 / 256), -128):
        raise Refusal(f"{describe(op.output)} must have scale 1/256 and zero point -128")
    depth = source.shape[-1] if source.shape else 1
    factor = min(float(np.float32(op.option("beta"))) * float(scale) * 2**26, 2**31 - 1.0)
    multiplier, exponent = quantize_multiplier(factor)
    if exponent < 0:
        raise Refusal("beta times the scale of its input is too small for TensorFlow Lite Micro")
    radius = min(fixedpoint.input_radius(5, exponent), 255)
    exponentials = [
        fixedpoint.exp_on_negative_values(multiply(-below, multiplier, exponent), 5)
        for below in range(radius + 1)
    ]
    call = Call(
        "kp_softmax",
        (
            Constant("exponentials"),
            *map(str, (len(exponentials), size(source) // depth, depth)),
            Place(source.index),
            Place(op.output.index),
        ),
    )
    return Step(
        "Softmax",
        (Array("exponentials", "int32_t", np.array(exponentials, np.int64)),),
        (call,),
        overlaps={source.index: Overlap()},
    )


LOWERINGS = {
    "ADD": add,
    "SUB": sub,
    "MUL": mul,
    "MAXIMUM": larger_or_smaller,
    "MINIMUM": larger_or_smaller,
    "PRELU": prelu,
    "MEAN": mean,
    "REDUCE_MAX": reduce_max,
    "SOFTMAX": softmax,
}
