"""A model becomes a flat list of calls, and the list becomes a model again."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from kprune.errors import UnsupportedLayerError
from kprune.graph import copy_model, read_graph


class Hidden(keras.Model):
    """A subclassed model: its graph is Python code."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.dense = layers.Dense(2)

    def call(self, x: object) -> object:
        return self.dense(x)

    def compute_output_shape(self, shape: tuple) -> tuple:
        return (*shape[:-1], 2)


class Doubled(keras.Model):
    """A functional model whose call() does more than its graph."""

    def call(self, x: object, training: bool | None = None, mask: object = None) -> object:
        return 2.0 * super().call(x, training=training)


class DoubledSequence(keras.Sequential):
    def call(self, x: object, training: bool | None = None, mask: object = None) -> object:
        return 2.0 * super().call(x, training=training)


class OwnStep(keras.Model):
    """A functional model that only trains in a way of its own."""

    def train_step(self, data: object) -> dict:
        return super().train_step(data)


@keras.saving.register_keras_serializable("test_graph")
class PlusIfGiven(layers.Layer):
    def call(self, x: object, y: object = None) -> object:
        return x if y is None else x + y


class NoConfig(layers.Layer):
    def __init__(self, factor: float, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x: object) -> object:
        return x * self.factor

    def get_config(self) -> dict:
        raise NotImplementedError("NoConfig has none")


def nested() -> keras.Model:
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, name="dense"), layers.BatchNormalization()], name="in"
    )
    inputs = keras.Input((4,), name="signal")
    x = layers.Dense(4, name="dense")(inputs)
    return keras.Model(inputs, {"twice": inner(inner(x), training=False), "plus": x + 1.0})


def test_nested_models_are_entered_and_their_layers_shared() -> None:
    calls = read_graph(nested()).calls

    assert [c.operation.name for c in calls if "dense" in c.operation.name] == ["dense"] * 3
    inside = [c for c in calls if isinstance(c.operation, layers.BatchNormalization)]
    assert inside[0].operation is inside[1].operation
    assert inside[1].kwargs["training"] is False


def test_a_copy_gives_the_same_outputs_under_the_same_names() -> None:
    model = nested()
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")

    copy = copy_model(read_graph(model))

    assert copy.inputs[0].name == "signal"
    for key, expected in model(x).items():
        np.testing.assert_array_equal(copy(x)[key], expected)


def test_reading_leaves_no_trace_in_the_model() -> None:
    model = nested()
    before = model.get_config()

    copy_model(read_graph(model))

    assert model.get_config() == before


def test_batch_size_can_be_fixed() -> None:
    assert copy_model(read_graph(nested()), batch_size=1).inputs[0].shape == (1, 4)


def test_a_subclassed_model_is_refused() -> None:
    model = Hidden(name="mine")
    model(np.ones((1, 3), "float32"))

    with pytest.raises(UnsupportedLayerError, match=r"'mine' \(Hidden\) is subclassed.*functional"):
        read_graph(model)


def test_all_subclassed_parts_are_named_at_once() -> None:
    inputs = keras.Input((3,))
    model = keras.Model(inputs, Hidden(name="b")(Hidden(name="a")(inputs)), name="outer")

    with pytest.raises(UnsupportedLayerError, match=r"'a' \(Hidden\), 'b' \(Hidden\)"):
        read_graph(model)


def test_layers_with_other_weights_are_refused_all_by_name() -> None:
    inputs = keras.Input((5,), name="input")
    quantized, adapted = layers.Dense(4, name="quantized"), layers.Dense(3, name="adapted")
    model = keras.Model(inputs, layers.Dense(2)(adapted(quantized(inputs))), name="tuned")
    quantized.quantize("int8")
    adapted.enable_lora(2)

    with pytest.raises(
        UnsupportedLayerError,
        match=r"Layers of 'tuned' cannot be taken: 'quantized' \(Dense\) quantized "
        r"to int8: prune first, quantize after; 'adapted' \(Dense\) with LoRA weights: save and",
    ):
        read_graph(model)


def test_all_layers_without_a_config_are_named_at_once() -> None:
    inputs = keras.Input((3,))
    model = keras.Model(inputs, NoConfig(2.0, name="b")(NoConfig(1.0, name="a")(inputs)))

    with pytest.raises(
        UnsupportedLayerError, match=r"'a' \(NoConfig\).*'b' \(NoConfig\).*get_config"
    ):
        copy_model(read_graph(model))


def test_an_unbuilt_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has not been built.*Input layer"):
        read_graph(keras.Sequential([layers.Dense(2)]))


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(TypeError, match="Expected a Keras model, got str"):
        read_graph("model.keras")


def dense(width: int, name: str, kind: type = keras.Model) -> keras.Model:
    inputs = keras.Input((4,))
    return kind(inputs, layers.Dense(width)(inputs), name=name)


def assert_copied(model: keras.Model, x: object, **kwargs: object) -> keras.Model:
    copy = copy_model(read_graph(model))
    np.testing.assert_array_equal(copy(x, **kwargs), model(x, **kwargs))
    return copy


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


# --- Which models can be read --------------------------------------------------------------------


def test_a_call_that_does_more_than_the_graph_is_refused() -> None:
    with pytest.raises(UnsupportedLayerError, match=r"'it' \(Doubled\) has a call\(\) of its own"):
        read_graph(dense(2, "it", Doubled))


def test_nested_calls_that_do_more_than_their_graphs_are_named_at_once() -> None:
    inner = DoubledSequence([keras.Input((3,)), layers.Dense(2)], name="b")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, inner(dense(3, "a", Doubled)(inputs)))

    with pytest.raises(
        UnsupportedLayerError, match=r"'a' \(Doubled\), 'b' \(DoubledSequence\) with a call\(\) of"
    ):
        read_graph(model)


def test_a_train_step_of_ones_own_does_not_hide_the_graph() -> None:
    inputs = keras.Input((4,))

    assert_copied(keras.Model(inputs, dense(3, "inner", OwnStep)(inputs)), noise(5, 4))
    assert_copied(dense(3, "outer", OwnStep), noise(5, 4))


def test_an_operation_that_reads_the_weights_of_a_layer_is_refused() -> None:
    words = keras.Input((5,), dtype="int32")
    table = layers.Embedding(7, 6, name="table")
    model = keras.Model(words, ops.einsum("btd,vd->btv", table(words), table.embeddings))

    with pytest.raises(UnsupportedLayerError, match=r"\(Einsum\) given a weight of 'table', which"):
        read_graph(model)


def test_a_constant_variable_is_no_weight_of_a_layer() -> None:
    inputs = keras.Input((4,))
    factor = keras.Variable(2.0, trainable=False)

    assert_copied(keras.Model(inputs, layers.Dense(3)(inputs) * factor), noise(5, 4))


# --- How nested models are called ----------------------------------------------------------------


def test_a_nested_model_finds_its_inputs_by_name() -> None:
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    inner = keras.Model([b, a], layers.Dense(3)(a) - 2.0 * layers.Dense(3)(b))
    u, v = keras.Input((4,)), keras.Input((4,))
    model = keras.Model([u, v], inner({"a": u, "b": v}))

    assert_copied(model, [noise(5, 4), -noise(5, 4)])


@pytest.mark.filterwarnings("ignore:Layer 'inner':UserWarning")  # as Keras finds it odd, too
def test_a_mask_for_a_nested_model_is_refused() -> None:
    inputs = keras.Input((5, 4))
    inner = keras.Model(inputs, layers.LSTM(3)(inputs), name="inner")
    series, mask = keras.Input((5, 4)), keras.Input((5,), dtype="bool")

    with pytest.raises(UnsupportedLayerError, match="'inner' is called with a mask beside its"):
        read_graph(keras.Model([series, mask], inner(series, mask=mask)))


@pytest.mark.parametrize("training", [None, False, True])
@pytest.mark.parametrize("outer", [{}, {"training": False}, {"training": True}])
def test_the_outermost_training_flag_decides(outer: dict, training: bool | None) -> None:
    inputs = keras.Input((4,))
    inner = keras.Model(inputs, layers.BatchNormalization()(inputs, training=True))
    innermost = keras.Model(inputs, inner(inputs, **outer))
    model = keras.Model(inputs, innermost(inputs))

    assert_copied(model, noise(50, 4), training=training)


def test_a_layer_may_have_the_name_of_an_input_outside() -> None:
    inputs = keras.Input((4,))
    inner = keras.Model(inputs, layers.Dense(3, name="signal")(inputs))
    outer = keras.Input((4,), name="signal")

    copy = assert_copied(keras.Model(outer, layers.Dense(2)(inner(outer))), noise(5, 4))

    assert [layer.name for layer in copy.layers][:2] == ["signal", "signal_1"]


def test_the_first_argument_is_the_input_however_it_is_given() -> None:
    series, state = keras.Input((5, 4)), keras.Input((3,))
    memory = layers.GRU(3)(initial_state=state, sequences=series)

    (call,) = read_graph(keras.Model([state, series], memory)).calls

    assert [t.shape for t in call.inputs] == [(None, 5, 4), (None, 3)]
    assert list(call.kwargs) == ["initial_state"]


# --- What a copy keeps ---------------------------------------------------------------------------


def test_inputs_stay_sparse_and_optional() -> None:
    a = keras.Input((4,), name="a", sparse=True)
    b, c = keras.Input((3,), name="b", optional=True), keras.Input((3,), name="c")
    model = keras.Model([a, b, c], PlusIfGiven()(layers.Dense(3)(a) + c, b))

    copy = copy_model(read_graph(model), batch_size=5)

    kept = [copy.get_layer(name) for name in "abc"]
    assert [x.sparse for x in kept] == [True, False, False]
    assert [x.optional for x in kept] == [False, True, False]
    assert [x.batch_shape[0] for x in kept] == [5, 5, 5]
    x = [noise(5, 4), None, noise(5, 3)]
    np.testing.assert_array_equal(copy(x), model(x))


def test_adapted_bins_are_copied() -> None:
    bins = layers.Discretization(num_bins=4)
    bins.adapt(noise(50, 3))
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Embedding(5, 6)(bins(inputs)))

    assert_copied(model, noise(9, 3))


@pytest.mark.parametrize("kind", [layers.StringLookup, layers.TextVectorization])
def test_word_frequencies_are_copied(kind: type) -> None:
    lookup = kind(output_mode="tf_idf")
    lookup.adapt(np.array([["yes"], ["no"], ["yes"], ["maybe"]]))
    inputs = keras.Input((1,), dtype="string")
    model = keras.Model(inputs, layers.Dense(3)(lookup(inputs)))

    assert_copied(model, ops.convert_to_tensor([["yes"], ["maybe"], ["never"]]))


TIMES = 2


def test_functions_of_a_lambda_find_the_names_around_them() -> None:
    inputs = keras.Input((5, 4))
    twice = layers.Lambda(
        lambda x, mask=None: ops.concatenate([x] * TIMES, -1),
        output_shape=lambda shape: (*shape[:-1], shape[-1] * TIMES),
        mask=lambda x, mask: ops.any(x > TIMES / 4, -1),
    )
    model = keras.Model(inputs, layers.GRU(3)(twice(inputs)))

    assert_copied(model, noise(9, 5, 4))


ACTIVATED = [
    (layers.Dense(3, activation=lambda x: x * TIMES), (4,)),
    (layers.Conv2D(3, 1, activation=lambda x: x * TIMES), (2, 2, 4)),
    (layers.EinsumDense("ab,bc->ac", 3, activation=lambda x: x * TIMES), (4,)),
    (layers.LSTM(3, activation=lambda x: x * TIMES), (5, 4)),
]


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
@pytest.mark.parametrize(("layer", "shape"), ACTIVATED)
def test_an_activation_may_be_a_lambda(layer: layers.Layer, shape: tuple[int, ...]) -> None:
    inputs = keras.Input(shape)

    assert_copied(keras.Model(inputs, layer(inputs)), noise(9, *shape))


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_functions_that_cannot_be_copied_are_refused_with_what_to_do() -> None:
    inputs = keras.Input((5, 4))
    each = layers.TimeDistributed(layers.Dense(3, activation=lambda x: x * TIMES), name="each")

    with pytest.raises(
        UnsupportedLayerError, match=r"(?s)'each' \(TimeDistributed\).*register_keras_serializable"
    ):
        copy_model(read_graph(keras.Model(inputs, each(inputs))))


@keras.saving.register_keras_serializable("tests")
class Tied(layers.Layer):
    """The other way through the kernel of another layer, as in an autoencoder."""

    def __init__(self, source: layers.Layer, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.source = source

    def call(self, x: object) -> object:
        return ops.matmul(x, ops.transpose(self.source.kernel))

    def get_config(self) -> dict:
        return {**super().get_config(), "source": self.source}


def test_a_weight_that_two_layers_have_is_refused() -> None:
    x = inputs = keras.Input((16,))
    encode = layers.Dense(12, name="encode")
    x = layers.Dense(12)(layers.Dense(5)(encode(x)))

    with pytest.raises(
        UnsupportedLayerError,
        match=r"'decode' \(Tied\) with a weight of 'encode', which would come apart from it",
    ):
        read_graph(keras.Model(inputs, Tied(encode, name="decode")(x)))


def test_an_activation_with_weights_is_refused_others_pass() -> None:
    def model(activation: layers.Layer) -> keras.Model:
        return keras.Sequential([keras.Input((4,)), layers.Dense(3, activation, name="it")])

    assert read_graph(model(layers.LeakyReLU(0.1)))
    with pytest.raises(UnsupportedLayerError, match=r"'it' \(Dense\) with an activation that has"):
        read_graph(model(layers.PReLU()))
