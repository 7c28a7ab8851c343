"""CompressionLoss: the cost of the soft gates, added to the loss of the task."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from kprune import Budget, CompressionLoss, PruneCallback, add_masks
from kprune.channels import Trace, trace
from kprune.cost import Cost
from kprune.demo import digits_network

RNG = np.random.default_rng(0)
X = RNG.normal(size=(160, 6)).astype("float32")
Y = RNG.normal(size=(160, 2)).astype("float32")


def dense() -> keras.Model:
    return keras.Sequential([keras.Input((6,)), layers.Dense(16, "relu"), layers.Dense(2)])


def set_logits(found: Trace, gates: np.ndarray) -> None:
    for mask, channels in found.masks:
        mask.logits.assign(np.where(gates[channels], 50.0, -50.0))


def value(loss: keras.losses.Loss, weights: np.ndarray | None = None) -> float:
    return float(loss(Y, X[:, :2], weights))


@pytest.mark.parametrize("make", [dense, digits_network])
@pytest.mark.parametrize("asked", [{"macs": 0.2}, {"params": 300}, {"macs": 0.2, "params": 0.1}])
def test_soft_gates_at_their_ends_cost_what_the_network_costs(make: object, asked: dict) -> None:
    masked = add_masks(make(), importance="learned")
    found = trace(masked)
    cost = Cost(found)
    gates = RNG.random(found.num_channels) < 0.6
    gates |= ~found.free
    set_logits(found, gates)

    penalty = value(CompressionLoss("mse", masked, Budget(**asked), 10)) - value(
        CompressionLoss("mse", None, Budget(**asked))
    )

    full, kept = cost.total(np.ones_like(gates)), cost.total(gates)
    shares = {k: v if isinstance(v, float) else v / full[k] for k, v in asked.items()}
    expected = sum(max(kept[k] / full[k] - share, 0.0) for k, share in shares.items())
    assert penalty == pytest.approx(10 * expected, abs=2e-5)


def test_the_rate_is_constrained_only_beyond_the_budget_and_not_weighted_by_samples() -> None:
    masked = add_masks(dense(), importance="learned")
    task = keras.losses.MeanSquaredError()
    strict = CompressionLoss(task, masked, Budget(macs=0.01))
    generous = CompressionLoss(task, masked, Budget(macs=1.0))
    zero = np.zeros(len(X))

    assert value(generous, zero) == 0.0
    assert value(generous) == pytest.approx(float(task(Y, X[:, :2])))
    assert value(strict, zero) == pytest.approx(value(strict) - value(generous), rel=1e-5)
    assert value(strict, zero) > 0.1


def test_training_brings_the_soft_rate_down_to_the_budget() -> None:
    masked = add_masks(dense(), importance="learned")
    budget = Budget(macs=0.3)
    loss = CompressionLoss("mse", masked, budget, weight=5.0)
    masked.compile(keras.optimizers.Adam(0.1), loss, run_eagerly=True)
    zero = np.zeros(len(X))
    before = value(loss, zero)

    prune = PruneCallback(budget, verbose=0)
    history = masked.fit(X, Y, 8, 2, verbose=0, callbacks=[prune]).history

    assert before > 1.0
    assert value(loss, zero) < 0.05 * before
    assert history["macs_rate"][-1] <= 0.3


def test_a_loaded_loss_is_the_task_alone_until_fit_gives_it_the_model(tmp_path: Path) -> None:
    masked = add_masks(dense(), importance="learned")
    budget = Budget(macs=0.3)
    masked.compile("sgd", CompressionLoss("mse", masked, budget, 2.0), run_eagerly=True)
    masked.save(tmp_path / "masked.keras")

    loaded = keras.models.load_model(tmp_path / "masked.keras")

    assert loaded.loss.get_config() == masked.loss.get_config()
    assert value(loaded.loss) == value(CompressionLoss("mse", None, budget))
    loaded.fit(X, Y, 8, 1, verbose=0, callbacks=[PruneCallback(budget, verbose=0)])
    assert loaded.loss.watches
    assert value(loaded.loss) > value(CompressionLoss("mse", None, budget))


def test_functions_and_losses_are_taken_as_compile_takes_them() -> None:
    budget = Budget(macs=0.3)
    labels = np.arange(160) % 2
    logits = X[:, :1]
    functions = ("binary_crossentropy", keras.losses.binary_crossentropy)
    expected = keras.losses.BinaryCrossentropy()(labels[:, None], keras.ops.sigmoid(logits))

    for function in functions:
        loss = CompressionLoss(function, None, budget)
        assert float(loss(labels, keras.ops.sigmoid(logits))) == pytest.approx(float(expected))
    with pytest.raises(ValueError, match="Could not interpret loss identifier"):
        CompressionLoss("no such loss", None, budget)
    with pytest.raises(TypeError, match=r"Expected a kprune.Budget, got 0.3"):
        CompressionLoss("mse", None, 0.3)


def test_a_model_without_learned_masks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no logits .*is 'taylor'.*importance=\"learned\""):
        CompressionLoss("mse", add_masks(dense()), Budget(macs=0.3))
    with pytest.raises(ValueError, match="has no masks"):
        CompressionLoss("mse", dense(), Budget(macs=0.3))


@pytest.mark.parametrize("weight", [0, -1.0, float("nan")])
def test_a_weight_that_does_not_press_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=rf"weight must be above 0, got {weight}"):
        CompressionLoss("mse", None, Budget(macs=0.3), weight)


@pytest.mark.parametrize("importance", ["learned", "taylor"])
def test_a_loss_that_watches_another_model_is_refused_when_fit_starts(importance: str) -> None:
    budget = Budget(macs=0.3)
    other = add_masks(dense(), importance="learned")
    masked = add_masks(dense(), importance=importance)
    masked.compile("sgd", CompressionLoss("mse", other, budget), run_eagerly=True)

    with pytest.raises(ValueError, match=r"other masks than those of the model in training"):
        masked.fit(X, Y, 8, verbose=0, callbacks=[PruneCallback(budget, verbose=0)])


def test_the_loss_of_the_task_may_be_a_lambda() -> None:
    x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    model = keras.Sequential([keras.Input((8,)), layers.Dense(16), layers.Dense(2)])
    masked = add_masks(model, importance="learned")
    own = CompressionLoss(lambda y, p: keras.ops.mean((y - p) ** 2, -1), masked, Budget(macs=1.0))

    np.testing.assert_allclose(own(x[:, :2], masked(x)), np.mean((x[:, :2] - masked(x)) ** 2), 1e-5)


@pytest.mark.parametrize("arguments", [{"loss": None}, {"weight": "x"}, {"weight": 0}])
def test_a_loss_or_weight_that_is_none_is_refused(arguments: dict) -> None:
    given = {"loss": "mse", "model": None, "budget": Budget(macs=0.5), **arguments}

    with pytest.raises((TypeError, ValueError), match=r"loss of the task, got None|weight must be"):
        CompressionLoss(**given)
