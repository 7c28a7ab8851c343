"""However the caller has the data, the same samples; whatever is wrong with them, by name."""

import itertools

import keras
import numpy as np
import pytest

from kprune.calibration import MAX_ELEMENTS, MIN_SAMPLES, read_samples

SHAPE = (6, 6, 2)
X = np.random.default_rng(0).normal(size=(40, *SHAPE)).astype("float32")
Y = np.arange(40) % 3
A = np.random.default_rng(1).normal(size=(40, 4)).astype("float32")
Z = np.random.default_rng(2).normal(size=(40, 4)).astype("float32")


def image(**options):
    return keras.Input(SHAPE, name="image", **options)


def two_inputs():
    """Named against their order, of one shape."""
    return [keras.Input((4,), name="z"), keras.Input((4,), name="a")]


def generator():
    for sample in X:
        yield [sample[np.newaxis]]


def dataset(parts, batch):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(parts)
    return data.batch(batch) if batch else data


class Lazy:
    """Neither an array nor a sequence, but something that becomes one."""

    def __array__(self, dtype=None, copy=None):
        return X


ONE_INPUT = {
    "array": lambda: X,
    "float64": lambda: X.astype("float64"),
    "tensor": lambda: keras.ops.convert_to_tensor(X),
    "what becomes an array": Lazy,
    "list of arrays": lambda: [X],
    "tuple of arrays": lambda: (X,),
    "dict": lambda: {"image": X},
    "function": lambda: generator,
    "function that returns an array of samples": lambda: lambda: X,
    "generator": lambda: generator(),
    "single samples": lambda: iter(X),
    "batches": lambda: iter(np.split(X, 5)),
    "samples and batches": lambda: iter([X[0], X[1:30], X[30], X[31:]]),
    "dicts": lambda: ({"image": x} for x in X),
    "pairs of (x, y)": lambda: zip(X, Y, strict=True),
    "triples with weights": lambda: zip(X, Y, Y, strict=True),
    "dataset": lambda: dataset(X, batch=0),
    "batched dataset": lambda: dataset(X, batch=16),
    "dataset of (x, y)": lambda: dataset((X, Y), batch=16),
    "dataset of (dict, y)": lambda: dataset(({"image": X}, Y), batch=16),
}


@pytest.mark.parametrize("form", ONE_INPUT)
def test_every_form_of_data_says_the_same(form):
    (samples,) = read_samples([image()], ONE_INPUT[form]())

    np.testing.assert_array_equal(samples, X)
    assert samples.dtype == np.float32


TWO_INPUTS = {
    "list": lambda: [Z, A],
    "tuple": lambda: (Z, A),
    "dict": lambda: {"a": A, "z": Z},
    "lists": lambda: ([z, a] for z, a in zip(Z, A, strict=True)),
    "pairs": lambda: zip(Z, A, strict=True),
    "dicts": lambda: ({"a": a, "z": z} for z, a in zip(Z, A, strict=True)),
    "batches and targets": lambda: (((Z[i : i + 5], A[i : i + 5]), Y[:5]) for i in range(0, 40, 5)),
    "dicts and targets": lambda: (({"a": A[i], "z": Z[i]}, Y[i]) for i in range(40)),
    "dataset": lambda: dataset((Z, A), batch=16),
    "dataset of (x, y)": lambda: dataset(((Z, A), Y), batch=16),
    "dataset of dicts": lambda: dataset({"a": A, "z": Z}, batch=0),
}


@pytest.mark.parametrize("form", TWO_INPUTS)
def test_each_input_gets_its_own_data(form):
    z, a = read_samples(two_inputs(), TWO_INPUTS[form]())

    np.testing.assert_array_equal(z, Z)
    np.testing.assert_array_equal(a, A)


def test_inputs_may_be_a_dict_whose_keys_are_sorted():
    z, a = two_inputs()

    found = read_samples({"z": z, "a": a}, {"z": Z, "a": A})

    np.testing.assert_array_equal(found, [A, Z])


def test_samples_come_in_the_type_of_the_input():
    (samples,) = read_samples([image(dtype="uint8")], np.arange(720.0).reshape(10, *SHAPE) % 256)

    assert samples.dtype == np.uint8 and samples.max() == 255


def test_booleans_become_the_numbers_they_are():
    (samples,) = read_samples([image()], X > 0)

    np.testing.assert_array_equal(samples, X > 0)
    assert samples.dtype == np.float32


def test_open_dimensions_take_any_length():
    (samples,) = read_samples([keras.Input((None, 6, 2))], X[:, :5])

    assert samples.shape == (40, 5, 6, 2)


def test_endless_data_end():
    (samples,) = read_samples([image()], itertools.cycle(X))

    assert len(samples) == MAX_ELEMENTS == 1000
    np.testing.assert_array_equal(samples[-1], X[999 % 40])


def test_nothing_is_read_beyond_the_last_element_taken():
    elements = itertools.cycle(X[:4])

    read_samples([image()], elements)

    np.testing.assert_array_equal(next(elements), X[MAX_ELEMENTS % 4])


def test_of_an_array_all_samples_are_taken():
    (samples,) = read_samples([image()], np.tile(X, (30, 1, 1, 1)))

    assert len(samples) == 1200


def test_as_few_samples_as_the_caller_allows_are_enough():
    assert len(read_samples([image()], X[:MIN_SAMPLES])[0]) == MIN_SAMPLES
    assert len(read_samples([image()], X[:1], min_samples=1)[0]) == 1
    with pytest.raises(ValueError, match=r"has 7 samples, too few .* give at least 8, better 100"):
        read_samples([image()], X[: MIN_SAMPLES - 1])
    with pytest.raises(ValueError, match="give at least 21"):
        read_samples([image()], X[:20], min_samples=21)


def test_the_data_of_the_caller_stay_what_they_are():
    given = X.copy()

    (samples,) = read_samples([image()], given)
    samples[:] = 0

    np.testing.assert_array_equal(given, X)


def spoilt(value, place=7):
    x = X.astype("float64")
    x[place, 2, 3, 1] = value
    return x


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (5, TypeError, "a tf.data.Dataset, or a generator .* got int"),
        (None, TypeError, "got NoneType"),
        ("x.npy", TypeError, "got str"),
        (b"x", TypeError, "got bytes"),
        (lambda: 5, TypeError, "got int"),
        (iter(()), ValueError, r"is empty: it gives no sample\.$"),
        (X[:0], ValueError, "for input 'image' is empty: give some 100 samples"),
        ({"picture": X}, ValueError, r"the names of the inputs \['image'\] .* got \['picture'\]"),
        ({}, ValueError, r"the names of the inputs \['image'\] .* got \[\]"),
        (({"picture": x} for x in X), ValueError, r"names of the inputs .* got \['picture'\]"),
        (X.astype(str), ValueError, "must be real numbers, got dtype"),
        (X.astype(complex), ValueError, "must be real numbers, got dtype complex"),
        (X.astype(object), ValueError, "must be real numbers, got dtype object"),
        (np.full(X.shape, 1e300), ValueError, "between 1e[+]300 .* float32 cannot hold"),
        (np.zeros(X.shape), ValueError, "is 0 everywhere, so it has no range"),
        (np.full(X.shape, -2.5), ValueError, r"is -2\.5 everywhere"),
        (spoilt(np.nan), ValueError, "contains NaN or infinity, first in sample 7"),
        (spoilt(-np.inf, 3), ValueError, "contains NaN or infinity, first in sample 3"),
        (X[0], ValueError, r"must have shape \(samples, 6, 6, 2\), got \(6, 6, 2\)"),
        (X[:, :5], ValueError, r"must have shape \(samples, 6, 6, 2\), got \(40, 5, 6, 2\)"),
        ((x[:5] for x in X), ValueError, r"must have shape \(samples, 6, 6, 2\)"),
        (iter([X[:3], X[3:9, :4]]), ValueError, "samples of representative_data differ in shape"),
        ([X[:3], X[3:9]], ValueError, "one array for each of the 1 inputs, .* got 2"),
        (([x, x] for x in X), ValueError, "one array for each of the 1 inputs, .* got 2"),
    ],
)
def test_refuses_data_that_cannot_give_ranges(data, error, message):
    with pytest.raises(error, match=message):
        read_samples([image()], data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([Z], "one array for each of the 2 inputs, in their order; got 1"),
        (Z, "one array for each of the 2 inputs"),
        ({"a": A}, r"names of the inputs \['a', 'z'\] .* got \['a'\]"),
        ([Z, A[:30]], "equally many samples for each input; got 40, 30"),
        ([Z, np.zeros_like(A)], "for input 'a' is 0 everywhere"),
        ([Z[:, :3], A], "for input 'z' must have shape"),
    ],
)
def test_refuses_data_that_do_not_fit_two_inputs(data, message):
    with pytest.raises(ValueError, match=message):
        read_samples(two_inputs(), data)


@pytest.mark.parametrize("value", [256, -1, 0.5])
def test_refuses_what_an_integer_input_cannot_hold(value):
    data = np.tile(np.arange(8.0), (40, 6, 6, 1))[..., :2]
    data[0, 0, 0, 0] = value

    with pytest.raises(ValueError, match=r"'image' has values between .* type uint8 cannot hold"):
        read_samples([image(dtype="uint8")], data)


def test_a_generator_that_was_used_up_is_told_apart():
    used = generator()
    list(used)

    with pytest.raises(ValueError, match="used up before: pass a function"):
        read_samples([image()], used)


@pytest.mark.parametrize("data", [5, iter(()), X[:0], X[:3], spoilt(np.nan), {}, [X, X]])
def test_errors_call_the_data_what_the_caller_calls_them(data):
    with pytest.raises((TypeError, ValueError), match=r"^validation_data "):
        read_samples([image()], data, label="validation_data")
