"""Keras model and its flatbuffer → what int8 costs, as a whole and layer by layer.

Figures for a device come from TensorFlow Lite Micro, whose kernels the device runs. The layers are
compared in LiteRT, the reference of the format, where every tensor can be looked at.
"""

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table

from kprune.flatbuffer import Network, Operator, Tensor, read
from kprune.graph import read_graph
from kprune.interpreters import dequantize, quantize, run_tflite
from kprune.tflite import convert, layer_names

# As many samples as the layers are compared on: every tensor of both networks is read for each.
LAYER_SAMPLES = 100

# About what 8 bits can hold of values that use their whole range; bars are full here.
_FULL_DB = 50.0
_BAR_WIDTH = 16


@dataclass(frozen=True)
class LayerError:
    """What quantisation leaves of the output of one operator.

    Attributes:
        layer: The Keras layer, the first of those that the converter merged into the operator.
        operator: As the flatbuffer calls it.
        shape: Of the output, batch axis included.
        snr_db: Signal-to-noise ratio against the float model, in decibels: 10 log10 of the sum of
            squares of the float values over that of the differences. 20 dB is an error of 10 %.
            Infinite if there is no difference.
    """

    layer: str
    operator: str
    shape: tuple[int, ...]
    snr_db: float


@dataclass(frozen=True)
class Validation:
    """What `validate` found. Print it with rich, `plot` it, or take its `to_dict`.

    Attributes:
        num_samples: How many samples were run.
        accuracy: Arithmetic ("float", "LiteRT", "TFLite Micro") -> share of right classes; empty
            without labels.
        agreement: Interpreter -> share of samples that get the class the float model gives.
        num_values: How many output values each interpreter gave.
        num_different: In how many of these the two interpreters differ.
        largest_difference: The largest of these differences, in steps of the output.
        layers: The operators in their order.
        unmatched: Operators that have no counterpart in the float network, and so no figure.
    """

    num_samples: int
    accuracy: dict[str, float]
    agreement: dict[str, float]
    num_values: int
    num_different: int
    largest_difference: int
    layers: list[LayerError]
    unmatched: list[str]

    @property
    def worst(self) -> LayerError | None:
        """The layer where most of the signal is lost: the largest fall below the layers before."""
        worst, fall, least = None, 0.0, _FULL_DB
        for error in self.layers:
            if least - error.snr_db > fall:
                worst, fall = error, least - error.snr_db
            least = min(least, error.snr_db)
        return worst

    def to_dict(self) -> dict:
        """The findings as plain data for JSON, where an infinite ratio is None."""
        found = asdict(self)
        for row in found["layers"]:
            row["snr_db"] = row["snr_db"] if math.isfinite(row["snr_db"]) else None
        return found

    def __rich__(self) -> Group:
        return Group(_score_table(self), _layer_table(self))

    def plot(self, path: str | os.PathLike) -> None:
        """Draw the signal-to-noise ratio of every layer; the suffix of `path` says the format."""
        import matplotlib.figure

        height = 1.5 + 0.25 * len(self.layers)
        figure = matplotlib.figure.Figure(figsize=(8, height), layout="constrained")
        axes = figure.subplots()
        rows = range(len(self.layers))
        colors = ["tab:red" if error is self.worst else "tab:blue" for error in self.layers]
        axes.barh(rows, [min(e.snr_db, 2 * _FULL_DB) for e in self.layers], color=colors)
        axes.set_yticks(rows, [f"{e.layer}  {e.operator}" for e in self.layers])
        axes.set(
            title="Quantisation error by layer (red: where most is lost)",
            xlabel="signal-to-noise ratio in dB",
        )
        axes.grid(axis="x", alpha=0.3)
        axes.invert_yaxis()
        figure.savefig(path, dpi=120)


def validate(
    model: keras.Model, flatbuffer: bytes, x: np.ndarray, y: np.ndarray | None = None
) -> Validation:
    """Compare a flatbuffer with the Keras model that it came from.

    Args:
        model: The float model, of one input and one output; of a model from `quantize_aware`, the
            network without its rounding is taken for the layers.
        flatbuffer: The content of a `.tflite` file with batch size 1, repacked or not.
        x: Samples, shape `(samples, ...)`, that neither training nor quantisation has seen.
        y: Labels, shape `(samples,)`, or one-hot `(samples, classes)`. Without them there is no
            accuracy.

    Returns:
        Accuracy in float, LiteRT and TFLite Micro; how far the two interpreters differ; and the
        signal-to-noise ratio of every layer, over the first 100 samples.

    Raises:
        FlatbufferError: `flatbuffer` is no sound TensorFlow Lite flatbuffer.
        ValueError: Model, flatbuffer, `x` and `y` do not fit each other.
        ToolNotFoundError: TensorFlow Lite Micro is not installed.
        TypeError, UnsupportedLayerError: As `add_masks`.

    Example:
        Given `flatbuffer` from `to_tflite` and a test set:

            found = validate(small, flatbuffer, x_test, y_test)
            rich.print(found)
            found.plot("layers.png")
    """
    graph = read_graph(model)
    network = read(flatbuffer)
    if len(network.inputs) != 1 or len(network.outputs) != 1:
        raise ValueError(
            "validate compares networks of one input and one output, but the flatbuffer has "
            f"{len(network.inputs)} and {len(network.outputs)}. Compare run_tflite(flatbuffer, x) "
            "with model.predict(x), or validate a model per output."
        )
    x = np.asarray(x)
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"x has no samples: its shape is {x.shape}, expected (samples, ...).")
    target = network.tensors[network.outputs[0]]
    source = network.tensors[network.inputs[0]]
    labels = None if y is None else _labels(np.asarray(y), len(x), max(target.size, 2))
    samples = quantize(x, source)
    raw = {
        "LiteRT": run_tflite(flatbuffer, samples),
        "TFLite Micro": run_tflite(flatbuffer, samples, "tflm"),
    }
    scores = {"float": _predict(model, x)}
    scores.update((name, dequantize(values, target)) for name, values in raw.items())
    if scores["float"].shape != scores["LiteRT"].shape:
        raise ValueError(
            f"The outputs of {model.name!r} have shape {scores['float'].shape}, those of the "
            f"flatbuffer {scores['LiteRT'].shape}: it comes from another model."
        )
    classes = {name: _classes(values, scores["float"]) for name, values in scores.items()}
    accuracy = {} if labels is None else {n: _share(c == labels) for n, c in classes.items()}
    agreement = {name: _share(classes[name] == classes["float"]) for name in raw}
    difference = np.abs(np.subtract(*(v.astype(np.float64) for v in raw.values())))
    layers, unmatched = _layer_errors(graph, flatbuffer, samples[:LAYER_SAMPLES], x)
    return Validation(
        num_samples=len(x),
        accuracy=accuracy,
        agreement=agreement,
        num_values=difference.size,
        num_different=int(np.count_nonzero(difference)),
        largest_difference=int(difference.max()),
        layers=layers,
        unmatched=unmatched,
    )


def _predict(model: keras.Model, x: np.ndarray) -> np.ndarray:
    batches = [x[start : start + 64] for start in range(0, len(x), 64)]
    parts = [keras.ops.convert_to_numpy(model(batch, training=False)) for batch in batches]
    return np.concatenate(parts)


def _labels(y: np.ndarray, num_samples: int, num_classes: int) -> np.ndarray:
    one_hot = (num_samples, num_classes)
    labels = y.argmax(-1) if y.shape == one_hot else y.reshape(-1)
    if len(labels) != num_samples:
        raise ValueError(
            f"y has {len(labels)} labels for the {num_samples} samples of x; one-hot it would have "
            f"the shape {one_hot}."
        )
    # Whole numbers in floating point will do; in texts, numpy would look for the digits.
    is_number = y.dtype.kind in "biuf"
    wrong = labels[~np.isin(labels, np.arange(num_classes))] if is_number else labels
    if len(wrong):
        raise ValueError(
            f"y must be whole numbers from 0 to {num_classes - 1}, one for each class, "
            f"got {wrong.tolist()[0]!r}."
        )
    return labels


def _classes(scores: np.ndarray, scores_float: np.ndarray) -> np.ndarray:
    if scores.shape[-1] > 1:
        return scores.reshape(len(scores), -1).argmax(-1)
    # One score for two classes: a probability, or a logit.
    is_probability = scores_float.min() >= 0 and scores_float.max() <= 1
    return (scores.reshape(len(scores)) > (0.5 if is_probability else 0.0)).astype(int)


def _share(right: np.ndarray) -> float:
    return float(np.mean(right))


# --- Layer by layer -----------------------------------------------------------------------------


def _layer_errors(
    graph: Any, flatbuffer: bytes, samples: np.ndarray, x: np.ndarray
) -> tuple[list[LayerError], list[str]]:
    in_float = convert(graph, [], "float")
    reference, network = read(in_float), read(flatbuffer)
    names = layer_names(graph, reference)
    same = match(network, reference)
    computed = [(o, i) for o in network.operators for i in o.outputs if o.name != "QUANTIZE"]
    pairs = [(o, i) for o, i in computed if i in same]
    signal, noise = np.zeros(len(pairs)), np.zeros(len(pairs))
    read_float, read_int = _tensor_reader(in_float), _tensor_reader(flatbuffer)
    for sample, real in zip(samples, x, strict=False):
        wanted = read_float(real.astype(np.float32), [same[i] for _, i in pairs])
        given = read_int(sample, [i for _, i in pairs])
        for row, ((_, i), want, got) in enumerate(zip(pairs, wanted, given, strict=True)):
            signal[row] += np.sum(np.square(want, dtype=np.float64))
            error = want - dequantize(got, network.tensors[i])
            noise[row] += np.sum(np.square(error, dtype=np.float64))
    errors = [
        LayerError(names.get(same[i], ""), o.name, network.tensors[i].shape, _decibels(s, n))
        for (o, i), s, n in zip(pairs, signal, noise, strict=True)
    ]
    return errors, [f"{o.name} ({network.tensors[i].name})" for o, i in computed if i not in same]


def _decibels(signal: float, noise: float) -> float:
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def match(network: Network, reference: Network) -> dict[int, int]:
    """Pair the tensors of two conversions of one model, whatever their names and order.

    Two operators are the same if they are of one kind, read the same tensors and give the same
    shape; where several are, as in parallel branches, the nearest weights decide. Where the tensors
    in front have no pair, the weights alone must tell.

    Returns:
        Index of a tensor of `network` -> index of the tensor of `reference`.
    """
    same = dict(zip(network.inputs, reference.inputs, strict=True))
    free = list(reference.operators)
    for operator in network.operators:
        read_here = [same.get(i, -1) for i in _activations(network, operator)]
        if operator.name == "QUANTIZE":
            same.update((i, read_here[0]) for i in operator.outputs if read_here[0] != -1)
            continue
        alike = [o for o in free if _is_alike(network, operator, reference, o)]
        fitting = [o for o in alike if sorted(_activations(reference, o)) == sorted(read_here)]
        distances = [
            (_distance(network, operator, reference, o), n, o)
            for n, o in enumerate(fitting or alike)
        ]
        distance, _, found = min(distances, default=(math.inf, 0, operator))
        if distance < (math.inf if fitting else 0.5):
            free.remove(found)
            same.update(zip(operator.outputs, found.outputs, strict=True))
    return same


def _activations(network: Network, operator: Operator) -> list[int]:
    return [i for i in operator.inputs if i != -1 and network.tensors[i].data is None]


def _constants(network: Network, operator: Operator) -> list[Tensor]:
    """The weights, without the biases, which a converter may leave out or add."""
    tensors = [network.tensors[i] for i in operator.inputs[:2] if i != -1]
    return [t for t in tensors if t.data is not None and t.dtype.kind != "b"]


def _is_alike(network: Network, a: Operator, reference: Network, b: Operator) -> bool:
    def outline(where: Network, o: Operator) -> tuple:
        made = [where.tensors[i].shape for i in o.outputs]
        return o.name, made, [t.shape for t in _constants(where, o)]

    return outline(network, a) == outline(reference, b)


def _distance(network: Network, a: Operator, reference: Network, b: Operator) -> float:
    """How far the weights are apart, relative to their size; infinite without weights."""
    pairs = zip(_constants(network, a), _constants(reference, b), strict=True)
    values = [(_real(s), _real(t)) for s, t in pairs]
    size = sum(np.abs(t).sum() for _, t in values)
    apart = sum(np.abs(s - t).sum() for s, t in values)
    return float(apart / size) if size else 1e9


def _real(tensor: Tensor) -> np.ndarray:
    values = np.asarray(tensor.data, np.float64)
    if not len(tensor.scale):
        return values
    over = [len(tensor.scale) if a == tensor.quantized_axis else 1 for a in range(values.ndim)]
    shift = tensor.zero_point.reshape(over)
    return (values - shift) * tensor.scale.reshape(over)


def _tensor_reader(flatbuffer: bytes) -> Callable[[np.ndarray, Iterable[int]], list[np.ndarray]]:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=flatbuffer,
        num_threads=1,
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]

    def run(sample: np.ndarray, tensors: Iterable[int]) -> list[np.ndarray]:
        interpreter.set_tensor(source, sample[np.newaxis])
        interpreter.invoke()
        return [interpreter.get_tensor(i) for i in tensors]

    return run


# --- Shown --------------------------------------------------------------------------------------


def _score_table(found: Validation) -> Table:
    table = Table(title=f"{found.num_samples:,} samples", box=box.SIMPLE)
    table.add_column("arithmetic")
    table.add_column("accuracy", justify="right")
    table.add_column("same class as float", justify="right")
    for name in ("float", *found.agreement):
        accuracy = f"{found.accuracy[name]:.2%}" if found.accuracy else ""
        agreement = f"{found.agreement[name]:.2%}" if name in found.agreement else ""
        table.add_row(name, accuracy, agreement)
    table.caption = (
        f"LiteRT and TFLite Micro differ in {found.num_different:,} of {found.num_values:,} output "
        f"values, by {found.largest_difference} at most."
    )
    return table


def _layer_table(found: Validation) -> Table:
    table = Table(title="quantisation error by layer", box=box.SIMPLE)
    for heading in ("layer", "operator", "output"):
        table.add_column(heading)
    table.add_column("SNR in dB", justify="right")
    table.add_column("")
    for error in found.layers:
        bar = "█" * round(_BAR_WIDTH * max(0.0, min(1.0, error.snr_db / _FULL_DB)))
        shape = " × ".join(map(str, error.shape[1:]))
        style = "red" if error is found.worst else ""
        table.add_row(error.layer, error.operator, shape, f"{error.snr_db:.1f}", bar, style=style)
    if found.unmatched:
        table.caption = f"Without a counterpart in float: {', '.join(found.unmatched)}."
    return table
