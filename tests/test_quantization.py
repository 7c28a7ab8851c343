import keras
import numpy as np
import pytest
from conftest import require
from int8_zoo import CONV, NETWORKS, SHAPE, model_of, samples, with_random_weights
from keras import activations, layers

import kprune
from kprune.fakequant import FakeQuant
from kprune.flatbuffer import read
from kprune.interpreters import dequantize, quantize
from kprune.network import listed


@pytest.fixture(params=NETWORKS)
def network(request):
    keras.utils.set_random_seed(3)
    return NETWORKS[request.param]()


def shape_of(model):
    return model.inputs[0].shape[1:]


def with_moved_ranges(aware, seed=0):
    """As after training: the converter cannot find the same ranges in the samples by itself."""
    rng = np.random.default_rng(seed)
    for layer in aware.layers:
        if isinstance(layer, FakeQuant) and layer.limits is None:
            layer.set_weights([v * np.float32(rng.uniform(0.6, 1.5)) for v in layer.get_weights()])
    return aware


def assert_equal_on_the_device(network, x, change=lambda aware: aware):
    require("tflite_micro")
    aware = change(kprune.quantize_aware(network, x))
    flatbuffer = kprune.to_tflite(aware, x)
    found = read(flatbuffer)
    assert "float32" not in {str(tensor.dtype) for tensor in found.tensors}

    scores = listed(kprune.run_tflite(flatbuffer, x, "tflm"))

    for got, expected, index in zip(
        scores, listed(aware.predict(x, verbose=0)), found.outputs, strict=True
    ):
        output = found.tensors[index]
        np.testing.assert_array_equal(quantize(got, output), quantize(expected, output))
    return found


def test_int8_gives_the_outputs_of_the_quantisation_aware_network(network):
    assert_equal_on_the_device(network, samples(shape=shape_of(network)))


def test_twenty_layers_are_still_equal():
    """Where one value a step apart would go on to the scores."""
    blocks = [
        layer
        for _ in range(10)
        for layer in (
            layers.DepthwiseConv2D(3, **CONV),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(3, 1, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
        )
    ]
    network = model_of(*blocks, layers.GlobalAveragePooling2D(), layers.Dense(10))

    found = assert_equal_on_the_device(network, samples(512))

    assert len(found.operators) == 22


def twice(read, then):
    """`then` reads what something else reads, too, so that it keeps a scale of its own."""
    return layers.Add()([layers.Dense(3)(read), layers.Dense(3)(then)])


def beside(x, layer):
    return layers.Multiply()([x, layer(x)])


ROUNDED = {
    "conv": lambda x, y: layers.Conv2D(8, 1, use_bias=False)(x),
    "mean": lambda x, y: layers.GlobalAveragePooling2D()(x),
    "mean of 49": lambda x, y: layers.GlobalAveragePooling2D()(
        layers.Cropping2D(((1, 0), (0, 1)))(x)
    ),
    "mean of 24": lambda x, y: layers.GlobalAveragePooling1D()(
        layers.Reshape((24, 3))(layers.Cropping2D(((5, 0), (0, 0)))(x))
    ),
    "mean of one": lambda x, y: layers.Dense(3)(
        layers.GlobalAveragePooling2D(keepdims=True)(layers.Conv2D(3, 8)(x))
    ),
    "mean of one into a join": lambda x, y: layers.Concatenate()(
        [layers.GlobalAveragePooling2D(keepdims=True)(layers.Conv2D(3, 8)(z)) for z in (x, y)]
    ),
    "relu": lambda x, y: layers.ReLU()(x),
    "relu6": lambda x, y: layers.Activation("relu6")(x),
    "relu of half": lambda x, y: layers.ReLU(0.5)(x),
    "relu that does not reach its bound": lambda x, y: layers.ReLU(20.0)(x),
    "bounded behind a pooling": lambda x, y: layers.ReLU(0.5)(
        layers.MaxPooling2D(2)(layers.Conv2D(3, 1)(x))
    ),
    "bounded beside another": lambda x, y: twice(y, layers.ReLU(0.5)(y)),
    "leaky": lambda x, y: layers.LeakyReLU(0.1)(x),
    "leaky by name": lambda x, y: layers.Activation("leaky_relu")(x),
    "leaky as ReLU": lambda x, y: layers.ReLU(negative_slope=0.3)(x),
    "relu beside a dense layer": lambda x, y: beside(layers.Dense(3)(x), layers.ReLU()),
    "prelu": lambda x, y: layers.PReLU()(x),
    "add": lambda x, y: layers.Add()([x, y]),
    "add one of them twice": lambda x, y: layers.Add()([x, y, x]),
    "add and relu": lambda x, y: layers.ReLU()(layers.Add()([x, y])),
    "subtract": lambda x, y: layers.Subtract()([y, x]),
    "multiply": lambda x, y: layers.Multiply()([x, y]),
    "multiply three": lambda x, y: layers.Multiply()([x, y, layers.Dense(3)(x)]),
    "average": lambda x, y: layers.Average()([x, y]),
    "average of three": lambda x, y: layers.ReLU()(
        layers.Average()([x, y, layers.Conv2D(3, 1)(x)])
    ),
    "square": lambda x, y: layers.Multiply()([x, x]),
    "log of softmax": lambda x, y: twice(y, layers.Activation("log_softmax")(y)),
    "into a join": lambda x, y: layers.Concatenate()([layers.Conv2D(2, 1)(x), y, x]),
    "into a join twice": lambda x, y: layers.Dense(3)(layers.Concatenate()([x, y, x])),
    "into a join and elsewhere": lambda x, y: twice(y, layers.Concatenate()([y, x])),
    "last into a join": lambda x, y: twice(y, layers.Concatenate()([layers.Dense(2)(x), y])),
    "maximum and elsewhere": lambda x, y: twice(y, layers.Maximum()([y, layers.Dense(3)(x), x])),
    "pooled into a join": lambda x, y: layers.Maximum()(
        [layers.MaxPooling2D(2)(layers.Conv2D(3, 1)(x)), layers.AveragePooling2D(2)(y)]
    ),
    "joins in joins": lambda x, y: layers.Concatenate()(
        [layers.Maximum()([layers.Conv2D(3, 1)(x), y]), y]
    ),
    "rectified into a join": lambda x, y: layers.Concatenate()(
        [layers.ReLU(6.0)(layers.Subtract()([x, y])), layers.ReLU(0.5)(layers.Add()([x, y])), x]
    ),
    "sigmoid into a join": lambda x, y: layers.Dense(3)(
        layers.Concatenate()([layers.Activation("sigmoid")(x), y])
    ),
}


@pytest.mark.parametrize("operator", ROUNDED)
def test_every_operator_rounds_as_the_device(operator):
    """From two tensors of different scales."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input(SHAPE, name="image")
    x, y = inputs, layers.ReLU()(layers.Conv2D(3, 1)(inputs))
    network = with_random_weights(keras.Model(inputs, ROUNDED[operator](x, y)))

    assert_equal_on_the_device(network, samples(256), with_moved_ranges)


# What a ReLU becomes part of: the operator, the shape of the input, the layer on it.
FUSING = {
    "Conv1D": ("CONV_2D", (9, 2), lambda x, **more: layers.Conv1D(3, 3, **more)(x)),
    "Conv2D": ("CONV_2D", (6, 6, 2), lambda x, **more: layers.Conv2D(3, 3, **more)(x)),
    "Conv1DTranspose": (
        "TRANSPOSE_CONV",
        (9, 2),
        lambda x, **more: layers.Conv1DTranspose(3, 3, strides=2, **more)(x),
    ),
    "Conv2DTranspose": (
        "TRANSPOSE_CONV",
        (5, 4, 2),
        lambda x, **more: layers.Conv2DTranspose(3, (3, 2), strides=(2, 3), **more)(x),
    ),
    "DepthwiseConv1D": (
        "DEPTHWISE_CONV_2D",
        (9, 2),
        lambda x, **more: layers.DepthwiseConv1D(3, **more)(x),
    ),
    "DepthwiseConv2D": (
        "DEPTHWISE_CONV_2D",
        (6, 6, 2),
        lambda x, **more: layers.DepthwiseConv2D(3, **more)(x),
    ),
    "Dense": ("FULLY_CONNECTED", (7,), lambda x, **more: layers.Dense(4, **more)(x)),
    "Dense of rows": ("FULLY_CONNECTED", (5, 7), lambda x, **more: layers.Dense(4, **more)(x)),
    "Add": ("ADD", (5, 7), lambda x: layers.Add()([x, layers.Dense(7)(x)])),
    "Subtract": ("SUB", (5, 7), lambda x: layers.Subtract()([x, layers.Dense(7)(x)])),
    "Multiply": ("MUL", (5, 7), lambda x: layers.Multiply()([x, layers.Dense(7)(x)])),
    "Average": ("MUL", (5, 7), lambda x: layers.Average()([x, layers.Dense(7)(x)])),
}
RECTIFYING = {
    "relu": lambda host, x: layers.ReLU()(host(x)),
    "relu6": lambda host, x: layers.ReLU(6.0)(host(x)),
    "by name": lambda host, x: layers.Activation("relu")(host(x)),
    "other bound": lambda host, x: layers.ReLU(0.5)(host(x)),
    "inside": lambda host, x: host(x, activation="relu"),
    "relu6 inside": lambda host, x: host(x, activation="relu6"),
    "without bias": lambda host, x: host(x, activation="relu", use_bias=False),
    "without bias, outside": lambda host, x: layers.ReLU()(host(x, use_bias=False)),
}


INSIDE = {"inside", "relu6 inside", "without bias", "without bias, outside"}


@pytest.mark.parametrize("kind", FUSING)
def test_a_relu_becomes_part_of_the_operator_in_front(kind):
    """With the biases of zeros that layers begin with, too, which the converter drops."""
    keras.utils.set_random_seed(3)
    operator, shape, host = FUSING[kind]
    weighted = operator not in ("ADD", "SUB", "MUL")
    ends = [end for name, end in RECTIFYING.items() if weighted or name not in INSIDE]
    inputs = keras.Input(shape)
    network = keras.Model(inputs, [end(host, inputs) for end in ends])

    found = assert_equal_on_the_device(network, samples(64, shape), with_moved_ranges)

    names = [op.name for op in found.operators]
    assert names.count(operator) == len(ends)
    # Of the one with another bound only.
    assert (names.count("RELU"), names.count("MINIMUM")) == (2, 1)


@pytest.mark.parametrize("kind", ["Conv2D", "Conv2DTranspose", "DepthwiseConv2D", "Dense"])
def test_a_bias_that_is_the_same_in_all_channels_keeps_the_scale_of_each(kind):
    """The converter would store it once, in the scale of the first channel."""
    keras.utils.set_random_seed(3)
    _, shape, host = FUSING[kind]
    inputs = keras.Input(shape)
    network = keras.Model(inputs, host(inputs, bias_initializer=keras.initializers.Constant(2.0)))

    assert_equal_on_the_device(network, samples(64, shape))


ALWAYS_ZERO = {
    "softmax": lambda x: layers.Softmax()(x),
    "sigmoid": lambda x: layers.Activation("sigmoid")(x),
    "tanh": lambda x: layers.Activation("tanh")(x),
    "leaky": lambda x: layers.LeakyReLU()(x),
    "dense": lambda x: layers.Dense(2)(x),
    "join": lambda x: layers.Concatenate()([x, layers.Dense(2)(x)]),
}


@pytest.mark.parametrize("reader", ALWAYS_ZERO)
def test_both_interpreters_run_a_network_in_which_a_tensor_is_always_zero(reader):
    require("tflite_micro")
    inputs = keras.Input((4,), name="x")
    zero = layers.Subtract()([inputs, inputs])
    network = keras.Model(inputs, ALWAYS_ZERO[reader](zero))
    x = samples(16, (4,))
    flatbuffer = kprune.to_tflite(kprune.quantize_aware(network, x), x)

    expected = network.predict(x, verbose=0)
    for interpreter in ("tflm", "litert"):
        scores = kprune.run_tflite(flatbuffer, x, interpreter)
        np.testing.assert_allclose(scores, expected, atol=1 / 256)


@pytest.mark.parametrize("units", [3, 10])
def test_log_softmax_at_the_end_has_the_range_of_the_format(units):
    """In a range of its own it would come back to float on its way there."""
    require("tflite_micro")
    x = samples(64, (4,))
    network = model_of(layers.Dense(units, activation="log_softmax"), shape=(4,))
    aware = with_moved_ranges(kprune.quantize_aware(network, x))

    flatbuffer = kprune.to_tflite(aware, x)

    assert [op.name for op in read(flatbuffer).operators] == ["FULLY_CONNECTED", "LOG_SOFTMAX"]
    scores = kprune.run_tflite(flatbuffer, x, "tflm")
    # It is not rounded there, and the device has it from tables.
    np.testing.assert_allclose(scores, aware.predict(x, verbose=0), atol=1 / 16)


def test_no_layer_gets_the_name_of_an_input():
    names = ("relu_rounded", "conv_rescaled", "mean_rounded", "mean_carried", "sum_part")
    inputs = [keras.Input((6, 6, 2), name=name) for name in names]
    y = layers.Add(name="sum")(inputs)
    y = layers.ReLU(name="relu")(layers.Conv2D(3, 3, name="conv")(y))
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D(name="mean")(y)))
    x = np.random.default_rng(0).normal(size=(8, 6, 6, 2)).astype("float32")

    ready = kprune.quantize_aware(model, [x] * len(names))

    assert [t.name for t in ready.inputs] == list(names)


def test_an_input_that_nothing_reads_stays_as_it_is():
    require("tflite_micro")
    ignored, read_one = keras.Input((4,), name="ignored"), keras.Input((5,), name="read")
    model = keras.Model([ignored, read_one], layers.Dense(3)(read_one))
    x = [samples(64, (4,)), samples(64, (5,))]

    aware = kprune.quantize_aware(model, x)
    scores = kprune.run_tflite(kprune.to_tflite(aware, x), x, "tflm")

    assert [t.name for t in aware.inputs] == ["ignored", "read"]
    np.testing.assert_allclose(scores, aware.predict(x, verbose=0), atol=1e-6)


def test_the_device_is_left_out_while_training():
    """There the loss needs the gradient, and rounding twice has none to add."""
    x = samples()
    aware = kprune.quantize_aware(model_of(layers.GlobalAveragePooling2D()), x)
    aware.get_layer("image_rounded").trainable = False

    trained, used = (np.asarray(aware(x, training=t)) for t in (True, False))

    assert (trained != used).any()
    np.testing.assert_allclose(trained, used, atol=np.ptp(x) / 255)


@pytest.mark.parametrize(
    "average",
    [
        layers.AveragePooling2D(2),
        layers.AveragePooling2D(3, strides=2, padding="same"),
        layers.UpSampling2D(interpolation="bilinear"),
    ],
)
def test_averages_are_those_of_the_device_bit_for_bit(average):
    """They stay in the scale of their input, and every fourth mean of four values is a tie."""
    require("tflite_micro")
    x = samples()
    aware = kprune.quantize_aware(model_of(average), x)
    flatbuffer = kprune.to_tflite(aware, x)

    scores = kprune.run_tflite(flatbuffer, x, "tflm")

    assert len(read(flatbuffer).operators) == 1
    np.testing.assert_allclose(aware.predict(x, verbose=0), scores, atol=1e-6)


def test_rounding_is_close_to_the_float_network_before_training(network):
    x = samples(shape=shape_of(network))
    expected = network.predict(x, verbose=0)

    aware = kprune.quantize_aware(network, x)

    error = np.abs(aware.predict(x, verbose=0) - expected)
    assert error.max() < 0.1 * np.ptp(expected)


def test_ranges_are_those_of_the_trained_network():
    x = samples()
    aware = kprune.quantize_aware(NETWORKS["conv"](), x)
    aware.get_layer("image_rounded").set_weights([np.float32(-2.0), np.float32(3.1)])

    network = read(kprune.to_tflite(aware, x))

    source = network.tensors[network.inputs[0]]
    assert source.scale[0] == pytest.approx(5.1 / 255, rel=1e-6)
    assert dequantize(np.int8([source.zero_point[0]]), source) == 0


def test_weights_are_rounded_once():
    """The integers in the file are those that were trained, in every channel."""
    x = samples()
    scores = layers.Dense(5, name="scores")
    aware = kprune.quantize_aware(model_of(layers.Flatten(), scores), x)

    network = read(kprune.to_tflite(aware, x))

    kernel = aware.get_layer("scores").layer.get_weights()[0]
    kernel_scale = np.abs(kernel).max(axis=0) / 127
    (stored,) = [t for t in network.tensors if t.shape == (5, 8 * 8 * 3)]
    np.testing.assert_allclose(stored.scale, kernel_scale, rtol=1e-6)
    np.testing.assert_array_equal(stored.data.T, np.round(kernel / kernel_scale))


def test_activations_are_rounded_where_the_device_stores_them():
    x = samples()

    def rounded(model):
        aware = kprune.quantize_aware(model, x)
        return [v.name for v in aware.layers if isinstance(v, FakeQuant)]

    conv = layers.Conv2D(4, 3, name="conv")
    relu, pool = layers.ReLU(name="relu"), layers.MaxPooling2D(2, name="pool")
    softmax = layers.Dense(2, activation=activations.softmax, name="scores")
    model = model_of(conv, relu, pool, layers.Flatten(), softmax)

    assert rounded(model) == ["image_rounded", "relu_rounded", "scores_rounded"]


def test_training_wins_accuracy_and_the_model_survives_saving(tmp_path):
    """A plain compile, fit, save and load; then int8 with the classes of what was trained."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 384)
    x = samples(384) * 0.5 + np.eye(3, dtype="float32")[y][:, np.newaxis, np.newaxis]
    model = model_of(
        layers.DepthwiseConv2D(3, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Conv2D(16, 1, activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(3),
    )
    aware = kprune.quantize_aware(model, x[:64])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    aware.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"], jit_compile=False)
    before = aware.evaluate(x, y, verbose=0)[1]

    aware.fit(x, y, batch_size=32, epochs=8, verbose=0)
    aware.save(tmp_path / "aware.keras")
    loaded = keras.models.load_model(tmp_path / "aware.keras")

    scores = aware.predict(x, verbose=0)
    assert (scores.argmax(-1) == y).mean() > max(before + 0.2, 0.9)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), scores)
    flatbuffer = kprune.to_tflite(loaded, x[:64])
    require("tflite_micro")
    np.testing.assert_allclose(kprune.run_tflite(flatbuffer, x, "tflm"), scores, atol=1e-6)
    # LiteRT rounds sums once.
    classes = kprune.run_tflite(flatbuffer, x, "litert").argmax(-1)
    assert (classes == scores.argmax(-1)).mean() > 0.99


def test_softmax_at_the_end_is_not_rounded():
    """Probabilities below 1/512 would become 0, and the loss would lose its gradient."""
    aware = kprune.quantize_aware(
        model_of(layers.Flatten(), layers.Dense(9), layers.Softmax()), samples()
    )

    scores = aware.predict(samples(), verbose=0)

    np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-5)
    assert len(np.unique(scores)) > 257


def test_refuses_all_layers_it_cannot_round_by_name():
    model = model_of(
        layers.LayerNormalization(name="norm"),
        layers.Conv2D(2, 1),
        layers.Reshape((64, 2)),
        layers.GRU(4, name="memory"),
    )

    with pytest.raises(kprune.UnsupportedLayerError, match=r"'norm' .*'memory' \(GRU\)"):
        kprune.quantize_aware(model, samples())


# Layers that int8 lacks on the device, the shape of their input; and what it has of the same layer.
FLOAT_ONLY = {
    "a layer": (layers.ELU, {}, (4,), None),
    "an activation": (layers.Activation, {"activation": "gelu"}, (4,), {"activation": "silu"}),
    "inside": (layers.Dense, {"units": 2, "activation": "elu"}, (4,), {"units": 2}),
    "separable": (
        layers.SeparableConv2D,
        {"filters": 2, "kernel_size": 3, "activation": "softplus"},
        SHAPE,
        {"filters": 2, "kernel_size": 3, "activation": "tanh"},
    ),
    "two axes": (layers.Softmax, {"axis": (1, 2)}, SHAPE, {"axis": (1,)}),
    "slope and bound": (
        layers.ReLU,
        {"max_value": 0.7, "negative_slope": 0.1},
        (4,),
        {"negative_slope": 0.1},
    ),
    "upsampling": (layers.UpSampling1D, {"size": 2}, (5, 4), {"size": 1}),
    "repeated": (layers.RepeatVector, {"n": 2}, (4,), {"n": 1}),
    "bicubic": (
        layers.UpSampling2D,
        {"interpolation": "bicubic"},
        SHAPE,
        {"interpolation": "bilinear"},
    ),
    "dilated": (
        layers.Conv2DTranspose,
        {"filters": 2, "kernel_size": 3, "dilation_rate": 2},
        SHAPE,
        {"filters": 2, "kernel_size": 3},
    ),
}


@pytest.mark.parametrize("case", FLOAT_ONLY)
def test_refuses_before_the_training_what_int8_lacks_after_it(case):
    kind, refused, shape, _ = FLOAT_ONLY[case]
    model = keras.Sequential([keras.Input(shape), kind(**refused, name="culprit")])
    x = samples(16, shape)

    with pytest.raises(kprune.UnsupportedLayerError, match=rf"'culprit' \({kind.__name__}\)"):
        kprune.quantize_aware(model, x)
    with pytest.raises(ValueError, match=r"cannot"):  # Nor is there a way without training.
        kprune.to_tflite(model, x)


@pytest.mark.parametrize("case", [name for name, (*_, taken) in FLOAT_ONLY.items() if taken])
def test_takes_the_same_layers_where_int8_has_them(case):
    kind, _, shape, taken = FLOAT_ONLY[case]
    model = keras.Sequential([keras.Input(shape), kind(**taken)])
    x = samples(16, shape)

    assert kprune.to_tflite(kprune.quantize_aware(model, x), x)


def test_refuses_masks_and_unknown_methods():
    masked = kprune.add_masks(NETWORKS["conv"]())

    with pytest.raises(ValueError, match=r"kprune\.slim"):
        kprune.quantize_aware(masked, samples())
    with pytest.raises(ValueError, match="native, tfmot, got 'magic'"):
        kprune.quantize_aware(masked, samples(), method="magic")


def test_other_formats_leave_the_rounding_out():
    x, model = samples(), NETWORKS["conv"]()
    aware = kprune.quantize_aware(model, x)

    scores = kprune.run_tflite(kprune.to_tflite(aware, format="float"), x)

    np.testing.assert_allclose(scores, model.predict(x, verbose=0), rtol=1e-4, atol=1e-5)
