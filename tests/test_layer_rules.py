"""One rule per layer: what channels pass, what is made, what is held back and why."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from between import FEATURES, SERIES, VOLUME, between, check_held, check_passed, name_of, reasons
from keras import layers, ops
from laws import assert_close, check_laws, counted_cost, stated_cost
from zoo import IMAGE, close_at_random, perturb, random_inputs

import kprune
from kprune import add_masks, close_channels, slim
from kprune.channels import trace

# Layers behind which the channels of the layer in front are removed as before.
PASSED = [
    (layers.ReLU(), IMAGE),
    (layers.LeakyReLU(), SERIES),
    (layers.ELU(), FEATURES),
    (layers.PReLU(), FEATURES),
    (layers.PReLU(), IMAGE),
    (layers.PReLU(shared_axes=[1, 2]), IMAGE),
    (layers.Activation("gelu"), FEATURES),
    (layers.Activation(tf.nn.relu6), FEATURES),
    (layers.Activation(layers.LeakyReLU(0.3)), FEATURES),
    (layers.Identity(), FEATURES),
    (layers.ActivityRegularization(0.1), FEATURES),
    (layers.Dropout(0.5), FEATURES),
    (layers.Dropout(0.5, noise_shape=(None, 1, None)), SERIES),
    (layers.SpatialDropout2D(0.5), IMAGE),
    (layers.GaussianDropout(0.5), FEATURES),
    (layers.AlphaDropout(0.5), FEATURES),
    (layers.GaussianNoise(0.5), FEATURES),
    (layers.Rescaling(0.5, 1.0), FEATURES),
    (layers.Softmax(axis=1), SERIES),
    (layers.BatchNormalization(), IMAGE),
    (layers.BatchNormalization(scale=False), FEATURES),
    (layers.BatchNormalization(center=False), SERIES),
    (layers.GroupNormalization(3), IMAGE),
    (layers.GroupNormalization(-1), IMAGE),
    (layers.LayerNormalization(axis=1), SERIES),
    (layers.UnitNormalization(), IMAGE),
    (layers.UnitNormalization(axis=1), IMAGE),
    (layers.DepthwiseConv1D(3, depth_multiplier=3), SERIES),
    (layers.DepthwiseConv2D(3, dilation_rate=2), IMAGE),
    (layers.MaxPooling1D(2), SERIES),
    (layers.AveragePooling2D(2), IMAGE),
    (layers.MaxPooling3D(2), VOLUME),
    (layers.GlobalAveragePooling1D(), SERIES),
    (layers.GlobalMaxPooling2D(keepdims=True), IMAGE),
    (layers.GlobalAveragePooling3D(), VOLUME),
    (layers.UpSampling1D(2), SERIES),
    (layers.UpSampling2D(2, interpolation="bilinear"), IMAGE),
    (layers.UpSampling3D(2), VOLUME),
    (layers.ZeroPadding1D(1), SERIES),
    (layers.Cropping2D(1), IMAGE),
    (layers.ZeroPadding3D(1), VOLUME),
    (layers.RepeatVector(3), FEATURES),
    (layers.Resizing(5, 6), IMAGE),
    (layers.CenterCrop(4, 4), IMAGE),
    (layers.RandomFlip(), IMAGE),
    (layers.RandomRotation(0.2), IMAGE),
    (layers.RandomZoom(0.2), IMAGE),
    (layers.RandomTranslation(0.1, 0.1), IMAGE),
    (layers.RandomCrop(4, 4), IMAGE),
    (layers.Flatten(), IMAGE),
    (layers.Flatten(), VOLUME),
    (layers.Permute((2, 1, 3)), IMAGE),
    (layers.Reshape((64, 6)), IMAGE),
    (layers.Reshape((-1, 6)), IMAGE),
    (layers.Reshape((8, -1)), IMAGE),
    (layers.Reshape((-1,)), IMAGE),
    (layers.Reshape((1, 1, 6)), FEATURES),
    (layers.Reshape((8, 8, 2, 3)), IMAGE),
    (lambda x: layers.Permute((2, 1))(layers.Permute((2, 1))(x)), SERIES),
    (lambda x: layers.Concatenate(axis=1)([x, layers.ReLU()(x)]), SERIES),
    (lambda x: layers.Concatenate(axis=-2)([x, x, x]), IMAGE),
    (lambda x: layers.Concatenate(axis=1)([x, layers.Dense(6, name="below")(x)]), SERIES),
    (lambda x: layers.Average()([x, x]), FEATURES),
    (lambda x: layers.Maximum()([x, layers.GlobalMaxPooling2D(keepdims=True)(x)]), IMAGE),
    (lambda x: layers.Multiply()([x, layers.Dense(1, name="one")(x)]), SERIES),
]


@pytest.mark.parametrize(("layer", "shape"), PASSED, ids=name_of)
def test_channels_pass(layer: object, shape: tuple[int, ...]) -> None:
    check_passed(layer, shape)


# Layers that make channels: (layer, shape, argument that counts them).
MADE = [
    (layers.Conv1D(6, 3, padding="causal", dilation_rate=2, name="made"), SERIES),
    (layers.Conv1D(6, 3, strides=2, padding="valid", name="made"), SERIES),
    (layers.Conv2D(6, (3, 1), padding="same", use_bias=False, name="made"), IMAGE),
    (layers.Conv3D(6, 2, name="made"), VOLUME),
    (layers.Conv1DTranspose(6, 3, strides=2, name="made"), SERIES),
    (layers.Conv2DTranspose(6, 3, strides=2, output_padding=1, name="made"), IMAGE),
    (layers.Conv3DTranspose(6, 2, name="made"), VOLUME),
    (layers.SeparableConv1D(6, 3, depth_multiplier=2, name="made"), SERIES),
    (layers.SeparableConv2D(6, 3, use_bias=False, name="made"), IMAGE),
    (layers.Dense(6, activation="relu", name="made"), VOLUME),
    (layers.EinsumDense("ab,bc->ac", 6, name="made"), FEATURES),
    (layers.EinsumDense("abc,cd->abd", (None, 6), bias_axes="d", name="made"), SERIES),
    (layers.EinsumDense("...x,xy->...y", 6, bias_axes="y", name="made"), IMAGE),
    (layers.EinsumDense("abcd,ed->abce", (8, 8, 6), activation="tanh", name="made"), IMAGE),
    (layers.EinsumDense("abc,cbd->ad", 6, name="made"), SERIES),
    (layers.EinsumDense("abc,bcd->abd", (8, 6), bias_axes="bd", name="made"), SERIES),
]


@pytest.mark.parametrize(("layer", "shape"), MADE, ids=name_of)
def test_channels_are_made_and_read(layer: keras.layers.Layer, shape: tuple[int, ...]) -> None:
    model = perturb(between(layer, shape))

    small = check_laws(model)

    assert reasons(model)["maker"] == reasons(model)["made"] == ""
    assert small.get_layer("maker").units < 6
    assert small.get_layer("made").output.shape[-1] < 6


# Layers that read channels which may go, but whose own must stay.
READ = [
    (layers.LSTM(3, return_sequences=True, name="memory"), SERIES),
    (layers.GRU(3, name="memory"), SERIES),
    (layers.SimpleRNN(3, name="memory"), SERIES),
    (layers.Bidirectional(layers.LSTM(3), name="memory"), SERIES),
    (layers.ConvLSTM1D(3, 2, name="memory"), (4, 5, 3)),
    (layers.ConvLSTM2D(3, 2, return_sequences=True, name="memory"), VOLUME),
]


@pytest.mark.parametrize(("layer", "shape"), READ, ids=name_of)
def test_recurrent_layers_keep_their_units_and_lose_inputs(
    layer: keras.layers.Layer, shape: tuple[int, ...]
) -> None:
    model = perturb(between(layer, shape))

    small = check_laws(model)

    kind = type(layer).__name__
    assert reasons(model)["memory"] == f"'memory' ({kind}) feeds them back to itself"
    assert small.get_layer("maker").units < 6


class Unknown(keras.layers.Layer):
    def call(self, x: object) -> object:
        return x * 2.0


def reverse(x: object) -> object:
    return x[..., ::-1]


# (layer, shape, why the channels in front stay)
HELD = [
    (layers.LayerNormalization(name="it"), SERIES, "'it' (LayerNormalization) divides them by a"),
    (layers.RMSNormalization(name="it"), SERIES, "'it' (RMSNormalization) divides them by a mean"),
    (layers.GroupNormalization(1, name="it"), IMAGE, "'it' (GroupNormalization) divides them by"),
    (layers.Softmax(name="it"), FEATURES, "'it' (Softmax) needs all of them"),
    (layers.Activation("softmax", name="it"), FEATURES, "'it' (Activation) applies softmax, which"),
    (layers.Activation(reverse, name="it"), SERIES, "applies reverse, a function of its own"),
    (layers.Rescaling([1.0] * 6, name="it"), FEATURES, "'it' (Rescaling) has a constant for each"),
    (layers.Normalization(mean=[1.0] * 6, variance=[2.0] * 6), FEATURES, "has a mean and a"),
    (layers.Dropout(0.5, noise_shape=(4, 6), name="it"), FEATURES, "their number in noise_shape"),
    (layers.BatchNormalization(axis=1, name="it"), IMAGE, "'it' (BatchNormalization) reads across"),
    (
        layers.EinsumDense("abc,cde->abde", (8, 2, 3), name="it"),
        SERIES,
        "(EinsumDense) reads them, and",
    ),
    (layers.TimeDistributed(layers.Dense(6), name="it"), SERIES, "'it' (TimeDistributed) reads"),
    (layers.Masking(name="it"), SERIES, "'it' (Masking) reads them, and kprune has no rule for it"),
    (layers.Lambda(lambda x: ops.flip(x, -1), name="it"), FEATURES, "'it' (Lambda) reads them"),
    (Unknown(name="it"), FEATURES, "'it' (Unknown) reads them, and kprune has no rule for it"),
    (layers.Permute((2, 1)), SERIES, "'reader' (Dense) reads across them, along another axis"),
    (
        lambda x: layers.MultiHeadAttention(2, 3, name="it")(x, x),
        SERIES,
        "'it' (MultiHeadAttention",
    ),
    (lambda x: layers.Dot(1)([x, x]), SERIES, "(Dot) reads them, and kprune has no rule for it"),
]


@pytest.mark.parametrize(("layer", "shape", "reason"), HELD, ids=name_of)
def test_channels_are_held_with_the_reason(
    layer: object, shape: tuple[int, ...], reason: str
) -> None:
    check_held(layer, shape, reason)


def test_the_input_of_a_recurrent_layer_is_not_its_state() -> None:
    inputs = keras.Input(SERIES, name="input")
    x = layers.Dense(6, name="maker")(inputs)
    state = layers.Dense(3, name="state")(layers.Flatten()(inputs))
    x = layers.GRU(3, name="memory")(sequences=x, initial_state=state)
    model = perturb(keras.Model(inputs, layers.Dense(2)(x)))

    small = check_laws(model)

    assert reasons(model)["maker"] == ""
    assert reasons(model)["state"] == "'memory' (GRU) starts from them"
    assert small.get_layer("maker").units < 6


def test_statistics_of_batch_renormalization_go_with_their_channels() -> None:
    model = perturb(between(layers.BatchNormalization(renorm=True, name="it"), FEATURES))

    small = check_laws(model)

    assert {w.shape for w in small.get_layer("it").weights} == {(small.get_layer("maker").units,)}
    assert small.get_layer("maker").units < 6


def test_masks_compute_in_the_type_of_their_input() -> None:
    x = inputs = keras.Input(FEATURES, name="input")
    for name in ("a", "b", "scores"):
        x = layers.Dense(6, dtype="float64", name=name)(x)
    model = perturb(keras.Model(inputs, x))
    x = random_inputs(model)

    assert_close(add_masks(model)(x), model(x), tolerance=0)


def test_an_embedding_makes_channels() -> None:
    inputs = keras.Input((9,), dtype="int32", name="words")
    x = layers.Embedding(20, 6, name="table")(inputs)
    x = layers.Conv1D(4, 3, name="conv")(x)
    model = keras.Model(inputs, layers.GlobalMaxPooling1D(name="max")(x))
    masked = close_at_random(add_masks(model))
    words = np.random.default_rng(0).integers(0, 20, (3, 9))

    small = slim(masked)

    assert small.get_layer("table").output_dim < 6
    assert_close(small(words), masked(words))


def test_groups_of_a_convolution_go_as_a_whole() -> None:
    x = inputs = keras.Input(IMAGE, name="input")
    x = layers.Conv2D(8, 1, name="maker")(x)
    x = layers.Conv2D(12, 3, groups=4, name="grouped")(x)
    model = keras.Model(inputs, layers.Conv2D(4, 1, name="reader")(x))
    masked = add_masks(model)

    close_channels(masked, {"grouped": [3]})

    grouped = slim(masked).get_layer("grouped")
    assert (grouped.groups, grouped.filters) == (3, 9)
    assert slim(masked).get_layer("maker").filters == 6


def test_shuffled_channels_of_grouped_convolutions_hold_together() -> None:
    """ShuffleNet: each group reads from all groups before it, so all are one."""
    x = inputs = keras.Input(IMAGE, name="input")
    x = layers.Conv2D(8, 1, groups=1, name="maker")(x)
    x = layers.Conv2D(8, 1, groups=2, name="one")(x)
    x = layers.Reshape((8, 8, 2, 4), name="split")(x)
    x = layers.Permute((1, 2, 4, 3), name="shuffle")(x)
    x = layers.Reshape((8, 8, 8), name="join")(x)
    x = layers.Conv2D(8, 1, groups=2, name="two")(x)
    model = keras.Model(inputs, layers.Conv2D(4, 1, name="reader")(x))

    assert "stand and fall together" in reasons(model)["maker"]


def test_a_tensor_that_is_repeated_over_channels_stays() -> None:
    inputs = keras.Input((6,), name="input")
    column = layers.Reshape((6, 1), name="column")(layers.Dense(6, name="a")(inputs))
    row = layers.Reshape((1, 5), name="row")(layers.Dense(5, name="b")(inputs))
    model = keras.Model(inputs, layers.Flatten()(layers.Multiply(name="outer")([column, row])))

    assert (
        reasons(model)["a"] == "'outer' (Multiply) repeats it over the channels of another tensor"
    )
    assert "'outer' (Multiply) makes them of one axis of each" in reasons(model)["outer"]


def test_a_group_that_can_go_in_part_says_what_stays(capsys: pytest.CaptureFixture[str]) -> None:
    inputs = keras.Input(IMAGE, name="input")
    a = layers.Conv2D(5, 1, name="a")(inputs)
    b = layers.Conv2D(8, 1, name="b")(inputs)
    x = layers.Add()([layers.Concatenate()([inputs, a]), b])
    model = keras.Model(inputs, layers.Conv2D(2, 1, name="reader")(x))

    kprune.summary(model)

    assert reasons(model)["b"] == "3 of 8: input of the model"
    assert "3 of 8: input of the model" in capsys.readouterr().out
    assert slim(close_at_random(add_masks(model), share=1)).get_layer("b").filters == 4


def test_constants_of_normalization_stay_statistics_are_no_parameters() -> None:
    x = inputs = keras.Input((5,), name="input")
    normalize = layers.Normalization(name="normalize")
    normalize.adapt(np.random.default_rng(0).normal(3, 2, (50, 5)))
    x = layers.Dense(6, name="hidden")(normalize(x))
    model = keras.Model(inputs, layers.Dense(2, name="scores")(x))

    small = check_laws(model)

    assert stated_cost(model)["params"] == 5 * 6 + 6 + 6 * 2 + 2
    assert_close(small.get_layer("normalize")(np.ones((1, 5))), normalize(np.ones((1, 5))))


# --- channels_first ---


def channels_first_pair() -> list[keras.Model]:
    """The same network in both orders, with the same weights."""

    def build(order: str) -> keras.Model:
        axis, shape = (1, (3, 8, 9)) if order == "channels_first" else (-1, (8, 9, 3))
        with_order = {"data_format": order}
        x = inputs = keras.Input(shape, name="image")
        x = layers.Conv2D(6, 3, padding="same", name="stem", **with_order)(x)
        x = layers.BatchNormalization(axis, name="bn")(x)
        y = layers.DepthwiseConv2D(3, padding="same", name="depthwise", **with_order)(x)
        y = layers.PReLU(shared_axes=[2, 3] if axis == 1 else [1, 2], name="prelu")(y)
        s = layers.GlobalAveragePooling2D(keepdims=True, name="squeeze", **with_order)(y)
        s = layers.Conv2D(6, 1, activation="sigmoid", name="excite", **with_order)(s)
        x = layers.Add(name="add")([x, layers.Multiply(name="scale")([y, s])])
        x = layers.Concatenate(axis, name="concat")([x, y])
        x = layers.GroupNormalization(6, axis=axis, name="norm")(x)
        x = layers.SeparableConv2D(5, 3, name="separable", **with_order)(x)
        x = layers.MaxPooling2D(2, name="pool", **with_order)(x)
        x = layers.Conv2DTranspose(4, 2, name="transpose", **with_order)(x)
        x = layers.Flatten(name="flatten", **with_order)(x)
        return keras.Model(inputs, layers.Dense(3, name="scores")(x), name=order)

    first, last = build("channels_first"), perturb(build("channels_last"))
    for a, b in zip(first.weights, last.weights, strict=True):
        a.assign(keras.ops.reshape(b, a.shape))
    return [first, last]


def test_channels_first_slims_to_the_weights_of_channels_last() -> None:
    """TensorFlow cannot run channels_first on a CPU, so the twin in the other order tells."""
    masked = [add_masks(model) for model in channels_first_pair()]
    x = random_inputs(masked[1])

    for m in masked:
        close_channels(m, {"stem": [3], "separable": [0, 1, 4], "transpose": [2]})
    small_first, small_last = map(slim, masked)

    for a, b in zip(small_first.weights, small_last.weights, strict=True):
        np.testing.assert_array_equal(keras.ops.squeeze(a), keras.ops.squeeze(b), a.path)
    assert stated_cost(masked[0]) == stated_cost(small_first) == counted_cost(small_first)
    assert small_first.count_params() < masked[1].count_params()
    assert_close(small_last(x), masked[1](x))


def test_a_layer_that_is_called_across_and_along_channels_keeps_them() -> None:
    inputs = keras.Input((8, 8, 1), name="image")
    rows = layers.Reshape((64, -1), name="rows")
    x = layers.Conv2D(6, 3, padding="same", name="many")(inputs)
    x = layers.Concatenate()([rows(x), rows(layers.Conv2D(1, 1, name="one")(x))])
    scores = layers.Dense(3)(layers.GlobalAveragePooling1D()(layers.Conv1D(5, 3, name="conv")(x)))

    small = check_laws(perturb(keras.Model(inputs, scores)))

    assert small.get_layer("conv").filters < 5


def test_layers_of_which_no_macs_are_known_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    model = between(layers.TimeDistributed(layers.Dense(6), name="each"), SERIES)

    kprune.summary(add_masks(model))

    assert "MACs unknown, counted as 0: 'each' (TimeDistributed)\n" in capsys.readouterr().out
    assert trace(between(layers.LSTM(3), SERIES)).uncounted == []
