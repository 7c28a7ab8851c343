"""Predicted bytes against real files and real arenas: never below, and little above."""

import functools

import keras
import numpy as np
import pytest
import zoo
from conftest import require
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import kprune
from kprune.arena import plan_ahead
from kprune.channels import Trace, trace
from kprune.cost import Cost
from kprune.footprint import Footprint
from kprune.masking import write_gates
from kprune.projection import cheapest
from kprune.tflm import measure_arena

# The zoo without what TensorFlow Lite Micro cannot run in int8.
CONVERTIBLE = [
    zoo.plain,
    zoo.residual,
    zoo.preactivation_residual,
    zoo.depthwise,
    zoo.separable,
    zoo.concat,
    zoo.flatten,
    zoo.squeeze_excite,
    zoo.autoencoder,
    zoo.nested,
    zoo.shared,
    zoo.two_inputs_outputs,
    zoo.bare_ops,
]

# The bounds that the documentation states, for networks of three to five kilobytes.
FLASH_ABOVE, RAM_ABOVE = 320, 640


def permuted() -> keras.Model:
    """Convolutions across another axis, so channels change their place twice."""
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 3, padding="same", name="first")(x)
    x = layers.Permute((3, 2, 1))(layers.Permute((3, 2, 1))(x))
    x = layers.Conv1D(5, 3, name="rows")(layers.Reshape((36, 8))(x))
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))


def causal() -> keras.Model:
    """Each convolution between two reshapes, whose shapes are equal as long as the widths are."""
    x = inputs = keras.Input((32, 4))
    for rate in (1, 2, 4, 8):
        x = layers.Conv1D(10, 3, padding="causal", dilation_rate=rate, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def transposed() -> keras.Model:
    """The shape of its output is an argument of each convolution."""
    x = inputs = keras.Input((8, 8, 3))
    for _ in range(3):
        x = layers.Conv2DTranspose(10, 3, padding="same", activation="relu")(x)
    return keras.Model(inputs, layers.Conv2D(2, 1)(x))


def steady() -> keras.Model:
    """A depthwise layer on the input keeps its 48 zero points, whatever the next one loses."""
    x = inputs = keras.Input((8, 8, 3))
    x = layers.DepthwiseConv2D(3, depth_multiplier=16)(x)
    x = layers.Conv2D(5, 3)(layers.Conv2D(48, 1)(x))
    return keras.Model(inputs, layers.Dense(4)(layers.Flatten()(x)))


@functools.cache
def masked(build) -> tuple[keras.Model, Trace, Footprint]:
    model = kprune.add_masks(zoo.perturb(build()))
    found = trace(model)
    return model, found, Footprint(found)


def real_bytes(model: keras.Model) -> tuple[int, int]:
    small = kprune.slim(model)
    samples = keras.tree.flatten(zoo.random_inputs(small, batch=16))
    flatbuffer = kprune.to_tflite(small, samples)
    return len(flatbuffer), measure_arena(flatbuffer).total


def assert_predicted(model: keras.Model, footprint: Footprint, gates: np.ndarray) -> None:
    """The bytes of a model that is closed to these gates: never below, and little above."""
    flash, ram = real_bytes(model)
    assert 0 <= footprint.flash_bytes(gates) - flash <= FLASH_ABOVE
    assert 0 <= footprint.ram_bytes(gates) - ram <= RAM_ABOVE


def least(found: Trace) -> np.ndarray:
    cost = Cost(found)
    return cheapest(found, cost, cost.total(np.ones(found.num_channels, bool)))


@pytest.mark.parametrize("build", [*CONVERTIBLE, permuted, causal, transposed, steady])
@pytest.mark.parametrize("seed", [None, 1, 2], ids=["whole", "random", "random2"])
def test_predicted_bytes_are_never_below_the_real_ones_and_little_above(build, seed) -> None:
    require("tflite_micro")
    model, found, footprint = masked(build)
    gates = np.ones(found.num_channels, bool)
    write_gates(found, gates)
    if seed is not None:
        zoo.close_at_random(model, seed)
        gates = kprune.masking.read_gates(found)

    assert_predicted(model, footprint, gates)


@pytest.mark.parametrize("build", [zoo.residual, zoo.depthwise, zoo.squeeze_excite, zoo.flatten])
def test_the_least_network_takes_no_more_than_predicted(build) -> None:
    require("tflite_micro")
    model, found, footprint = masked(build)
    gates = least(found)
    write_gates(found, gates)

    flash, ram = real_bytes(model)

    assert flash <= footprint.flash_bytes(gates)
    assert ram <= footprint.ram_bytes(gates)


def chain() -> keras.Model:
    """Layers that can end up of unequal width, beside which the interpreter's plan leaves gaps."""
    widths = [layers.Conv2D(56, 1, name=f"layer{i}") for i in range(4)]
    return keras.Sequential([keras.Input((16, 16, 1)), *widths])


def narrowed(found: Trace, widths: tuple[int, ...]) -> np.ndarray:
    gates = np.ones(found.num_channels, bool)
    for number, width in enumerate(widths):
        gates[dict(found.makers)[f"layer{number}"][width:]] = False
    return gates


@pytest.mark.parametrize("widths", [(40, 17, 42), (56, 50, 50), (8, 8, 8)])
def test_bytes_are_those_of_a_file_with_a_plan_where_it_gets_one(widths) -> None:
    require("tflite_micro")
    model, found, footprint = masked(chain)
    gates = narrowed(found, widths)
    write_gates(found, gates)

    assert bool(plan_ahead(footprint.slim(gates))) == (widths != (8, 8, 8))
    assert_predicted(model, footprint, gates)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 56), min_size=3, max_size=3), st.integers(-400, 400))
def test_a_limit_is_kept_if_the_bytes_say_so(widths, beyond) -> None:
    """Told without a plan wherever that can be."""
    _, found, footprint = masked(chain)
    gates = narrowed(found, tuple(widths))
    flash, ram = footprint.flash_bytes(gates), footprint.ram_bytes(gates)

    assert footprint.fits_flash(gates, flash + beyond) == (beyond >= 0)
    assert footprint.fits_ram(gates, ram + beyond) == (beyond >= 0)


def test_what_an_unknown_operator_does_to_channels_counts_in_full() -> None:
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(8, 1, name="known")(inputs)
    halves = keras.ops.split(x, 2, axis=-1)
    scores = layers.Dense(2)(layers.Flatten()(keras.ops.concatenate(halves, axis=-1)))
    found = trace(keras.Model(inputs, scores))
    footprint = Footprint(found)
    gates = np.ones(found.num_channels, bool)
    whole = footprint.ram_bytes(gates)

    gates[np.flatnonzero(found.free)[1:]] = False

    assert footprint.flash_bytes(gates) > 0
    assert footprint.ram_bytes(gates) <= whole


def test_channels_are_only_dear_where_memory_is_short() -> None:
    """A wide layer at full size, then narrow ones behind a pooling layer."""
    x = inputs = keras.Input((16, 16, 1))
    x = layers.Conv2D(16, 3, padding="same", name="wide")(x)
    x = layers.Conv2D(4, 3, strides=4, padding="same", name="narrow")(x)
    x = layers.Conv2D(4, 3, padding="same", name="later")(x)
    found = trace(keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x))))
    footprint = Footprint(found)
    channels = dict(found.makers)

    shares = footprint.ram_shares(limit=4000)

    assert (shares[channels["wide"]] >= 16 * 16).all()
    assert (shares[channels["later"]] == 0).all()


def test_text_is_refused_by_the_name_of_its_input() -> None:
    inputs = keras.Input((1,), dtype="string", name="word")
    x = layers.StringLookup(vocabulary=["a", "b"])(inputs)
    x = layers.Dense(8)(layers.Flatten()(layers.Embedding(3, 4)(x)))
    found = trace(keras.Model(inputs, layers.Dense(2)(x)))

    with pytest.raises(ValueError, match="Input 'word' takes text, which no int8 file does"):
        Footprint(found)


def narrow_series() -> keras.Model:
    x = inputs = keras.Input((16, 3))
    x = layers.SeparableConv1D(6, 3, activation="relu", name="layer0")(x)
    x = layers.Conv1D(6, 3, padding="causal", activation="tanh", name="layer1")(x)
    x = layers.Conv1DTranspose(6, 3, activation="relu", name="layer2")(x)
    x = layers.DepthwiseConv1D(3)(x)
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))


@pytest.mark.parametrize("widths", [(1, 1, 1), (2, 1, 3)])
def test_a_series_may_shrink_to_one_channel(widths) -> None:
    """The converter would leave the bias of a single filter an operator of its own."""
    require("tflite_micro")
    model, found, footprint = masked(narrow_series)
    gates = narrowed(found, widths)
    write_gates(found, gates)

    assert_predicted(model, footprint, gates)
