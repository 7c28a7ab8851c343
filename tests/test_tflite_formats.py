"""The data, formats and refusals of `to_tflite` beyond the basics of test_tflite.py."""

import functools
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import require
from keras import layers, ops

import kprune
from kprune.flatbuffer import read

SHAPE = (6, 6, 2)
X = np.random.default_rng(0).normal(size=(40, *SHAPE)).astype("float32")
Y = np.arange(40) % 3


def small_model(*extra, name="small"):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input(SHAPE, name="image"),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            *extra,
            layers.Flatten(),
            layers.Dense(3, name="scores"),
        ],
        name=name,
    )


@functools.cache
def model():
    return small_model()


@functools.cache
def flatbuffer(form="int8"):
    return kprune.to_tflite(model(), X, form)


def two_inputs():
    """Named against their order, of one shape, and with very different ranges."""
    z, a = keras.Input((4,), name="z"), keras.Input((4,), name="a")
    joined = layers.Concatenate()([layers.Dense(2)(z), layers.Dense(2)(a)])
    return keras.Model([z, a], layers.Dense(2)(joined))


@pytest.mark.parametrize("form", ["list", "dict", "pairs", "dataset"])
def test_each_input_gets_its_own_data(form):
    rng = np.random.default_rng(1)
    z, a = rng.uniform(-1, 1, (20, 4)), rng.uniform(-100, 100, (20, 4))
    data = {
        "list": [z, a],
        "dict": {"a": a, "z": z},
        "pairs": ((z[i], a[i]) for i in range(20)),
        "dataset": (((z[i : i + 5], a[i : i + 5]), Y[:5]) for i in range(0, 20, 5)),
    }[form]

    network = read(kprune.to_tflite(two_inputs(), data))

    scales = {network.tensors[i].name: network.tensors[i].scale[0] for i in network.inputs}
    assert scales["z"] < 0.01 < 0.7 < scales["a"]


def test_refuses_data_that_cannot_give_ranges():
    with pytest.raises(ValueError, match=r"needs representative_data .* for int8"):
        kprune.to_tflite(model(), None)
    with pytest.raises(ValueError, match="is 0 everywhere"):
        kprune.to_tflite(model(), np.zeros(X.shape))


def test_16_bit_activations_are_closer_to_float():
    require("tflite_micro")
    expected = model().predict(X, verbose=0)

    errors = {
        form: np.abs(kprune.run_tflite(flatbuffer(form), X, "tflm") - expected).max()
        for form in kprune.tflite.FORMATS
    }

    assert errors["float"] < 1e-5 < errors["int16x8"] < errors["int8"]
    network = read(flatbuffer("int16x8"))
    ends = [network.tensors[i] for i in (*network.inputs, *network.outputs)]
    assert [(t.dtype.name, t.shape[0]) for t in ends] == [("int16", 1)] * 2
    weights = [network.tensors[o.inputs[1]] for o in network.operators if o.name == "CONV_2D"]
    assert [(w.dtype.name, len(w.scale)) for w in weights] == [("int8", 4)]


def test_float_needs_no_data():
    assert kprune.to_tflite(model(), format="float") == flatbuffer("float")


def test_no_operator_finds_out_the_batch_size():
    names = {o.name for o in read(flatbuffer()).operators}

    assert names == {"CONV_2D", "RESHAPE", "FULLY_CONNECTED"}


def test_refuses_an_unknown_format():
    with pytest.raises(ValueError, match="one of int8, int16x8, float, got 'int4'"):
        kprune.to_tflite(model(), X, "int4")


def test_names_every_weight_that_is_not_finite():
    broken = small_model()
    kernel, bias = broken.get_layer("scores").get_weights()
    bias[1] = np.nan
    broken.get_layer("scores").set_weights([kernel * np.inf, bias])

    with pytest.raises(ValueError, match="'kernel' of layer 'scores', 'bias' of layer 'scores'"):
        kprune.to_tflite(broken, X)


def test_refuses_open_dimensions():
    inputs = keras.Input((None, None, 2), name="image")
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(inputs)))

    with pytest.raises(ValueError, match=r"Input 'image' has shape .* with open dimensions"):
        kprune.to_tflite(model, X)


@pytest.mark.parametrize(
    ("layer", "operator", "form"),
    [
        (lambda: layers.Activation("gelu", name="culprit"), "GELU", "int8"),
        (lambda: layers.Activation("exponential", name="culprit"), "EXP, which", "int8"),
        (lambda: layers.Activation("elu", name="culprit"), "ELU, which", "int8"),
        (lambda: layers.Activation("gelu", name="culprit"), "GELU", "float"),
    ],
    ids=["no kernel", "no integer kernel", "not quantised", "in float"],
)
def test_names_the_layer_that_became_an_operator_tflm_lacks(layer, operator, form):
    with pytest.raises(kprune.UnsupportedOpError, match=f"layer 'culprit' became {operator}"):
        kprune.to_tflite(small_model(layer()), X, form)


@pytest.mark.parametrize("form", ["int8", "float"])
def test_upsampling_becomes_an_operator_that_tflm_has(form):
    model = small_model(layers.UpSampling2D((2, 3), name="larger"))

    flatbuffer = kprune.to_tflite(model, X, form)

    network = read(flatbuffer)
    [resize] = [o for o in network.operators if o.name == "RESIZE_NEAREST_NEIGHBOR"]
    assert network.tensors[resize.outputs[0]].name == "larger"
    expected = model.predict(X, verbose=0)
    error = np.abs(kprune.run_tflite(flatbuffer, X) - expected).max()
    assert error <= (1e-5 if form == "float" else 0.05) * np.abs(expected).max()


def test_names_layers_of_nested_models_and_of_merged_operators():
    inside = keras.Sequential(
        [keras.Input((4, 4, 4)), layers.Conv2D(2, 1, activation="gelu", name="inner")]
    )

    with pytest.raises(kprune.UnsupportedOpError, match="layer 'inner' became GELU"):
        kprune.to_tflite(small_model(inside), X)


@keras.saving.register_keras_serializable("kprune_test")
class Erfinv(layers.Layer):
    def call(self, x):
        return ops.erfinv(ops.clip(x, -0.9, 0.9))

    def compute_output_shape(self, input_shape):
        return input_shape


def test_names_the_layer_that_the_converter_refuses():
    with pytest.raises(
        ValueError, match="cannot convert 'odd' to int8, because of layer 'inverse'"
    ):
        kprune.to_tflite(small_model(Erfinv(name="inverse"), name="odd"), X)


def test_conversion_in_a_process_of_its_own_gives_the_same_bytes(monkeypatch):
    """As when Keras runs on JAX or torch here."""
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")

    assert kprune.to_tflite(model(), X) == flatbuffer()


def test_errors_come_back_from_the_other_process(monkeypatch):
    inputs = keras.Input((8, 4))
    odd = keras.Model(inputs, ops.erf(layers.Dense(4)(inputs)), name="odd")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")

    with pytest.raises(ValueError, match="cannot convert 'odd' to int8"):
        kprune.to_tflite(odd, np.random.default_rng(0).normal(size=(20, 8, 4)))


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_trains_with_rounding_and_converts_on_another_backend(backend):
    require(backend, "tflite_micro")
    program = """
import keras, numpy as np, kprune
rng = np.random.default_rng(0)
x = rng.normal(size=(64, 4, 4, 2)).astype("float32")
layers = keras.layers
model = keras.Sequential([
    keras.Input((4, 4, 2)),
    layers.Conv2D(3, 3),
    layers.BatchNormalization(),
    layers.ReLU(),
    layers.AveragePooling2D(2),
    layers.Flatten(),
    layers.Dense(2),
])
aware = kprune.quantize_aware(model, x)
before = aware.get_weights()
aware.compile("sgd", "mse", jit_compile=False)
aware.fit(x, x[:, 0, 0], epochs=2, verbose=0)
assert all((a != b).any() for a, b in zip(before, aware.get_weights()) if a.ndim > 1)
for trained, tolerance in ((model, 0.05), (aware, 1e-6)):
    scores = trained.predict(x, verbose=0)
    error = kprune.run_tflite(kprune.to_tflite(trained, x), x, "tflm") - scores
    print(abs(error).max() < tolerance * np.ptp(scores))
print(keras.backend.backend())
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={"KERAS_BACKEND": backend, "PATH": "", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )

    assert result.stdout.split()[-3:] == ["True", "True", backend], result.stderr
