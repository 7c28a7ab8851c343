"""A model becomes a flat list of calls, and the list becomes a model again."""

import keras
import numpy as np
import pytest
from keras import layers

from kprune.errors import UnsupportedLayerError
from kprune.graph import copy_model, read_graph


class Hidden(keras.Model):
    """A subclassed model: its graph is Python code."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.dense = layers.Dense(2)

    def call(self, x: object) -> object:
        return self.dense(x)

    def compute_output_shape(self, shape: tuple) -> tuple:
        return (*shape[:-1], 2)


class NoConfig(layers.Layer):
    def __init__(self, factor: float, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x: object) -> object:
        return x * self.factor

    def get_config(self) -> dict:
        raise NotImplementedError("NoConfig has none")


def nested() -> keras.Model:
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, name="dense"), layers.BatchNormalization()], name="in"
    )
    inputs = keras.Input((4,), name="signal")
    x = layers.Dense(4, name="dense")(inputs)
    return keras.Model(inputs, {"twice": inner(inner(x), training=False), "plus": x + 1.0})


def test_nested_models_are_entered_and_their_layers_shared() -> None:
    calls = read_graph(nested()).calls

    assert [c.operation.name for c in calls if "dense" in c.operation.name] == ["dense"] * 3
    inside = [c for c in calls if isinstance(c.operation, layers.BatchNormalization)]
    assert inside[0].operation is inside[1].operation
    assert inside[1].kwargs["training"] is False


def test_a_copy_gives_the_same_outputs_under_the_same_names() -> None:
    model = nested()
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")

    copy = copy_model(read_graph(model))

    assert copy.inputs[0].name == "signal"
    for key, expected in model(x).items():
        np.testing.assert_array_equal(copy(x)[key], expected)


def test_reading_leaves_no_trace_in_the_model() -> None:
    model = nested()
    before = model.get_config()

    copy_model(read_graph(model))

    assert model.get_config() == before


def test_batch_size_can_be_fixed() -> None:
    assert copy_model(read_graph(nested()), batch_size=1).inputs[0].shape == (1, 4)


def test_a_subclassed_model_is_refused() -> None:
    model = Hidden(name="mine")
    model(np.ones((1, 3), "float32"))

    with pytest.raises(UnsupportedLayerError, match=r"'mine' \(Hidden\) is subclassed.*functional"):
        read_graph(model)


def test_all_subclassed_parts_are_named_at_once() -> None:
    inputs = keras.Input((3,))
    model = keras.Model(inputs, Hidden(name="b")(Hidden(name="a")(inputs)), name="outer")

    with pytest.raises(UnsupportedLayerError, match=r"'a' \(Hidden\), 'b' \(Hidden\)"):
        read_graph(model)


def test_all_layers_without_a_config_are_named_at_once() -> None:
    inputs = keras.Input((3,))
    model = keras.Model(inputs, NoConfig(2.0, name="b")(NoConfig(1.0, name="a")(inputs)))

    with pytest.raises(
        UnsupportedLayerError, match=r"'a' \(NoConfig\).*'b' \(NoConfig\).*get_config"
    ):
        copy_model(read_graph(model))


def test_an_unbuilt_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has not been built.*Input layer"):
        read_graph(keras.Sequential([layers.Dense(2)]))


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(TypeError, match="Expected a Keras model, got str"):
        read_graph("model.keras")
