"""The flatbuffer is int8 throughout, and bad calibration data are refused."""

import dataclasses
import functools

import keras
import numpy as np
import pytest
from conftest import require
from keras import layers

from kprune import UnsupportedOpError, add_masks, quantize_aware, repack, run_tflite, to_tflite
from kprune.demo import digits_network, load_digits
from kprune.flatbuffer import read
from kprune.graph import read_graph
from kprune.network import Network
from kprune.tflite import check_operators
from kprune.tflm import measure_arena

X = load_digits()[0][0][:64]


@functools.cache
def digits() -> tuple[keras.Model, bytes]:
    keras.utils.set_random_seed(0)
    model = digits_network()
    return model, to_tflite(model, representative_data=X)


def test_everything_is_integer_with_batch_one() -> None:
    network = read(digits()[1])

    assert {t.dtype.name for t in network.tensors} == {"int8", "int32"}
    ends = [network.tensors[i] for i in (*network.inputs, *network.outputs)]
    assert [(t.shape, t.dtype.name) for t in ends] == [((1, 8, 8, 1), "int8"), ((1, 10), "int8")]


def test_convolutions_are_quantised_per_channel_and_nothing_is_left_of_batch_norm() -> None:
    network = read(digits()[1])

    names = [operator.name for operator in network.operators]
    assert names == [
        *["CONV_2D"] * 3,
        "ADD",
        *["DEPTHWISE_CONV_2D", "CONV_2D"] * 2,
        "MEAN",
        "FULLY_CONNECTED",
    ]
    weights = [network.tensors[o.inputs[1]] for o in network.operators if "CONV" in o.name]
    assert [len(w.scale) for w in weights] == [24, 24, 24, 24, 48, 48, 64]


def test_a_file_plans_the_arena_where_the_interpreter_would_leave_gaps() -> None:
    require("tflite_micro")
    x = np.random.default_rng(0).normal(size=(16, 16, 16, 1)).astype("float32")
    model = keras.Sequential(
        [keras.Input((16, 16, 1)), *(layers.Conv2D(n, 1) for n in (57, 50, 50, 50))]
    )
    planned = to_tflite(model, x)
    bare = repack(planned, offsets=())

    assert measure_arena(planned).head == 16 * 16 * (57 + 50) < measure_arena(bare).head
    for interpreter in ("tflm", "litert"):
        expected = run_tflite(bare, x, interpreter)
        np.testing.assert_array_equal(run_tflite(planned, x, interpreter), expected)
    assert read(digits()[1]).offsets == ()


def test_a_normalisation_keeps_what_it_was_adapted_to() -> None:
    x = np.random.default_rng(0).normal(5, 3, (64, 8, 8, 2)).astype("float32")
    norm = layers.Normalization()
    norm.adapt(x)
    model = keras.Sequential([keras.Input((8, 8, 2)), norm, layers.Conv2D(3, 3)])
    expected = model.predict(x, verbose=0)

    for ready in (model, quantize_aware(model, x)):
        scores = run_tflite(to_tflite(ready, x), x)
        assert np.abs(scores - expected).max() < 0.05 * np.ptp(expected)


def test_int8_scores_follow_the_float_scores() -> None:
    model, flatbuffer = digits()

    scores = run_tflite(flatbuffer, X)

    expected = model.predict(X, verbose=0)
    # 8 bits over the range of the scores, a few steps of rounding on the way.
    assert np.abs(scores - expected).max() < 0.05 * np.ptp(expected)


def test_tensors_are_called_after_their_layers_and_nothing_else_is_left_to_repack() -> None:
    flatbuffer = digits()[1]
    network = read(flatbuffer)

    names = [network.tensors[operator.outputs[0]].name for operator in network.operators]
    assert names[:3] == ["stem", "residual1", "residual2"]
    assert names[-1] == "scores"
    assert network.tensors[network.inputs[0]].name == "image"
    # What is left are those names.
    assert len(flatbuffer) - len(repack(flatbuffer)) < 32 * len(names)


def test_the_same_model_gives_the_same_bytes() -> None:
    model, flatbuffer = digits()

    assert to_tflite(model, representative_data=X) == flatbuffer


def test_several_inputs_take_a_list() -> None:
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    model = keras.Model([a, b], layers.Dense(2)(layers.Concatenate()([a, b])))
    rng = np.random.default_rng(0)

    flatbuffer = to_tflite(model, [rng.normal(size=(20, 4)), rng.normal(size=(20, 3))])

    network = read(flatbuffer)
    assert [network.tensors[i].shape for i in network.inputs] == [(1, 4), (1, 3)]
    with pytest.raises(ValueError, match=r"one array for each of the 2 inputs.*got 1"):
        to_tflite(model, rng.normal(size=(20, 4)))


def test_inputs_and_outputs_are_in_the_order_of_the_model() -> None:
    # The converter has orders of its own: of inputs by name, of outputs by whatever.
    rng = np.random.default_rng(0)
    z, a = keras.Input((4,), name="z"), keras.Input((4,), name="a")
    heads = [layers.Dense(3, name=f"head{n}")(z if n % 2 else a) for n in range(11)]
    model = keras.Model([z, a], [heads[0], layers.Subtract(name="difference")([z, a]), *heads[1:]])
    x = list(rng.normal(size=(2, 50, 4)).astype("float32"))

    flatbuffer = to_tflite(model, x)

    network = read(flatbuffer)
    assert [network.tensors[i].name for i in network.inputs] == ["z", "a"]
    made = [network.tensors[i].name for i in network.outputs]
    assert made == ["head0", "difference", *(f"head{n}" for n in range(1, 11))]
    for found, expected in zip(run_tflite(flatbuffer, x), model.predict(x), strict=True):
        assert np.abs(found - expected).max() < 0.05 * np.ptp(expected)


@pytest.mark.parametrize("name", ["my input", "entrée", "while", "_x", "a:0", "sample[0]"])
def test_any_name_that_keras_takes_can_be_converted(name: str) -> None:
    x = keras.Input((4,), name=name)
    model = keras.Model({name: x}, {"b": layers.Dense(2, name="größe; 1")(x)}, name="my model")

    network = read(to_tflite(model, np.random.default_rng(0).normal(size=(20, 4))))

    ends = [*network.inputs, *network.outputs]
    assert [network.tensors[i].name for i in ends] == [name, "größe; 1"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (X[:0], "is empty"),
        (X[:3], "has 3 samples, too few .* at least 8"),
        (np.full_like(X, np.nan), "'image' contains NaN or infinity"),
        (X[:, :4], r"'image' must have shape \(samples, 8, 8, 1\), got \(64, 4, 8, 1\)"),
        (X[0], r"must have shape \(samples, 8, 8, 1\), got \(8, 8, 1\)"),
    ],
)
def test_bad_calibration_data_are_refused(data: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_tflite(digits()[0], data)


def test_a_masked_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"still has masks.*kprune.slim"):
        to_tflite(add_masks(digits_network()), X)


def test_what_int8_has_no_operator_for_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    inputs = keras.Input((8, 4))
    model = keras.Model(inputs, keras.ops.erf(layers.Dense(4)(inputs)), name="odd")

    with pytest.raises(ValueError, match="cannot convert 'odd' to int8"):
        to_tflite(model, np.random.default_rng(0).normal(size=(20, 8, 4)))

    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    "layer",
    [
        layers.LSTM(3, name="memory"),
        layers.Bidirectional(layers.GRU(3), name="memory"),
        layers.ConvLSTM1D(3, 1, name="memory"),
    ],
)
def test_loops_on_which_the_converter_would_crash_are_refused(layer: layers.Layer) -> None:
    shape = (5, 4, 2) if isinstance(layer, layers.ConvLSTM1D) else (5, 4)
    model = keras.Sequential([keras.Input(shape), layer])

    with pytest.raises(UnsupportedOpError, match=r"loop .*'memory' \(.*unroll=True"):
        to_tflite(model, np.random.default_rng(0).normal(size=(20, *shape)))


def with_dequantize(network: Network, place: int) -> Network:
    """One of the operators replaced by one that gives floats."""
    operators, tensors = list(network.operators), list(network.tensors)
    index = operators[place].outputs[0]
    operators[place] = dataclasses.replace(operators[place], name="DEQUANTIZE")
    tensors[index] = dataclasses.replace(tensors[index], dtype=np.dtype("float32"))
    return dataclasses.replace(network, operators=tuple(operators), tensors=tuple(tensors))


def test_floats_are_refused_between_integers_and_taken_at_the_end() -> None:
    model, flatbuffer = digits()
    graph, network = read_graph(model), read(flatbuffer)

    check_operators(graph, with_dequantize(network, -1), "int8")
    with pytest.raises(UnsupportedOpError, match=r"became DEQUANTIZE, which .* in float only"):
        check_operators(graph, with_dequantize(network, 0), "int8")


def test_operators_of_more_axes_than_the_device_takes_are_refused() -> None:
    image = keras.Input((8, 8, 3))
    blocks = keras.ops.transpose(keras.ops.reshape(image, (-1, 4, 2, 4, 2, 3)), (0, 1, 3, 2, 4, 5))
    x = layers.Conv2D(2, 1)(keras.ops.reshape(blocks, (-1, 4, 4, 12)))
    films = keras.Input((3, 6, 6, 1))
    y = layers.Flatten()(layers.TimeDistributed(layers.Conv2D(2, 3), name="each")(films))
    rng = np.random.default_rng(0)

    with pytest.raises(UnsupportedOpError, match=r"became TRANSPOSE of 6 axes, where .* takes 5"):
        to_tflite(keras.Model(image, x), rng.normal(size=(20, 8, 8, 3)))
    with pytest.raises(UnsupportedOpError, match=r"'each' became STRIDED_SLICE of 5 axes, where"):
        to_tflite(keras.Model(films, layers.Dense(2)(y)), rng.normal(size=(20, 3, 6, 6, 1)))


def test_an_unrolled_lstm_is_not_left_in_float_at_random() -> None:
    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((5, 3)),
            layers.Conv1D(16, 2, activation="relu"),
            layers.LSTM(4, unroll=True),
            layers.Dense(2),
        ]
    )
    x = rng.normal(size=(100, 5, 3))

    assert len({to_tflite(model, x) for _ in range(8)}) == 1
