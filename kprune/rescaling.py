"""The device's own rounding of sums, for a quantisation-aware network that is not being trained.

The device adds up integers and brings the sum to the scale of the output in two steps, of which the
first is coarse where the factor is large. Rounding the real number once, as fake quantisation does,
comes out a step apart now and then, and 20 layers deep that decides classes. Hence these layers,
between an operator and its rounding: they read the integers back from the real numbers and do what
TensorFlow Lite Micro does with them. While training they do nothing.
"""

import math
from typing import Any

import keras
from keras import ops

# Where JAX has no double precision the factor keeps 24 of its 31 bits, and few sums round apart.
WIDE = "float32" if keras.backend.backend() == "jax" else "float64"

# By how much the device enlarges the terms of a sum before it rescales them.
_HEADROOM = 2.0**20

# Of a constant above 0: its scale is the finest in which it is a value of int8, from -128 as its 0.
_MOST_STEPS = 255


def multiply(sums: Any, factor: Any, count: int = 1) -> Any:
    """`sums * factor / count` as TensorFlow Lite Micro rounds it, in two steps.

    Args:
        sums: Integers, as a tensor of type `WIDE`.
        factor: Above 0, of the same type, and of a shape that broadcasts.
        count: How many values a mean is taken of.

    Returns:
        Integers, of the same type.

    Example:
        >>> ops.convert_to_numpy(multiply(ops.cast([100, -100], WIDE), ops.cast(0.005, WIDE)))
        array([ 1., -1.])
    """
    exponent = ops.floor(ops.log2(factor)) + 1.0
    multiplier = ops.floor(factor * ops.power(2.0, 31.0 - exponent) + 0.5)
    # A power of two comes out of the division, so that the multiplier keeps its bits.
    shift = count.bit_length() - 1
    multiplier = ops.floor(multiplier * 2.0**shift / count)
    exponent = exponent - shift
    shifted = sums * ops.power(2.0, ops.maximum(exponent, 0.0) - 31.0)
    high = ops.floor(shifted * multiplier + 0.5)
    low = ops.abs(high) * ops.power(2.0, ops.minimum(exponent, 0.0))
    return ops.sign(high) * ops.floor(low + 0.5)


@keras.saving.register_keras_serializable("kprune")
class Rescale(keras.layers.Layer):
    """Rounds products, or sums of them, to the scale of the output as the device does.

    Args:
        count: How many values a mean was taken of.
        slope: What negative values were multiplied by, above 0.
        factor: What all values were multiplied by, above 0: a constant of the network.

    Call arguments:
        inputs: What the operator gave, real numbers.
        units: Scales of what was multiplied: of shape `()`, or `(channels,)` for weights. Their
            product is that of the sums.
        scale: Of the output.
        source: What the operator read, if only its negative values were multiplied by the last.
    """

    def __init__(
        self, count: int = 1, slope: float = 1.0, factor: float = 1.0, **kwargs: object
    ) -> None:
        super().__init__(**kwargs)
        self.count, self.slope, self.factor = count, slope, factor

    def call(
        self, inputs: Any, units: list, scale: Any, source: Any = None, training: bool = False
    ) -> Any:
        if training:
            return inputs
        *first, last = (ops.cast(unit, WIDE) for unit in units)
        if source is not None:
            last = ops.where(source < 0, last, 1.0)
        unit = math.prod(first, start=last)
        if self.factor != 1.0:
            unit = unit * ops.cast(self.factor / _MOST_STEPS, WIDE)
        if self.slope != 1.0:
            unit = unit * ops.where(inputs < 0, ops.cast(self.slope, WIDE), 1.0)
        sums = ops.round(ops.cast(inputs, WIDE) * self.count / unit)
        return _real(multiply(sums, unit / ops.cast(scale, WIDE), self.count), scale, inputs)

    def compute_output_spec(self, inputs: keras.KerasTensor, **kwargs: Any) -> keras.KerasTensor:
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def get_config(self) -> dict:
        own = {"count": self.count, "slope": self.slope, "factor": self.factor}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("kprune")
class RescaleSum(keras.layers.Layer):
    """Rounds the sum or difference of two tensors to the scale of the output as the device does.

    Args:
        sign: 1, or -1 for a difference.

    Call arguments:
        inputs: What the operator gave, real numbers; a ReLU may have followed.
        terms: The two tensors.
        units: Their scales.
        scale: Of the output.
    """

    def __init__(self, sign: int = 1, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.sign = sign

    def call(
        self, inputs: Any, terms: list, units: list, scale: Any, training: bool = False
    ) -> Any:
        if training:
            return inputs
        # The factors of a difference are computed in single precision there.
        kind = WIDE if self.sign > 0 else "float32"
        a, b, out = (ops.cast(unit, kind) for unit in (*units, scale))
        twice = 2.0 * ops.maximum(a, b)
        first, second = (
            multiply(
                ops.round(ops.cast(term, WIDE) / ops.cast(unit, WIDE)) * _HEADROOM,
                ops.cast(unit / twice, WIDE),
            )
            for term, unit in zip(terms, (a, b), strict=True)
        )
        factor = ops.cast(twice / (_HEADROOM * out), WIDE)
        return _real(multiply(first + self.sign * second, factor), scale, inputs)

    def compute_output_spec(self, inputs: keras.KerasTensor, **kwargs: Any) -> keras.KerasTensor:
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def get_config(self) -> dict:
        return {**super().get_config(), "sign": self.sign}


def _real(integers: Any, scale: Any, inputs: Any) -> Any:
    """With the gradient of the inputs, for who looks for one outside of training."""
    value = ops.cast(integers * ops.cast(scale, WIDE), inputs.dtype)
    return inputs + ops.stop_gradient(value - inputs)
