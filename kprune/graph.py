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
        return tensors_in((self.args, self.kwargs))


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

    @property
    def names(self) -> dict[int, str]:
        """A name of its own for each operation, under its `id`; its copies have it, too.

        Nested models, once flattened, may use one twice, or that of an input. Then those that name
        an output of the model keep theirs.
        """
        outputs = {id(t) for t in tree.flatten(self.outputs)}
        ends = [c for c in self.calls if outputs & {id(t) for t in c.outputs}]
        operations = {id(c.operation): c.operation for c in [*ends, *self.calls]}
        taken = self._input_names
        return {key: unique(operation.name, taken) for key, operation in operations.items()}

    @property
    def taken(self) -> set[str]:
        """What no further layer may be called: the names of inputs and of operations."""
        return self._input_names | set(self.names.values())

    @property
    def _input_names(self) -> set[str]:
        return {t.name for t in tree.flatten(self.inputs)}


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
            hidden in Python code, layers are quantized or have LoRA weights, or an operation
            reads the weights of a layer. All by name.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="scores")])
        >>> [call.operation.name for call in read_graph(model).calls]
        ['scores']
    """
    _check_readable(model)
    walk = _Walk()
    inputs = _placeholders(_ends(model)[0])
    outputs = walk.resolve(walk.enter(model, inputs, training=None))
    _check_calls(model, walk.calls)
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

    inputs = _placeholders(graph.inputs, batch_size)
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
        freeze_like(copies[id(layer)], layer)
    return model


def give_weights(layer: keras.layers.Layer, values: Sequence) -> None:
    # As NumPy arrays: JAX would share the buffers, and training one model would delete the other's.
    layer.set_weights([keras.ops.convert_to_numpy(value) for value in values])
    # What Normalization computes with are not its weights, but constants made of them. Others have
    # a finalize_state(), too, but make constants of data that the copy has not seen.
    if isinstance(layer, keras.layers.Normalization):
        layer.finalize_state()


def freeze_like(copy: keras.layers.Layer, layer: keras.layers.Layer) -> None:
    """Freeze what is frozen inside of a layer; a config only tells of the layer as a whole."""
    for inner, old in zip(copy._flatten_layers(), layer._flatten_layers(), strict=True):
        inner.trainable = old.trainable
    for weight, old in zip(copy.weights, layer.weights, strict=True):
        weight.trainable = old.trainable


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
    names = graph.names
    for operation in {id(c.operation): c.operation for c in graph.calls}.values():
        change = {**changes.get(id(operation), {}), "name": names[id(operation)]}
        try:
            copies[id(operation)] = _copy(operation, change)
        except (NotImplementedError, OSError, TypeError, ValueError) as error:
            refused.append(f"{operation.name!r} ({type(operation).__name__}): {error}")
    if refused:
        raise UnsupportedLayerError(
            "These layers cannot be made again from their get_config(), which kprune needs: "
            + "; ".join(refused)
            + ". Give layers of your own a get_config() that returns the arguments of their "
            "constructor, and functions of your own (a lambda, too) a name that Keras finds: "
            "@keras.saving.register_keras_serializable()."
        )
    return copies


# What the config of a Lambda holds as byte code, which no longer finds the names around it.
_LAMBDA = ("function", "_output_shape", "mask", "arguments")


def _copy(operation: keras.Operation, change: dict[str, object]) -> keras.Operation:
    config: dict[str, object] = _unbuilt(operation.get_config())
    # A function of the user's (an activation, say) need not be registered.
    functions = [f for f in vars(operation).values() if isinstance(f, FunctionType)]
    with keras.saving.custom_object_scope({f.__name__: f for f in functions}):
        if isinstance(operation, keras.layers.Lambda):
            copy = type(operation).from_config({**config, **change}, safe_mode=False)
            for name in _LAMBDA:
                setattr(copy, name, getattr(operation, name))
        else:
            config |= _functions(operation, config)
            copy = type(operation).from_config({**config, **change})
    if hasattr(operation, "save_assets"):
        _give_assets(copy, operation)
    return copy


def _functions(operation: keras.Operation, config: dict[str, object]) -> dict[str, FunctionType]:
    """Functions, for what a config has made of them: a lambda has no name to be found by."""
    if not type(operation).from_config.__module__.startswith("keras."):
        return {}  # It may want to undo itself what its get_config() did.
    values = {n: getattr(operation, n, None) for n, v in config.items() if isinstance(v, dict)}
    return {name: f for name, f in values.items() if isinstance(f, FunctionType)}


def _give_assets(copy: keras.layers.Layer, layer: keras.layers.Layer) -> None:
    """What a lookup has learned from data is neither in its config nor in its weights."""
    if not layer.weights:
        # Before the vocabulary, which wants the frequencies of its words ("tf_idf") to be there.
        variables: dict[str, object] = {}
        layer.save_own_variables(variables)
        copy.load_own_variables(variables)
    with TemporaryDirectory() as folder:
        layer.save_assets(folder)
        copy.load_assets(folder)


def _unbuilt(config: Any) -> Any:
    """Without the shapes for which the layer inside of a wrapper was built."""
    if isinstance(config, dict):
        return {key: _unbuilt(v) for key, v in config.items() if key != "build_config"}
    return [_unbuilt(v) for v in config] if isinstance(config, list) else config


def tensors_in(values: object) -> list[keras.KerasTensor]:
    """The tensors of a structure, in order."""
    return [value for value in tree.flatten(values) if _is_tensor(value)]


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
            kwargs["training"] = training  # As Keras does: the outermost model decides.
        outputs = _Step(operation)(*args, **kwargs)
        args, kwargs = self.resolve(_first_by_position(operation, args, kwargs))
        call = Call(operation, args, kwargs, tree.flatten(outputs))
        if _has_graph(operation):
            self.inline(call)
        else:
            self.calls.append(call)
        return outputs

    def inline(self, call: Call) -> None:
        inputs = _placeholders(_ends(call.operation)[0])
        for inner, outer in zip(tree.flatten(inputs), _given(call), strict=True):
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
    return isinstance(operation, keras.Sequential | keras.Function) and not _has_own_call(operation)


def _has_own_call(operation: object) -> bool:
    """Whether it may compute something else than its graph, if it has one."""
    return not type(operation).call.__module__.startswith("keras.")  # type: ignore[attr-defined]


def _ends(model: keras.Model) -> tuple[object, object]:
    """Inputs and outputs in the structure in which the model takes and gives them."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0], model.outputs[0]
    return model.input, model.output


def _given(call: Call) -> list:
    """What a model is called with, in the order of its inputs."""
    inputs, *others = call.args
    if tensors_in((others, call.kwargs)):
        raise UnsupportedLayerError(
            f"Model {call.operation.name!r} is called with a mask beside its inputs. Make the mask "
            "one of its inputs, and give it to the layers inside that need it."
        )
    own = _ends(call.operation)[0]
    if isinstance(inputs, dict) and not isinstance(own, dict):
        return [inputs[t.name] for t in tree.flatten(own)]
    return tree.flatten(inputs)


def _first_by_position(
    operation: keras.Operation, args: tuple, kwargs: dict[str, object]
) -> tuple[tuple, dict[str, object]]:
    """`layer(inputs=x)` as `layer(x)`: rules and masks take the first tensor for the input."""
    parameters = inspect.signature(operation.call).parameters.values()
    first = next((p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD), "")
    given = kwargs.get(first)
    if args or not tensors_in(given):
        return args, kwargs
    return (given,), {k: v for k, v in kwargs.items() if k != first}


def _placeholders(inputs: object, batch_size: int | None = None) -> object:
    """Fresh inputs like these: same structure, and the names of their layers."""
    flat = tree.flatten(inputs)
    made_by = {id(layer.output): layer for layer in keras.Model(flat, flat).layers}

    def fresh(tensor: keras.KerasTensor) -> keras.KerasTensor:
        config = made_by[id(tensor)].get_config()
        shape = (batch_size or tensor.shape[0], *tensor.shape[1:])
        return keras.layers.InputLayer(**{**config, "batch_shape": shape}).output

    return tree.map_structure(fresh, inputs)


def _takes_training(operation: object) -> bool:
    return (
        isinstance(operation, keras.layers.Layer)
        and "training" in inspect.signature(operation.call).parameters
    )


def _check_calls(model: keras.Model, calls: list[Call]) -> None:
    refused: dict[str, list[str]] = {}
    owners = _owners(calls)
    for call in calls:
        if why := _refusal(call.operation) or _reading(call, owners) or _sharing(call, owners):
            name = f"{call.operation.name!r} ({type(call.operation).__name__})"
            refused.setdefault(why, []).append(name)
    if refused:
        layers = "; ".join(
            f"{', '.join(dict.fromkeys(names))} {why}" for why, names in refused.items()
        )
        raise UnsupportedLayerError(f"Layers of {model.name!r} cannot be taken: {layers}.")


def _refusal(operation: keras.Operation) -> str | None:
    """What is wrong with a layer, and what to do; as the end of a sentence."""
    if isinstance(operation, keras.Sequential | keras.Function):
        return (
            "with a call() of their own, which may compute something else than their graph: put "
            "it into the graph, keras.Model(inputs, outputs)"
        )
    if isinstance(operation, keras.Model):
        return (
            "subclassed, their graphs are hidden in their call(): build them with the functional "
            "API, keras.Model(inputs, outputs)"
        )
    policy = getattr(operation, "dtype_policy", None)
    if isinstance(policy, keras.dtype_policies.QuantizedDTypePolicy):
        return f"quantized to {policy.quantization_mode}: prune first, quantize after"
    activation = getattr(operation, "activation", None)
    if isinstance(activation, keras.layers.Layer) and "build" in vars(type(activation)):
        return "with an activation that has weights: make it a layer of its own behind them"
    if getattr(operation, "lora_enabled", False):
        return "with LoRA weights: save and load the model, which merges them, then prune"
    return None


def _owners(calls: list[Call]) -> dict[int, keras.layers.Layer]:
    """`id(weight)` -> the first layer that has it."""
    owners: dict[int, keras.layers.Layer] = {}
    for call in calls:
        for weight in getattr(call.operation, "weights", ()):
            owners.setdefault(id(weight), call.operation)
    return owners


def _reading(call: Call, owners: dict[int, keras.layers.Layer]) -> str | None:
    """What is wrong with a call that is given a weight, and what to do; likewise."""
    return _apart("given", tree.flatten((call.args, call.kwargs)), owners)


def _sharing(call: Call, owners: dict[int, keras.layers.Layer]) -> str | None:
    """What is wrong with a layer that has a weight of another one, and what to do; likewise."""
    weights = getattr(call.operation, "weights", ())
    others = [weight for weight in weights if owners[id(weight)] is not call.operation]
    return _apart("with", others, owners)


def _apart(how: str, values: Sequence, owners: dict[int, keras.layers.Layer]) -> str | None:
    if foreign := [owners[id(value)].name for value in values if id(value) in owners]:
        return (
            f"{how} a weight of {foreign[0]!r}, which would come apart from it in any copy: write "
            "one layer that has the weight, and call it in both places"
        )
    return None


def _check_readable(model: object) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"Expected a Keras model, got {type(model).__name__}. "
            "Pass a Sequential or functional keras.Model."
        )
    if isinstance(model, keras.Sequential | keras.Function) and _has_own_call(model):
        raise UnsupportedLayerError(
            f"Model {model.name!r} ({type(model).__name__}) has a call() of its own, which may "
            "compute something else than its graph. Put it into the graph: "
            "keras.Model(inputs, outputs)."
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
