"""A closed channel is gone, and nothing else changed."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from kprune import add_masks, close_channels, slim
from kprune.demo import digits_network


def test_a_removed_channel_leaves_no_trace_however_large_its_beta() -> None:
    model = digits_network()
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.beta.assign(np.full(layer.beta.shape, 1000.0))
            layer.moving_mean.assign(np.linspace(-5, 5, layer.beta.shape[0]))
            layer.moving_variance.assign(np.linspace(0.1, 9, layer.beta.shape[0]))
    masked = add_masks(model)
    close_channels(masked, {"stem": [0, 7, 23], "residual1": range(1, 24), "pointwise1": [3]})
    x = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype("float32")

    small = slim(masked)

    expected = keras.ops.convert_to_numpy(masked(x))
    # Scores of thousands cancel in some, so what counts is the largest.
    np.testing.assert_allclose(small(x), expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
    assert np.abs(expected - keras.ops.convert_to_numpy(model(x))).max() > 1
    assert small.get_layer("residual1").filters == 1


def test_names_stay_and_masks_go() -> None:
    model = digits_network()
    masked = add_masks(model)
    close_channels(masked, {"stem": [0]})

    small = slim(masked)

    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
    assert {type(layer).__module__.split(".")[0] for layer in small.layers} == {"keras"}


def test_a_slim_model_loads_where_kprune_is_not_installed(tmp_path: Path) -> None:
    masked = add_masks(digits_network())
    close_channels(masked, {"stem": [1, 2], "pointwise2": range(60)})
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("float32")
    slim(masked).save(tmp_path / "slim.keras")
    np.save(tmp_path / "x.npy", x)
    program = (
        "import sys; sys.modules['kprune'] = None\n"
        "import keras, numpy as np\n"
        "model = keras.models.load_model('slim.keras')\n"
        "np.save('y.npy', model(np.load('x.npy')))\n"
    )

    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)

    expected = keras.ops.convert_to_numpy(masked(x))
    # Relative to the largest score: one that is nearly zero is a difference of large numbers.
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=0, atol=1e-5 * scale)


def test_a_model_without_masks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'digits' has no masks .*add_masks"):
        slim(digits_network())


def test_fixed_tables_are_cut_and_other_initializers_stay(tmp_path: Path) -> None:
    """Pretrained vectors, and a bank of filters: no initializer gives them in another shape."""
    rng = np.random.default_rng(0)
    vectors = keras.initializers.Constant(rng.normal(size=(50, 16)))
    bank = keras.initializers.Constant(rng.normal(size=(3, 16, 12)))
    model = keras.Sequential(
        [
            keras.Input((9,), dtype="int32"),
            layers.Embedding(50, 16, embeddings_initializer=vectors, trainable=False, name="words"),
            layers.Conv1D(12, 3, kernel_initializer=bank, activation="relu", name="filters"),
            layers.GlobalMaxPooling1D(),
            layers.Dense(2, kernel_initializer="he_normal", name="scores"),
        ]
    )
    masked = add_masks(model)
    close_channels(masked, {"words": [0, 5], "filters": [3]})
    words = rng.integers(0, 50, (4, 9))

    slim(masked).save(tmp_path / "slim.keras")

    small = keras.models.load_model(tmp_path / "slim.keras")
    np.testing.assert_allclose(small(words), masked(words), atol=1e-6)
    assert not small.get_layer("words").trainable
    assert isinstance(small.get_layer("scores").kernel_initializer, keras.initializers.HeNormal)
