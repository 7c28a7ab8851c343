"""Costs of known networks, and predicted cost == cost of the built slim network."""

import math

import keras
import numpy as np
import pytest
from keras import layers

from benchmarks.networks import resnet, vgg16
from kprune.channels import trace
from kprune.cost import KINDS, Cost

VGG_WIDTHS = (22, 22, 93, 93, 173, 173, 173, 30, 30, 30, 29, 29, 29)


def total(model: keras.Model) -> dict[str, int]:
    found = trace(model)
    return Cost(found).total(np.ones(found.num_channels, bool))


def size(model: keras.Model, *names: str) -> int:
    """How many parameters bear these names: the literature's figures leave some out."""
    return sum(math.prod(w.shape) for w in model.weights if w.name in names)


def test_vgg16_costs_what_the_literature_says() -> None:
    model = vgg16()

    cost = total(model)

    assert round(cost["macs"] / 1e6, 2) == 313.20
    assert round((cost["params"] - size(model, "bias")) / 1e6, 3) == 14.724


def test_the_papers_reductions_on_vgg16() -> None:
    found = trace(vgg16())
    cost = Cost(found)
    gates = np.ones(found.num_channels, bool)
    full = cost.total(gates)
    convolutions = [channels for name, channels in found.makers if name.startswith("conv")]
    for channels, width in zip(convolutions, VGG_WIDTHS, strict=True):
        gates[channels[width:]] = False

    small = cost.total(gates)

    assert round(100 * (small["macs"] / full["macs"] - 1), 2) == -76.20
    assert round(100 * (small["params"] / full["params"] - 1), 2) == -94.07


@pytest.mark.parametrize(("depth", "macs", "kernels"), [(56, 125.75, 0.852), (32, 69.12, 0.464)])
def test_resnets_cost_what_the_literature_says(depth: int, macs: float, kernels: float) -> None:
    model = resnet(depth)

    cost = total(model)

    assert round(cost["macs"] / 1e6, 2) == macs
    assert round((cost["params"] - size(model, "bias", "gamma", "beta")) / 1e6, 3) == kernels


def test_a_layer_called_twice_has_its_parameters_once_and_its_macs_twice() -> None:
    inputs = keras.Input((4,))
    shared = layers.Dense(4, use_bias=False)

    assert total(keras.Model(inputs, shared(shared(inputs)))) == {"macs": 32, "params": 16}


def test_increase_is_what_opening_one_channel_adds() -> None:
    found = trace(vgg16(width=1 / 32))
    cost = Cost(found)
    gates = np.random.default_rng(0).random(found.num_channels) < 0.5

    before, added = cost.total(gates), cost.increase(gates)

    for channel in np.flatnonzero(~gates):
        opened = gates.copy()
        opened[channel] = True
        after = cost.total(opened)
        for kind in after:
            assert added[kind][channel] == after[kind] - before[kind]


def test_a_limit_that_the_whole_network_keeps_makes_no_channel_dear() -> None:
    found = trace(resnet(20))
    cost = Cost(found)
    whole = cost.total(np.ones(found.num_channels, bool))
    half = whole["macs"] // 2

    kept = cost.shares({"macs": half, "params": whole["params"]})
    missed = cost.shares({"macs": half, "params": whole["params"] - 1})

    assert list(kept) == ["macs"]
    assert list(missed) == ["macs", "params"]
    assert cost.shares(whole) == {}


def test_an_open_input_shape_has_no_known_cost() -> None:
    inputs = keras.Input((None, None, 3), name="picture")
    model = keras.Model(inputs, layers.Conv2D(4, 3)(inputs))

    with pytest.raises(ValueError, match=r"'picture' has shape .*None.*fixed shape"):
        Cost(trace(model))


def test_bytes_are_told_only_when_they_are_asked_for() -> None:
    found = trace(keras.Sequential([keras.Input((4,)), layers.Dense(8), layers.Dense(2)]))
    gates = np.ones(found.num_channels, bool)

    assert list(Cost(found).total(gates)) == ["macs", "params"]
    assert list(Cost(found, ["ram_bytes"]).total(gates)) == [*KINDS]


def test_channels_of_one_class_cost_the_same() -> None:
    found = trace(vgg16(width=1 / 32))
    cost = Cost(found)

    added = cost.increase(np.random.default_rng(0).random(found.num_channels) < 0.5)

    for number in np.unique(cost.classes):
        assert len({added["macs"][c] for c in np.flatnonzero(cost.classes == number)}) == 1
