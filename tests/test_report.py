"""What is kept, as data, table and picture."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from kprune import add_masks, close_channels, slim, summary
from kprune.channels import trace
from kprune.cost import MEMORY, Cost
from kprune.demo import digits_network
from kprune.report import plot_run, profile


def test_a_masked_model_has_the_profile_of_its_slim_model() -> None:
    masked = add_masks(digits_network())
    close_channels(masked, {"stem": [0, 1], "pointwise2": range(10)})

    before, after = profile(masked), profile(slim(masked))

    assert before.layers == after.layers
    assert before.total == after.total
    assert [kept for _, kept in before.groups] == [kept for _, kept in after.groups]


def test_layers_sum_to_the_total() -> None:
    found = profile(digits_network())

    assert sum(layer.params for layer in found.layers) == found.total["params"]
    assert sum(layer.macs for layer in found.layers) == found.total["macs"]


def test_summary_shows_before_and_after_and_every_group(capsys: pytest.CaptureFixture[str]) -> None:
    model = digits_network()
    masked = add_masks(model, exclude=["residual1"])
    close_channels(masked, {"stem": [0, 1]})

    summary(slim(masked), baseline=model)
    slimmed = capsys.readouterr().out
    summary(masked)
    closed = capsys.readouterr().out

    assert "22 of 24" in slimmed
    assert "stem, residual2" in slimmed
    assert "output of the model" in slimmed
    assert "no mask in front of" in closed
    assert "22 of 24" in closed


def test_summary_of_memory_counts_as_a_budget_does(capsys: pytest.CaptureFixture[str]) -> None:
    masked = add_masks(digits_network())
    close_channels(masked, {"stem": [0, 1]})

    summary(masked, memory=True)

    now, before = profile(masked, kinds=MEMORY).total, Cost(trace(digits_network()), MEMORY)
    full = before.total(np.ones(trace(digits_network()).num_channels, bool))
    text = capsys.readouterr().out
    for kind in MEMORY:
        assert f"{now[kind]:,} of {full[kind]:,}" in text


def test_plot_is_a_picture_without_a_display(tmp_path: Path) -> None:
    found = profile(digits_network())

    plot_run(
        {"macs_rate": [1.0, 0.5], "val_accuracy": [0.5, 0.9]}, found, found, tmp_path / "r.png"
    )

    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_layers_of_one_name_have_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    def tower(width: int) -> keras.Model:
        inputs = keras.Input((6,))
        x = layers.Dense(4, name="fc2")(layers.Dense(width, name="fc1")(inputs))
        return keras.Model(inputs, x, name=f"tower{width}")

    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Add()([tower(11)(inputs), tower(13)(inputs)]))
    masked = add_masks(model)
    close_channels(masked, {"fc1": range(3), "fc1_1": range(4)})

    summary(slim(masked), baseline=model)

    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    widths = {layer.name: layer.channels for layer in profile(model).layers}
    for name, closed in (("fc1", 3), ("fc1_1", 4)):
        was = widths[name]
        now = was - closed
        # In the table of layers, and in that of groups.
        assert f"{name} {now} of {was} {7 * now} of {7 * was} {6 * now} of {6 * was}" in lines
        assert f"{name} {now} of {was}" in lines
    assert sorted(widths.values()) == [4, 4, 11, 13]


def test_a_layer_with_several_outputs_has_the_channels_of_the_first() -> None:
    inputs = keras.Input((5, 6))
    memory, _, _ = layers.LSTM(3, return_state=True, name="memory")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="scores")(memory))

    assert {x.name: x.channels for x in profile(model).layers} == {"memory": 3, "scores": 2}
