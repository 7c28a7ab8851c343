"""ChannelMask: gates are exact, and the score is the per-sample Taylor term."""

import keras
import numpy as np
import pytest

from kprune.importance import IMPORTANCES, MOMENTUM
from kprune.layers import ChannelMask


def step(mask: ChannelMask, x: np.ndarray, weights: np.ndarray) -> None:
    """One step of SGD on `mean(mask(x) * weights)`, with a frozen head."""
    inputs = keras.Input(x.shape[1:])
    outputs = mask(inputs)
    model = keras.Model(inputs, outputs)
    model.compile(
        keras.optimizers.SGD(0.1, clipnorm=1e-3),
        loss=lambda y, p: keras.ops.mean(p * weights, axis=tuple(range(1, x.ndim))),
        jit_compile=False,
    )
    model.train_on_batch(x, np.zeros_like(x))


@pytest.mark.parametrize("shape", [(6, 3), (6, 5, 3), (6, 4, 5, 3)])
def test_score_is_the_running_sum_of_absolute_sample_sensitivities(shape: tuple) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype("float32")
    weights = rng.normal(size=shape[1:]).astype("float32")
    mask = ChannelMask()
    mask.build((None, *shape[1:]))
    mask.gates.assign([1.0, 0.0, 1.0])
    mask.scores.assign([5.0, 6.0, 7.0])

    step(mask, x, weights)

    # dL/dgate of one sample and channel, over all positions; the closed channel is no exception.
    per_sample = (x * weights).reshape(shape[0], -1, 3).sum(1) / weights.size / shape[0]
    expected = MOMENTUM * np.array([5, 6, 7]) + np.abs(per_sample).sum(0)
    np.testing.assert_allclose(np.asarray(mask.scores), expected, rtol=1e-5)


# Shape of a sample, axis of its channels; the last has more channels than are multiplied by rows.
SHAPES = [((3,), -1), ((4, 3), 1), ((4, 3), -1), ((2, 4, 3), -1), ((2, 3, 2, 5, 4), -1)]
SHAPES += [((3, 4, 5), 1), ((3, 70), -1)]


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("known", [True, False], ids=["known places", "unknown places"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_closed_channels_are_exactly_zero_and_open_ones_untouched(
    shape: tuple, axis: int, known: bool, importance: str
) -> None:
    x = np.random.default_rng(1).normal(size=(2, *shape)).astype("float32")
    places = [n if known or a == axis % x.ndim else None for a, n in enumerate(x.shape)][1:]
    mask = ChannelMask(axis, importance=importance)
    inputs = keras.Input(places)
    model = keras.Model(inputs, mask(inputs))
    gates = np.arange(x.shape[axis]) % 3 == 1
    mask.gates.assign(gates)
    along = [-1 if a == axis % x.ndim else 1 for a in range(x.ndim)]

    y = model.predict(x, verbose=0)

    np.testing.assert_array_equal(y, np.where(gates.reshape(along), x, 0))


def test_half_precision_keeps_gates_and_scores_in_float32() -> None:
    mask = ChannelMask(dtype="mixed_bfloat16")

    y = mask(np.ones((2, 3), "float32"))

    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    assert mask.gates.dtype == mask.scores.dtype == "float32"


def test_config_round_trip() -> None:
    mask = ChannelMask(axis=1, fixed=(0, 2), name="mask")

    again = ChannelMask.from_config(mask.get_config())

    assert again.get_config() == mask.get_config()


def test_what_training_has_to_reach_is_one_weight_or_none() -> None:
    names = {}
    for importance in IMPORTANCES:
        mask = ChannelMask(importance=importance)
        mask.build((None, 3))
        names[importance] = [weight.name for weight in mask.learned]

    assert names == {"taylor": ["scores"], "learned": ["logits"], "magnitude": []}
