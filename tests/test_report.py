"""What is kept, as data, table and picture."""

from pathlib import Path

import numpy as np
import pytest

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
