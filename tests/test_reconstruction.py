"""What is lost with a closed channel is what its neighbours cannot tell, and no more."""

from collections.abc import Callable

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from laws import assert_close
from zoo import perturb

from kprune import Budget, PruneCallback, add_masks, reconstruction
from kprune.channels import trace
from kprune.masking import read_gates, write_gates
from kprune.reconstruction import RIDGE, find_readers, reconstruct

# Channels of which the last two are sums of the others.
MIX = np.array([[1, 0, 0, 2, -1], [0, 1, 0, 1, 3], [0, 0, 1, -3, 1]], "float32")
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a ridge, less than all of a channel is made up for."""
    monkeypatch.setattr(reconstruction, "RIDGE", 1e-7)


def behind(*readers: keras.layers.Layer, shape: tuple[int, ...] = (8, 8, 2)) -> keras.Model:
    """A masked model in which layers read five channels that three would tell, all of them seen."""
    inputs = keras.Input(shape)
    maker = layers.Dense(5, use_bias=False, name="maker")
    x = maker(inputs)
    for layer in readers:
        x = layer(x)
    model = perturb(keras.Model(inputs, x, name="model"))
    maker.set_weights([RNG.normal(size=(shape[-1], 3)) @ MIX])
    return seen(add_masks(model))


def seen(masked: keras.Model) -> keras.Model:
    """After one step of training in which no weight changed."""
    masked.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    x = RNG.normal(size=(32, *masked.input_shape[1:]))
    masked.train_on_batch(x, np.zeros((32, *masked.output_shape[1:])))
    return masked


def close(masked: keras.Model, positions: list[int]) -> None:
    """Close channels of "maker", and let the others make up for them."""
    found = trace(masked)
    before = read_gates(found)
    after = before.copy()
    after[dict(found.makers)["maker"][positions]] = False
    write_gates(found, after)
    reconstruct(find_readers(found), before, after)


def outputs(masked: keras.Model, training: bool = False) -> object:
    x = np.random.default_rng(1).normal(size=(8, *masked.input_shape[1:])).astype("float32")
    return keras.ops.convert_to_numpy(masked(x, training=training))


def norm() -> keras.layers.Layer:
    # By its epsilon the outputs would depend a little on the scale of the inputs.
    return layers.BatchNormalization(epsilon=1e-7)


READERS: dict[str, tuple[Callable[[], list], tuple[int, ...]]] = {
    "dense": (lambda: [layers.Dense(4)], (2,)),
    "dense on a sequence": (lambda: [layers.Dense(4, "relu")], (7, 2)),
    "flattened": (lambda: [layers.Flatten(), layers.Dense(4)], (4, 3, 2)),
    "turned and flattened": (
        lambda: [layers.Permute((3, 1, 2)), layers.Flatten(), layers.Dense(4)],
        (4, 3, 2),
    ),
    "conv": (lambda: [layers.Conv2D(4, 3, strides=2, padding="same")], (8, 8, 2)),
    "conv of a sequence": (lambda: [layers.Conv1D(4, 3)], (9, 2)),
    "transpose": (lambda: [layers.Conv2DTranspose(4, 3, strides=2)], (5, 5, 2)),
    "einsum": (lambda: [layers.EinsumDense("abc,cd->abd", (6, 4), bias_axes="d")], (6, 2)),
    "lstm": (lambda: [layers.LSTM(4)], (6, 2)),
    "both ways": (lambda: [layers.Bidirectional(layers.GRU(4))], (6, 2)),
    "lstm of images": (lambda: [layers.ConvLSTM1D(4, 3)], (5, 6, 2)),
    "normalised": (lambda: [layers.Conv2D(4, 3), norm()], (8, 8, 2)),
    "normalised without a bias": (
        lambda: [layers.Conv2D(4, 3, use_bias=False), norm()],
        (8, 8, 2),
    ),
    "transpose, normalised": (
        lambda: [layers.Conv2DTranspose(4, 3), norm()],
        (5, 5, 2),
    ),
    "normalised with a ReLU between": (
        lambda: [layers.Dense(4, "relu"), norm()],
        (2,),
    ),
}


@pytest.mark.parametrize("kind", READERS)
def test_what_others_can_tell_is_not_lost(kind: str) -> None:
    make, shape = READERS[kind]
    masked = behind(*make(), shape=shape)
    # Training moves statistics, so it comes first, and in the end last.
    by_batch, expected = outputs(masked, training=True), outputs(masked)

    close(masked, [1, 4])

    assert not read_gates(trace(masked)).all()
    assert_close(outputs(masked), expected, 2e-3)
    assert_close(outputs(masked, training=True), by_batch, 2e-3)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sets(st.integers(0, 6), min_size=1, max_size=6))
def test_on_what_was_seen_no_output_is_further_off_than_without(
    seed: int, closed: set[int]
) -> None:
    reconstruction.RIDGE = RIDGE  # as it is: less than all is made up for, but never too much
    rng = np.random.default_rng(seed)
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(7, "relu", name="maker"), layers.Dense(3)]
    )
    masked = add_masks(perturb(model))
    masked.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    x = rng.normal(size=(32, 4)).astype("float32")
    masked.train_on_batch(x, np.zeros((32, 3)))
    expected, weights = keras.ops.convert_to_numpy(masked(x)), masked.get_weights()

    def squares_of_errors() -> np.ndarray:
        return np.square(keras.ops.convert_to_numpy(masked(x)) - expected).sum(0)

    close(masked, sorted(closed))
    made_up = squares_of_errors()
    gates = read_gates(trace(masked))
    masked.set_weights(weights)
    write_gates(trace(masked), gates)

    assert (made_up <= squares_of_errors() * (1 + 1e-4) + 1e-6).all()


def test_of_many_channels_those_take_over_that_tell_most(monkeypatch: pytest.MonkeyPatch) -> None:
    masked = behind(layers.Dense(4, name="reader"), shape=(2,))
    masked.get_layer("maker").set_weights([np.array([[1, 0, 1, 1, 0], [0, 1, 0.1, 0.2, 1]])])
    seen(masked)
    kernel = masked.get_layer("reader").kernel
    before = np.asarray(kernel)
    monkeypatch.setattr(reconstruction, "HELPERS", 2)

    close(masked, [0])

    changed = np.abs(np.asarray(kernel) - before).max(1) > 1e-6
    assert changed.tolist() == [False, False, True, True, False]


def weights_of(masked: keras.Model) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(w) for w in masked.weights if w.path.find("mask") < 0]


@pytest.mark.parametrize("kind", ["flattened", "normalised", "lstm"])
def test_a_channel_that_comes_back_finds_everything_as_it_was(kind: str) -> None:
    make, shape = READERS[kind]
    masked = behind(*make(), shape=shape)
    found, expected = trace(masked), weights_of(masked)
    all_open = read_gates(found)
    close(masked, [0])
    closed = read_gates(found)
    assert any((a != b).any() for a, b in zip(weights_of(masked), expected, strict=True))

    write_gates(found, all_open)
    reconstruct(find_readers(found), closed, all_open)

    assert_close(weights_of(masked), expected, 1e-4)


def test_weights_in_front_of_a_norm_keep_their_size() -> None:
    masked = behind(layers.Conv2D(4, 3, name="conv"), norm())
    kernel = masked.get_layer("conv").kernel
    sizes = np.sqrt(np.square(np.asarray(kernel)).mean((0, 1, 2)))

    close(masked, [0, 1])

    left = np.asarray(kernel)[:, :, 2:]
    np.testing.assert_allclose(np.sqrt(np.square(left).mean((0, 1, 2))), sizes, rtol=1e-4)


def test_what_is_learned_are_the_products_of_the_channels_at_quarter_points() -> None:
    masked = add_masks(
        keras.Sequential(
            [keras.Input((8, 6, 2)), layers.Conv2D(3, 1, name="conv"), layers.Conv2D(2, 1)]
        )
    )
    x = RNG.normal(size=(9, 8, 6, 2)).astype("float32")
    masked.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    masked.evaluate(x, np.zeros((9, 8, 6, 2)), verbose=0)
    mask = trace(masked).masks[0][0]
    assert not np.asarray(mask.gram).any()

    for _ in range(2):
        masked.train_on_batch(x, np.zeros((9, 8, 6, 2)))

    seen = keras.ops.convert_to_numpy(masked.get_layer("conv")(x))[:, [2, 6]][:, :, [1, 4]].reshape(
        -1, 3
    )
    np.testing.assert_allclose(np.asarray(mask.gram), 1.99 * seen.T @ seen, rtol=1e-4)


def test_along_the_axis_of_channels_first() -> None:
    inputs = keras.Input((2, 7))
    x = layers.Permute((2, 1))(layers.Dense(5, use_bias=False, name="maker")(inputs))
    x = layers.Permute((2, 1))(x)
    model = perturb(keras.Model(inputs, layers.EinsumDense("abc,cd->abd", (2, 4))(x)))
    model.get_layer("maker").set_weights([RNG.normal(size=(7, 3)) @ MIX])
    masked = seen(add_masks(model))
    expected = outputs(masked)

    close(masked, [3, 4])

    assert_close(outputs(masked), expected, 2e-3)


def test_two_calls_of_one_reader_share_what_they_have_seen() -> None:
    first, second = keras.Input((2,)), keras.Input((2,))
    maker, reader = layers.Dense(5, use_bias=False, name="maker"), layers.Dense(4, name="reader")
    model = keras.Model([first, second], [reader(maker(first)), reader(maker(second))])
    maker.set_weights([np.ones((2, 1)) @ MIX[:1]])
    masked = add_masks(model)
    masked.compile(keras.optimizers.SGD(0.0), ["mse", "mse"], run_eagerly=True)
    x = [RNG.normal(size=(32, 2)), np.zeros((32, 2))]
    masked.train_on_batch(x, [np.zeros((32, 4))] * 2)
    (found,) = find_readers(trace(masked))
    expected = [keras.ops.convert_to_numpy(y) for y in masked([x[0], x[0]])]

    close(masked, [0])

    assert len(found.masks) == 2
    assert_close([keras.ops.convert_to_numpy(y) for y in masked([x[0], x[0]])], expected, 2e-3)


def frozen() -> keras.Model:
    reader = layers.Dense(4)
    reader.trainable = False
    return behind(reader)


def of_another_importance() -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2)])
    return add_masks(model, importance="learned")


def that_adds_up_twice() -> keras.Model:
    return behind(layers.SeparableConv2D(4, 3))


def with_a_channel_twice() -> keras.Model:
    inputs = keras.Input((4, 4, 2))
    x = layers.Dense(3)(inputs)
    x = layers.Flatten()(layers.Concatenate()([x, x]))
    return add_masks(keras.Model(inputs, layers.Dense(2)(x)))


@pytest.mark.parametrize(
    "model", [frozen, of_another_importance, that_adds_up_twice, with_a_channel_twice]
)
def test_layers_that_are_left_as_they_are(model: Callable[[], keras.Model]) -> None:
    assert find_readers(trace(model())) == []


def two_norms() -> list[keras.layers.Layer]:
    norms = layers.BatchNormalization(), layers.BatchNormalization()
    norms[0].trainable = False
    return list(norms)


@pytest.mark.parametrize(
    "behind_it",
    [
        lambda: [],
        lambda: [layers.LayerNormalization()],
        lambda: [layers.ReLU(), layers.BatchNormalization()],
        lambda: [layers.BatchNormalization(axis=1)],
        two_norms,
    ],
    ids=["nothing", "another norm", "a ReLU between", "another axis", "frozen"],
)
def test_where_the_scale_matters_it_stays(behind_it: Callable[[], list]) -> None:
    (reader,) = find_readers(trace(behind(layers.Conv2D(6, 3), *behind_it())))

    assert reader.norm is None


def test_before_anything_is_seen_nothing_is_changed() -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(5, name="maker"), layers.Dense(2)])
    masked = add_masks(model)
    expected = weights_of(masked)

    close(masked, [0, 3])

    assert_close(weights_of(masked), expected, 0)


def test_training_that_closes_what_others_can_tell_changes_nothing() -> None:
    maker = layers.Dense(5, use_bias=False)
    inputs = keras.Input((4, 4, 2))
    model = keras.Model(inputs, layers.Dense(4)(layers.Flatten()(maker(inputs))))
    maker.set_weights([np.ones((2, 1)) * np.array([[1, 2, -1, 3, 0.5]])])  # any one tells the rest
    masked = add_masks(model)
    expected = outputs(masked)
    masked.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    x = RNG.normal(size=(80, 4, 4, 2))
    prune = PruneCallback(Budget(macs=0.25), verbose=0)

    masked.fit(x, x[:, 0, 0, [0, 1, 0, 1]], 4, epochs=2, callbacks=[prune], verbose=0)

    assert read_gates(trace(masked)).sum() < trace(masked).num_channels - 3
    assert_close(outputs(masked), expected, 5e-3)
