"""Every way of training in Keras teaches the masks the same scores."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import require
from keras import layers, optimizers

from kprune import Budget, PruneCallback, add_masks, slim
from kprune.channels import trace
from kprune.masking import find_masked, read_gates, read_scores

RNG = np.random.default_rng(0)
X = RNG.normal(size=(160, 6)).astype("float32")
Y = RNG.normal(size=(160, 2)).astype("float32")
LABELS = np.arange(160) % 2


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = layers.Dense(8, "relu", name="hidden")(inputs)
    return keras.Model(inputs, layers.Dense(2, name="scores")(x), name="network")


def everything() -> PruneCallback:
    return PruneCallback(Budget(macs=1.0), verbose=0)


def scores(
    *data: object, optimizer: object = None, policy: str | None = None, **compiling: object
) -> np.ndarray:
    """The scores after 20 steps of 8 samples in which the weights stay as they are."""
    masked = add_masks(network())
    compiling = {"loss": "mse", "run_eagerly": True, **compiling}
    masked.compile(optimizer or optimizers.SGD(0.0), **compiling)
    fitting = data[-1] if data and isinstance(data[-1], dict) else {}
    data = tuple(d for d in data if d is not fitting) or (X, Y)
    fitting = {"batch_size": 8, **fitting} if isinstance(data[0], np.ndarray) else fitting
    masked.fit(*data, shuffle=False, verbose=0, callbacks=[everything()], **fitting)
    return read_scores(trace(masked))


PLAIN = scores()


def test_the_score_of_a_tensor_that_two_layers_read_is_a_moving_average() -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = layers.Dense(8, "relu", name="hidden")(inputs)
    model = keras.Model(inputs, layers.Add()([layers.Dense(2)(x), layers.Dense(2)(x)]))
    masked = add_masks(model)
    masked.compile(optimizers.SGD(0.0), "mse", run_eagerly=True)
    found = trace(masked)
    steps = []

    for _ in range(3):
        masked.train_on_batch(X[:8], Y[:8])
        steps.append(read_scores(found))

    assert len(found.masks) == 1
    np.testing.assert_allclose(steps[1], 1.99 * steps[0], rtol=1e-4)
    np.testing.assert_allclose(steps[2], (1.99 * 0.99 + 1) * steps[0], rtol=1e-4)


OPTIMIZERS = {
    "clipped": optimizers.SGD(0.0, clipnorm=1e-4),
    "clipped by value": optimizers.SGD(0.0, clipvalue=1e-4),
    "clipped all together": optimizers.SGD(0.0, global_clipnorm=1e-4),
    "decaying": optimizers.AdamW(0.0, weight_decay=0.5),
    "averaging": optimizers.SGD(0.0, use_ema=True, ema_overwrite_frequency=3),
    "scaling the loss": optimizers.SGD(0.0, loss_scale_factor=1024.0),
    "scaling the loss by what fits": optimizers.LossScaleOptimizer(
        optimizers.SGD(0.0), initial_scale=2.0**8, dynamic_growth_steps=7
    ),
}


@pytest.mark.parametrize("way", OPTIMIZERS)
def test_what_the_optimizer_does_to_gradients_is_not_done_to_scores(way: str) -> None:
    assert PLAIN.any()
    np.testing.assert_allclose(scores(optimizer=OPTIMIZERS[way]), PLAIN, rtol=1e-5)


def test_scores_of_a_scaled_fit_weigh_in_the_next_as_those_of_any_other() -> None:
    def after_two_fits(first: float | None) -> np.ndarray:
        masked = add_masks(network())
        for factor in (first, None):
            optimizer = optimizers.SGD(0.0, loss_scale_factor=factor)
            masked.compile(optimizer, "mse", run_eagerly=True)
            masked.fit(X, Y, 8, shuffle=False, verbose=0, callbacks=[everything()])
        return read_scores(trace(masked))

    np.testing.assert_allclose(after_two_fits(1024.0), after_two_fits(None), rtol=1e-5)


def test_compiled_and_several_steps_at_a_time() -> None:
    graph = scores(run_eagerly=False, jit_compile=False, steps_per_execution=5)
    compiled = scores(run_eagerly=False, jit_compile=True)

    np.testing.assert_allclose(graph, PLAIN, rtol=1e-5)
    np.testing.assert_allclose(compiled, PLAIN, rtol=1e-5)


def test_arrays_datasets_and_generators() -> None:
    batches = [(X[i : i + 8], Y[i : i + 8]) for i in range(0, 160, 8)]
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)

    np.testing.assert_allclose(scores(dataset), PLAIN, rtol=1e-5)
    generated = scores((b for b in batches), {"steps_per_epoch": 20})
    np.testing.assert_allclose(generated, PLAIN, rtol=1e-5)


def test_weights_of_samples_and_classes_weigh_in_the_scores() -> None:
    weights = RNG.random(160).astype("float32")
    labels = {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
    by_class = scores(X, LABELS, {"class_weight": {0: 2.0, 1: 0.5}}, **labels)
    by_sample = scores(X, LABELS, {"sample_weight": np.where(LABELS, 0.5, 2.0)}, **labels)

    np.testing.assert_allclose(by_class, by_sample, rtol=1e-5)
    doubled = scores(X, Y, {"sample_weight": 2 * weights})
    np.testing.assert_allclose(doubled, 2 * scores(X, Y, {"sample_weight": weights}), rtol=1e-5)
    first = scores(X, Y, {"sample_weight": np.repeat([1.0, 0.0], [8, 152])})
    decay = PLAIN[trace(network()).num_channels - 3]  # some channel; all decay alike
    assert 0 < first[trace(network()).num_channels - 3] < decay


def test_with_accumulated_gradients_the_greatest_part_of_the_batch_counts() -> None:
    """Keras joins what overwrites by its maximum; the score moves once per update."""
    accumulating = optimizers.SGD(0.0, gradient_accumulation_steps=2)
    weights = np.tile(np.repeat([0.0, 1.0], 8), 20)

    # Beside a part that weighs nothing, the other counts in full.
    x, y = (np.tile(d, (2, 1)) for d in (X, Y))
    one_part = scores(x, y, {"sample_weight": weights}, optimizer=accumulating)
    odd = [d.reshape(20, 2, 8, -1)[:, 1].reshape(160, -1) for d in (x, y)]

    np.testing.assert_allclose(one_part, scores(*odd), rtol=1e-5)


def test_half_precision_scores_as_full_precision_does_nearly() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = scores()
    finally:
        keras.config.set_dtype_policy("float32")

    np.testing.assert_allclose(half, PLAIN, rtol=0.1)


class Doubled(keras.Model):
    """Trains with twice the loss, in a step of its own."""

    def train_step(self, data: tuple) -> dict:
        x, y = data
        with tf.GradientTape() as tape:
            loss = 2.0 * self.compute_loss(x, y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


class Distiller(keras.Model):
    """A student inside a model that has a training step, and a teacher, of its own."""

    def __init__(self, *inner: keras.Model) -> None:
        super().__init__()
        self.inner = list(inner)

    def call(self, x: object, training: bool = False) -> object:
        return self.inner[0](x, training=training)

    train_step = Doubled.train_step


def test_a_model_with_a_training_step_of_its_own_stays_one() -> None:
    plain = network()
    model = Doubled(plain.input, plain.output, name="mine")
    masked = add_masks(model)
    masked.compile(optimizers.SGD(0.0), "mse", run_eagerly=True)

    masked.fit(X, Y, 8, shuffle=False, verbose=0, callbacks=[everything()])

    assert type(masked) is Doubled
    assert masked.name == "mine"
    np.testing.assert_array_equal(masked(X), plain(X))
    np.testing.assert_allclose(read_scores(trace(masked)), 2 * PLAIN, rtol=1e-5)
    assert type(slim(masked)) is type(network())


class Sized(Doubled):
    """Makes its own layers, so that it cannot be made from masked ones."""

    def __init__(self, units: int) -> None:
        inputs = keras.Input((6,))
        hidden = layers.Dense(units, name="hidden")(inputs)
        super().__init__(inputs, layers.Dense(2, name="scores")(hidden))


def test_a_model_whose_training_would_be_lost_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Sized trains in a way of its own \(train_step\)"):
        add_masks(Sized(8))


class Gathering(Doubled):
    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)


class Naming(Doubled):
    def __init__(self, inputs: object, outputs: object, **kwargs: object) -> None:
        super().__init__(inputs, outputs, **kwargs)


class Factor(Doubled):
    def __init__(
        self, inputs: object, outputs: object, factor: float = 2.0, **kwargs: object
    ) -> None:
        super().__init__(inputs, outputs, **kwargs)


@pytest.mark.parametrize("kind", [Gathering, Naming])
def test_any_constructor_that_takes_inputs_and_outputs_will_do(kind: type) -> None:
    plain = network()

    masked = add_masks(kind(plain.input, plain.output, name="mine"))

    assert type(masked) is kind
    assert masked.name == "mine"


def test_a_constructor_with_arguments_of_its_own_is_refused_for_they_would_be_lost() -> None:
    plain = network()

    with pytest.raises(ValueError, match=r"or takes arguments besides, which would be lost"):
        add_masks(Factor(plain.input, plain.output, factor=3.0))


def test_the_masked_model_inside_of_a_model_is_found_and_held_to_the_budget() -> None:
    student = add_masks(network())
    teacher = network()
    teacher.trainable = False
    distiller = Distiller(student, teacher)
    distiller.compile(optimizers.SGD(0.01), "mse", run_eagerly=True)

    distiller.fit(X, Y, 8, verbose=0, callbacks=[PruneCallback(Budget(macs=0.5), verbose=0)])

    assert read_gates(trace(student)).sum() == 6 + 4 + 2


class Subclassed(keras.Model):
    def call(self, x: object) -> object:
        return x


class Holder(layers.Layer):
    """A model inside of a layer."""

    def __init__(self, inner: keras.Model) -> None:
        super().__init__()
        self.inner = inner

    def call(self, x: object) -> object:
        return self.inner(x)


def quantized() -> keras.Model:
    model = network()
    model.get_layer("hidden").quantize("int8")
    return model


TEACHERS = {
    "not built": lambda: keras.Sequential([layers.Dense(2)]),
    "subclassed": Subclassed,
    "quantized": quantized,
}


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.filterwarnings("ignore:.*does not have a `build:UserWarning")
def test_beside_the_masked_model_there_may_be_models_of_any_kind(teacher: str) -> None:
    student = add_masks(network())

    assert find_masked(Distiller(student, TEACHERS[teacher]())) is student


def test_the_masked_model_is_found_inside_of_layers_and_beside_a_graph() -> None:
    student = add_masks(network())
    held = keras.Sequential([keras.Input((6,)), Holder(student)])
    plain = network()
    beside = Doubled(plain.input, plain.output)
    beside.student = student
    nested = keras.Sequential([keras.Input((6,)), student])

    assert find_masked(held) is student
    assert find_masked(Distiller(held, plain)) is student
    assert find_masked(beside) is student
    assert find_masked(nested) is nested


class StudentOnly(Distiller):
    """Trains its first model, and leaves the second as it is, though that could be trained."""

    def train_step(self, data: tuple) -> dict:
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        own = self.inner[0].trainable_variables
        self.optimizer.apply(tape.gradient(loss, own), own)
        return {"loss": loss}


def test_an_optimizer_that_averages_may_be_that_of_the_student_alone() -> None:
    student = add_masks(network())
    distiller = StudentOnly(student, network())
    averaging = optimizers.SGD(0.0, use_ema=True, ema_overwrite_frequency=3)
    averaging.build(student.trainable_variables)
    distiller.compile(averaging, "mse", run_eagerly=True)

    distiller.fit(X, Y, 8, shuffle=False, verbose=0, callbacks=[everything()])

    np.testing.assert_allclose(read_scores(trace(student)), PLAIN, rtol=1e-5)


WAITING = {
    "accumulating": lambda: optimizers.Adam(gradient_accumulation_steps=8),
    "looking for its scale": lambda: optimizers.LossScaleOptimizer(
        optimizers.Adam(), initial_scale=2.0**102
    ),
}


@pytest.mark.parametrize("way", WAITING)
def test_channels_stay_open_until_the_optimizer_has_made_a_step(way: str) -> None:
    masked = add_masks(network())
    masked.compile(WAITING[way](), "mse", run_eagerly=True)
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(
            (read_scores(trace(masked)).any(), read_gates(trace(masked)).all())
        )
    )

    prune = PruneCallback(Budget(macs=0.5), verbose=0)
    history = masked.fit(X, 1e10 * Y, 8, verbose=0, callbacks=[prune, watch]).history

    assert sum(not learned for learned, _ in seen) > 2
    assert all(whole for learned, whole in seen if not learned)
    assert history["macs_rate"] == [0.5]


def test_without_any_step_until_the_freeze_there_are_no_scores_to_go_by() -> None:
    masked = add_masks(network())
    accumulating = optimizers.SGD(gradient_accumulation_steps=40)
    masked.compile(accumulating, "mse", run_eagerly=True)
    steps = []
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: steps.append(1))

    with pytest.raises(ValueError, match="zero, no step of the optimizer has reached them"):
        prune = PruneCallback(Budget(macs=0.5), verbose=0)
        masked.fit(X, Y, 8, verbose=0, callbacks=[watch, prune])

    assert len(steps) == 14


def test_twins_of_a_masked_model_are_refused_and_masks_on_the_whole_are_not() -> None:
    def twins(tower: keras.Model) -> keras.Model:
        a, b = keras.Input((6,)), keras.Input((6,))
        return keras.Model([a, b], layers.Subtract()([tower(a), tower(b)]), name="twins")

    wrong, right = twins(add_masks(network())), add_masks(twins(network()))
    data = [X, X[::-1]], Y, 8
    for model in (wrong, right):
        model.compile(optimizers.SGD(0.01), "mse", run_eagerly=True)

    with pytest.raises(ValueError, match=r"'twins' are called more than once.*: hidden_mask\."):
        wrong.fit(*data, verbose=0, callbacks=[PruneCallback(Budget(macs=0.5), verbose=0)])
    right.fit(*data, verbose=0, callbacks=[PruneCallback(Budget(macs=0.5), verbose=0)])
    assert read_scores(trace(right)).max() < 1000

    importances = add_masks(network(), importance="magnitude")
    other = twins(importances)
    other.compile(optimizers.SGD(0.01), "mse", run_eagerly=True)
    other.fit(*data, verbose=0, callbacks=[PruneCallback(Budget(macs=0.5), verbose=0)])


class Twice(keras.Model):
    """Calls itself on two views of the data."""

    def train_step(self, data: tuple) -> dict:
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True) - self(-x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


def test_scores_that_double_are_told_from_a_loss_that_is_not_finite() -> None:
    plain = network()
    masked = add_masks(Twice(plain.input, plain.output))
    masked.compile(optimizers.SGD(0.0), "mse", jit_compile=False)

    with pytest.raises(ValueError, match=r"not finite, or the model is called more than once"):
        prune = PruneCallback(Budget(macs=0.5), verbose=0)
        masked.fit(X, Y, 8, 20, verbose=0, callbacks=[prune])


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("importance", ["taylor", "learned", "magnitude"])
def test_masks_that_are_frozen_are_refused_if_they_had_to_learn(
    importance: str, inside: bool
) -> None:
    masked = add_masks(network(), importance=importance)
    for layer in masked.layers[:3]:
        layer.trainable = False
    model = StudentOnly(masked, network()) if inside else masked
    model.compile(optimizers.SGD(0.01), "mse", run_eagerly=True)
    prune = PruneCallback(Budget(macs=0.5), verbose=0)

    def fit() -> None:
        model.fit(X, Y, 8, verbose=0, callbacks=[prune])

    if importance != "magnitude":
        with pytest.raises(
            ValueError, match=r"'network' are frozen .*: hidden_mask\. Freeze layer"
        ):
            fit()
        masked.get_layer("hidden_mask").trainable = True
        model.compile(optimizers.SGD(0.01), "mse", run_eagerly=True)
    fit()
    assert read_gates(trace(masked)).sum() == 6 + 4 + 2


@pytest.mark.parametrize(
    ("masked", "message"), [(0, "has no masks"), (2, r"several masked models \('network', 'net")]
)
def test_none_or_several_masked_models_inside_are_refused(masked: int, message: str) -> None:
    distiller = Distiller(*[add_masks(network()) if i < masked else network() for i in range(2)])
    distiller.compile("sgd", "mse", run_eagerly=True)

    with pytest.raises(ValueError, match=message):
        distiller.fit(X, Y, 8, verbose=0, callbacks=[everything()])


def run(program: str, *arguments: str, **environment: str) -> list[str]:
    """The words on the last line that a Python program prints."""
    path = [*sys.path, str(Path(__file__).parent)]
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={"PATH": "", "PYTHONPATH": ":".join(path), **environment},
        capture_output=True,
        text=True,
    )
    assert result.stdout, result.stderr
    return result.stdout.splitlines()[-1].split()


TWO_DEVICES = """
import keras, numpy, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from test_training import PLAIN, X, Y, everything, network
from kprune import add_masks
from kprune.channels import trace
from kprune.masking import read_scores
for optimizer in (keras.optimizers.SGD(0.0), keras.optimizers.SGD(0.0, loss_scale_factor=64.0)):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        masked = add_masks(network())
        optimizer = type(optimizer).from_config(optimizer.get_config())
        masked.compile(optimizer, "mse", jit_compile=False)
    masked.fit(X, Y, 8, shuffle=False, verbose=0, callbacks=[everything()])
    scores = read_scores(trace(masked))
    numpy.testing.assert_allclose(scores, PLAIN, rtol=1e-5)
print(strategy.num_replicas_in_sync)
"""


def test_two_devices_score_the_whole_batch_as_one_does() -> None:
    assert run(TWO_DEVICES) == ["2"]


ANY_BACKEND = """
import keras, numpy, sys
from kprune import Budget, CompressionLoss, PruneCallback, add_masks
assert keras.backend.backend() == sys.argv[1]
rng = numpy.random.default_rng(0)
x = rng.normal(size=(160, 6, 6, 2)).astype("float32")
y = x[:, 0, 0]
model = keras.Sequential([
    keras.Input((6, 6, 2)), keras.layers.Conv2D(8, 3), keras.layers.BatchNormalization(),
    keras.layers.ReLU(), keras.layers.Flatten(), keras.layers.Dense(2),
])
budget = Budget(macs=0.3)
for importance in ("taylor", "learned", "magnitude"):
    masked = add_masks(model, importance=importance)
    numpy.testing.assert_array_equal(
        *(keras.ops.convert_to_numpy(m(x[:4])) for m in (masked, model))
    )
    learned = importance == "learned"
    loss = CompressionLoss("mse", masked, budget, 10.0) if learned else "mse"
    before = float(loss(y, y)) if learned else 1.0
    masked.compile(keras.optimizers.Adam(0.05), loss)
    prune = PruneCallback(budget, verbose=0)
    history = masked.fit(x, y, 8, 2, verbose=0, callbacks=[prune]).history
    assert 0.1 < history["macs_rate"][-1] <= 0.3, history
    assert not learned or float(loss(y, y)) < 0.1 * before
    mask = masked.layers[-3]
    if importance == "taylor":
        assert numpy.ptp(keras.ops.convert_to_numpy(mask.scores)) > 0
        assert keras.ops.convert_to_numpy(mask.gram).any()
print("held")
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_every_importance_holds_the_budget_on_other_backends(backend: str) -> None:
    require(backend)

    assert run(ANY_BACKEND, backend, KERAS_BACKEND=backend) == ["held"]


INTERRUPTED = """
import os, sys
import keras, numpy, tensorflow as tf
from kprune import Budget, CompressionLoss, PruneCallback, add_masks
from test_training import X, Y
folder, steps = sys.argv[1], int(sys.argv[2])
tf.config.experimental.enable_op_determinism()
budget = Budget(macs=0.4)

def train(model, *callbacks, first=0):
    # Keras saves no state of random layers: it follows the epoch here.
    dropout = model.get_layer("dropout").seed_generator.state
    seed = keras.callbacks.LambdaCallback(on_epoch_begin=lambda e, logs: dropout.assign([e, 0]))
    model.fit(
        X[:40], Y[:40], 8, 6, shuffle=False, verbose=0, initial_epoch=first,
        callbacks=[PruneCallback(budget, verbose=0), seed, *callbacks],
    )
    return model

def masked(importance):
    keras.utils.set_random_seed(0)
    model = add_masks(keras.Sequential([
        keras.Input((6,)), keras.layers.Dense(12, "relu"), keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.3, name="dropout"), keras.layers.Dense(8, "relu"),
        keras.layers.Dense(2),
    ]), importance=importance)
    learned = importance == "learned"
    loss = CompressionLoss("mse", model, budget) if learned else "mse"
    model.compile(keras.optimizers.Adam(0.01), loss, run_eagerly=True)
    return model

def same(a, b):
    values = zip(a.weights + a.optimizer.variables, b.weights + b.optimizer.variables, strict=True)
    return all((numpy.asarray(p) == numpy.asarray(q)).all() for p, q in values)

class Die(keras.callbacks.Callback):
    steps = 0
    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.steps == steps:
            os._exit(9)

backup = keras.callbacks.BackupAndRestore(folder)
resumed = train(masked("taylor"), backup, Die())
assert same(resumed, train(masked("taylor")))
path = os.path.join(folder + "-{epoch}.keras")
whole = train(masked("learned"), keras.callbacks.ModelCheckpoint(path))
loaded = keras.models.load_model(path.format(epoch=3))
loaded.run_eagerly = True
assert not same(loaded, whole)
assert same(train(loaded, first=3), whole)
print("equal")
"""


def test_training_that_is_killed_and_resumed_ends_with_the_very_same_weights(
    tmp_path: Path,
) -> None:
    folder = str(tmp_path / "backup")

    # In the ramp, then again behind the freeze: steps 8 and 22 of 30.
    for steps in ("8", "17"):
        with pytest.raises(AssertionError):  # it dies before it prints
            run(INTERRUPTED, folder, steps)
        assert (tmp_path / "backup" / "latest.weights.h5").is_file()

    assert run(INTERRUPTED, folder, "0") == ["equal"]


def test_training_that_is_resumed_in_the_midst_of_an_epoch_never_grows(tmp_path: Path) -> None:
    """Keras then begins this epoch again, with the weights of its midst."""

    def fit(*callbacks: keras.callbacks.Callback) -> keras.Model:
        masked = add_masks(network())
        masked.compile(optimizers.SGD(0.01), "mse", run_eagerly=True)
        prune = PruneCallback(Budget(macs=0.5), verbose=0)
        backup = keras.callbacks.BackupAndRestore(tmp_path, save_freq=7)
        masked.fit(X, Y, 8, 2, verbose=0, callbacks=[prune, backup, *callbacks])
        return masked

    def count(model: keras.Model) -> int:
        return int(read_gates(trace(model)).sum())

    class Interrupted(Exception):
        pass

    class Interrupt(keras.callbacks.Callback):
        steps = 0

        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            self.steps += 1
            if self.steps == 29:  # saved at 28, frozen since then
                raise Interrupted

    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(count(watch.model))
    )
    with pytest.raises(Interrupted):
        fit(Interrupt())

    resumed = fit(watch)

    assert len(seen) == 20
    assert set(seen) == {6 + 4 + 2} == {count(resumed)}
