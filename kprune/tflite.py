"""Keras model → int8 flatbuffer."""

from collections.abc import Iterator

import keras
import numpy as np

from kprune.graph import copy_model, read_graph
from kprune.layers import ChannelMask
from kprune.quiet import quiet

# Fewer samples than this leave the ranges of the activations to chance.
MIN_SAMPLES = 8


def to_tflite(model: keras.Model, representative_data: object) -> bytes:
    """Convert a model to a full-integer flatbuffer: int8 in, int8 out, int8 in between.

    Weights are quantised per output channel, activations by the ranges they take on the
    representative data. The batch size is fixed to 1, as a microcontroller runs it.

    Args:
        model: A Sequential or functional model of plain layers, from `slim`.
        representative_data: Inputs like those the network will see, some 100 of them: an array
            of shape `(samples, ...)`, or for several inputs a list of arrays in their order.

    Returns:
        The content of a `.tflite` file.

    Raises:
        ValueError: `model` still has masks, or the representative data are too few, not finite,
            or of another shape than the inputs; or the converter refuses a layer.
        TypeError, UnsupportedLayerError: As `add_masks`.
        RuntimeError: Keras does not run on TensorFlow, which the converter is a part of.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> x = np.random.default_rng(0).normal(size=(100, 4)).astype("float32")
        >>> to_tflite(model, representative_data=x)[4:8]
        b'TFL3'
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"Converting needs Keras on TensorFlow, and this process runs it on "
            f"{keras.backend.backend()}. Save the model, then: kprune to-tflite MODEL.keras"
        )
    graph = read_graph(model)
    if any(isinstance(layer, ChannelMask) for layer in graph.layers):
        raise ValueError(
            f"Model {model.name!r} still has masks, and closed channels would take their full "
            "room. Convert kprune.slim(model)."
        )
    arrays = _check_data(keras.tree.flatten(graph.inputs), representative_data)
    # With an open batch size the converter adds operators that find it out.
    return _convert(copy_model(graph, batch_size=1), arrays)


def _convert(model: keras.Model, arrays: list[np.ndarray]) -> bytes:
    import tensorflow as tf

    def samples() -> Iterator[list[np.ndarray]]:
        for sample in zip(*arrays, strict=True):
            yield [value[np.newaxis] for value in sample]

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = samples
    # Only integer operators: what has none fails here and not on the board.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    with quiet() as said:
        try:
            return converter.convert()
        except Exception as error:  # The converter raises bare Exception, among others.
            raise ValueError(
                f"TensorFlow cannot convert {model.name!r} to int8: {error}\n{said()}"
            ) from error


def _check_data(inputs: list[keras.KerasTensor], data: object) -> list[np.ndarray]:
    """The representative data as one float32 array per input."""
    given = data if isinstance(data, list | tuple) else [data]
    if len(given) != len(inputs):
        raise ValueError(
            f"representative_data must be one array for each of the {len(inputs)} inputs, in "
            f"their order; got {len(given)}."
        )
    arrays = [np.asarray(a, dtype="float32") for a in given]
    for tensor, array in zip(inputs, arrays, strict=True):
        expected = tuple(tensor.shape[1:])
        if array.shape[1:] != expected or array.ndim != len(expected) + 1:
            raise ValueError(
                f"representative_data for input {tensor.name!r} must have shape "
                f"(samples, {', '.join(map(str, expected))}), got {array.shape}."
            )
        if len(array) < MIN_SAMPLES:
            raise ValueError(
                f"representative_data has {len(array)} samples, too few to find the ranges of the "
                f"activations: give at least {MIN_SAMPLES}, better 100, from the training data."
            )
        if not np.isfinite(array).all():
            raise ValueError(
                f"representative_data for input {tensor.name!r} contains NaN or infinity, which "
                "would make every range useless. Remove those samples."
            )
    if len({len(a) for a in arrays}) > 1:
        raise ValueError("representative_data must have equally many samples for each input.")
    return arrays
