"""Integer arithmetic of TensorFlow Lite Micro, bit for bit, on Python's integers.

The generator needs it twice: real scales become a 32-bit multiplier and a shift, and functions
of one int8 value (logistic, tanh, hard swish, requantization …) become tables of 256 bytes, so
that the microcontroller looks up what is computed here. Rounding is gemmlowp's, in two steps;
`tests/c/test_network.py` holds it against TensorFlow Lite Micro itself, on all 256 inputs.

Numbers in Q(m).(31 - m) are integers that stand for `raw / 2**(31 - m)`.
"""

import math

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1


def wrap32(value: int) -> int:
    """`value` modulo 2**32, as a signed 32-bit register holds it."""
    return (value + 2**31) % 2**32 - 2**31


def round_half_away(value: float) -> int:
    """Round to the nearest integer, halves away from zero, as C's `round` does.

    Example:
        >>> round_half_away(2.5), round_half_away(-2.5), round_half_away(0.49999999999999994)
        (3, -3, 0)
    """
    fraction, whole = math.modf(value)
    return int(whole) + (abs(fraction) >= 0.5) * (1 if value > 0 else -1)


def quantize_multiplier(real: float) -> tuple[int, int]:
    """Write a real factor as `multiplier * 2**(exponent - 31)`.

    Args:
        real: The factor, at least 0.

    Returns:
        The multiplier, in [2**30, 2**31) or 0, and the exponent, at least -31. Factors too small
        for that exponent become (0, 0).

    Example:
        >>> quantize_multiplier(0.75)
        (1610612736, 0)
    """
    if real == 0:
        return 0, 0
    fraction, exponent = math.frexp(real)
    multiplier = round_half_away(fraction * 2**31)
    if multiplier == 2**31:
        multiplier, exponent = multiplier // 2, exponent + 1
    return (multiplier, exponent) if exponent >= -31 else (0, 0)


def rounding_high_multiply(a: int, b: int) -> int:
    """`a * b / 2**31`, halves rounded up; saturated where only -1 * -1 in Q0.31 needs it."""
    return min((a * b + 2**30) >> 31, INT32_MAX)


def rounding_shift_right(value: int, shift: int) -> int:
    """`value / 2**shift`, halves rounded away from zero."""
    remainder = value & ((1 << shift) - 1)
    threshold = (((1 << shift) - 1) >> 1) + (value < 0)
    return (value >> shift) + (remainder > threshold)


def multiply(value: int, multiplier: int, exponent: int) -> int:
    """`value * multiplier * 2**(exponent - 31)`: the step after every sum of products."""
    shifted = wrap32(value << max(exponent, 0))
    return rounding_shift_right(rounding_high_multiply(shifted, multiplier), max(-exponent, 0))


def input_radius(integer_bits: int, left_shift: int) -> int:
    """The largest int8 difference that `integer_bits` hold once shifted left."""
    return math.floor(((1 << integer_bits) - 1) * 2.0 ** (31 - integer_bits) / 2.0**left_shift)


def exp_on_negative_values(value: int, integer_bits: int) -> int:
    """exp of a number at most 0 in Q(integer_bits), as Q0.31.

    Source:
        gemmlowp, fixedpoint/fixedpoint.h: a Taylor series around -1/8 for the part in
        [-1/4, 0), times one constant for each set bit of the rest.
    """
    if value == 0:
        return INT32_MAX
    fractional_bits = 31 - integer_bits
    quarter = 1 << (fractional_bits - 2)
    residue = (value & (quarter - 1)) - quarter
    result = _exp_near_minus_one_eighth(residue << integer_bits)
    rest = residue - value
    for exponent, factor in zip(range(-2, integer_bits), _EXP_OF_MINUS_POWERS_OF_2, strict=False):
        if rest & (1 << (fractional_bits + exponent)):
            result = rounding_high_multiply(result, factor)
    return result


# exp(-1/4), exp(-1/2), exp(-1), … exp(-16) in Q0.31.
_EXP_OF_MINUS_POWERS_OF_2 = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)


def _exp_near_minus_one_eighth(value: int) -> int:
    exp_minus_one_eighth, one_third = 1895147668, 715827883
    x = value + 2**28
    x2 = rounding_high_multiply(x, x)
    x3 = rounding_high_multiply(x2, x)
    x4 = rounding_high_multiply(x2, x2)
    cubic = rounding_high_multiply(rounding_shift_right(x4, 2) + x3, one_third)
    series = rounding_shift_right(cubic + x2, 1)
    return exp_minus_one_eighth + rounding_high_multiply(exp_minus_one_eighth, x + series)


def _newton_reciprocal(value: int) -> int:
    """2 / (1 + value) in Q2.29, for `value` in [0, 1) as Q0.31."""
    half_denominator = (value + INT32_MAX + 1) // 2
    x = 1515870810 + rounding_high_multiply(half_denominator, -1010580540)  # 48/17 - 32/17 d
    for _ in range(3):
        error = 2**29 - rounding_high_multiply(half_denominator, x)
        x += _saturating_shift_left(rounding_high_multiply(x, error), 2)
    return x


def _saturating_shift_left(value: int, shift: int, bits: int = 32) -> int:
    return max(min(value << shift, 2 ** (bits - 1) - 1), -(2 ** (bits - 1)))


def reciprocal_of_one_plus(value: int) -> int:
    """1 / (1 + value), for `value` in [0, 1), both Q0.31."""
    return _saturating_shift_left(rounding_shift_right(_newton_reciprocal(value), 1), 2)


def logistic(value: int, integer_bits: int) -> int:
    """1 / (1 + exp(-value)) of a number in Q(integer_bits), as Q0.31."""
    if value == 0:
        return 2**30
    positive = reciprocal_of_one_plus(exp_on_negative_values(-abs(value), integer_bits))
    return positive if value > 0 else INT32_MAX - positive


def tanh(value: int, integer_bits: int) -> int:
    """tanh of a number in Q(integer_bits), as Q0.31."""
    if value == 0:
        return 0
    exponential = exp_on_negative_values(-abs(value), integer_bits + 1)
    positive = _saturating_shift_left(_newton_reciprocal(exponential) - 2**29, 2)
    return positive if value > 0 else -positive


def hard_swish(value: int, output: tuple[int, int], reluish: tuple[int, int]) -> int:
    """x * relu6(x + 3) / 6 for `value`, an int8 less its zero point; the result lacks its own.

    Args:
        value: In [-255, 255].
        output: Multiplier and exponent (at most 0) of `input_scale / 128 / output_scale`.
        reluish: Multiplier and exponent of `input_scale / 128 / (3 / 32768)`.
    """
    fine = _wrap16(value << 7)
    unshifted = _rounding_high_multiply16(fine, _narrow(output[0]))
    gate, exponent = fine, reluish[1]
    if exponent > 0:
        gate = _saturating_shift_left(gate, exponent - 1, 16)
    gate = _rounding_high_multiply16(gate, _narrow(reluish[0]))
    if exponent > 0:
        gate = _saturating_shift_left(gate, 1, 16)
    elif exponent < 0:
        gate = _rounding_shift_right16(gate, -exponent)
    gate = (gate + 2**15) >> 1
    product = gate * unshifted
    truncated = abs(product) >> 15  # towards zero, unlike every other step
    return _rounding_shift_right16(truncated if product >= 0 else -truncated, -output[1])


def _narrow(multiplier: int) -> int:
    """A 32-bit multiplier rounded to 16 bits."""
    return min((multiplier + 2**15) >> 16, 2**15 - 1)


def _wrap16(value: int) -> int:
    return (value + 2**15) % 2**16 - 2**15


def _rounding_shift_right16(value: int, shift: int) -> int:
    """As on 32 bits up to shift 15; beyond, the mask of what is shifted out wraps to -1.

    There gemmlowp gives 1 and -1 in the place of 0.
    """
    mask = _wrap16((1 << shift) - 1)
    threshold = (mask >> 1) + (value < 0)
    return (value >> shift) + (value & mask > threshold)


def _rounding_high_multiply16(a: int, b: int) -> int:
    return min((a * b + 2**14) >> 15, 2**15 - 1)
