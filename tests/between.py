"""The least network around one layer or operation, and why its channels stay."""

import keras
from keras import layers
from laws import check_laws
from zoo import perturb

from kprune.channels import trace

SERIES, VOLUME, FEATURES = (8, 3), (4, 4, 4, 3), (5,)


def between(layer: object, shape: tuple[int, ...]) -> keras.Model:
    """Dense layers, which take any rank, around what is to be tried."""
    x = inputs = keras.Input(shape, name="input")
    x = layers.Dense(7, activation="tanh", name="first")(x)
    x = layers.Dense(6, name="maker")(x)
    x = layer(x)
    return keras.Model(inputs, layers.Dense(4, name="reader")(x), name="between")


def reasons(model: keras.Model) -> dict[str, str]:
    """Layer that makes channels -> why they stay."""
    return {name: g.reason for g in trace(model).groups for name in g.makers}


def name_of(value: object) -> str | None:
    return type(value).__name__ if isinstance(value, keras.layers.Layer) else None


def check_passed(tried: object, shape: tuple[int, ...]) -> None:
    """Channels go through a layer or operation: those of the layer in front can be removed."""
    model = perturb(between(tried, shape))

    small = check_laws(model)

    assert reasons(model)["maker"] == ""
    assert small.get_layer("maker").units < 6


def check_held(tried: object, shape: tuple[int, ...], reason: str) -> None:
    """A layer or operation keeps the channels of the layer in front, and says why."""
    model = perturb(between(tried, shape))

    small = check_laws(model)

    assert reason in reasons(model)["maker"]
    assert small.get_layer("maker").units == 6
    assert small.get_layer("first").units < 7
