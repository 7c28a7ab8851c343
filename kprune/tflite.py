"""Keras model → flatbuffer."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from keras import layers, tree

from kprune.arena import plan_ahead
from kprune.c.resolver import has_operator
from kprune.calibration import read_samples
from kprune.child import run_in_child
from kprune.errors import UnsupportedOpError
from kprune.fakequant import FakeQuant, FakeQuantWeights
from kprune.flatbuffer import Network, Operator, pack, read
from kprune.graph import Call, Graph, copy_layers, copy_model, give_weights, read_graph, rebuild
from kprune.quantization import check_unmasked
from kprune.quiet import quiet
from kprune.repacking import repack
from kprune.rescaling import Rescale, RescaleSum
from kprune.tfmot import MARK, TfmotModel, marked

FORMATS = ("int8", "int16x8", "float")

# Operators whose kernels in TensorFlow Lite Micro take floats and no integers.
_FLOAT_ONLY = {"CEIL", "COS", "EXP", "FLOOR", "LOG", "ROUND", "SIN", "SQRT", "SQUARE"}

# How often the converter is asked again where it leaves a SPLIT in float at random.
_TRIES = 9

# Axes that these take at the most.
_MOST_AXES = {"STRIDED_SLICE": 4, "TRANSPOSE": 5}

# Layers of a quantisation-aware network that are no operators, and calls that ask for a scale.
_ROUNDING = (FakeQuant, Rescale, RescaleSum)
_APART = {"is_average", "is_step", "is_scale"}

_ONE_DIMENSIONAL = (
    layers.Conv1D,
    layers.Conv1DTranspose,
    layers.SeparableConv1D,
    layers.DepthwiseConv1D,
)


def to_tflite(model: Any, representative_data: object = None, format: str = "int8") -> bytes:
    """Convert a model to a flatbuffer of integers: int8 in, int8 out, int8 in between.

    Weights are quantised per output channel, activations by the ranges they take on the
    representative data; for a model from `quantize_aware`, by the ranges that were trained. The
    batch size is fixed to 1, as a microcontroller runs it, and every operator is one that
    TensorFlow Lite Micro has. Inputs and outputs stand in the order of the model.

    Args:
        model: A Sequential or functional model of plain layers, from `slim`, or a trained model
            from `quantize_aware`. If Keras does not run on TensorFlow here, the conversion runs in
            a process of its own.
        representative_data: Inputs like those the network will see, some 100 of them: an array
            of shape `(samples, ...)`; for several inputs a list of arrays in their order, or a
            dict of arrays by name; a `tf.data.Dataset`; or a generator of samples or batches, or a
            function that returns one. Elements `(x, y)` are read as in `fit`. Not needed for
            format "float".
        format: "int8"; "int16x8", with 16-bit activations, closer to float and slower; or "float".

    Returns:
        The content of a `.tflite` file, without what no runtime reads (see `repack`), and with a
        plan of the arena where the one that TensorFlow Lite Micro makes itself leaves gaps.

    Raises:
        ValueError: `model` still has masks, has weights that are not finite or an input with open
            dimensions; the representative data are too few, not finite, of another shape or type
            than the inputs, or all the same; or the converter refuses a layer.
        UnsupportedOpError: TensorFlow Lite Micro lacks an operator that a layer became, or has it
            in float only, or a recurrent layer is not unrolled; the message names the layers.
        TypeError, UnsupportedLayerError: As `add_masks`.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> x = np.random.default_rng(0).normal(size=(100, 4)).astype("float32")
        >>> to_tflite(model, representative_data=x)[4:8]
        b'TFL3'
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}.")
    if isinstance(model, TfmotModel):
        return _checked(model.graph, in_order(model.to_flatbuffer(format)), format)
    graph = read_graph(model)
    check_unmasked(graph)
    _check_weights(graph)
    _check_shapes(graph)
    if format != "float":
        _check_loops(graph)
    if representative_data is None and format != "float":
        raise ValueError(
            f"to_tflite needs representative_data to find the ranges of the activations for "
            f"{format}: some 100 inputs, from the training data."
        )
    samples = [] if format == "float" else read_samples(graph.inputs, representative_data)
    flatbuffer = convert(graph, samples, format)
    for _ in range(_TRIES):
        if format == "float" or not _splits_floats(read(flatbuffer)):
            break
        flatbuffer = convert(graph, samples, format)
    return _checked(graph, flatbuffer, format)


def _splits_floats(network: Network) -> bool:
    """Whether a SPLIT is left in float: every fourth time or so that of an unrolled LSTM is.

    At its first step nothing reads what it would forget. Asked again the converter does otherwise.
    """
    return any(
        operator.name == "SPLIT" and network.tensors[operator.outputs[0]].dtype == np.float32
        for operator in network.operators
    )


def _checked(graph: Graph, flatbuffer: bytes, format: str) -> bytes:
    network = read(flatbuffer)
    check_operators(graph, network, format)
    # The converter's long names go; those of the layers stay, for generated C is named after them.
    inputs = {i: t.name for i, t in zip(network.inputs, tree.flatten(graph.inputs), strict=True)}
    names = layer_names(graph, network) | inputs
    return repack(flatbuffer, names, plan_ahead(network))


def in_order(flatbuffer: bytes) -> bytes:
    """The converter's flatbuffer with inputs and outputs in the order of the model.

    The converter has an order of its own, and tells in the signature which is which: the numbers
    at the end of their names there count them in the model's order.
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(flatbuffer, 0))
    (signature,) = model.signatureDefs
    model.subgraphs[0].inputs = _indices(signature.inputs)
    model.subgraphs[0].outputs = _indices(signature.outputs)
    return pack(model)


def _indices(ends: list[schema.TensorMapT]) -> np.ndarray:
    numbered = {int(re.findall(rb"\d+", end.name)[-1]): end.tensorIndex for end in ends}
    return np.array([numbered[n] for n in sorted(numbered)], np.int32)


def convert(graph: Graph, samples: list[np.ndarray], format: str) -> bytes:
    """The converter's own flatbuffer, with tensor names that `layer_names` can read.

    Args:
        graph: A checked model without masks.
        samples: One array per input; none for format "float".
        format: One of `FORMATS`.
    """
    if keras.backend.backend() != "tensorflow":
        return _convert_in_child(graph, samples, format)
    import tensorflow as tf

    model = _plain_model(graph, is_rounded=format == "int8")

    def batches() -> Iterator[dict[str, np.ndarray]]:
        # By name: the converter sorts the inputs.
        for sample in zip(*samples, strict=True):
            yield {t.name: v[np.newaxis] for t, v in zip(model.inputs, sample, strict=True)}

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if format != "float":
        ops = tf.lite.OpsSet
        only_16x8 = ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        int8 = format == "int8"
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = batches
        # Only integer operators: what has none fails here and not on the board.
        converter.target_spec.supported_ops = [ops.TFLITE_BUILTINS_INT8 if int8 else only_16x8]
        converter.inference_input_type = tf.int8 if int8 else tf.int16
        converter.inference_output_type = converter.inference_input_type
    with quiet() as said:
        try:
            return in_order(converter.convert())
        except Exception as error:  # The converter raises bare Exception, among others.
            text = f"{error}\n{said()}"
            blamed = ", ".join(f"layer {name!r}" for name in _named(graph, text))
            raise ValueError(
                f"TensorFlow cannot convert {graph.name!r} to {format}, because of "
                f"{blamed or 'a part that it does not name'}. "
                f"It says: {_without_marks(text).strip()}"
            ) from error


def layer_names(graph: Graph, network: Network) -> dict[int, str]:
    """Index of a tensor that an operator computes -> the layer that it belongs to.

    Where the converter has merged layers, it is the first of them: the convolution, not the ReLU
    behind it.

    Args:
        graph: The model that was converted.
        network: What `convert` made of it, read.
    """
    makers = {id(t): t.name for t in tree.flatten(graph.inputs)}
    for call in graph.calls:
        is_fake = isinstance(call.operation, _ROUNDING)
        name = makers[id(call.inputs[0])] if is_fake else call.operation.name
        makers.update((id(t), name) for t in call.outputs)
    ends = [makers[id(t)] for t in tree.flatten(graph.outputs)]
    # The converter calls the outputs by names of its own.
    found = dict(zip(network.outputs, ends, strict=True))
    for operator in network.operators:
        for index in operator.outputs:
            names = _named(graph, network.tensors[index].name)
            if names:
                found[index] = names[0]
    return found


def check_operators(graph: Graph, network: Network, format: str) -> None:
    """Refuse operators that TensorFlow Lite Micro lacks, naming the layers they come from."""
    names = layer_names(graph, network)
    refused: list[str] = []
    detours: list[str] = []
    for operator in network.operators:
        why = _lacking(operator, network, format)
        if why is None:
            continue
        layer = names.get(operator.outputs[0])
        label = f"layer {layer!r}" if layer else "an unnamed part"
        found = detours if operator.name == "DEQUANTIZE" else refused
        found.append(f"{label} became {_kind(operator)}{why}")
    # Integers become floats for the sake of what is refused by itself, or for nothing.
    refused = refused or detours
    if refused:
        raise UnsupportedOpError(
            f"TensorFlow Lite Micro cannot run this network in {format}: "
            f"{'; '.join(dict.fromkeys(refused))}. Replace these layers."
        )


def _kind(operator: Operator) -> str:
    return operator.options.get("custom_code") or operator.name


def _lacking(operator: Operator, network: Network, format: str) -> str | None:
    """What TensorFlow Lite Micro lacks of an operator, to follow its name; None if nothing."""
    kind, output = _kind(operator), operator.outputs[0]
    is_float = network.tensors[output].dtype == np.float32
    is_end = kind == "DEQUANTIZE" and output in network.outputs
    if not has_operator(kind):
        return ""
    if format != "float" and is_float and not is_end:
        return ", which the converter has in float only"
    if not is_float and kind in _FLOAT_ONLY:
        return ", which TensorFlow Lite Micro has in float only"
    if kind in _MOST_AXES:
        axes = len(network.tensors[operator.inputs[0]].shape)
        if axes > _MOST_AXES[kind]:
            return f" of {axes} axes, where TensorFlow Lite Micro takes {_MOST_AXES[kind]}"
    return None


def _plain_model(graph: Graph, is_rounded: bool) -> keras.Model:
    """The model as the converter reads it: batch size 1, plain kernels, marked names, flat lists.

    The converter rounds a kernel that is rounded already to the very same integers, so of a
    quantisation-aware model only the ranges of the activations need operations.
    """
    copies = copy_layers(graph)
    for number, layer in enumerate(graph.layers):
        if isinstance(layer, FakeQuantWeights):
            copies[id(layer)] = copies[id(layer)].layer
        if isinstance(layer, layers.UpSampling2D) and layer.interpolation == "nearest":
            copies[id(layer)] = _NearestResize(layer.size, layer.data_format)
        if isinstance(copies[id(layer)], _ONE_DIMENSIONAL) and _has_one_bias(layer):
            copies[id(layer)] = _OneFilter(copies[id(layer)])
        copies[id(layer)].name = marked(layer.name, number)

    def call(step: Call, /, *args: Any, **kwargs: Any) -> Any:
        # Averages have the scale of their input anyway; scales are the converter's own matter.
        is_left_out = isinstance(step.operation, Rescale | RescaleSum) or _APART & set(kwargs)
        if is_left_out or (isinstance(step.operation, FakeQuant) and not is_rounded):
            return args[0]
        return copies[id(step.operation)](*args, **kwargs)

    # With an open batch size the converter adds operators that find it out.
    model = rebuild(graph, call, batch_size=1)
    model.name = "network"
    for layer in graph.layers:
        if isinstance(layer, FakeQuantWeights):
            copies[id(layer)].set_weights(layer.plain_weights(is_rounded))
        elif copies[id(layer)].built:
            give_weights(copies[id(layer)], layer.weights)
    # Whatever the structure, and the names, of inputs and outputs: `in_order` goes by numbers.
    inputs = [
        keras.Input(batch_shape=t.shape, dtype=t.dtype, name=f"input_{number}")
        for number, t in enumerate(model.inputs)
    ]
    outputs = model(tree.pack_sequence_as(graph.inputs, inputs))
    return keras.Model(inputs, tree.flatten(outputs), name="plain")


def _has_one_bias(layer: layers.Layer) -> bool:
    return [w.shape for w in layer.weights if w.name == "bias"] == [(1,)]


class _OneFilter(layers.Layer):
    """Convolutions along a series: the bias of a single filter would stay an operator of its own.

    It is added, and the activation applied, where there are two dimensions yet.
    """

    def __init__(self, layer: layers.Layer) -> None:
        super().__init__()
        self.layer = layer

    def build(self, shape: tuple[int, ...]) -> None:
        self.layer.build(shape)
        self.layer.use_bias = False
        self.activation, self.layer.activation = self.layer.activation, None

    def call(self, x: Any) -> Any:
        sums = keras.ops.expand_dims(self.layer(x), 1)
        return keras.ops.squeeze(self.activation(sums + self.layer.bias), 1)


class _NearestResize(layers.Layer):
    """UpSampling2D: Keras repeats rows and columns, in an operator that a microcontroller lacks."""

    def __init__(self, size: tuple[int, int], data_format: str) -> None:
        super().__init__()
        self.size, self.data_format = size, data_format

    def call(self, x: Any) -> Any:
        lengths = x.shape[1:3] if self.data_format == "channels_last" else x.shape[2:]
        larger = [length * times for length, times in zip(lengths, self.size, strict=True)]
        return keras.ops.image.resize(x, larger, "nearest", data_format=self.data_format)


def _named(graph: Graph, text: str) -> list[str]:
    """The layers whose marks are in a text, in the order of the graph."""
    numbers = {int(n) for n in re.findall(rf"{MARK}(\d+)", text)}
    named = [layer for n, layer in enumerate(graph.layers) if n in numbers]
    return [layer.name for layer in named if not isinstance(layer, _ROUNDING)]


def _without_marks(text: str) -> str:
    return re.sub(rf"{MARK}\d+", "", text)


def _check_weights(graph: Graph) -> None:
    bad = [
        f"{variable.name!r} of layer {layer.name!r}"
        for layer in graph.layers
        for variable, value in zip(layer.weights, layer.get_weights(), strict=True)
        if not np.isfinite(value).all()
    ]
    if bad:
        raise ValueError(
            f"Model {graph.name!r} has weights that are NaN or infinite: {', '.join(bad)}. "
            "Training has diverged: take an earlier checkpoint, or a lower learning rate."
        )


def _check_shapes(graph: Graph) -> None:
    for tensor in tree.flatten(graph.inputs):
        if None in tensor.shape[1:]:
            raise ValueError(
                f"Input {tensor.name!r} has shape {tuple(tensor.shape)} with open dimensions; "
                "memory on a microcontroller is planned ahead. Build the model on an Input of "
                "fixed shape."
            )


def _check_loops(graph: Graph) -> None:
    """Refuse recurrent layers that loop: on these the converter ends the process."""
    wrapped = ("forward_layer", "layer")
    loops = [
        f"{layer.name!r} ({type(layer).__name__})"
        for layer in graph.layers
        if any(
            getattr(part, "unroll", True) is False
            for part in (layer, *(getattr(layer, name, None) for name in wrapped))
        )
    ]
    if loops:
        raise UnsupportedOpError(
            f"Recurrent layers that loop have no integer form: {', '.join(loops)}. Build them "
            "with unroll=True, which makes every step operators of its own; weights stay the same."
        )


def _convert_in_child(graph: Graph, samples: list[np.ndarray], format: str) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_model(graph).save(folder / "model.keras")
        np.savez(folder / "samples.npz", *samples)
        (folder / "format").write_text(format)
        run_in_child(__name__, "_convert_folder", folder, KERAS_BACKEND="tensorflow")
        return (folder / "model.tflite").read_bytes()


def _convert_folder(folder: Path) -> None:
    model = keras.models.load_model(folder / "model.keras", compile=False)
    with np.load(folder / "samples.npz") as archive:
        samples = [archive[name] for name in archive.files]
    flatbuffer = convert(read_graph(model), samples, (folder / "format").read_text())
    (folder / "model.tflite").write_bytes(flatbuffer)
