"""One ordinary fit ends within the budget, and tells what it did."""

import csv
import functools
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import require
from keras import layers
from laws import stated_cost

from kprune import Budget, BudgetError, PruneCallback, Schedule, add_masks, slim, to_tflite
from kprune.channels import trace
from kprune.cost import Cost
from kprune.demo import digits_network
from kprune.masking import read_gates, write_gates
from kprune.tflm import measure_arena

STEPS = 24
RNG = np.random.default_rng(0)


def dense() -> keras.Model:
    return keras.Sequential(
        [keras.Input((8,)), layers.Dense(30, "relu"), layers.Dense(20, "relu"), layers.Dense(3)]
    )


def plain() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(12, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


NETWORKS = {"dense": dense, "plain": plain, "digits": digits_network}


@functools.cache
def compiled(name: str) -> keras.Model:
    """A masked network; shared by the tests, because compiling takes most of their time."""
    keras.utils.set_random_seed(0)
    masked = add_masks(NETWORKS[name]())
    masked.compile("adam", "mse", jit_compile=False)
    return masked


def data(model: keras.Model, samples: int = 4 * STEPS) -> tuple[np.ndarray, np.ndarray]:
    x = RNG.normal(size=(samples, *model.input_shape[1:]))
    return x.astype("float32"), RNG.normal(size=(samples, model.output_shape[-1]))


def fit(masked: keras.Model, *callbacks: keras.callbacks.Callback, epochs: int = 2) -> dict:
    found = trace(masked)
    write_gates(found, np.ones(found.num_channels, bool))
    x, y = data(masked)
    batch = len(x) * epochs // STEPS
    return masked.fit(x, y, batch, epochs, verbose=0, callbacks=list(callbacks)).history


@pytest.mark.parametrize("budget", [0.5, 0.25, 0.1, 0.05, "absolute"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_budget_is_met_to_within_one_channel(name: str, budget: float | str) -> None:
    masked = compiled(name)
    found = trace(masked)
    cost = Cost(found)
    full = cost.total(np.ones(found.num_channels, bool))
    asked = full["macs"] // 3 if budget == "absolute" else budget

    history = fit(masked, PruneCallback(Budget(macs=asked), verbose=0))

    limit = asked if isinstance(asked, int) else asked * full["macs"]
    gates = read_gates(found)
    reached, added = cost.total(gates)["macs"], cost.increase(gates)["macs"]
    assert reached <= limit
    assert reached + added[~gates].min() > limit
    assert history["macs_rate"][-1] == reached / full["macs"]


def test_two_costs_hold_together() -> None:
    history = fit(compiled("plain"), PruneCallback(Budget(macs=0.4, params=0.2), verbose=0))

    assert history["macs_rate"][-1] <= 0.4
    assert history["params_rate"][-1] <= 0.2


def test_channels_close_gradually_then_freeze() -> None:
    masked = compiled("dense")
    seen: list[np.ndarray] = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(read_gates(trace(masked)))
    )

    fit(masked, PruneCallback(Budget(macs=0.2), verbose=0), watch)

    open_channels = [int(gates.sum()) for gates in seen]
    assert open_channels[0] == len(seen[0])
    assert len(set(open_channels)) > 4
    freeze = int(Schedule().freeze * STEPS)
    assert all((gates == seen[-1]).all() for gates in seen[freeze - 1 :])


def test_a_closed_channel_comes_back_only_if_it_is_clearly_better() -> None:
    masked = compiled("dense")
    found = trace(masked)
    write_gates(found, np.ones(found.num_channels, bool))

    def gates_after(scores: np.ndarray) -> np.ndarray:
        """As if these scores had been learned in a whole fit."""
        for mask, ids in found.masks:
            mask.scores.assign(scores[ids])
        prune = PruneCallback(Budget(macs=0.3), verbose=0)
        prune.set_model(masked)
        prune.set_params({"epochs": 1, "steps": 100})
        prune.on_train_begin()
        prune.on_epoch_begin(0)
        prune.on_train_batch_end(99)
        return read_gates(found)

    scores = 1 + np.arange(found.num_channels) / found.num_channels
    first = gates_after(scores)
    closed = found.free & ~first
    slightly, clearly = (np.where(closed, factor * scores, scores) for factor in (2, 20))

    np.testing.assert_array_equal(gates_after(slightly), first)
    assert not (gates_after(clearly) & found.free & first).all()
    assert (read_gates(found) & closed).any()


def test_figures_reach_the_loggers_that_come_after(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"

    fit(
        compiled("dense"),
        PruneCallback(Budget(macs=0.5), verbose=0),
        keras.callbacks.CSVLogger(log),
    )

    rows = list(csv.DictReader(log.read_text().splitlines()))
    assert float(rows[-1]["macs_rate"]) <= 0.5
    assert "params_rate" in rows[0]


def test_what_is_asked_and_what_is_possible_is_told_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fit(compiled("dense"), PruneCallback(Budget(macs=0.5)))

    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["MACs", "900", "450", "(50.0%)", "12", "(1.3%)"] in rows
    assert any(row[:2] == ["RAM", "bytes"] for row in rows)


def test_a_budget_of_bytes_holds_for_the_real_file_and_its_arena() -> None:
    require("tflite_micro")
    masked = compiled("digits")
    fit(masked)
    prune = PruneCallback(Budget(flash_bytes="12 KiB", ram_bytes=0.75), verbose=0)

    history = fit(masked, prune)

    small = slim(masked)
    flatbuffer = to_tflite(small, data(small)[0])
    assert len(flatbuffer) <= prune.limits["flash_bytes"] == 12 * 1024
    assert measure_arena(flatbuffer).total <= prune.limits["ram_bytes"]
    assert history["ram_bytes_rate"][-1] <= 0.75
    assert history["flash_bytes_rate"][-1] < 1


def test_layers_keep_multiples_of_round_to() -> None:
    masked = compiled("digits")
    fit(masked, PruneCallback(Budget(macs=0.4), round_to=4, verbose=0))

    gates = read_gates(trace(masked))
    for group in trace(masked).groups:
        kept = int(gates[group.channels].sum())
        assert kept % 4 == 0 or kept == len(group.channels)


def test_an_impossible_budget_is_refused_before_the_first_step() -> None:
    masked = compiled("dense")
    fit(masked)
    before = masked.get_weights()

    with pytest.raises(BudgetError, match="MACs asked 10, least possible 12"):
        fit(masked, PruneCallback(Budget(macs=10), verbose=0))

    for a, b in zip(before, masked.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_fit_too_short_for_the_schedule_is_refused() -> None:
    masked = compiled("dense")
    x, y = data(masked, 8)

    with pytest.raises(ValueError, match=r"8 steps, too short .* at least 20 steps.*Raise epochs"):
        masked.fit(x, y, 4, 4, verbose=0, callbacks=[PruneCallback(Budget(macs=0.5), verbose=0)])


def test_a_model_without_masks_is_refused() -> None:
    model = dense()
    model.compile("sgd", "mse", jit_compile=False)
    x, y = data(model)

    with pytest.raises(ValueError, match=r"has no masks: fit kprune.add_masks"):
        model.fit(x, y, verbose=0, callbacks=[PruneCallback(Budget(macs=0.5), verbose=0)])


def test_training_that_stops_early_still_ends_within_the_budget() -> None:
    masked = compiled("dense")
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(masked, "stop_training", True)
    )

    with pytest.warns(UserWarning, match=r"before the freeze.*closed now"):
        fit(masked, stop, PruneCallback(Budget(macs=0.3), verbose=0), epochs=4)

    found = trace(masked)
    assert Cost(found).total(read_gates(found))["macs"] <= 0.3 * 900


def test_a_second_fit_does_not_let_the_network_grow_again() -> None:
    masked = compiled("dense")
    fit(masked, PruneCallback(Budget(macs=0.2), verbose=0))
    x, y = data(masked)

    prune = PruneCallback(Budget(macs=0.2), verbose=0)
    history = masked.fit(x, y, 8, 2, verbose=0, callbacks=[prune]).history

    assert max(history["macs_rate"]) <= 0.2


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras learns the length so.
def test_data_of_unknown_length() -> None:
    masked = compiled("dense")
    found = trace(masked)
    write_gates(found, np.ones(found.num_channels, bool))
    x, y = data(masked)
    generated = tf.data.Dataset.from_generator(
        lambda: zip(x, y, strict=True),
        output_signature=(tf.TensorSpec((8,)), tf.TensorSpec((3,))),
    )

    prune = PruneCallback(Budget(macs=0.3), verbose=0)
    history = masked.fit(
        generated.batch(8), epochs=6, shuffle=False, verbose=0, callbacks=[prune]
    ).history

    assert history["macs_rate"][-1] <= 0.3


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_data_of_unknown_length_that_prove_too_short_are_refused() -> None:
    masked = compiled("dense")
    x, y = data(masked, 24)
    generated = tf.data.Dataset.from_generator(
        lambda: zip(x, y, strict=True),
        output_signature=(tf.TensorSpec((8,)), tf.TensorSpec((3,))),
    ).batch(8)

    with pytest.raises(ValueError, match="6 steps, too short"):
        prune = PruneCallback(Budget(macs=0.3), verbose=0)
        masked.fit(generated, epochs=2, shuffle=False, verbose=0, callbacks=[prune])


def test_two_of_them_in_one_fit_are_refused_and_one_after_the_other_is_not() -> None:
    masked = compiled("dense")
    first, second = (PruneCallback(Budget(**{k: 0.5}), verbose=0) for k in ("macs", "params"))
    steps = int(masked.optimizer.iterations)

    with pytest.raises(ValueError, match=r"has two PruneCallbacks.*all limits in the Budget of"):
        fit(masked, first, second)

    assert int(masked.optimizer.iterations) == steps
    # Neither the fit that was broken off nor one that came to its end is remembered.
    for prune in (first, second, first):
        fit(masked, prune)


@pytest.mark.parametrize("shares", [(0.0, 0.03, 0.04), (0.62, 0.7, 0.7)])
def test_a_freeze_between_two_steps_closes_all_that_is_to_be_closed(shares: tuple) -> None:
    prune = PruneCallback(Budget(macs=0.4), Schedule(*shares), verbose=0)

    assert fit(compiled("dense"), prune)["macs_rate"][-1] <= 0.4


def test_a_loss_that_diverges_is_told_and_not_pruned_by() -> None:
    masked = compiled("dense")
    weights = masked.get_weights()
    x, y = data(masked)

    with pytest.raises(ValueError, match="no usable scores: the loss is not finite"):
        masked.fit(
            x, y * np.nan, 4, verbose=0, callbacks=[PruneCallback(Budget(macs=0.1), verbose=0)]
        )

    masked.set_weights(weights)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"schedule": 0.5}, TypeError, "Expected a kprune.Schedule, got 0.5"),
        (
            {"schedule": (0, 0.5, 0.7)},
            TypeError,
            r"Expected a kprune.Schedule, got \(0, 0.5, ",
        ),
        ({"round_to": 2.5}, TypeError, "round_to must be an int such as 4 or 8, got 2.5"),
        ({"round_to": "8"}, TypeError, "round_to must be an int such as 4 or 8, got '8'"),
        ({"round_to": 0}, ValueError, "round_to must be at least 1, got 0"),
        ({"budget": 0.25}, TypeError, "Expected a kprune.Budget, got 0.25"),
    ],
)
def test_arguments_of_another_kind_are_refused(
    arguments: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        PruneCallback(**{"budget": Budget(macs=0.25), **arguments})


@pytest.mark.parametrize("shares", [(0.5, 0.4, 0.7), (0.0, 0.8, 0.7), (0.0, 0.5, 1.0)])
def test_a_schedule_out_of_order_is_refused(shares: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="0 <= start < end <= freeze < 1"):
        Schedule(*shares)


@pytest.mark.parametrize("start", [None, "a", [0.1]])
def test_a_schedule_of_no_numbers_is_refused(start: object) -> None:
    with pytest.raises(TypeError, match=r"start, end and freeze of a schedule are numbers.*got "):
        Schedule(start)


def test_the_ramp_is_cubic() -> None:
    schedule = Schedule(start=0.0, end=0.5)

    assert [schedule.excess(p) for p in (0.0, 0.25, 0.5, 0.9)] == [1.0, 0.125, 0.0, 0.0]


def test_a_training_loop_of_ones_own_calls_the_callback_as_keras_does() -> None:
    x = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16), keras.layers.Dense(2)])
    masked = add_masks(model)
    optimizer = keras.optimizers.Adam()
    prune = PruneCallback(Budget(macs=0.3), verbose=0)
    calls = keras.callbacks.CallbackList([prune], model=masked, epochs=4, steps=10)

    calls.on_train_begin()
    for epoch in range(4):
        calls.on_epoch_begin(epoch)
        for step in range(10):
            calls.on_train_batch_begin(step)
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((masked(x, training=True) - x[:, :2]) ** 2)
            optimizer.apply(
                tape.gradient(loss, masked.trainable_variables), masked.trainable_variables
            )
            calls.on_train_batch_end(step)
        calls.on_epoch_end(epoch)
    calls.on_train_end()

    # 4 of 16 channels, of 10 each.
    assert stated_cost(masked)["macs"] == 40
