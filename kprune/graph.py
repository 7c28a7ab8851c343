"""A Keras model as a flat list of calls: the one place that walks a model.

Everything downstream (tracing, masking, slimming, costing) is a loop over `Graph.calls`. Nested
models are entered, so a call is always one layer or one bare operation. Only public Keras is used:
`clone_model(call_function=...)` visits the calls in order, and a stand-in operation takes the
place of every layer, so that the walk makes no weights and leaves no trace in the user's model.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from tempfile import TemporaryDirectory
from types import FunctionType, MappingProxyType
from typing import Any

import keras
from keras import tree

from kprune.errors import UnsupportedLayerError


@dataclass(frozen=True, eq=False)
class Call:
    """One use of a layer: `outputs = operation(*args, **kwargs)`, tensors being placeholders."""

    operation: keras.Operation
    args: tuple
    kwargs: dict
    outputs: list[keras.KerasTensor]

    @property
    def inputs(self) -> list[keras.KerasTensor]:
        """The tensors among the arguments, in order."""
        return [t for t in tree.flatten((self.args, self.kwargs)) if _is_tensor(t)]


@dataclass(frozen=True, eq=False)
class Graph:
    """A functional model as straight-line code; its ends keep the structure of the model's."""

    name: str
    inputs: object
    outputs: object
    calls: list[Call] = field(default_factory=list)

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """Every layer once, in the order of first use."""
        operations = {id(call.operation): call.operation for call in self.calls}
        return [o for o in operations.values() if isinstance(o, keras.layers.Layer)]


def read_graph(model: keras.Model) -> Graph:
    """List the calls of a Sequential or functional model, nested models included.

    Args:
        model: A built Sequential or functional model. It is not changed.

    Returns:
        The calls in an order in which they can run, each tensor made by exactly one call.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: `model` has not been built, so its shapes are unknown.
        UnsupportedLayerError: `model`, or a model inside it, is subclassed, so that its graph is
            hidden in Python code, or layers are quantized or have LoRA weights. All by name.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="scores")])
        >>> [call.operation.name for call in read_graph(model).calls]
        ['scores']
    """
    _check_readable(model)
    walk = _Walk()
    inputs = _placeholders(model)
    outputs = walk.resolve(walk.enter(model, inputs, training=None))
    _check_operations(model, [call.operation for call in walk.calls])
    walk.name_outputs(getattr(model, "output_names", []), inputs, outputs)
    return Graph(model.name, inputs, walk.resolve(outputs), walk.calls)


def rebuild(
    graph: Graph, call: Callable[..., object], batch_size: int | None = None
) -> keras.Model:
    """Run the graph on fresh inputs and return the functional model that results.

    Args:
        graph: From `read_graph`.
        call: Called as `call(step, *args, **kwargs)` for each `Call`, with the new tensors in the
            place of the old ones; returns the new output or outputs.
        batch_size: Fixed batch size of the inputs; as before if None.

    Returns:
        An uncompiled functional model with the input names and the structure of the old one.
    """
    new: dict[int, object] = {}

    def renew(value: object) -> object:
        return new[id(value)] if _is_tensor(value) else value

    inputs = tree.map_structure(lambda t: _placeholder(t, t.name, batch_size), graph.inputs)
    new.update(zip(map(id, tree.flatten(graph.inputs)), tree.flatten(inputs), strict=True))
    for step in graph.calls:
        args, kwargs = tree.map_structure(renew, (step.args, step.kwargs))
        outputs = tree.flatten(call(step, *args, **kwargs))
        new.update((id(old), t) for old, t in zip(step.outputs, outputs, strict=True))
    return keras.Model(inputs, tree.map_structure(renew, graph.outputs), name=graph.name)


def copy_model(graph: Graph, batch_size: int | None = None) -> keras.Model:
    """The model once more, with weights of its own; nested models are flattened."""
    copies = copy_layers(graph)

    def call(step: Call, /, *args: object, **kwargs: object) -> object:
        return copies[id(step.operation)](*args, **kwargs)

    model = rebuild(graph, call, batch_size)
    for layer in graph.layers:
        give_weights(copies[id(layer)], layer.weights)
    return model


def give_weights(layer: keras.layers.Layer, values: Sequence) -> None:
    # As NumPy arrays: JAX would share the buffers, and training one model would delete the other's.
    layer.set_weights([keras.ops.convert_to_numpy(value) for value in values])
    # What Normalization computes with are not its weights, but constants made of them.
    if hasattr(layer, "finalize_state"):
        layer.finalize_state()


def copy_layers(
    graph: Graph, changes: Mapping[int, Mapping[str, object]] = MappingProxyType({})
) -> dict[int, keras.Operation]:
    """For each operation of the graph, under its `id`, an unbuilt copy with a name of its own.

    Args:
        graph: The model.
        changes: `id(operation)` -> constructor arguments that differ in the copy.

    Raises:
        UnsupportedLayerError: Layers that cannot be made again from their configuration.
    """
    copies: dict[int, keras.Operation] = {}
    refused = []
    names = _names(graph)
    for operation in {id(c.operation): c.operation for c in graph.calls}.values():
        change = {**changes.get(id(operation), {}), "name": names[id(operation)]}
        try:
            copies[id(operation)] = _copy(operation, change)
        except (NotImplementedError, TypeError, ValueError) as error:
            refused.append(f"{operation.name!r} ({type(operation).__name__}): {error}")
    if refused:
        raise UnsupportedLayerError(
            "These layers cannot be made again from their get_config(), which kprune needs: "
            + "; ".join(refused)
            + ". Give them a get_config() that returns the arguments of their constructor."
        )
    return copies


def _copy(operation: keras.Operation, change: dict[str, object]) -> keras.Operation:
    config = {**_unbuilt(operation.get_config()), **change}
    # A function of the user's (an activation, say) need not be registered.
    functions = [f for f in vars(operation).values() if isinstance(f, FunctionType)]
    with keras.saving.custom_object_scope({f.__name__: f for f in functions}):
        if isinstance(operation, keras.layers.Lambda):
            copy = type(operation).from_config(config, safe_mode=False)
            # Its config holds byte code, which no longer finds the names around it.
            copy.function = operation.function
        else:
            copy = type(operation).from_config(config)
    if hasattr(operation, "save_assets"):
        # What a lookup has learned from data is neither in its config nor in its weights.
        with TemporaryDirectory() as folder:
            operation.save_assets(folder)
            copy.load_assets(folder)
    return copy


def _unbuilt(config: Any) -> Any:
    """Without the shapes for which the layer inside of a wrapper was built."""
    if isinstance(config, dict):
        return {key: _unbuilt(v) for key, v in config.items() if key != "build_config"}
    return [_unbuilt(v) for v in config] if isinstance(config, list) else config


def _names(graph: Graph) -> dict[int, str]:
    """A name for each operation. Nested models, once flattened, may use one twice; then those that
    name an output of the model keep theirs."""
    outputs = {id(t) for t in tree.flatten(graph.outputs)}
    ends = [c for c in graph.calls if outputs & {id(t) for t in c.outputs}]
    operations = {id(c.operation): c.operation for c in [*ends, *graph.calls]}
    taken: set[str] = set()
    return {key: unique(operation.name, taken) for key, operation in operations.items()}


def unique(name: str, taken: set[str]) -> str:
    candidates = chain([name], (f"{name}_{n}" for n in count(1)))
    free = next(c for c in candidates if c not in taken)
    taken.add(free)
    return free


def _is_tensor(value: object) -> bool:
    return isinstance(value, keras.KerasTensor)


class _Step(keras.Operation):
    """Stands in for a layer during the walk: same shapes, no weights."""

    def __init__(self, operation: keras.Operation) -> None:
        super().__init__()
        self.operation = operation

    def compute_output_spec(self, *args: object, **kwargs: object) -> object:
        return self.operation.compute_output_spec(*args, **kwargs)


class _Walk:
    def __init__(self) -> None:
        self.calls: list[Call] = []
        # What stands for another tensor: the placeholders inside of a nested model and its outputs.
        self.alias: dict[int, keras.KerasTensor] = {}

    def enter(self, model: keras.Model, inputs: object, training: bool | None) -> object:
        """Visit the calls of `model` on `inputs`; return its outputs."""
        return keras.models.clone_model(
            # The view drops the compile state and any subclass, which cloning would try to copy.
            keras.Model(*_ends(model)),
            input_tensors=inputs,
            clone_function=lambda operation: operation,
            call_function=lambda *args, **kwargs: self.visit(training, *args, **kwargs),
        ).output

    def visit(
        self, training: bool | None, operation: keras.Operation, /, *args: object, **kwargs: object
    ) -> object:
        if training is not None and _takes_training(operation):
            kwargs = {"training": training, **kwargs}
        outputs = _Step(operation)(*args, **kwargs)
        args, kwargs = self.resolve((args, kwargs))
        call = Call(operation, args, kwargs, tree.flatten(outputs))
        if _has_graph(operation):
            self.inline(call)
        else:
            self.calls.append(call)
        return outputs

    def inline(self, call: Call) -> None:
        inputs = _placeholders(call.operation)
        for inner, outer in zip(tree.flatten(inputs), call.inputs, strict=True):
            self.alias[id(inner)] = outer
        inside = self.enter(call.operation, inputs, call.kwargs.get("training"))
        for outer, inner in zip(call.outputs, tree.flatten(inside), strict=True):
            self.alias[id(outer)] = self.resolve(inner)

    def name_outputs(self, names: list[str], inputs: object, outputs: object) -> None:
        """Keep the name of an output that a nested model made, once that model is flattened."""
        makers = {id(t): call.operation.name for call in self.calls for t in call.outputs}
        makers.update((id(t), t.name) for t in tree.flatten(inputs))
        for name, tensor in zip(names, tree.flatten(outputs), strict=False):
            if makers[id(tensor)] != name:
                named = keras.KerasTensor(tensor.shape, dtype=tensor.dtype)
                self.calls.append(Call(keras.layers.Identity(name=name), (tensor,), {}, [named]))
                self.alias[id(tensor)] = named

    def resolve(self, structure: Any) -> Any:
        return tree.map_structure(lambda t: self.alias.get(id(t), t), structure)


def _has_graph(operation: object) -> bool:
    return isinstance(operation, keras.Sequential | keras.Function)


def _ends(model: keras.Model) -> tuple[object, object]:
    """Inputs and outputs in the structure in which the model takes and gives them."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0], model.outputs[0]
    return model.input, model.output


def _placeholders(model: keras.Model) -> object:
    """Fresh inputs like those of the model, in its structure, and with the names of its layers."""
    view = keras.Model(*_ends(model))
    names = {id(x.output): x.name for x in view.layers if isinstance(x, keras.layers.InputLayer)}
    return tree.map_structure(lambda t: _placeholder(t, names[id(t)]), view.input)


def _placeholder(
    t: keras.KerasTensor, name: str, batch_size: int | None = None
) -> keras.KerasTensor:
    return keras.Input(
        batch_shape=(batch_size or t.shape[0], *t.shape[1:]), dtype=t.dtype, name=name
    )


def _takes_training(operation: object) -> bool:
    return (
        isinstance(operation, keras.layers.Layer)
        and "training" in inspect.signature(operation.call).parameters
    )


def _check_operations(model: keras.Model, operations: list[keras.Operation]) -> None:
    refused: dict[str, list[str]] = {}
    for operation in {id(o): o for o in operations}.values():
        if why := _refusal(operation):
            name = f"{operation.name!r} ({type(operation).__name__})"
            refused.setdefault(why, []).append(name)
    if refused:
        layers = "; ".join(f"{', '.join(names)} {why}" for why, names in refused.items())
        raise UnsupportedLayerError(f"Layers of {model.name!r} cannot be taken: {layers}.")


def _refusal(operation: keras.Operation) -> str | None:
    """What is wrong with a layer, and what to do; as the end of a sentence."""
    if isinstance(operation, keras.Model):
        return (
            "subclassed, their graphs are hidden in their call(): build them with the functional "
            "API, keras.Model(inputs, outputs)"
        )
    policy = getattr(operation, "dtype_policy", None)
    if isinstance(policy, keras.dtype_policies.QuantizedDTypePolicy):
        return f"quantized to {policy.quantization_mode}: prune first, quantize after"
    if getattr(operation, "lora_enabled", False):
        return "with LoRA weights: save and load the model, which merges them, then prune"
    return None


def _check_readable(model: object) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"Expected a Keras model, got {type(model).__name__}. "
            "Pass a Sequential or functional keras.Model."
        )
    if not _has_graph(model):
        raise UnsupportedLayerError(
            f"Model {model.name!r} ({type(model).__name__}) is subclassed: its graph is hidden in "
            "its call(). Build it with the functional API: keras.Model(inputs, outputs)."
        )
    if isinstance(model, keras.Sequential) and not model.built:
        raise ValueError(
            f"Model {model.name!r} has not been built, so its shapes are unknown. "
            "Give it an Input layer, or call it once."
        )
