"""What int8 can hold of a value, in the forward pass; the value itself, in the backward pass."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from keras import layers, ops

from kprune.fakequant import FakeQuant, FakeQuantWeights

# The integer, counted from the least, that stands for 0; and the size of a step.
ZEROS = st.integers(0, 254)
STEPS = st.floats(2.0**-10, 2.0**10, width=32)
SEEDS = st.integers(0, 2**32 - 1)


def fake_of(zero: int, step: float) -> FakeQuant:
    """With 256 values, `step` apart, of which number `zero` is 0."""
    return FakeQuant(limits=(-zero * step, (255 - zero) * step))


def values(seed: int, shape: tuple[int, ...] = (64,)) -> tuple[np.ndarray, np.ndarray]:
    """Integers, some beyond a byte, and values in steps from them, not quite as far as ties."""
    rng = np.random.default_rng(seed)
    integers = rng.integers(-100, 356, shape)
    return integers, integers + rng.uniform(-0.49, 0.49, shape)


def built(shape: tuple[int, ...] = (2,), low: float = 0.0, high: float = 1.0) -> FakeQuant:
    fake = FakeQuant()
    fake.build((None, *shape))
    fake.start(low, high)
    return fake


def bounds(fake: FakeQuant) -> list[float]:
    return [float(v) for v in fake.get_weights()]


@given(ZEROS, STEPS, SEEDS, array_shapes(max_dims=4))
def test_to_fake_is_to_quantise_and_then_dequantise(zero, step, seed, shape):
    integers, x = values(seed, shape)

    found = fake_of(zero, step)(((x - zero) * step).astype("float32"))

    assert found.shape == shape
    expected = (np.clip(integers, 0, 255) - zero) * step
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5 * step)


@given(st.floats(-100, 0, width=32), st.floats(2.0**-10, 100, width=32))
def test_zero_stays_zero_in_any_range_and_the_range_gives_way(low, high):
    fake = FakeQuant(limits=(low, high))

    least, zero, most = ops.convert_to_numpy(fake(np.float32([-1e6, 0.0, 1e6])))

    step = (high - low) / 255
    assert zero == 0
    assert most - least == pytest.approx(high - low, rel=1e-5)
    assert abs(least - low) <= 0.501 * step


@given(ZEROS, STEPS, SEEDS)
def test_the_gradient_is_that_of_the_value_within_the_range_and_none_beyond(zero, step, seed):
    tf = pytest.importorskip("tensorflow")
    integers, x = values(seed)
    fake, x = fake_of(zero, step), tf.constant((x - zero) * step, "float32")
    upstream = np.random.default_rng(seed).normal(size=x.shape).astype("float32")
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(fake(x) * upstream)

    gradient = tape.gradient(y, x).numpy()

    inside, beyond = (integers > 0) & (integers < 255), (integers < 0) | (integers > 255)
    np.testing.assert_array_equal(gradient[inside], upstream[inside])
    assert not gradient[beyond].any()


@given(ZEROS, STEPS)
def test_a_mean_that_is_a_tie_is_rounded_away_from_the_integer_zero(zero, step):
    ties = np.arange(255) + 0.5

    found = fake_of(zero, step)(((ties - zero) * step).astype("float32"), is_average=True)

    signed = ties - 128
    away = np.sign(signed) * np.ceil(np.abs(signed)) + 128
    np.testing.assert_allclose(found, (away - zero) * step, rtol=1e-6, atol=1e-5 * step)


@given(ZEROS, STEPS)
def test_the_size_of_a_step_is_told(zero, step):
    fake = fake_of(zero, step)

    assert float(fake(np.zeros(3), is_step=True)) == pytest.approx(step, rel=1e-6)
    assert fake(keras.KerasTensor((None, 3)), is_step=True).shape == ()


@given(SEEDS, st.floats(-3, 3))
def test_range_follows_the_batches_only_while_training(seed, mean):
    fake = built(low=-1.0, high=1.0)
    x = np.random.default_rng(seed).normal(mean, 1.0, (4, 2)).astype("float32")

    fake(x, training=False)
    before = bounds(fake)
    fake(x, training=True)

    assert before == [-1, 1]
    seen = np.array([min(0.0, x.min()), max(0.0, x.max())])
    np.testing.assert_allclose(bounds(fake), 0.95 * np.array([-1, 1]) + 0.05 * seen, rtol=1e-6)


def test_zeros_tell_nothing_of_the_range():
    """Of a layer that is dead for a batch."""
    fake = built(low=-1.0, high=3.0)

    fake(np.zeros((1, 2), "float32"), training=True)

    np.testing.assert_allclose(bounds(fake), [-1.0, 3.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [((0.0, 0.0), (0.0, 1.0)), ((0.0, 1e-9), (0.0, 1e-5)), ((-2.0, 0.0), (-2.0, 0.0))],
)
def test_every_range_has_a_width(seen, expected):
    fake = built()

    fake.start(*seen)

    np.testing.assert_allclose(bounds(fake), expected)


def test_terms_are_rounded_once_while_training():
    """Where the join rounds the whole, and follows it beyond the range."""
    fake = built()
    x = np.array([[-3.0, 0.1234]], "float32")

    np.testing.assert_array_equal(fake(x, training=True, is_term=True), x)

    np.testing.assert_allclose(fake(x, is_term=True), [[0.0, 31 / 255]], rtol=1e-6)
    assert bounds(fake) == [0.0, 1.0]


def test_averages_do_not_move_the_range():
    fake = built()

    fake(np.array([[-3.0, 5.0]], "float32"), training=True, is_average=True)

    assert bounds(fake) == [0.0, 1.0]


def test_given_limits_do_not_move():
    fake = FakeQuant(limits=(0.0, 255 / 256))
    fake(np.array([[9.0]], "float32"), training=True)

    assert bounds(fake) == [0.0, 255 / 256]


# Layers, what they read, and the axes of their kernel that run over the output channels.
WEIGHTED = {
    "dense": (lambda: layers.Dense(5), (7,), (-1,)),
    "conv": (lambda: layers.Conv2D(4, 3), (6, 6, 3), (-1,)),
    "depthwise": (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), (6, 6, 3), (-2, -1)),
    "transposed": (lambda: layers.Conv1DTranspose(4, 3), (6, 3), (-2,)),
    "one scale": (lambda: layers.Dense(5, use_bias=False), (7,), ()),
}


def weighted(name: str, change: float | np.ndarray = 1.0) -> tuple[FakeQuantWeights, np.ndarray]:
    """A layer with rounded weights, its float kernel multiplied by `change`; and that kernel."""
    keras.utils.set_random_seed(3)
    make, shape, axes = WEIGHTED[name]
    layer = FakeQuantWeights(make(), "kernel", axes)
    layer.build((None, *shape))
    kernel = (layer.layer.get_weights()[0] * change).astype("float32")
    layer.layer.kernel.assign(kernel)
    return layer, kernel


def within(kernel: np.ndarray, axes: tuple[int, ...]) -> tuple[int, ...]:
    channels = {axis % kernel.ndim for axis in axes}
    return tuple(axis for axis in range(kernel.ndim) if axis not in channels)


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_have_a_scale_per_channel_whose_greatest_is_127_steps(name):
    layer, kernel = weighted(name)
    axes = WEIGHTED[name][2]

    scale = np.abs(kernel).max(axis=within(kernel, axes), keepdims=True) / 127

    expected = np.round(kernel / scale) * scale
    np.testing.assert_allclose(layer.rounded(), expected, rtol=1e-6, atol=1e-7)
    scales = layer(np.float32(1.0), is_scale=True)
    np.testing.assert_allclose(scales, scale.ravel(), rtol=1e-6)
    assert layer(keras.KerasTensor(()), is_scale=True).shape == scales.shape


@pytest.mark.parametrize("name", WEIGHTED)
def test_scaling_a_channel_scales_what_is_left_of_it(name):
    kernel = weighted(name)[1]
    scales = np.abs(kernel).max(axis=within(kernel, WEIGHTED[name][2]), keepdims=True)
    change = np.random.default_rng(0).choice([-4.0, -1.0, 0.5, 8.0], scales.shape)

    rounded, changed = weighted(name)[0].rounded(), weighted(name, change)[0].rounded()

    # Powers of two: exactly.
    np.testing.assert_array_equal(changed, rounded * change)


@pytest.mark.parametrize("name", [name for name in WEIGHTED if name != "one scale"])
def test_the_layer_computes_with_the_rounded_weights_and_its_bias(name):
    layer, kernel = weighted(name)
    layer.layer.bias.assign(np.linspace(-0.3, 0.4, layer.layer.bias.shape[0]))
    make, shape, _ = WEIGHTED[name]
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype("float32")

    for is_rounded in (True, False):
        plain = make()
        plain.build((None, *shape))
        plain.set_weights(layer.plain_weights(is_rounded))

        assert np.array_equal(plain(x), layer(x)) == is_rounded
        assert np.array_equal(plain.get_weights()[0], kernel) != is_rounded


def test_a_channel_of_zeros_stays_one_and_has_any_scale():
    layer, _ = weighted("dense", np.array([0.0, 1, 1, 1, 1]))

    assert not layer.rounded()[:, 0].any()
    assert (ops.convert_to_numpy(layer(np.float32(1.0), is_scale=True)) > 0).all()


def test_steps_become_larger_where_the_bias_would_not_fit_into_them():
    layer, kernel = weighted("dense")
    layer.layer.bias.assign([0, 1, -1e3, 1e6, 0])

    scales = layer(np.float32(1e-4), is_scale=True)

    needed = np.abs([0, 1, -1e3, 1e6, 0]) / (1e-4 * (2**30 - 1))
    expected = np.maximum(np.abs(kernel).max(axis=0) / 127, needed)
    assert (expected == needed).tolist() == [False, False, True, True, False]
    np.testing.assert_allclose(scales, expected, rtol=1e-6)


@pytest.mark.parametrize(("name", "is_kept"), [("transposed", True), ("dense", False)])
def test_a_bias_of_zeros_is_kept_from_the_converter_where_it_is_needed(name, is_kept):
    layer, _ = weighted(name)

    *_, bias = layer.plain_weights(is_rounded=True)

    assert bias.any() == is_kept
    np.testing.assert_allclose(bias, 0, atol=1e-29)


@pytest.mark.parametrize("bias", [0.25, -3.0])
def test_the_converter_gets_no_bias_that_is_the_same_in_all_channels(bias):
    layer, _ = weighted("dense")
    layer.layer.bias.assign([bias] * 5)

    *_, plain = layer.plain_weights(is_rounded=True)

    assert len(np.unique(plain)) == 2
    np.testing.assert_allclose(plain, bias, rtol=1e-7)


def test_rounded_weights_are_trained_by_the_gradient_of_the_rounding_left_out():
    layer = FakeQuantWeights(layers.Dense(2, use_bias=False), "kernel", (-1,))
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile(keras.optimizers.SGD(1.0), lambda y, scores: keras.ops.sum(scores, axis=-1))
    kernel = layer.layer.get_weights()[0]
    x = np.array([[1.0, 2.0, -1.0]], "float32")

    model.train_on_batch(x, np.zeros((1, 2)))

    # d(sum of outputs) / d kernel = x, whatever the rounding.
    np.testing.assert_allclose(layer.layer.get_weights()[0], kernel - x.T, rtol=1e-5)


def test_ranges_limits_and_what_is_rounded_are_saved(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((3,)),
            FakeQuant(name="learned"),
            FakeQuantWeights(layers.Dense(4), "kernel", (-1,), name="dense"),
            FakeQuant(limits=(-1.0, 127 / 128), name="given"),
        ]
    )
    model.get_layer("learned").start(-1.5, 2.25)
    model.save(tmp_path / "aware.keras")

    loaded = keras.models.load_model(tmp_path / "aware.keras")

    assert [type(v) for v in loaded.layers] == [type(v) for v in model.layers]
    assert bounds(loaded.get_layer("learned")) == [-1.5, 2.25]
    assert loaded.get_layer("learned").limits is None
    assert loaded.get_layer("given").limits == (-1.0, 127 / 128)
    assert loaded.get_layer("dense").axes == (-1,)
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    np.testing.assert_array_equal(loaded(x), model(x))
