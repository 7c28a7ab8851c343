"""Which channels does each tensor carry, and which of them must stay?"""

import keras
import numpy as np
from keras import layers

from kprune.channels import trace
from kprune.masking import add_masks


def reasons(model: keras.Model) -> dict[str, str]:
    return {", ".join(g.makers): g.reason for g in trace(model).groups}


def test_a_residual_add_ties_its_makers() -> None:
    inputs = keras.Input((8, 8, 3), name="input")
    x = layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    y = layers.Conv2D(4, 3, padding="same", name="branch")(x)
    model = keras.Model(inputs, layers.Conv2D(2, 1, name="head")(layers.Add()([x, y])))

    assert reasons(model) == {
        "input": "input of the model",
        "stem, branch": "",
        "head": "output of the model",
    }


def test_a_concatenation_that_is_added_ties_parts() -> None:
    inputs = keras.Input((8, 8, 3))
    a = layers.Conv2D(2, 1, name="a")(inputs)
    b = layers.Conv2D(3, 1, name="b")(inputs)
    c = layers.Conv2D(5, 1, name="c")(inputs)
    x = layers.Add()([layers.Concatenate()([a, b]), c])
    model = keras.Model(inputs, layers.Conv2D(2, 1, name="head")(x))

    groups = {g.makers: len(g.channels) for g in trace(model).groups}

    assert groups[("a", "b", "c")] == 5


def test_flatten_repeats_the_channels() -> None:
    inputs = keras.Input((2, 2, 3))
    x = layers.Conv2D(4, 1, name="conv")(inputs)
    flat = layers.Flatten()(x)
    found = trace(keras.Model(inputs, layers.Dense(2)(flat)))

    step, flow = found.steps[2]
    assert isinstance(step.operation, layers.Dense)
    conv = found.groups[1].channels
    assert flow.weights["kernel"].axes[0].tolist() == np.tile(conv, 4).tolist()


def test_an_unknown_layer_is_a_barrier_that_says_so() -> None:
    inputs = keras.Input((8, 3))
    x = layers.Conv1D(4, 3, name="conv")(inputs)
    x = layers.TimeDistributed(layers.Dense(5), name="each")(x)
    found = reasons(keras.Model(inputs, layers.Dense(2, name="head")(x)))

    assert "'each' (TimeDistributed) reads them" in found["conv"]
    assert "'each' (TimeDistributed) makes them" in found["each"]


def test_a_softmax_needs_all_its_channels() -> None:
    inputs = keras.Input((4,))
    x = layers.Dense(3, activation="softmax", name="attention")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(x))

    assert "'attention' (Dense) applies softmax" in reasons(model)["attention"]


def test_a_single_channel_cannot_go() -> None:
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(1, name="one")(inputs)))

    assert reasons(model)["one"] == "the only channel of 'one'"


def test_excluded_channels_stay_in_the_masked_model_too() -> None:
    inputs = keras.Input((4, 4, 3))
    a = layers.Conv2D(2, 1, name="a")(inputs)
    b = layers.Conv2D(3, 1, name="b")(inputs)
    x = layers.ReLU()(layers.Concatenate()([a, b]))
    model = keras.Model(inputs, layers.Conv2D(2, 1)(x))

    masked = add_masks(model, exclude=["a"])

    assert reasons(masked)["a"] == "excluded by the caller"
    assert reasons(masked)["b"] == ""


def test_a_layer_that_is_excluded_as_a_whole_stays_in_the_masked_model_too() -> None:
    inputs = keras.Input((4,))
    x = layers.Dense(1, name="one")(layers.Dense(5, name="b")(layers.Dense(4, name="a")(inputs)))
    model = keras.Model(inputs, layers.Dense(2, name="c")(x))

    masked = add_masks(model, exclude=["a"])

    assert reasons(masked)["a"] == "excluded by the caller: no mask in front of 'b'"
    assert reasons(masked)["one"] == reasons(model)["one"] == "the only channel of 'one'"


def test_layers_of_one_name_are_told_apart_as_their_copies_are() -> None:
    def tower(width: int) -> keras.Model:
        inputs = keras.Input((4,))
        return keras.Model(inputs, layers.Dense(width, name="same")(inputs), name=f"of{width}")

    inputs = keras.Input((4,), name="input")
    x = layers.Concatenate()([tower(3)(inputs), tower(5)(inputs)])
    model = keras.Model(inputs, layers.Dense(2, name="scores")(x))

    for found in (trace(model), trace(add_masks(model))):
        counts = {g.name: len(g.channels) for g in found.groups}
        assert sorted(counts) == ["input", "same", "same_1", "scores"]
        assert sorted(counts.values()) == [2, 3, 4, 5]
    assert counts == {g.name: len(g.channels) for g in trace(model).groups}
