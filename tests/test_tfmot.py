"""Training through tensorflow-model-optimization; see test_quantization.py for the native way."""

import os

import keras
import numpy as np
import pytest
from conftest import require
from keras import layers

import kprune
from kprune.flatbuffer import read
from kprune.graph import read_graph
from kprune.tfmot import TfmotModel, load_arrays, save_arrays

SHAPE = (8, 8, 1)
TOOLS = ("tensorflow_model_optimization", "tf_keras")


def network():
    """Every kind of layer that is carried over, with statistics as after training."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE, name="image")
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.9)(x))
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    y = layers.LeakyReLU(0.2)(layers.BatchNormalization(momentum=0.9)(y))
    y = layers.Dropout(0.1)(layers.Conv2D(6, 1, activation="relu")(y))
    x = layers.Add(name="sum")([x, y])
    x = layers.SeparableConv2D(6, 3, padding="same", activation="relu")(x)
    x = layers.Concatenate()([layers.MaxPooling2D(2)(x), layers.AveragePooling2D(2)(x)])
    x = layers.Flatten()(layers.ZeroPadding2D(1)(x))
    model = keras.Model(inputs, layers.Dense(3, name="scores")(x), name="digits")
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 2.0, variable.shape))
        elif variable.name in ("beta", "moving_mean"):
            variable.assign(rng.normal(0.0, 0.2, variable.shape))
    return model


def data(count=192):
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, count)
    x = rng.normal(size=(count, *SHAPE)) + (y - 1)[:, np.newaxis, np.newaxis, np.newaxis]
    return x.astype("float32"), y


@pytest.fixture(scope="module")
def trained():
    """One run of it all: every call starts a process."""
    require(*TOOLS, "tflite_micro")
    import tensorflow as tf

    model, (x, y) = network(), data()
    before = dict(os.environ)
    aware = kprune.quantize_aware(model, x, method="tfmot")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rate = keras.optimizers.schedules.CosineDecay(0.01, 30)
    aware.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    history = aware.fit(x, y, batch_size=32, epochs=5, validation_data=(x[:32], y[:32])).history
    return {
        "x": x,
        "y": y,
        "aware": aware,
        "history": history,
        "untouched": before == dict(os.environ),
        "keras": tf.keras.__version__,
        "scores": aware.predict(x),
        "flatbuffer": kprune.to_tflite(aware),
    }


def test_the_callers_environment_and_keras_stay_what_they_are(trained):
    assert trained["untouched"]
    assert "TF_USE_LEGACY_KERAS" not in os.environ
    assert trained["keras"].startswith("3.")


def test_trains_with_optimizer_loss_and_metrics_of_keras_3(trained):
    history = trained["history"]

    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert len(history["loss"]) == 5
    assert history["loss"][-1] < history["loss"][0]
    assert (trained["scores"].argmax(-1) == trained["y"]).mean() > 0.7


def test_the_flatbuffer_gives_the_classes_that_were_trained(trained):
    classes = trained["scores"].argmax(-1)

    for interpreter in ("litert", "tflm"):
        scores = kprune.run_tflite(trained["flatbuffer"], trained["x"], interpreter)
        assert (scores.argmax(-1) == classes).mean() > 0.97


def test_the_flatbuffer_is_int8_of_batch_one(trained):
    found = read(trained["flatbuffer"])

    assert {t.dtype.name for t in found.tensors} == {"int8", "int32"}
    assert found.tensors[found.inputs[0]].shape == (1, *SHAPE)
    with pytest.raises(ValueError, match="trains for int8, not for float"):
        kprune.to_tflite(trained["aware"], format="float")


def test_a_second_fit_goes_on(trained):
    aware = trained["aware"]

    history = aware.fit(trained["x"], trained["y"], epochs=1).history

    assert history["loss"][0] < trained["history"]["loss"][0]


def test_asks_for_training_before_conversion():
    require(*TOOLS)
    inputs = keras.Input((4,))
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    aware = kprune.quantize_aware(keras.Model(inputs, layers.Dense(2)(inputs)), x, method="tfmot")

    with pytest.raises(ValueError, match="has not been trained"):
        kprune.to_tflite(aware)
    with pytest.raises(ValueError, match=r"Compile the model first"):
        aware.fit(x, x[:, :2])
    with pytest.raises(TypeError, match="Expected a name or a Loss of Keras"):
        aware.compile("adam", lambda y, scores: scores)
    with pytest.raises(TypeError, match="metrics must be names"):
        aware.compile("adam", "mse", metrics=[keras.metrics.MeanSquaredError()])


def refused(*stack):
    model = keras.Sequential([keras.Input((8, 8, 2)), *stack])
    TfmotModel(read_graph(model), [np.zeros((8, 8, 8, 2), "float32")])


@pytest.fixture
def _as_if_installed(monkeypatch):
    """The refusals come before the package is needed, so they are tested without it, too."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())


@pytest.mark.usefixtures("_as_if_installed")
def test_refuses_all_that_it_cannot_carry_by_name():
    with pytest.raises(kprune.UnsupportedLayerError) as caught:
        refused(
            layers.BatchNormalization(name="alone"),
            layers.PReLU(name="leak"),
            layers.Conv2D(2, 1, activation="gelu", name="bent"),
            layers.Conv2D(2, 1, name="fine"),
        )

    message = str(caught.value)
    assert "'alone' (BatchNormalization): it takes BatchNorm only behind" in message
    assert "'leak' (PReLU): it has no quantiser for this kind" in message
    assert "'bent' (Conv2D): it has no quantiser for the activation gelu" in message
    assert "'fine'" not in message
    assert 'Use method="native"' in message


def test_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(kprune.ToolNotFoundError, match=r"pip install 'kprune\[tfmot\]'"):
        refused(layers.Conv2D(2, 1))


def test_arrays_go_through_the_file_unchanged(tmp_path):
    lists = {"x": [np.arange(4), np.float32(2)], "weights": [np.array("text")], "none": []}

    save_arrays(tmp_path / "a.npz", lists)

    found = load_arrays(tmp_path / "a.npz")
    assert list(found) == ["x", "weights"]
    for name, arrays in found.items():
        for given, expected in zip(arrays, lists[name], strict=True):
            np.testing.assert_array_equal(given, expected)
