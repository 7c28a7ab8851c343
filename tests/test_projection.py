"""Never above a limit, and no closed channel that could still be opened."""

import functools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from benchmarks.networks import keyword_spotting, vgg16
from kprune.budget import Budget
from kprune.channels import Trace, trace
from kprune.cost import Cost
from kprune.demo import digits_network
from kprune.errors import BudgetError
from kprune.projection import project


@functools.cache
def digits() -> tuple[Trace, Cost, dict[str, int]]:
    found = trace(digits_network())
    cost = Cost(found)
    return found, cost, cost.total(np.ones(found.num_channels, bool))


shares = st.floats(0.01, 1.0)


@given(shares, st.none() | shares, st.integers(0, 2**32 - 1))
def test_the_budget_is_held_and_used_up(macs: float, params: float | None, seed: int) -> None:
    found, cost, full = digits()
    limits = Budget(macs=macs, params=params).limits(full)
    scores = np.random.default_rng(seed).exponential(size=found.num_channels)

    gates = project(found, cost, limits, scores)

    total, added = cost.total(gates), cost.increase(gates)
    assert all(total[kind] <= limit for kind, limit in limits.items())
    for channel in np.flatnonzero(~gates):
        assert any(total[k] + added[k][channel] > limit for k, limit in limits.items())
    assert all(gates[channels].any() for _, channels in found.makers)
    assert gates[list(found.held)].all()


@functools.cache
def digits_in_memory() -> tuple[Trace, Cost, dict[str, int]]:
    found = trace(digits_network())
    cost = Cost(found, ["flash_bytes", "ram_bytes"])
    return found, cost, cost.total(np.ones(found.num_channels, bool))


@given(st.floats(0.5, 1.0), st.floats(0.6, 1.0), st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_a_budget_of_bytes_is_held_and_used_up(flash: float, ram: float, seed: int) -> None:
    found, cost, full = digits_in_memory()
    limits = Budget(flash_bytes=flash, ram_bytes=ram).limits(full)
    scores = np.random.default_rng(seed).exponential(size=found.num_channels)

    gates = project(found, cost, limits, scores)

    assert cost.fits(gates, limits)
    for number in np.unique(cost.classes[~gates]):
        opened = gates.copy()
        opened[np.flatnonzero(~gates & (cost.classes == number))[0]] = True
        assert not cost.fits(opened, limits)


@given(shares, st.sampled_from([2, 4, 8]), st.integers(0, 2**32 - 1))
def test_layers_keep_multiples_or_all_that_they_have(share: float, n: int, seed: int) -> None:
    found, cost, full = digits()
    limits = Budget(macs=max(share, 0.2)).limits(full)
    scores = np.random.default_rng(seed).exponential(size=found.num_channels)

    gates = project(found, cost, limits, scores, round_to=n)

    assert cost.fits(gates, limits)
    for group in found.groups:
        kept = int(gates[group.channels].sum())
        assert kept % n == 0 or kept == len(group.channels)


def test_rounding_that_makes_a_budget_impossible_is_named() -> None:
    found, cost, _ = digits()

    with pytest.raises(BudgetError, match="A block of round_to=8 channels per layer"):
        project(found, cost, {"macs": 3000}, np.ones(found.num_channels), round_to=8)


def test_among_equally_dear_channels_the_best_scores_stay() -> None:
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(8, name="hidden")(inputs)))
    found = trace(model)
    hidden = found.groups[1].channels
    scores = np.zeros(found.num_channels)
    scores[hidden] = [3, 8, 1, 7, 2, 6, 5, 4]

    gates = project(found, Cost(found), {"macs": 24}, scores)

    assert np.flatnonzero(gates[hidden]).tolist() == [1, 3, 5, 6]


def test_a_wide_layer_is_not_emptied_because_each_of_its_scores_is_small() -> None:
    inputs = keras.Input((8,))
    x = layers.Dense(16, name="narrow")(inputs)
    x = layers.Dense(8, name="between")(x)
    x = layers.Dense(32, name="wide")(x)
    found = trace(keras.Model(inputs, layers.Dense(8)(x)))
    narrow, wide = found.groups[1].channels, found.groups[3].channels
    scores = np.full(found.num_channels, 9.0)
    scores[narrow] = np.linspace(0.1, 1, 16)
    scores[wide] = scores[np.r_[narrow, narrow]] / 4

    gates = project(found, Cost(found), {"macs": 240}, scores)

    assert gates[wide].sum() > gates[narrow].sum() / 3


def test_a_limit_that_would_not_be_reached_gives_way_to_the_others() -> None:
    # Early layers compute much and weigh little, late ones the other way round.
    found = trace(vgg16(width=0.25))
    cost = Cost(found)
    full = cost.total(np.ones(found.num_channels, bool))
    limits = Budget(macs=0.238, params=0.059).limits(full)
    scores = np.random.default_rng(0).exponential(size=found.num_channels)
    for group in found.groups:
        scores[group.channels] /= len(group.channels)

    total = cost.total(project(found, cost, limits, scores))

    assert all(0.95 * limit < total[kind] <= limit for kind, limit in limits.items())


@pytest.mark.parametrize(
    "budget", [Budget(flash_bytes=0.8, ram_bytes=0.9), Budget(ram_bytes=0.98)], ids=str
)
def test_gaps_that_a_planner_leaves_close_no_channels(budget: Budget) -> None:
    # In a chain, tensors of 57 channels and of 50 take a third more RAM than tensors of 57 alone.
    found = trace(keyword_spotting())
    cost = Cost(found, ["flash_bytes", "ram_bytes"])
    full = cost.total(np.ones(found.num_channels, bool))
    limits = budget.limits(full)
    rng = np.random.default_rng(0)
    for _ in range(5):
        scores = rng.exponential(size=found.num_channels)
        for group in found.groups:
            scores[group.channels] *= rng.lognormal(sigma=0.7)

        gates = project(found, cost, limits, scores)

        assert cost.fits(gates, limits)
        assert cost.total(gates)["flash_bytes"] > 0.9 * limits.get(
            "flash_bytes", full["flash_bytes"]
        )


def test_an_impossible_budget_names_the_least_possible() -> None:
    found, cost, _ = digits()

    with pytest.raises(BudgetError, match="MACs asked 1,000, least possible 2,058"):
        project(found, cost, {"macs": 1000}, np.ones(found.num_channels))
