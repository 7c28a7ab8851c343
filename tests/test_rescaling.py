import math

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from kprune.c import fixedpoint
from kprune.rescaling import WIDE, Rescale, RescaleSum, multiply

SUMS = st.integers(-(2**24), 2**24)
FACTORS = st.floats(2.0**-24, 2.0**4)


def rounded(total, factor, count=1):
    total, factor = (ops.convert_to_tensor(number, WIDE) for number in (total, factor))
    found = multiply(total, factor, count)
    return int(ops.convert_to_numpy(found))


@given(SUMS, FACTORS)
def test_sums_are_rounded_as_the_generated_code_does(total, factor):
    expected = fixedpoint.multiply(total, *fixedpoint.quantize_multiplier(factor))

    assert rounded(total, factor) == expected


@given(SUMS, FACTORS, st.integers(2, 4096))
def test_means_divide_the_multiplier(total, factor, count):
    multiplier, exponent = fixedpoint.quantize_multiplier(factor)
    shift = count.bit_length() - 1
    expected = fixedpoint.multiply(total, (multiplier << shift) // count, exponent - shift)

    assert rounded(total, factor, count) == expected


@given(st.integers(-(2**20), 2**20), st.integers(1, 12))
def test_ties_are_rounded_up_first_and_then_away_from_zero(total, shift):
    # The second step alone: half of a power of two is exact.
    expected = math.copysign(math.floor(abs(total) / 2**shift + 0.5), total)

    assert rounded(2 * total, 2.0**-shift / 2) == expected


def test_the_first_rounding_may_decide():
    """41 * 0.0609 is 2.497; in 16ths that is 39.95, so 40, and 40 / 16 is a tie."""
    assert round(41 * 0.0609) == 2
    assert rounded(41, 0.0609) == 3


@pytest.mark.parametrize("training", [True, False])
def test_the_gradient_is_that_of_the_inputs(training):
    tf = pytest.importorskip("tensorflow")
    x, scale = tf.constant([[0.3, -1.7]]), tf.constant(0.5)
    layers = {
        "product": lambda x: Rescale()(x, units=[scale], scale=scale, training=training),
        "sum": lambda x: RescaleSum()(
            x, terms=[x, x], units=[scale, scale], scale=scale, training=training
        ),
    }
    for apply in layers.values():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = apply(x)

        np.testing.assert_array_equal(tape.gradient(y, x), 1.0)
        assert np.array_equal(y, x) == training


def test_slopes_and_counts_are_saved():
    layer = Rescale(count=49, slope=0.25, factor=0.5)

    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))

    assert (again.count, again.slope, again.factor) == (49, 0.25, 0.5)
