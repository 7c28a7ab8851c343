"""The laws on the networks of the zoo, and on some that people bring."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import applications, layers
from laws import assert_close, check_laws
from zoo import (
    NETWORKS,
    close_at_random,
    concat,
    depthwise,
    nested,
    perturb,
    plain,
    random_inputs,
    residual,
    shared,
    two_inputs_outputs,
)

from kprune import add_masks, slim
from kprune.channels import Trace, trace
from kprune.graph import read_graph
from kprune.layers import ChannelMask
from kprune.masking import read_gates

Make = Callable[[], keras.Model]


def ends(model: keras.Model) -> tuple[object, object]:
    """Names of the inputs and outputs, and their structure."""
    graph = read_graph(model)
    shapes = [keras.tree.map_structure(lambda t: t.dtype, e) for e in (graph.inputs, graph.outputs)]
    names = [t.name for t in keras.tree.flatten(graph.inputs)]
    return shapes, [*names, *getattr(model, "output_names", graph.calls[-1].operation.name.split())]


@pytest.mark.parametrize("make", NETWORKS)
def test_the_laws_hold_in_the_zoo(make: Make) -> None:
    model = perturb(make())

    small = check_laws(model)

    assert small.count_params() < model.count_params()
    assert ends(small) == ends(model)


@pytest.mark.parametrize("make", NETWORKS)
def test_nothing_of_a_closed_channel_leaves_a_trace(make: Make) -> None:
    """However large what it has of its own: weights, bias, BatchNorm's beta, its statistics."""
    masked = close_at_random(add_masks(perturb(make())))
    x = random_inputs(masked)
    expected = masked(x, training=False)

    changed = _spoil_closed_channels(trace(masked))

    assert changed > 0
    assert_close(masked(x, training=False), expected, tolerance=0)


def _spoil_closed_channels(found: Trace) -> int:
    """Set all that belongs to a closed channel to 1000; return how many weights had any."""
    live, changed = read_gates(found), 0
    for step, flow in found.steps:
        for variable in getattr(step.operation, "weights", ()):
            if isinstance(step.operation, ChannelMask) or variable.name not in flow.weights:
                continue
            value = keras.ops.convert_to_numpy(variable).copy()
            for axis, channels in flow.weights[variable.name].axes.items():
                np.moveaxis(value, axis, 0)[~live[channels]] = 1000.0
            changed += not np.array_equal(value, variable)
            variable.assign(value)
    return changed


@pytest.mark.parametrize("make", NETWORKS)
def test_a_masked_model_saves_and_loads(make: Make, tmp_path: Path) -> None:
    masked = close_at_random(add_masks(perturb(make())))
    x = random_inputs(masked)

    masked.save(tmp_path / "masked.keras")
    loaded = keras.models.load_model(tmp_path / "masked.keras")

    assert_close(loaded(x, training=False), masked(x, training=False), tolerance=0)
    assert_close(slim(loaded)(x, training=False), slim(masked)(x, training=False), tolerance=0)


@pytest.mark.parametrize("make", NETWORKS)
def test_starting_weights_and_trainable_flags_are_kept(make: Make) -> None:
    model = perturb(make())

    masked = add_masks(model)

    originals = read_graph(model).layers
    copies = [x for x in read_graph(masked).layers if not isinstance(x, ChannelMask)]
    for original, copy in zip(originals, copies, strict=True):
        assert (type(copy), copy.trainable) == (type(original), original.trainable)
        for a, b in zip(copy.get_weights(), original.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_users_model_and_its_optimizer_stay_as_they_are() -> None:
    model = plain()
    model.compile("adam", "mse", jit_compile=False)
    x = random_inputs(model)
    model.fit(x, np.zeros((4, 4)), verbose=0)
    state = [keras.ops.convert_to_numpy(v) for v in (*model.weights, *model.optimizer.variables)]

    slim(close_at_random(add_masks(model)))

    after = [keras.ops.convert_to_numpy(v) for v in (*model.weights, *model.optimizer.variables)]
    for a, b in zip(after, state, strict=True):
        np.testing.assert_array_equal(a, b)
    assert model.compiled


def test_a_frozen_backbone_stays_frozen_and_in_inference() -> None:
    masked = add_masks(perturb(nested()))
    before = masked.get_layer("bn").get_weights()
    masked.compile("sgd", "mse", jit_compile=False)

    masked.fit(random_inputs(masked), np.zeros((4, 4)), verbose=0)

    for a, b in zip(masked.get_layer("bn").get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_outputs_keep_their_names_so_that_losses_find_them() -> None:
    masked = add_masks(two_inputs_outputs())
    losses = {"scores": "mse", "aux": "mae", "middle": None}
    masked.compile("sgd", losses, jit_compile=False)

    assert add_masks(nested()).output_names == nested().output_names == ["scores"]
    assert masked.evaluate(
        random_inputs(masked),
        {"scores": np.zeros((4, 4)), "aux": np.zeros((4, 2)), "middle": np.zeros((4, 4, 4, 5))},
        verbose=0,
    )


def test_an_output_of_a_nested_model_keeps_the_name_of_that_model() -> None:
    inner = keras.Input((3,), name="inner")
    head = keras.Model(inner, layers.Dense(2, name="dense")(inner), name="head")
    inputs = keras.Input((5,), name="input")
    x = layers.Dense(3, name="hidden")(inputs)
    model = keras.Model(inputs, [head(x), layers.Dense(2, name="dense")(x)])

    small = slim(close_at_random(add_masks(model), seed=1))

    assert small.output_names == model.output_names == ["head", "dense"]


def test_an_input_may_be_an_output() -> None:
    inputs = keras.Input((5,), name="input")
    x = layers.Dense(4, name="hidden")(inputs)
    model = keras.Model(inputs, {"y": layers.Dense(2, name="scores")(x), "x": inputs})

    assert ends(check_laws(model, seed=1)) == ends(model)


def test_images_may_be_of_any_size() -> None:
    x = inputs = keras.Input((None, None, 3), name="image")
    for i in range(2):
        x = layers.MaxPooling2D(name=f"pool{i}")(layers.Conv2D(6, 3, name=f"conv{i}")(x))
    x = layers.Reshape((-1, 6), name="positions")(x)
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    masked = close_at_random(add_masks(keras.Model(inputs, layers.Dense(2, name="scores")(x))))

    small = slim(masked)

    assert small.get_layer("conv1").filters < 6
    for height, width in ((12, 17), (25, 14)):
        x = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype("float32")
        assert_close(small(x), masked(x))


def test_a_shared_layer_is_one_layer_still() -> None:
    small = check_laws(perturb(shared()))

    assert sum(isinstance(layer, layers.Conv2D) for layer in small.layers) == 2


def test_what_a_lookup_has_learned_is_copied() -> None:
    words = keras.Input((4,), dtype="int32", name="words")
    lookup = layers.IntegerLookup(name="lookup")
    lookup.adapt(np.array([3, 5, 7]))
    x = layers.Flatten(name="flatten")(layers.Embedding(6, 5, name="table")(lookup(words)))
    model = keras.Model(words, layers.Dense(2, name="scores")(x))
    x = np.array([[3, 5, 7, 9]])

    masked = close_at_random(add_masks(model))

    assert_close(add_masks(model)(x), model(x))
    assert_close(slim(masked)(x), masked(x))


@pytest.mark.parametrize("as_name", [True, False])
def test_an_excluded_layer_keeps_its_channels_and_their_group(as_name: bool) -> None:
    model = residual()

    masked = add_masks(model, exclude=["stem" if as_name else model.get_layer("stem")])

    small = slim(close_at_random(masked, share=0.99))
    widths = {name: small.get_layer(name).filters for name in ("stem", "a_conv1", "a_conv2")}
    assert widths["stem"] == widths["a_conv2"] == 6
    assert widths["a_conv1"] < 5


@pytest.mark.parametrize("make", [residual, depthwise, concat])
def test_streams_depthwise_and_dense_connections_are_all_prunable(make: Make) -> None:
    groups = trace(make()).groups

    assert {g.makers[0] for g in groups if g.reason} == {"image", "scores"}


BROUGHT = {
    "MobileNetV2": lambda **k: applications.MobileNetV2(alpha=0.35, **k),
    "MobileNetV3Small": applications.MobileNetV3Small,
    "DenseNet121": applications.DenseNet121,
    "ResNet50": applications.ResNet50,
}


@pytest.mark.parametrize("name", BROUGHT)
def test_the_laws_hold_for_networks_of_keras_applications(name: str) -> None:
    model = BROUGHT[name](
        weights=None, input_shape=(32, 32, 3), classes=5, classifier_activation=None
    )

    check_laws(perturb(model))

    groups = trace(model).groups
    assert sum(bool(g.reason) for g in groups) == 2, [g for g in groups if g.reason]
    assert len(groups) > 20
