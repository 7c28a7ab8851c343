"""The folded model gives the outputs of the old one, from the operators that int8 has."""

import int8_zoo
import keras
import numpy as np
import pytest
import zoo
from int8_zoo import model_of, samples, with_random_weights
from keras import activations, layers, ops
from laws import assert_close
from zoo import perturb, random_inputs

from kprune.errors import UnsupportedLayerError
from kprune.folding import PARTED, bounds, fold, is_bare, is_rectified, only_reader, readers
from kprune.graph import read_graph


def folded_of(model, seed=0):
    """The folded model, after the laws that hold for each."""
    before = [np.copy(v) for v in model.get_weights()]
    x = random_inputs(model, seed)

    folded = fold(read_graph(model))

    assert_close(folded(x, training=False), model(x, training=False))
    assert not {type(layer) for layer in folded.layers} & (PARTED - {layers.Rescaling})
    assert folded.input_shape == model.input_shape
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)
    return folded


def kinds(model):
    found = [type(layer) for layer in model.layers]
    return [kind for kind in found if kind is not layers.InputLayer]


def names(model):
    return [layer.name for layer in model.layers if not isinstance(layer, layers.InputLayer)]


@pytest.mark.parametrize(
    "build",
    [
        zoo.preactivation_residual,
        zoo.concat,
        zoo.flatten,
        zoo.one_dimensional,
        zoo.nested,
        zoo.shared,
        zoo.two_inputs_outputs,
        zoo.bare_ops,
    ],
)
def test_folding_keeps_the_outputs_of_every_topology(build):
    folded_of(perturb(build()))


@pytest.mark.parametrize("name", int8_zoo.NETWORKS)
def test_folding_keeps_the_outputs(name):
    folded_of(int8_zoo.NETWORKS[name]())


IMAGE, SIGNAL, ROW = (6, 6, 3), (9, 3), (7,)
HOSTS = {
    "Conv1D": (SIGNAL, lambda **more: layers.Conv1D(4, 3, **more)),
    "grouped Conv1D": (SIGNAL, lambda **more: layers.Conv1D(6, 3, groups=3, **more)),
    "Conv2D": (IMAGE, lambda **more: layers.Conv2D(4, (3, 2), dilation_rate=2, **more)),
    "grouped Conv2D": (IMAGE, lambda **more: layers.Conv2D(6, 3, groups=3, **more)),
    "Conv1DTranspose": (SIGNAL, lambda **more: layers.Conv1DTranspose(4, 3, 2, **more)),
    "Conv2DTranspose": (IMAGE, lambda **more: layers.Conv2DTranspose(4, (3, 2), 2, **more)),
    "DepthwiseConv1D": (SIGNAL, lambda **more: layers.DepthwiseConv1D(3, **more)),
    "DepthwiseConv2D": (IMAGE, lambda **more: layers.DepthwiseConv2D(3, **more)),
    "multiplied DepthwiseConv1D": (
        SIGNAL,
        lambda **more: layers.DepthwiseConv1D(3, depth_multiplier=2, **more),
    ),
    "multiplied DepthwiseConv2D": (
        IMAGE,
        lambda **more: layers.DepthwiseConv2D(3, depth_multiplier=2, **more),
    ),
    "Dense": (ROW, lambda **more: layers.Dense(4, **more)),
    "Dense of rows": (SIGNAL, lambda **more: layers.Dense(4, **more)),
}


@pytest.mark.parametrize(
    ("host", "use_bias"),
    [
        *((host, False) for host in HOSTS),
        *((host, True) for host in ("Conv2D", "Conv2DTranspose", "DepthwiseConv2D", "Dense")),
    ],
)
def test_a_batch_norm_goes_into_the_layer_in_front_of_it(host, use_bias):
    shape, make = HOSTS[host]
    norm = layers.BatchNormalization(epsilon=0.1)
    model = model_of(make(use_bias=use_bias, name="host"), norm, layers.ReLU(), shape=shape)

    folded = folded_of(model)

    assert kinds(folded) == [type(model.get_layer("host")), layers.ReLU]
    assert folded.get_layer("host").use_bias


@pytest.mark.parametrize(
    "options", [{"center": False}, {"scale": False}, {"center": False, "scale": False}]
)
def test_a_batch_norm_without_gamma_or_beta_goes_in_too(options):
    model = model_of(layers.Conv2D(4, 3), layers.BatchNormalization(**options))

    assert kinds(folded_of(model)) == [layers.Conv2D]


@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
@pytest.mark.parametrize("use_bias", [True, False])
def test_a_batch_norm_goes_into_the_dense_layer_behind_it(use_bias, activation):
    dense = layers.Dense(4, activation=activation, use_bias=use_bias, name="dense")
    model = model_of(layers.BatchNormalization(), dense, shape=ROW)

    folded = folded_of(model)

    assert kinds(folded)[0] is layers.Dense and len(kinds(folded)) == 1 + (activation == "tanh")


def test_a_batch_norm_goes_into_one_neighbour_only():
    model = model_of(layers.Dense(4), layers.BatchNormalization(), layers.Dense(3), shape=ROW)

    assert kinds(folded_of(model)) == [layers.Dense, layers.Dense]


def test_a_dense_layer_takes_up_both_the_one_in_front_and_the_one_behind():
    norms = [layers.BatchNormalization() for _ in range(2)]
    model = model_of(norms[0], layers.Dense(4), norms[1], shape=ROW)

    assert kinds(folded_of(model)) == [layers.Dense]


@pytest.mark.parametrize("shape", [ROW, SIGNAL, IMAGE])
@pytest.mark.parametrize(
    ("norm", "is_trainable"),
    [
        (lambda n: layers.BatchNormalization(name="norm"), True),
        (lambda n: layers.Rescaling(0.5, offset=0.1, name="norm"), False),
        (lambda n: layers.Rescaling([0.5] * n, offset=[0.1] * n, name="norm"), False),
        (lambda n: layers.Normalization(mean=[0.1] * n, variance=[2] * n, name="norm"), False),
        (lambda n: layers.Normalization(axis=None, mean=0.3, variance=2, name="norm"), False),
        (lambda n: layers.Normalization(mean=0.3, variance=2, invert=True, name="norm"), False),
    ],
    ids=["BatchNorm", "Rescaling", "by channel", "Normalization", "of all", "inverted"],
)
def test_elsewhere_a_scale_becomes_a_depthwise_convolution_of_size_1(norm, is_trainable, shape):
    model = model_of(norm(shape[-1]), shape=shape)

    folded = folded_of(model)

    scale = folded.get_layer("norm_scale")
    depthwise = layers.DepthwiseConv2D if len(shape) == 3 else layers.DepthwiseConv1D
    assert type(scale) is depthwise and set(scale.kernel_size) == {1}
    assert bool(scale.trainable_weights) == is_trainable
    assert len(kinds(folded)) == (3 if shape is ROW else 1)


def test_a_normalisation_that_was_adapted_keeps_its_outputs():
    norm = layers.Normalization(name="norm")
    norm.adapt(3 + 2 * samples())

    folded_of(keras.Sequential([keras.Input(int8_zoo.SHAPE), norm, layers.Conv2D(2, 3)]))


def of_image(build):
    inputs = keras.Input(IMAGE, name="image")
    return with_random_weights(keras.Model(inputs, build(inputs)))


def normed_beside(x):
    y = layers.Conv2D(3, 1)(x)
    return layers.Add()([layers.BatchNormalization(name="norm")(y), y])


def normed_by_one(x):
    norm = layers.BatchNormalization(name="norm")
    return layers.Add()([norm(layers.Conv2D(3, 1)(x)), norm(layers.Conv2D(3, 1)(x))])


def made_by_one(x):
    conv = layers.Conv2D(3, 1)
    return layers.Add()([layers.BatchNormalization(name="norm")(conv(x)), conv(x)])


def read_twice(x):
    norm = layers.BatchNormalization(name="norm")(x)
    return layers.Concatenate()([layers.Dense(2)(norm), layers.Dense(2)(norm)])


KEPT = {
    "read beside it": normed_beside,
    "normed by one layer": normed_by_one,
    "made by one layer": made_by_one,
    "in front of two": read_twice,
    "behind an activation": lambda x: layers.BatchNormalization(name="norm")(
        layers.Conv2D(3, 1, activation="relu")(x)
    ),
    "behind a layer without weights": lambda x: layers.BatchNormalization(name="norm")(
        layers.MaxPooling2D()(x)
    ),
    "in front of a convolution": lambda x: layers.Conv2D(3, 3, padding="same")(
        layers.BatchNormalization(name="norm")(x)
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_a_batch_norm_that_no_neighbour_can_take_up_stays_by_itself(case):
    model = of_image(KEPT[case])

    assert "norm_scale" in names(folded_of(model))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: layers.BatchNormalization(axis=1, name="culprit"), IMAGE),
        (lambda: layers.Normalization(axis=(1, 2, 3), name="culprit"), IMAGE),
        (lambda: layers.BatchNormalization(name="culprit"), (4, 4, 4, 2)),
    ],
    ids=["another axis", "several axes", "five axes"],
)
def test_refuses_a_normalisation_that_is_no_factor_per_channel_by_name(layer, shape):
    model = keras.Sequential([keras.Input(shape), layer(), layers.Flatten()])
    if isinstance(model.layers[0], layers.Normalization):
        model.layers[0].adapt(samples(shape=shape))

    with pytest.raises(UnsupportedLayerError, match=r"cannot make layer 'culprit' \(.*Normaliz"):
        fold(read_graph(model))


@pytest.mark.parametrize("activation", ["relu", "relu6", "linear"])
@pytest.mark.parametrize("host", ["Conv1D", "Conv2DTranspose", "DepthwiseConv2D", "Dense"])
def test_a_relu_stays_inside_its_layer(host, activation):
    shape, make = HOSTS[host]
    model = model_of(make(activation=activation, name="host"), shape=shape)

    assert names(folded_of(model)) == ["host"]


@pytest.mark.parametrize(
    ("host", "activation"),
    [
        *((host, "tanh") for host in ("Conv1D", "Conv2DTranspose", "DepthwiseConv2D")),
        *(("Dense", function) for function in ("sigmoid", "softmax", "leaky_relu", "elu")),
    ],
)
def test_another_activation_becomes_a_layer_of_its_own(host, activation):
    shape, make = HOSTS[host]
    model = model_of(make(activation=activation, name="host"), shape=shape)

    folded = folded_of(model)

    assert names(folded) == ["host", "host_activation"]
    assert folded.get_layer("host").activation is activations.linear
    assert folded.get_layer("host_activation").activation is activations.get(activation)


@pytest.mark.parametrize(
    "build",
    [
        lambda x: layers.Dense(4, activation="silu", name="gate")(x),
        lambda x: layers.Activation("silu", name="gate")(x),
        lambda x: layers.SeparableConv2D(4, 3, activation="silu", name="gate")(x),
    ],
    ids=["inside", "by name", "separable"],
)
def test_silu_becomes_a_sigmoid_and_a_product(build):
    assert names(folded_of(of_image(build)))[-2:] == ["gate_sigmoid", "gate_multiply"]


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        (lambda x, y: x + y, layers.Add),
        (lambda x, y: x - y, layers.Subtract),
        (lambda x, y: x * y, layers.Multiply),
        (ops.maximum, layers.Maximum),
        (ops.minimum, layers.Minimum),
        (lambda x, y: ops.relu(y), layers.Activation),
        (lambda x, y: ops.relu6(3 * y), layers.Activation),
        (lambda x, y: ops.sigmoid(y), layers.Activation),
        (lambda x, y: ops.tanh(y), layers.Activation),
        (lambda x, y: ops.silu(y), layers.Multiply),
    ],
    ids=[
        *("add", "subtract", "multiply", "maximum", "minimum"),
        *("relu", "relu6", "sigmoid", "tanh", "silu"),
    ],
)
def test_an_operation_becomes_the_layer_that_does_the_same(operation, kind):
    model = of_image(lambda x: operation(x, layers.Dense(3)(x)))

    assert is_bare(read_graph(model).calls[-1])
    assert kinds(folded_of(model))[-1] is kind


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x + 1.0,
        lambda x: ops.mean(x, axis=1),
        lambda x: x * ops.mean(x, axis=(1, 2), keepdims=True),
        lambda x: layers.Add()([x, x]),
        lambda x: layers.ReLU()(x),
    ],
    ids=["with a number", "of one tensor", "of two shapes", "layer", "relu layer"],
)
def test_no_other_call_is_bare(operation):
    model = of_image(operation)

    assert not is_bare(read_graph(model).calls[-1])
    folded_of(model)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize(
    "kind", [layers.Add, layers.Multiply, layers.Maximum, layers.Minimum, layers.Average]
)
def test_a_layer_of_many_tensors_takes_two_at_a_time(kind, count):
    model = of_image(
        lambda x: kind(name="last")([x, *(layers.Conv2D(3, 1)(x) for _ in range(count - 1))])
    )

    folded = folded_of(model)

    pair = layers.Add if kind is layers.Average else kind
    joins = [layer for layer in folded.layers if type(layer) is pair]
    assert [len(layer.input) for layer in joins] == [2] * (count - 1)
    assert names(folded)[-1] == "last"
    assert type(folded.layers[-1]) is (layers.Rescaling if kind is layers.Average else kind)


def test_every_layer_of_many_tensors_keeps_its_name_and_its_parts_get_free_ones():
    x = keras.Input(IMAGE, name="sum_part")
    y = layers.Conv2D(3, 1, name="sum_part_1")(x)
    first = layers.Add(name="sum")([x, y, y, x])
    model = with_random_weights(keras.Model(x, layers.Add(name="sum_2")([first, x, y])))

    found = names(folded_of(model))

    assert {"sum", "sum_2", "sum_part_1"} <= set(found) and len(found) == len(set(found)) == 6


@pytest.mark.parametrize(
    ("kind", "shape", "parts"),
    [
        (layers.SeparableConv1D, (12, 3), [layers.DepthwiseConv1D, layers.Conv1D]),
        (layers.SeparableConv2D, (12, 12, 3), [layers.DepthwiseConv2D, layers.Conv2D]),
    ],
)
@pytest.mark.parametrize(
    "options",
    [
        {"padding": "same", "strides": 2},
        {"depth_multiplier": 2, "use_bias": False, "activation": "relu"},
        {"dilation_rate": 2, "padding": "valid"},
    ],
    ids=["strides", "multiplier", "dilation"],
)
def test_a_separable_convolution_becomes_two_layers(kind, shape, parts, options):
    layer = kind(4, 3, name="conv", **options)

    folded = folded_of(model_of(layer, layers.BatchNormalization(), shape=shape))

    assert kinds(folded)[:2] == parts
    assert names(folded)[:2] == ["conv_depthwise", "conv_pointwise"]


SHARED = {
    "convolution": lambda: layers.Conv2D(3, 3, padding="same"),
    "with an activation": lambda: layers.Conv2D(3, 3, padding="same", activation="tanh"),
    "with silu": lambda: layers.Conv2D(3, 3, padding="same", activation="silu"),
    "separable": lambda: layers.SeparableConv2D(3, 3, padding="same", activation="relu"),
    "norm": layers.BatchNormalization,
    "dense": lambda: layers.Dense(3),
}


@pytest.mark.parametrize("case", SHARED)
def test_a_layer_of_two_calls_stays_one(case):
    layer = SHARED[case]()
    twice = of_image(lambda x: layer(layers.ReLU()(layer(x))))
    once = model_of(SHARED[case](), shape=IMAGE)

    assert folded_of(twice).count_params() == folded_of(once).count_params()


@pytest.mark.parametrize(
    ("host", "is_rectifying", "use_bias"),
    [
        ("Conv1DTranspose", True, True),
        ("Conv2DTranspose", True, True),
        ("Conv2DTranspose", False, False),
        ("Conv2D", True, False),
    ],
)
@pytest.mark.parametrize("is_inside", [True, False])
def test_a_transposed_convolution_with_a_relu_has_a_bias(host, is_rectifying, use_bias, is_inside):
    """Of zeros, or the converter would not merge them."""
    shape, make = HOSTS[host]
    activation = "relu" if is_rectifying and is_inside else None
    end = layers.ReLU() if is_rectifying and not is_inside else layers.Softmax()
    model = model_of(make(use_bias=False, activation=activation, name="host"), end, shape=shape)

    layer = folded_of(model).get_layer("host")

    assert layer.use_bias == use_bias
    assert not use_bias or not np.any(layer.bias)


BOUNDED = {
    "ReLU": (lambda: layers.ReLU(), (0, None)),
    "ReLU6": (lambda: layers.ReLU(6.0), (0, 6)),
    "bounded ReLU": (lambda: layers.ReLU(0.5), (0, 0.5)),
    "relu": (lambda: layers.Activation("relu"), (0, None)),
    "relu6": (lambda: layers.Activation(activations.relu6), (0, 6)),
    "linear": (lambda: layers.Activation("linear"), (None, None)),
}


@pytest.mark.parametrize("case", BOUNDED)
def test_bounds_are_those_that_the_outputs_are_cut_to(case):
    make, expected = BOUNDED[case]
    x = np.linspace(-10, 10, 101, dtype="float32")

    least, most = bounds(make())

    assert (least, most) == expected
    cut = np.clip(x, -np.inf if least is None else least, np.inf if most is None else most)
    np.testing.assert_array_equal(make()(x), cut)


@pytest.mark.parametrize(
    ("function", "expected"), [(ops.relu, (0, None)), (ops.relu6, (0, 6)), (ops.tanh, None)]
)
def test_a_bare_relu_has_bounds_once_it_is_folded(function, expected):
    folded = folded_of(of_image(lambda x: function(2 * layers.Dense(3)(x))))

    assert bounds(folded.layers[-1]) == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.ReLU(negative_slope=0.1),
        lambda: layers.ReLU(threshold=1.0),
        lambda: layers.ReLU(6.0, negative_slope=0.1),
        lambda: layers.LeakyReLU(),
        lambda: layers.PReLU(),
        lambda: layers.Activation("tanh"),
        lambda: layers.Activation("leaky_relu"),
        lambda: layers.Conv2D(2, 3, activation="relu"),
        lambda: layers.MaxPooling2D(),
    ],
)
def test_everything_else_has_no_bounds(make):
    assert bounds(make()) is None


def test_readers_are_the_calls_that_take_a_tensor_and_the_outputs():
    x = keras.Input(IMAGE)
    y = layers.ReLU(name="relu")(x)
    z = layers.Add(name="sum")([y, y])
    graph = read_graph(keras.Model([x], [y, z, layers.Conv2D(2, 1, name="conv")(z)]))

    reading = readers(graph)

    found = [
        [call and call.operation.name for call in reading[id(tensor)]]
        for tensor in (*keras.tree.flatten(graph.inputs), *(c.outputs[0] for c in graph.calls))
    ]
    assert found == [["relu"], ["sum", "sum", None], ["conv", None], [None]]


def test_the_only_reader_may_read_more_than_once():
    inputs = keras.Input(IMAGE)
    y = layers.ReLU()(inputs)
    z = layers.Multiply(name="square")([y, y])
    outputs = [layers.Conv2D(2, 1)(z), layers.Conv2D(2, 1)(z)]
    graph = read_graph(keras.Model(inputs, outputs))
    reading = readers(graph)

    found = [only_reader(call.outputs[0], reading) for call in graph.calls]

    assert [call and call.operation.name for call in found] == ["square", None, None, None]


def test_what_nobody_reads_has_no_only_reader():
    inputs = keras.Input(IMAGE)
    graph = read_graph(keras.Model(inputs, layers.ReLU()(inputs)))

    assert only_reader(inputs, {id(inputs): []}) is None
    assert only_reader(graph.calls[0].outputs[0], readers(graph)) is None


def is_host_rectified(make, end):
    graph = read_graph(of_image(lambda x: end(make(x))))
    [host] = [call for call in graph.calls if call.operation.name == "host"]
    return is_rectified(host, readers(graph))


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (lambda host: layers.ReLU()(host), True),
        (lambda host: layers.Activation("relu6")(host), True),
        (lambda host: layers.ReLU(0.5)(host), False),
        (lambda host: layers.Activation("tanh")(host), False),
        (lambda host: layers.MaxPooling2D()(host), False),
        (lambda host: layers.Add()([layers.ReLU()(host), host]), False),
        (lambda host: host, False),
    ],
    ids=["relu", "relu6", "other bound", "tanh", "pooling", "read beside it", "output"],
)
def test_a_layer_is_rectified_by_a_relu_that_alone_reads_it(end, expected):
    assert is_host_rectified(layers.Conv2D(3, 3, name="host"), end) == expected


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda x: layers.Dense(3, name="host")(x), True),
        (lambda x: layers.Add(name="host")([x, x]), True),
        (lambda x: layers.Rescaling(0.5, name="host")(x), True),
        (lambda x: layers.MaxPooling2D(2, name="host")(x), False),
        (lambda x: layers.Maximum(name="host")([x, x]), False),
    ],
    ids=["dense", "add", "rescaling", "pooling", "maximum"],
)
def test_only_some_layers_can_be_rectified(make, expected):
    assert is_host_rectified(make, layers.ReLU()) == expected
