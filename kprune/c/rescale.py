"""Real scales → the integers of kp_rescale: how sums of products become bytes again."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from kprune.c.fixedpoint import INT32_MAX, INT32_MIN, multiply, quantize_multiplier, round_half_away
from kprune.c.step import Op, Record, Refusal, describe, int8
from kprune.flatbuffer import Tensor

_LARGEST_SHORT_SHIFT = 22
_LARGEST_SHORT_BIAS = 2**26 - 1
_LARGEST_SHORT_SUM = 2**30 - 1


@dataclasses.dataclass(frozen=True)
class Channel:
    """Multiplier, bias and exponent of one output channel; `sums` bounds bias plus products."""

    multiplier: int
    bias: int
    exponent: int
    sums: tuple[int, int]

    @property
    def is_short(self) -> bool:
        """Whether kp_channel holds it; the bounds are those written in kp_nn.h."""
        return (
            1 <= -self.exponent <= _LARGEST_SHORT_SHIFT
            and abs(self.bias) <= _LARGEST_SHORT_BIAS
            and max(map(abs, self.sums)) <= _LARGEST_SHORT_SUM
        )

    def byte(self, total: int, zero: int, limits: tuple[int, int]) -> int:
        value = multiply(total, self.multiplier, self.exponent) + zero
        return max(limits[0], min(value, limits[1]))


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A layer with weights, ready to print.

    Attributes:
        weights: `(channels, values per channel)`, int8.
        channels: One per output channel.
        zeros: Zero points of input and output.
        limits: Lowest and highest output.
    """

    weights: np.ndarray
    channels: tuple[Channel, ...]
    zeros: tuple[int, int]
    limits: tuple[int, int]

    def records(self) -> list[Record]:
        """kp_channel, kp_wide_channel where needed, kp_rescale."""
        short = tuple(_short_text(channel) for channel in self.channels)
        records = [Record("channels", "kp_channel", short, 8 * len(short), is_array=True)]
        wide = "NULL"
        if not all(channel.is_short for channel in self.channels):
            lines = tuple(_wide_text(channel) for channel in self.channels)
            records.append(Record("wide", "kp_wide_channel", lines, 12 * len(lines), is_array=True))
            wide = "{layer}_wide"
        lines = (
            (f"{self.zeros[0]}, {self.zeros[1]}", "zero points: input, output"),
            (f"{self.limits[0]}, {self.limits[1]}", "lowest and highest output"),
            (f"{{layer}}_channels, {wide}", ""),
        )
        return [*records, Record("rescale", "kp_rescale", lines, 24)]


def layer(op: Op, axis: int = 0, *, folded: bool = True) -> Layer:
    """The rescaling of an operator with input, int8 weights and optional int32 biases.

    Args:
        op: An operator with weights.
        axis: The axis of the weights that counts output channels.
        folded: Whether the input's zero point goes into the biases.

    Raises:
        Refusal: A tensor has a type or a quantization that the kernels cannot take.
    """
    source, bias = _INPUT_AND_BIAS.get(op.operator.name, (0, 2))
    scale, zero = int8(op.input(source))
    out_scale, out_zero = int8(op.output)
    values = op.constant(1, "int8")
    weights = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1).astype(np.int64)
    if weights.shape[1] * 255 * 128 > INT32_MAX:
        raise Refusal(f"{weights.shape[1]} products per output can overflow 32 bits")
    scales = _weight_scales(op.input(1), len(weights), axis)
    products = np.float64(scale) * scales.astype(np.float64)
    if op.operator.name == "FULLY_CONNECTED" and len(op.input(1).scale) == 1:
        products = (scale * scales).astype(np.float64)  # a float product there, not a double
    factors = products / np.float64(out_scale)
    biases = _biases(op, bias, len(weights)) - (zero * weights.sum(axis=1) if folded else 0)
    inputs = (-128, 127) if folded else (-128 - zero, 127 - zero)
    extremes = np.sort(np.stack([weights * inputs[0], weights * inputs[1]]), axis=0).sum(axis=2)
    limits = activation_limits(op)
    channels = []
    for c, factor in enumerate(factors):
        multiplier, exponent = quantize_multiplier(float(factor))
        sums = tuple(int(biases[c] + extreme[c]) for extreme in extremes)
        channel = Channel(multiplier, int(biases[c]), exponent, (sums[0], sums[1]))
        constant = _constant(channel, out_zero, limits)
        if constant is not None:
            weights[c] = 0
            channel = constant
        channels.append(channel)
    return Layer(weights.astype(np.int8), tuple(channels), (zero, out_zero), limits)


def activation_limits(op: Op) -> tuple[int, int]:
    """Lowest and highest output under the operator's fused activation function.

    In float32, as TensorFlow Lite Micro's CalculateActivationRangeQuantized.
    """
    bounds = _ACTIVATIONS.get(op.option("fused_activation_function"))
    if bounds is None:
        raise Refusal(f"fused activation {op.option('fused_activation_function')} is unknown")
    return quantized_limits(op.output, *bounds)


def quantized_limits(
    output: Tensor, lowest: float | None, highest: float | None
) -> tuple[int, int]:
    scale, zero = int8(output)

    def quantize(real: float) -> int:
        return zero + round_half_away(float(np.float32(real) / scale))

    low = -128 if lowest is None else max(-128, quantize(lowest))
    high = 127 if highest is None else min(127, quantize(highest))
    if low > high:
        raise Refusal(f"{describe(output)} cannot hold any value that its activation allows")
    return low, high


# The schema's ActivationFunctionType → lowest and highest real value.
_ACTIVATIONS: dict[int, tuple[float | None, float | None]] = {
    0: (None, None),
    1: (0.0, None),
    2: (-1.0, 1.0),
    3: (0.0, 6.0),
}
ACTIVATION_NAMES = {0: "", 1: ", relu", 2: ", relu_n1_to_1", 3: ", relu6"}


def _weight_scales(weights: Tensor, num_channels: int, axis: int) -> np.ndarray:
    if np.any(weights.zero_point != 0):
        raise Refusal(f"{describe(weights)} has a zero point other than 0")
    if len(weights.scale) == 1:
        return np.repeat(weights.scale, num_channels)
    if len(weights.scale) != num_channels or weights.quantized_axis != axis:
        raise Refusal(
            f"{describe(weights)} has {len(weights.scale)} scales along axis "
            f"{weights.quantized_axis}, expected {num_channels} along axis {axis}"
        )
    return weights.scale


def _biases(op: Op, position: int, num_channels: int) -> np.ndarray:
    if op.optional_input(position) is None:
        return np.zeros(num_channels, np.int64)
    biases = op.constant(position, "int32").astype(np.int64).ravel()
    if len(biases) != num_channels:
        raise Refusal(f"{len(biases)} biases for {num_channels} channels")
    return biases


# TRANSPOSE_CONV begins with the shape of its output.
_INPUT_AND_BIAS = {"TRANSPOSE_CONV": (2, 3)}


def _constant(channel: Channel, zero: int, limits: tuple[int, int]) -> Channel | None:
    """A channel with weights 0 that gives the same bytes, if all inputs give the same byte.

    Dead channels have tiny scales and biases near 2**30, which the short form cannot hold.
    Rescaling never decreases, so the two extreme sums are enough to look at.
    """
    low, high = channel.sums
    if channel.exponent > 0 or low < INT32_MIN or high > INT32_MAX:
        return None
    byte = channel.byte(low, zero, limits)
    if byte != channel.byte(high, zero, limits):
        return None
    bias = 4 * (byte - zero)  # halved by the multiplier, halved again by the shift
    return Channel(2**30, bias, -1, (bias, bias))


def _short_text(channel: Channel) -> tuple[str, str]:
    if not channel.is_short:
        return "KP_CHANNEL(0, 0, 0)", ""
    return f"KP_CHANNEL({channel.multiplier}, {channel.bias}, {-channel.exponent})", ""


def _wide_text(channel: Channel) -> tuple[str, str]:
    if channel.is_short:
        return "{ 0, 0, 0 }", ""
    bias = (channel.bias + 2**31) % 2**32 - 2**31
    return f"{{ {channel.multiplier}, {bias}, {channel.exponent} }}", ""


def terms(scales: Sequence[float]) -> list[int]:
    """Multiplier and right shift of each factor, at most 1, of a sum."""
    numbers = []
    for factor in scales:
        multiplier, exponent = quantize_multiplier(float(factor))
        if exponent > 0:
            raise Refusal("its scales differ too much: TensorFlow Lite Micro refuses them too")
        numbers += [multiplier, -exponent]
    return numbers
