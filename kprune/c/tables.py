"""Functions of one int8 value, as tables of 256 bytes; and the steps to and from float.

A table replaces the arithmetic of logistic, tanh, hard swish, relu and of another scale: it is
computed here, and one kernel looks it up.
"""

from collections.abc import Callable

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
    size,
)
from kprune.flatbuffer import Tensor


def _table(op: Op, name: str, function: Callable[[int], int]) -> Step:
    """One byte for each of the 256 inputs; `function` maps the input less its zero point."""
    _, zero = int8(op.input(0))
    int8(op.output)
    _same_size(op)
    values = [max(-128, min(function(q - zero), 127)) for q in range(-128, 128)]
    return Step(
        name,
        (Array("table", "int8_t", np.array(values, np.int8)),),
        (
            Call(
                "kp_lookup",
                (
                    Constant("table"),
                    str(size(op.output)),
                    Place(op.input(0).index),
                    Place(op.output.index),
                ),
            ),
        ),
        overlaps={op.input(0).index: Overlap()},
    )


def logistic(op: Op) -> Step:
    return _table(op, "Sigmoid", _squashing(op, fixedpoint.logistic, 23, -128))


def tanh(op: Op) -> Step:
    return _table(op, "Tanh", _squashing(op, fixedpoint.tanh, 24, 0))


def _squashing(
    op: Op, function: Callable[[int, int], int], shift: int, zero: int
) -> Callable[[int], int]:
    """Input in Q4.27, output in Q0.31 shifted right: both as TensorFlow Lite Micro has them.

    There the output's scale is taken for granted; only its zero point is looked at.
    """
    scale, _ = int8(op.input(0))
    expected = 1 / 256 if zero else 1 / 128
    if int8(op.output) != (np.float32(expected), zero):
        raise Refusal(
            f"{describe(op.output)} must have scale {expected} and zero point {zero}, as "
            "TensorFlow Lite's int8 specification says"
        )
    multiplier, exponent = quantize_multiplier(float(scale) * 2**27)
    radius = fixedpoint.input_radius(4, exponent)

    def byte(difference: int) -> int:
        if abs(difference) >= radius:
            return 127 if difference > 0 else -128
        fine = multiply(difference, multiplier, exponent)
        return fixedpoint.rounding_shift_right(function(fine, 4), shift) + zero

    return byte


def hard_swish(op: Op) -> Step:
    scale, _ = int8(op.input(0))
    out_scale, out_zero = int8(op.output)
    fine = np.float32(1 / 128) * scale
    output = quantize_multiplier(float(fine / out_scale))
    reluish = quantize_multiplier(float(fine / np.float32(3 / 32768)))
    if output[1] > 0:
        raise Refusal("its scales differ too much: TensorFlow Lite Micro refuses them too")
    if reluish[1] > 31:
        raise Refusal(f"the scale {scale} of its input overflows in TensorFlow Lite Micro")
    return _table(
        op, "HardSwish", lambda value: fixedpoint.hard_swish(value, output, reluish) + out_zero
    )


def relu(op: Op) -> Step:
    rescaled = _rescaling(op, float(_float_ratio(op)))
    low, high = rescale.quantized_limits(op.output, 0.0, None)
    return _table(op, "ReLU", lambda value: max(low, min(rescaled(value), high)))


def relu6(op: Op) -> Step:
    """TensorFlow Lite Micro clamps the bytes: the output is taken to have the input's scale."""
    _, zero = int8(op.input(0))
    low, high = rescale.quantized_limits(op.input(0), 0.0, 6.0)
    return _table(op, "ReLU6", lambda value: max(low, min(value + zero, high)))


def leaky_relu(op: Op) -> Step:
    scale, _ = int8(op.input(0))
    out_scale, out_zero = int8(op.output)
    slope = np.float32(op.option("alpha")) * scale / out_scale
    identity = quantize_multiplier(float(_float_ratio(op)))
    alpha = quantize_multiplier(abs(float(slope)))
    sign = -1 if slope < 0 else 1

    def byte(value: int) -> int:
        scaled = multiply(value, *identity) if value >= 0 else sign * multiply(value, *alpha)
        return scaled + out_zero

    return _table(op, f"LeakyReLU {op.option('alpha'):g}", byte)


def _float_ratio(op: Op) -> np.float32:
    return int8(op.input(0))[0] / int8(op.output)[0]


def _rescaling(op: Op, ratio: float) -> Callable[[int], int]:
    multiplier, exponent = quantize_multiplier(ratio)
    _, zero = int8(op.output)
    return lambda value: multiply(value, multiplier, exponent) + zero


def quantize(op: Op) -> Step:
    source, output = op.input(0), op.output
    if source.dtype == np.int8:
        ratio = float(int8(source)[0]) / float(int8(output)[0])
        return _table(op, "Quantize", _rescaling(op, ratio))
    if source.dtype != np.float32:
        raise Refusal(f"{describe(source)} is {source.dtype}, expected int8 or float32")
    return _float_step(op, "Quantize", "kp_quantize", output)


def dequantize(op: Op) -> Step:
    if op.output.dtype != np.float32:
        raise Refusal(f"{describe(op.output)} is {op.output.dtype}, expected float32")
    return _float_step(op, "Dequantize", "kp_dequantize", op.input(0))


def _float_step(op: Op, name: str, function: str, quantized: Tensor) -> Step:
    scale, zero = int8(quantized)
    _same_size(op)
    arguments = (f"{float_text(scale)}", str(zero), str(size(op.output)))
    places = (Place(op.input(0).index), Place(op.output.index))
    return Step(name, (), (Call(function, (*arguments, *places)),))


def float_text(value: np.float32) -> str:
    """A C constant that is read back as exactly `value`.

    Example:
        >>> float_text(np.float32(0.1)), float_text(np.float32(2)), float_text(np.float32(1e-9))
        ('0.1f', '2.0f', '1e-09f')
    """
    return f"{np.format_float_scientific(value, trim='-')}f" if value < 1e-4 else f"{value!s}f"


def _same_size(op: Op) -> None:
    if size(op.input(0)) != size(op.output):
        raise Refusal(f"input {op.input(0).shape} and output {op.output.shape} differ in size")


LOWERINGS = {
    "LOGISTIC": logistic,
    "TANH": tanh,
    "HARD_SWISH": hard_swish,
    "RELU": relu,
    "RELU6": relu6,
    "LEAKY_RELU": leaky_relu,
    "QUANTIZE": quantize,
    "DEQUANTIZE": dequantize,
}
