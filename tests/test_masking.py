"""Masks change nothing while they are open, and close together."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from kprune import ChannelMask, add_masks, close_channels, slim
from kprune.channels import trace
from kprune.demo import digits_network
from kprune.masking import read_gates, read_scores, write_gates


def residual() -> keras.Model:
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    y = layers.Conv2D(6, 3, padding="same", name="inner")(x)
    y = layers.Conv2D(4, 3, padding="same", name="outer")(y)
    x = layers.Add(name="sum")([x, y])
    x = layers.Flatten(name="flat")(x)
    return keras.Model(inputs, layers.Dense(3, name="scores")(x), name="residual")


def test_masks_stand_where_channels_are_mixed() -> None:
    masked = add_masks(residual())

    masks = [layer.name for layer in masked.layers if isinstance(layer, ChannelMask)]
    # Before Flatten, not behind it: there a channel is one slice.
    assert masks == ["stem_mask", "inner_mask", "sum_mask"]
    assert masked.get_layer("sum_mask").gates.shape == (4,)


def test_masked_model_has_the_weights_and_the_outputs_of_the_model() -> None:
    model = residual()
    model.get_layer("inner").trainable = False
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 2)).astype("float32")

    masked = add_masks(model)

    np.testing.assert_array_equal(masked(x), model(x))
    assert masked.get_layer("inner").trainable is False
    assert masked.get_layer("inner").kernel is not model.get_layer("inner").kernel


def test_an_open_mask_counts_a_residual_path_once() -> None:
    masked = add_masks(residual())
    found = trace(masked)
    for mask, _ in found.masks:
        mask.scores.assign(np.full(mask.scores.shape, 1.0))

    scores = read_scores(found)

    names = {g.makers: g.channels for g in found.groups}
    assert scores[names[("stem", "outer")]].tolist() == [2.0] * 4
    assert scores[names[("inner",)]].tolist() == [1.0] * 6


@pytest.mark.parametrize("compiled", [False, True])
def test_a_masked_model_saves_and_loads(tmp_path: Path, compiled: bool) -> None:
    masked = add_masks(digits_network())
    close_channels(masked, {"stem": [0, 5]})
    if compiled:
        masked.compile("adam", "mse")
        masked.optimizer.build(masked.trainable_variables)
    path = tmp_path / "masked.keras"
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("float32")

    masked.save(path)
    loaded = keras.models.load_model(path)

    np.testing.assert_array_equal(loaded(x), masked(x))
    assert loaded.get_layer("residual1").name == "residual1"
    assert read_gates(trace(loaded)).tolist() == read_gates(trace(masked)).tolist()


def test_closing_a_channel_closes_the_other_side_of_the_residual() -> None:
    masked = add_masks(residual())

    close_channels(masked, {"outer": [1], "inner": [0, 5]})

    small = slim(masked)
    widths = {n: small.get_layer(n).filters for n in ("stem", "inner", "outer")}
    assert widths == {"stem": 3, "inner": 4, "outer": 3}


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ({"nowhere": [0]}, "No layer 'nowhere' makes channels. Those that do: .*, stem, inner"),
        ({"inner": [6]}, "'inner' has channels 0 to 5, not 6"),
        ({"scores": [0]}, "Channel 0 of layer 'scores' must stay: output of the model"),
        ({"inner": range(6)}, "All channels of layer 'inner' would be closed: one must stay"),
    ],
)
def test_closing_what_cannot_be_closed_is_refused(channels: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        close_channels(add_masks(residual()), channels)


def test_gates_set_by_hand_must_be_zero_or_one_and_agree() -> None:
    masked = add_masks(residual())
    masked.get_layer("inner_mask").gates.assign([1.0, 1.0, 0.5, 1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="gates of 'inner_mask' must be 0 or 1"):
        slim(masked)

    masked = add_masks(residual())
    masked.get_layer("stem_mask").gates.assign([1.0, 0.0, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"'sum_mask' leaves channels open .*close_channels"):
        slim(masked)


def test_write_gates_never_closes_a_layer() -> None:
    masked = add_masks(residual())
    found = trace(masked)
    gates = ~found.free

    with pytest.raises(ValueError, match="one must stay open"):
        write_gates(found, gates)


def test_excluded_layers_keep_their_channels() -> None:
    model = residual()

    by_name = add_masks(model, exclude=["inner"])
    by_layer = add_masks(model, exclude=[model.get_layer("outer")])

    assert [g.makers for g in trace(by_name).groups if g.prunable] == [("stem", "outer")]
    assert [g.makers for g in trace(by_layer).groups if g.prunable] == [("inner",)]


def test_what_cannot_be_masked_is_refused() -> None:
    model = residual()
    with pytest.raises(ValueError, match=r"exclude names layers .*'residual'.*\['nowhere'\]"):
        add_masks(model, exclude=["nowhere"])
    with pytest.raises(ValueError, match="has masks already"):
        add_masks(add_masks(model))


def test_a_model_without_anything_to_remove_says_why() -> None:
    inputs = keras.Input((4,), name="input")
    model = keras.Model(inputs, layers.Dense(3, name="only")(inputs), name="single")

    with pytest.raises(
        ValueError, match=r"No channel of 'single' .*input: input of the model; only: output of"
    ):
        add_masks(model)
