"""Network → Program: every operator as a step, in order; text and memory plan are made from it."""

import dataclasses
import re
from collections.abc import Callable

import numpy as np

from kprune.c import elementwise, moving, tables, weighted
from kprune.c.names import unique_names
from kprune.c.step import Argument, Array, Constant, Op, Place, Refusal, Step, describe, int8
from kprune.errors import UnsupportedOpError
from kprune.flatbuffer import Network, Operator, Tensor

# Beyond any microcontroller's RAM, and beyond what is worth planning.
_LARGEST_TENSOR = 2**26

_LOWERINGS: dict[str, Callable[[Op], Step]] = {
    **weighted.LOWERINGS,
    **tables.LOWERINGS,
    **elementwise.LOWERINGS,
    **moving.LOWERINGS,
}


@dataclasses.dataclass(frozen=True)
class Layer:
    """A step with a name, and the tensors it reads and writes (by the tensor that owns them)."""

    name: str
    step: Step
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    shapes: str


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A network ready to be laid out in memory and printed.

    Attributes:
        layers: In the order in which they run.
        tensors: Of the network, by index.
        owners: The tensor whose memory each tensor uses: its own, or that of the input of a
            reshape.
        inputs: The network's inputs.
        outputs: The network's outputs, no two of which share their memory.
    """

    layers: tuple[Layer, ...]
    tensors: tuple[Tensor, ...]
    owners: dict[int, int]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def lower(network: Network) -> Program:
    """Turn the operators of a network into steps.

    Raises:
        UnsupportedOpError: An operator, type or option has no code. The message names each.
    """
    _check_ends(network)
    owners = _owners(network)
    steps: list[Step] = []
    refusals = []
    kept = [op for op in network.operators if not _is_renaming(op, owners)]
    for operator in kept:
        try:
            steps.append(_lower(network, operator))
            _check_outputs(network, owners, operator)
        except Refusal as refusal:
            refusals.append(f"{_title(network, operator)}: {refusal}")
    if refusals:
        raise UnsupportedOpError(
            "to_c has no code for " + "; ".join(refusals) + ". Change or leave out what is named, "
            "or write the network with to_c_array and run it with TensorFlow Lite Micro."
        )
    names = unique_names(_layer_names(network, kept))
    layers = tuple(
        _layer(network, owners, operator, name, step)
        for operator, name, step in zip(kept, names, steps, strict=True)
    )
    return Program(
        layers,
        network.tensors,
        owners,
        tuple(network.tensors[i] for i in network.inputs),
        tuple(network.tensors[i] for i in network.outputs),
    )


def _lower(network: Network, operator: Operator) -> Step:
    if operator.name not in _LOWERINGS:
        raise Refusal("there is no kernel for it")
    tensors = [network.tensors[i] for i in (*operator.inputs, *operator.outputs) if i >= 0]
    for tensor in tensors:
        if tensor.data is None and not 0 < tensor.num_bytes <= _LARGEST_TENSOR:
            raise Refusal(f"{describe(tensor)} has shape {tensor.shape}")
        if tensor.is_variable:
            raise Refusal(f"{describe(tensor)} keeps its values between runs")
    try:
        with np.errstate(over="raise", divide="raise", invalid="raise"):
            step = _LOWERINGS[operator.name](Op(network, operator))
    except (ArithmeticError, LookupError, ValueError, TypeError) as error:
        # Operators with the wrong number of inputs, axes beyond the shape, and the like.
        raise Refusal(f"its inputs and options do not fit together ({error})") from error
    return _with_operands(network, step)


def _check_outputs(network: Network, owners: dict[int, int], operator: Operator) -> None:
    """Float values are the caller's alone: the arena holds bytes, at any address."""
    callers = {owners[i] for i in (*network.inputs, *network.outputs)}
    for tensor in (network.tensors[i] for i in operator.outputs if owners[i] not in callers):
        if tensor.dtype != np.int8:
            raise Refusal(
                f"{describe(tensor)} is {tensor.dtype}, which only an input or output of the "
                "network may be; between operators to_c needs int8"
            )


def _with_operands(network: Network, step: Step) -> Step:
    """Print the constant tensors among the arguments as arrays of the step."""
    arrays: dict[int, Array] = {}

    def replaced(argument: Argument) -> Argument:
        if not isinstance(argument, Place):
            return argument
        values = network.tensors[argument.tensor].data
        if values is None:
            return argument
        suffix = f"operand{len(arrays) + 1}" if arrays else "operand"
        array = arrays.setdefault(argument.tensor, Array(suffix, "int8_t", values))
        return Constant(array.suffix)

    calls = tuple(
        dataclasses.replace(call, arguments=tuple(map(replaced, call.arguments)))
        for call in step.calls
    )
    if any(array.values.dtype != np.int8 for array in arrays.values()):
        raise Refusal("a constant operand is not int8")
    return dataclasses.replace(step, constants=(*arrays.values(), *step.constants), calls=calls)


def _check_ends(network: Network) -> None:
    for word, indices in (("input", network.inputs), ("output", network.outputs)):
        if not indices:
            raise UnsupportedOpError(
                f"to_c needs a network with an {word}, and this one has none. Convert a model "
                "that takes and gives something."
            )
        for index in indices:
            _check_end(word, network.tensors[index])
    computed = {i for operator in network.operators for i in operator.outputs}
    for index in network.outputs:
        if index not in computed or network.outputs.count(index) > 1:
            raise UnsupportedOpError(
                f"to_c writes outputs that an operator computes, each once; tensor "
                f"{network.tensors[index].name!r} is an input, a constant, or an output twice. "
                "Leave it out of the model's outputs."
            )
    if network.subgraphs:
        raise UnsupportedOpError(
            f"to_c writes networks of one graph; this one has {len(network.subgraphs)} more, "
            "which operators such as WHILE run. Convert a model without loops and branches."
        )


def _check_end(word: str, tensor: Tensor) -> None:
    if tensor.dtype not in (np.int8, np.float32):
        raise UnsupportedOpError(
            f"to_c needs an int8 or float32 {word}; {tensor.name!r} is {tensor.dtype}. "
            "Convert the model with int8 input and output."
        )
    if tensor.dtype == np.int8:
        try:
            int8(tensor)
        except Refusal as refusal:
            raise UnsupportedOpError(f"to_c cannot take this {word}: {refusal}") from None


def _owners(network: Network) -> dict[int, int]:
    owners = {tensor.index: tensor.index for tensor in network.tensors}
    ends = {*network.inputs, *network.outputs}
    for operator in network.operators:
        if operator.name not in moving.RENAMES or not operator.inputs:
            continue
        source, output = operator.inputs[0], operator.outputs[0]
        owner = owners.get(source)
        if owner is None or network.tensors[owner].data is not None:
            continue
        # The caller's inputs and outputs are buffers apart: what is two of them must be copied.
        if output in ends:
            if owner in ends:
                continue
            ends.add(owner)
        owners[output] = owner
    return owners


def _is_renaming(operator: Operator, owners: dict[int, int]) -> bool:
    return operator.name in moving.RENAMES and owners[operator.outputs[0]] != operator.outputs[0]


def _layer(
    network: Network, owners: dict[int, int], operator: Operator, name: str, step: Step
) -> Layer:
    read = [i for i in operator.inputs if i >= 0 and network.tensors[i].data is None]
    inputs = " and ".join(_shape(network.tensors[i]) for i in read)
    outputs = " and ".join(_shape(network.tensors[i]) for i in operator.outputs)
    overlaps = {owners[tensor]: overlap for tensor, overlap in step.overlaps.items()}
    return Layer(
        name,
        dataclasses.replace(step, overlaps=overlaps),
        tuple(dict.fromkeys(owners[i] for i in read)),
        tuple(owners[i] for i in operator.outputs),
        f"{inputs} -> {outputs}",
    )


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(str(length) for length in tensor.shape[1:] or tensor.shape)})"


def _title(network: Network, operator: Operator) -> str:
    name = operator.options.get("custom_code", operator.name)
    output = network.tensors[operator.outputs[0]].name if operator.outputs else ""
    return f"{name} (tensor {output!r})"


# Layers that the converter folds into the one before them, by the names people give them.
_FOLDED = re.compile(r"(?i)(^|_)(re_?lu6?|activation|batch_?norm(alization)?|bn)(_?\d+)*$")


def _layer_names(network: Network, operators: list[Operator]) -> list[str]:
    """The Keras layer of each operator, from the name that the converter gave its output.

    Keras 3 exports every layer with a "_1" of its own at the end.
    """
    names = [_layer_name(network, operator) for operator in operators]
    exported = all(name.endswith("_1") for name in names if name)
    return [
        (name.removesuffix("_1") if exported else name)
        or f"{operator.name.lower()}_{network.operators.index(operator)}"
        for name, operator in zip(names, operators, strict=True)
    ]


def _layer_name(network: Network, operator: Operator) -> str:
    """The last scope but one of a tensor's name; of several, one that is no folded layer.

    That name is one path of scopes for each fused operation, with the operation at its end:
    `"model/re_lu/Relu;model/conv2d/BiasAdd;model/conv2d/BiasAdd/ReadVariableOp"`. What `to_tflite`
    writes is the layer's name alone.
    """
    name = network.tensors[operator.outputs[0]].name
    if re.fullmatch(r"(?!StatefulPartitionedCall|Identity)[^/;:]+", name):
        return name
    layers = []
    for path in name.split(";"):
        scopes = [part for part in path.split("/") if part]
        while scopes and scopes[-1].startswith(("ReadVariable", "resource")):
            scopes.pop()
        layers += scopes[-2:-1]
    own = [layer for layer in layers if not _FOLDED.search(layer)]
    return (own or layers or [""])[0]
