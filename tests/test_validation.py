import json
import math

import flatbuffer_zoo
import keras
import numpy as np
import pytest
from conftest import require
from flatbuffers import Builder
from keras import layers
from rich.console import Console

import kprune
from kprune.flatbuffer import read
from kprune.validation import LayerError, Validation, match

SHAPE = (8, 8, 2)


@pytest.fixture(autouse=True)
def _tflm():
    require("tflite_micro")


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(80, *SHAPE)).astype("float32")


@pytest.fixture(scope="module")
def model():
    """Two branches of the same shape, which only their weights tell apart."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    left = layers.Conv2D(4, 3, activation="relu", name="left")(inputs)
    right = layers.Conv2D(4, 3, activation="relu", name="right")(inputs)
    total = layers.Add(name="sum")([left, right])
    out = layers.GlobalAveragePooling2D(name="mean")(total)
    return keras.Model(inputs, layers.Dense(3, name="scores")(out))


@pytest.fixture(scope="module")
def flatbuffer(model, x):
    return kprune.to_tflite(model, x)


def test_counts_what_is_right_in_each_arithmetic(model, flatbuffer, x):
    y = model.predict(x, verbose=0).argmax(-1)
    y[:20] = (y[:20] + 1) % 3

    found = kprune.validate(model, flatbuffer, x, y)

    assert found.num_samples == 80
    assert found.accuracy["float"] == 0.75
    for name, interpreter in (("LiteRT", "litert"), ("TFLite Micro", "tflm")):
        classes = kprune.run_tflite(flatbuffer, x, interpreter).argmax(-1)
        assert found.accuracy[name] == (classes == y).mean()
        agreement = (classes == model.predict(x, verbose=0).argmax(-1)).mean()
        assert found.agreement[name] == agreement


def test_counts_bytes_in_which_the_interpreters_differ(model, flatbuffer, x):
    found = kprune.validate(model, flatbuffer, x)

    outputs = [kprune.run_tflite(flatbuffer, x, i) for i in ("litert", "tflm")]
    scale = read(flatbuffer).tensors[read(flatbuffer).outputs[0]].scale[0]
    steps = np.round(np.abs(outputs[0] - outputs[1]) / scale)
    assert (found.num_values, found.num_different) == (240, np.count_nonzero(steps))
    assert found.largest_difference == steps.max()
    assert found.accuracy == {}


def test_measures_every_layer_against_the_same_layer_in_float(model, flatbuffer, x):
    found = kprune.validate(model, flatbuffer, x)

    assert sorted(e.layer for e in found.layers) == ["left", "mean", "right", "scores", "sum"]
    assert found.unmatched == []
    # A uniform error of half a step at most, in ranges that the values fill.
    assert all(25 < e.snr_db < 60 for e in found.layers)
    scores = model.predict(x, verbose=0)
    error = kprune.run_tflite(flatbuffer, x) - scores
    expected = 10 * math.log10(np.square(scores).sum() / np.square(error).sum())
    last = next(e for e in found.layers if e.layer == "scores")
    assert last.snr_db == pytest.approx(expected, abs=0.01)


def test_the_layer_that_breaks_is_seen_at_once(model, x):
    """One channel a thousand times the others leaves those no steps to tell their values apart."""
    broken = keras.models.clone_model(model)
    broken.set_weights(model.get_weights())
    kernel, bias = broken.get_layer("left").get_weights()
    broken.get_layer("left").set_weights([kernel * [1, 1, 1, 1], bias - [0, 0, 0, 1000]])
    representative = x.copy()
    representative[0] *= 1000

    found = kprune.validate(broken, kprune.to_tflite(model, representative), x)

    assert found.worst.snr_db < 20
    assert found.worst.layer in ("left", "right")


def test_pairs_do_not_need_names(model, flatbuffer):
    """As in a repacked file: parallel branches are told apart by their weights."""
    named, nameless = read(flatbuffer), read(without_names(flatbuffer))

    pairs = match(nameless, named)

    assert pairs == {i: i for i in pairs}
    assert set(named.outputs) < set(pairs)
    assert len(pairs) == len(named.operators) + 1


def without_names(flatbuffer):
    from ai_edge_litert import schema_py_generated as schema

    copy = schema.ModelT.InitFromPackedBuf(bytearray(flatbuffer), 0)
    for tensor in copy.subgraphs[0].tensors:
        tensor.name = b""
    builder = Builder(1024)
    builder.Finish(copy.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_works_on_a_quantisation_aware_model(model, x):
    aware = kprune.quantize_aware(model, x)

    found = kprune.validate(aware, kprune.to_tflite(aware, x), x)

    assert found.unmatched == []
    assert found.agreement["TFLite Micro"] > 0.98
    assert {e.layer for e in found.layers} == {"left", "right", "sum", "mean", "scores"}


def test_findings_print_plot_and_become_json(model, flatbuffer, x, tmp_path):
    found = kprune.validate(model, flatbuffer, x, np.zeros(len(x), int))
    console = Console(width=100, record=True, quiet=True)

    with console.capture() as shown:
        Console(width=100, file=console.file).print(found)
    console.print(found)
    found.plot(tmp_path / "layers.png")

    assert (tmp_path / "layers.png").read_bytes()[1:4] == b"PNG"
    assert json.loads(json.dumps(found.to_dict()))["layers"][0]["operator"] == "CONV_2D"
    assert shown is not None


def test_the_worst_layer_is_where_the_ratio_falls_most():
    rows = [("a", 45.0), ("b", 41.0), ("c", 18.0), ("d", 17.0), ("e", 30.0), ("f", 14.0)]
    errors = [LayerError(name, "CONV_2D", (1, 2), snr) for name, snr in rows]

    found = Validation(1, {}, {}, 1, 0, 0, errors, [])

    assert found.worst.layer == "c"


@pytest.mark.parametrize(
    ("y", "told"),
    [
        (["0"] * 80, "'0'"),
        ([0.5] * 80, "0.5"),
        ([np.nan] * 80, "nan"),
        ([0] * 79 + [3], "3"),
        ([0] * 79 + [-1], "-1"),
    ],
)
def test_refuses_labels_that_are_no_classes(model, flatbuffer, x, y, told):
    with pytest.raises(ValueError, match=rf"whole numbers from 0 to 2, .* got {told}\."):
        kprune.validate(model, flatbuffer, x, np.array(y))


@pytest.mark.parametrize("shape", [(80, 4), (80, 2)])
def test_refuses_labels_of_other_classes(model, flatbuffer, x, shape):
    with pytest.raises(ValueError, match=r"80 samples of x; one-hot .* shape \(80, 3\)"):
        kprune.validate(model, flatbuffer, x, np.eye(80)[:, : shape[1]])


def test_labels_may_be_whole_numbers_in_floating_point_or_one_hot(model, flatbuffer, x):
    y = np.arange(80) % 3

    plain, real, column, one_hot = (
        kprune.validate(model, flatbuffer, x, labels).accuracy
        for labels in (y, y.astype("float32"), y[:, np.newaxis], np.eye(3)[y])
    )

    assert plain == real == column == one_hot


def test_refuses_what_does_not_fit(model, flatbuffer, x):
    other = keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(7)])

    with pytest.raises(ValueError, match="comes from another model"):
        kprune.validate(other, flatbuffer, x)
    with pytest.raises(ValueError, match="10 labels for the 80 samples"):
        kprune.validate(model, flatbuffer, x, np.zeros(10))
    for nothing in (x[:0], np.float32(1)):
        with pytest.raises(ValueError, match="no samples"):
            kprune.validate(model, flatbuffer, nothing)
    with pytest.raises(kprune.FlatbufferError):
        kprune.validate(model, b"nothing", x)
    with pytest.raises(ValueError, match=r"one input and one output, .* has 2 and 2\. Compare"):
        kprune.validate(model, flatbuffer_zoo.several_network(), x)


def test_one_score_is_a_probability_or_a_logit():
    inputs = keras.Input((4,))
    x = np.random.default_rng(1).normal(size=(50, 4)).astype("float32")
    logit = keras.Model(inputs, layers.Dense(1)(inputs))
    probability = keras.Model(inputs, layers.Activation("sigmoid")(logit(inputs)))
    y = (logit.predict(x, verbose=0) > 0).astype(int)

    for model in (logit, probability):
        found = kprune.validate(model, kprune.to_tflite(model, x), x, y)
        assert found.accuracy["float"] == 1.0
        assert found.accuracy["TFLite Micro"] > 0.9
