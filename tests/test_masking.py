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


def test_masks_take_no_name_that_is_taken() -> None:
    inputs = keras.Input((4,), name="hidden_mask")
    x = layers.Dense(3, name="hidden")(inputs)
    x = layers.Dense(3, name="hidden_mask_1")(x)

    masked = add_masks(keras.Model(inputs, layers.Dense(2, name="scores")(x)))

    names = [layer.name for layer in masked.layers]
    assert names[:4] == ["hidden_mask", "hidden", "hidden_mask_2", "hidden_mask_1"]


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


@pytest.mark.parametrize(
    "positions", [3, [1.0], "12", None, [True, False], np.ones(6, bool), np.array([1.0])]
)
def test_channels_that_are_no_numbers_are_refused(positions: object) -> None:
    masked = add_masks(residual())

    with pytest.raises(TypeError, match=r"channels of layer 'inner' must be a list of their num"):
        close_channels(masked, {"inner": positions})
    with pytest.raises(TypeError, match=r"Expected a dict such as .*, got \['inner'\]"):
        close_channels(masked, ["inner"])

    assert read_gates(trace(masked)).all()


def test_channels_may_be_any_kind_of_whole_numbers() -> None:
    masked = add_masks(residual())

    for positions in (range(1), {1}, np.array([2]), np.flatnonzero([0, 0, 0, 1, 0, 0])):
        close_channels(masked, {"inner": positions})

    assert slim(masked).get_layer("inner").filters == 2


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


def towers() -> keras.Model:
    """Two nested models whose layers have the same names."""
    inputs = keras.Input((4,))
    inner = []
    for name, width in (("left", 5), ("right", 7)):
        x = layers.Dense(3, name="narrow")(layers.Dense(width, name="wide")(inputs))
        inner.append(keras.Model(inputs, x, name=name))
    outputs = layers.Dense(2)(layers.Concatenate()([tower(inputs) for tower in inner]))
    return keras.Model(inputs, outputs, name="towers")


def test_a_layer_is_excluded_and_not_its_namesake_in_another_model() -> None:
    model = towers()
    left = model.get_layer("left")

    by_layer = trace(add_masks(model, exclude=[left.get_layer("wide")]))
    by_name = trace(add_masks(model, exclude=["wide"]))
    whole_tower = trace(add_masks(model, exclude=left.layers))

    def free(found: object) -> dict[int, int]:
        wide = [g.channels for g in found.groups if "wide" in g.name]
        return {len(channels): int(found.free[channels].sum()) for channels in wide}

    assert free(by_layer) == {5: 0, 7: 7}
    assert free(by_name) == {5: 0, 7: 0}
    assert whole_tower.free.sum() == 7 + 3


@pytest.mark.parametrize("exclude", ["inner", 3, None, [3], [["inner"]]])
def test_what_is_no_list_of_layers_is_refused(exclude: object) -> None:
    with pytest.raises(TypeError, match=r"exclude must be a list of layers or of their names, got"):
        add_masks(residual(), exclude=exclude)
    with pytest.raises(TypeError, match=r"must be a list of layers or of their names, got <Conv2D"):
        add_masks(residual(), exclude=residual().get_layer("inner"))


def test_what_cannot_be_masked_is_refused() -> None:
    model = residual()
    with pytest.raises(ValueError, match=r"exclude names layers .*'residual'.*\['nowhere'\]\.$"):
        add_masks(model, exclude=["nowhere"])
    with pytest.raises(ValueError, match=r"does not have: \['inner'\]\.$"):
        add_masks(model, exclude=[residual().get_layer("inner")])
    for nested in ("left", towers().get_layer("left")):
        with pytest.raises(ValueError, match=r"are flattened: name the layers inside of left"):
            add_masks(towers(), exclude=[nested])
    with pytest.raises(ValueError, match="has masks already"):
        add_masks(add_masks(model))


def test_a_model_without_anything_to_remove_says_why() -> None:
    inputs = keras.Input((4,), name="input")
    model = keras.Model(inputs, layers.Dense(3, name="only")(inputs), name="single")

    with pytest.raises(
        ValueError, match=r"No channel of 'single' .*input: input of the model; only: output of"
    ):
        add_masks(model)


def test_what_is_frozen_inside_of_a_layer_stays_frozen() -> None:
    inputs = keras.Input((6, 8))
    attention = layers.MultiHeadAttention(2, 4)
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(6)(attention(inputs, inputs))))
    attention._query_dense.trainable = False
    model.layers[-1].kernel.trainable = False

    masked = add_masks(model)

    own = [weight for weight in masked.trainable_variables if "mask" not in weight.path]
    assert len(own) == len(model.trainable_variables) == 12 - 2 - 1
    assert len(slim(masked).trainable_variables) == len(own)
