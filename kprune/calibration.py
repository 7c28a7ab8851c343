"""Representative data, however the caller has them → one array per input of the model.

They fix the ranges of a quantised network, so whatever is wrong with them is told here, by name,
and not left to show as lost accuracy on the device.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import keras
import numpy as np
from keras import tree

# Fewer samples than this leave the ranges of the activations to chance.
MIN_SAMPLES = 8

# Of a dataset or generator, which may have no end, this many elements are taken.
MAX_ELEMENTS = 1000


def read_samples(
    inputs: object,
    data: object,
    min_samples: int = MIN_SAMPLES,
    label: str = "representative_data",
) -> list[np.ndarray]:
    """Bring representative data into one form, and check them.

    Args:
        inputs: The placeholders of the model's inputs, in its structure.
        data: An array of shape `(samples, ...)`; a list of such arrays, one per input, or a dict of
            them by the names of the inputs; a `tf.data.Dataset`; or a generator, or a function
            that returns one, whose elements are samples or batches: an array, a list of arrays
            with one per input, a dict by name, or a pair `(x, y)` as in `fit`, of which `y` is
            left out. Of a dataset or generator at most the first 1000 elements are taken.
        min_samples: Fewer samples than this are refused.
        label: What the caller calls the data.

    Returns:
        For each input its samples, in the input's type, shape `(samples, ...)`.

    Raises:
        TypeError: `data` is none of these.
        ValueError: Samples are missing or too few, of the wrong shape, not finite, beyond the type
            of the input, or all the same.

    Example:
        >>> x = keras.Input((2,), name="x")
        >>> read_samples(x, {"x": np.ones((9, 1)) * [1, 2]})[0].shape
        (9, 2)
    """
    placeholders = tree.flatten(inputs)
    if isinstance(data, np.ndarray) or _is_structure(data) or hasattr(data, "__array__"):
        given = [np.asarray(part) for part in _parts(data, placeholders, label)]
    else:
        given = _from_stream(_stream(data, label), placeholders, label)
    arrays = [_check(t, a, min_samples, label) for t, a in zip(placeholders, given, strict=True)]
    if len({len(a) for a in arrays}) > 1:
        counts = ", ".join(str(len(a)) for a in arrays)
        raise ValueError(f"{label} must have equally many samples for each input; got {counts}.")
    return arrays


def _is_structure(data: object) -> bool:
    return isinstance(data, Mapping | Sequence) and not isinstance(data, str | bytes)


def _stream(data: Any, label: str) -> Iterable[object]:
    if callable(data) and not isinstance(data, Iterable):
        data = data()
    if not isinstance(data, Iterable) or isinstance(data, str | bytes):
        raise TypeError(
            f"{label} must be an array, a list or dict of arrays, a tf.data.Dataset, or "
            f"a generator or a function that returns one; got {type(data).__name__}."
        )
    return data


def _from_stream(
    elements: Iterable[object], inputs: list[keras.KerasTensor], label: str
) -> list[np.ndarray]:
    columns: list[list[np.ndarray]] = [[] for _ in inputs]
    for element in islice(elements, MAX_ELEMENTS):
        parts = _parts(_without_targets(element, inputs), inputs, label)
        for column, tensor, part in zip(columns, inputs, parts, strict=True):
            value = np.asarray(part)
            # A sample comes alone or in a batch; the number of axes tells.
            column.append(value if value.ndim == len(tensor.shape) else value[np.newaxis])
    if not columns[0]:
        hint = " It was used up before: pass a function." if inspect.isgenerator(elements) else ""
        raise ValueError(f"{label} is empty: it gives no sample.{hint}")
    try:
        return [np.concatenate(column) for column in columns]
    except ValueError as error:
        raise ValueError(f"The samples of {label} differ in shape: {error}") from None


def _without_targets(element: object, inputs: list[keras.KerasTensor]) -> object:
    """The `x` of an element `(x, y)` or `(x, y, sample_weight)`, as `fit` reads a dataset."""
    if not isinstance(element, tuple) or not element:
        return element
    is_x = len(inputs) == 1 or _is_structure(element[0])
    return element[0] if is_x else element


def _parts(data: object, inputs: list[keras.KerasTensor], label: str) -> list[object]:
    """One value per input."""
    if isinstance(data, Mapping):
        names = [t.name for t in inputs]
        if set(data) != set(names):
            raise ValueError(
                f"{label} must have the names of the inputs {sorted(names)} as keys, "
                f"got {sorted(map(str, data))}."
            )
        return [data[name] for name in names]
    parts = list(data) if isinstance(data, list | tuple) else [data]
    if len(parts) != len(inputs):
        raise ValueError(
            f"{label} must be one array for each of the {len(inputs)} inputs, in "
            f"their order; got {len(parts)}."
        )
    return parts


def _check(
    tensor: keras.KerasTensor, given: np.ndarray, min_samples: int, label: str
) -> np.ndarray:
    label = f"{label} for input {tensor.name!r}"
    expected = tuple(tensor.shape[1:])
    shapes_agree = given.ndim == len(expected) + 1 and all(
        e in (None, g) for e, g in zip(expected, given.shape[1:], strict=True)
    )
    if not shapes_agree:
        raise ValueError(
            f"{label} must have shape (samples, {', '.join(map(str, expected))}), got "
            f"{given.shape}."
        )
    if given.dtype.kind not in "biuf":
        raise ValueError(f"{label} must be real numbers, got dtype {given.dtype}.")
    if len(given) == 0:
        raise ValueError(f"{label} is empty: give some 100 samples from the training data.")
    if len(given) < min_samples:
        raise ValueError(
            f"{label} has {len(given)} samples, too few to find the ranges of the activations: "
            f"give at least {min_samples}, better 100, from the training data."
        )
    if not np.isfinite(given).all():
        bad = int(np.argwhere(~np.isfinite(given))[0, 0])
        raise ValueError(
            f"{label} contains NaN or infinity, first in sample {bad}, which would make every "
            "range useless. Remove such samples."
        )
    with np.errstate(over="ignore"):
        array = given.astype(tensor.dtype)
    is_held = np.isfinite(array) if array.dtype.kind == "f" else array == given
    if not is_held.all():
        raise ValueError(
            f"{label} has values between {given.min():g} and {given.max():g}, which the input's "
            f"type {tensor.dtype} cannot hold."
        )
    if array.size and array.min() == array.max():
        raise ValueError(
            f"{label} is {array.min():g} everywhere, so it has no range. Pass real samples, "
            "prepared as for training."
        )
    return array
