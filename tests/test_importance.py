"""Each importance learns what it says, and one projection serves them all."""

import keras
import numpy as np
import pytest
from keras import layers

from kprune import Budget, ChannelMask, PruneCallback, add_masks
from kprune.channels import trace
from kprune.importance import IMPORTANCES
from kprune.masking import read_gates, read_scores


def residual() -> keras.Model:
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(3, 1, name="stem")(inputs)
    y = layers.Conv2D(5, 3, padding="same", name="inner")(x)
    y = layers.BatchNormalization(name="norm")(y)
    y = layers.Conv2D(3, 3, padding="same", name="outer")(layers.ReLU()(y))
    x = layers.GlobalAveragePooling2D()(layers.Add(name="sum")([x, y]))
    return keras.Model(inputs, layers.Dense(3, name="scores")(x), name="residual")


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_open_masks_change_nothing_and_the_budget_is_held(importance: str) -> None:
    model = residual()
    x = np.random.default_rng(0).normal(size=(96, 4, 4, 2)).astype("float32")
    masked = add_masks(model, importance=importance)
    np.testing.assert_array_equal(masked(x[:8]), model(x[:8]))
    masked.compile("adam", "mse", run_eagerly=True)

    prune = PruneCallback(Budget(macs=0.4), verbose=0)
    history = masked.fit(x, x[:, 0, 0, [0, 1, 1]], 4, 1, verbose=0, callbacks=[prune]).history

    assert history["macs_rate"][-1] <= 0.4
    assert not read_gates(trace(masked)).all()


def test_a_learned_gate_is_exact_and_its_logit_gets_the_slope_of_the_sigmoid() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 4, 3)).astype("float32")
    mask = ChannelMask(importance="learned")
    mask.build(x.shape)
    mask.gates.assign([1.0, 0.0, 1.0])
    logits = np.array([2.0, -1.0, 0.3], "float32")
    mask.logits.assign(logits)
    model = keras.Sequential([keras.Input((4, 3)), mask])
    model.compile(keras.optimizers.SGD(1.0), lambda y, p: keras.ops.sum(p), run_eagerly=True)

    # 1 + soft - soft would be 0.99999994.
    np.testing.assert_array_equal(model(x), x * [1, 0, 1])
    model.train_on_batch(x, x)

    soft = 1 / (1 + np.exp(-logits))
    slope = x.sum((0, 1)) * soft * (1 - soft)  # of the closed one, too
    np.testing.assert_allclose(np.asarray(mask.logits), logits - slope, rtol=1e-4)


def test_learned_masks_do_not_start_equal_or_they_would_close_together() -> None:
    scores = read_scores(found := trace(add_masks(residual(), importance="learned")))

    assert len(np.unique(scores[found.free])) == found.free.sum()


def test_the_score_of_a_learned_channel_is_the_mean_of_its_places() -> None:
    found = trace(add_masks(residual(), importance="learned"))
    stream = next(g.channels for g in found.groups if g.makers == ("stem", "outer"))
    places = [mask for mask, channels in found.masks if set(channels) == set(stream)]
    for mask, value in zip(places, (2.0, -1.0), strict=True):
        mask.logits.assign(np.full(3, value))

    scores = read_scores(found)

    np.testing.assert_allclose(scores[stream], (1 / (1 + np.exp([-2.0, 1.0]))).mean())


def test_magnitude_is_the_norm_of_all_that_a_channel_indexes_over_the_mean_of_its_group() -> None:
    model = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(3, name="made"),
            layers.BatchNormalization(name="scaled"),
            layers.Dense(2, use_bias=False, name="read"),
        ]
    )
    made, scaled, read = model.layers
    rng = np.random.default_rng(0)
    kernel, bias, gamma, beta = (rng.normal(size=s) for s in ((2, 3), 3, 3, 3))
    reader = rng.normal(size=(3, 2))
    made.set_weights([kernel, bias])
    scaled.set_weights([gamma, beta, np.full(3, 1e6), np.full(3, 1e6)])  # statistics do not count
    read.set_weights([reader])
    found = trace(add_masks(model, importance="magnitude"))

    scores = read_scores(found)

    squares = (kernel**2).sum(0) + bias**2 + gamma**2 + beta**2 + (reader**2).sum(1)
    channels = next(g.channels for g in found.groups if g.makers == ("made",))
    np.testing.assert_allclose(
        scores[channels], np.sqrt(squares) / np.sqrt(squares).mean(), rtol=1e-6
    )


def test_masks_without_a_named_importance_are_those_of_earlier_files() -> None:
    config = ChannelMask(name="mask").get_config()
    del config["importance"]

    assert ChannelMask.from_config(config).importance == "taylor"


def test_an_unknown_importance_is_refused() -> None:
    with pytest.raises(ValueError, match="'taylor', 'learned', 'magnitude', got 'random'"):
        add_masks(residual(), importance="random")


def test_masks_that_learn_in_different_ways_are_refused() -> None:
    inputs = keras.Input((4,))
    x = ChannelMask()(layers.Dense(3)(inputs))
    x = ChannelMask(importance="learned")(layers.Dense(3)(x))
    model = keras.Model(inputs, layers.Dense(2)(x), name="mixed")

    with pytest.raises(ValueError, match=r"'mixed' learn in different ways \(taylor, learned\)"):
        read_scores(trace(model))


@pytest.mark.parametrize("importance", ["random", ["taylor"], None])
def test_an_importance_that_there_is_not_is_refused(importance: object) -> None:
    with pytest.raises(ValueError, match=r"importance must be one of 'taylor', 'learned', 'magn"):
        add_masks(residual(), importance=importance)
