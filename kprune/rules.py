"""What a rule may say: the vocabulary in which each Keras layer declares its channels.

A rule looks at one call of a layer (a `Site`) and declares (a `Flow`) which channels its output
carries, and which axis of which weight is indexed by which channels. Tracing, cost, slimming and
the report all read that one declaration. `kprune.layer_rules` holds the rules of Keras's layers,
`kprune.operation_rules` those of `keras.ops`; a user's own layers join them through `rule`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import keras
import numpy as np

from kprune.graph import Call
from kprune.ids import ChannelIds, along_axis, spread, varying


@dataclass(frozen=True)
class Weight:
    """How channels index one weight of a layer.

    Attributes:
        axes: Axis of the weight -> ids of the channels along it. Other axes have fixed length.
        uses: How often one inference multiplies by each element: the weight's MACs per element.
        statistic: True for running statistics, which are no parameters.
        reads: The axis along which products with the first input are added up, if there is one: of
            a sum, open channels can take over what a closed one gave.
    """

    axes: Mapping[int, np.ndarray]
    uses: int = 0
    statistic: bool = False
    reads: int | None = None


@dataclass(frozen=True)
class Flow:
    """What a rule declares of one call.

    Attributes:
        output: Ids of the output, in its shape without the batch axis; a list for several outputs.
            They may change along one axis only.
        weights: Name of the weight -> how channels index it. A weight that is left out keeps its
            shape.
        config: Argument of the layer's constructor -> ids whose number it states. Ids of several
            axes: the argument is a shape, and states the length of the axis that changes.
        mixes: Each output depends on all channels of the first input, so closed ones must be zero
            there: a mask is placed in front.
        moves: The output holds the very values of the input, in another shape.
    """

    output: np.ndarray | list[np.ndarray]
    weights: Mapping[str, Weight] = field(default_factory=dict)
    config: Mapping[str, np.ndarray] = field(default_factory=dict)
    mixes: bool = False
    moves: bool = False


@dataclass(frozen=True)
class Site:
    """One call, as its rule sees it. Shapes are without the batch axis; None counts as 1.

    Attributes:
        call: The layer, its arguments and its outputs.
        inputs: The ids of each input, in its shape.
        ids: Makes ids, and remembers what is said of them.
        name: The layer's name; where nested models use one twice, the name of its copies.
    """

    call: Call
    inputs: list[np.ndarray]
    ids: ChannelIds
    name: str

    @property
    def layer(self) -> keras.layers.Layer:
        return self.call.operation

    @property
    def x(self) -> np.ndarray:
        """The ids of the first input."""
        return self.inputs[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the (first) output."""
        return shape_of(self.call.outputs[0])

    @property
    def axis(self) -> int:
        """The channel axis of the layer's `data_format`."""
        return 0 if getattr(self.layer, "data_format", None) == "channels_first" else -1

    def read(self, axis: int = -1) -> np.ndarray:
        """The ids that the layer sees along one axis of the first input, shape `(channels,)`.

        A layer that counts on another axis than the one on which the channels lie keeps them all.
        """
        if not set(varying(self.x)) <= {axis % self.x.ndim}:
            self.hold(self.x, "reads across them, along another axis")
        return along_axis(self.x, axis)

    def make(self, count: int) -> np.ndarray:
        """New ids for the channels that the layer makes, shape `(count,)`."""
        return self.ids.make(self.name, count)

    def spread(self, ids: np.ndarray, axis: int | None = None) -> np.ndarray:
        """Ids of the output: `ids` along one axis, by default that of the channels.

        Along the others they stay the same.
        """
        return spread(ids, self.axis if axis is None else axis, self.shape)

    def hold(self, ids: np.ndarray, why: str) -> None:
        """These channels must stay, because this layer ...: `why` completes the sentence."""
        self.ids.hold(ids, f"{self.layer.name!r} ({type(self.layer).__name__}) {why}")


Rule = Callable[[Site], Flow]
RULES: dict[type, Rule] = {}
# The classes behind `keras.ops` have no public names; this table goes by those they have.
OPERATION_RULES: dict[str, Rule] = {}


def rule(*kinds: type) -> Callable[[Rule], Rule]:
    """Teach kprune a layer: how its channels flow.

    Without a rule a layer is a barrier: it works, but all channels that it reads and makes stay.
    The function below this decorator is the rule of exactly these classes, not of their
    subclasses, whose `call` may do anything. It takes a `Site` (one call of the layer) and returns
    a `Flow` (what comes out). Nothing else has to be written: masks, costs, slimming and the
    report all read the `Flow`.

    Args:
        kinds: Layer classes. A rule that is there already is replaced.

    Returns:
        The decorator.

    Example:
        A layer with one trained factor per channel. Channels pass through; its weight `factors`
        has them along axis 0.

        >>> import kprune
        >>> @keras.saving.register_keras_serializable("examples")
        ... class Scale(keras.layers.Layer):
        ...     def build(self, shape):
        ...         self.factors = self.add_weight(shape=shape[-1:], name="factors")
        ...     def call(self, x):
        ...         return x * self.factors
        >>> @kprune.rule(Scale)
        ... def scale(site):
        ...     return kprune.Flow(site.x, weights={"factors": kprune.Weight({0: site.read()})})
        >>> model = keras.Sequential([
        ...     keras.Input((4,)), keras.layers.Dense(3, name="hidden"), Scale(name="scale"),
        ...     keras.layers.Dense(2),
        ... ])
        >>> masked = kprune.add_masks(model)
        >>> kprune.close_channels(masked, {"hidden": [0]})
        >>> kprune.slim(masked).get_layer("scale").factors.shape[0]
        2

        A layer that makes channels and mixes those it reads, as Dense does:
        `made = site.make(site.layer.units)`, then `Flow(site.spread(made), weights={"kernel":
        Weight({0: site.read(), 1: made}, uses=1)}, config={"units": made}, mixes=True)`.
        A subclass that flows as its parent does takes over the rule of that:
        `kprune.rule(MyDense)(kprune.layer_rules.dense)`.
    """

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(kinds, function))
        return function

    return register


def operation_rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the function below as the rule of these operations of `keras.ops`."""

    def register(function: Rule) -> Rule:
        OPERATION_RULES.update(dict.fromkeys(names, function))
        return function

    return register


def flow(site: Site) -> Flow:
    """Apply the rule of the layer of this call; an unknown layer is a barrier.

    Raises:
        ValueError: The rule declares ids that do not fit the output.
    """
    kind = type(site.layer)
    known = RULES.get(kind)
    if known is None and kind.__module__.startswith(("keras.src.ops.", "keras.src.activations.")):
        known = OPERATION_RULES.get(kind.__name__)
    declared = (known or barrier)(site)
    _check_output(site, declared)
    return declared


def shape_of(tensor: keras.KerasTensor) -> tuple[int, ...]:
    return tuple(1 if d is None else d for d in tensor.shape[1:])


def barrier(site: Site) -> Flow:
    """A layer that channels cannot be followed through: all its inputs and outputs stay whole."""
    for ids in site.inputs:
        site.hold(ids, "reads them, and kprune has no rule for it")
    return Flow(fresh(site, "makes them, and kprune has no rule for it"))


def fresh(site: Site, why: str) -> list[np.ndarray]:
    """Outputs with channels of their own, along the last axis, that must stay."""
    outputs = []
    for shape in map(shape_of, site.call.outputs):
        made = site.make(shape[-1] if shape else 1)
        site.hold(made, why)
        outputs.append(spread(made, -1, shape))
    return outputs


def _check_output(site: Site, declared: Flow) -> None:
    outputs = declared.output if isinstance(declared.output, list) else [declared.output]
    shapes = [shape_of(t) for t in site.call.outputs]
    if [o.shape for o in outputs] != shapes or any(len(varying(o)) > 1 for o in outputs):
        raise ValueError(
            f"The rule of {site.layer.name!r} ({type(site.layer).__name__}) must give ids in the "
            f"shape of its outputs, {shapes}, that change along one axis; got shapes "
            f"{[o.shape for o in outputs]}, changing along axes {[varying(o) for o in outputs]}."
        )
