"""How channels flow through `keras.ops` between the layers of a functional model.

Keras makes an operation of every `x + y` and `ops.mean(x)`. The classes have no public names, so
these rules go by the names that the classes have; what is not here, slicing for one, is a barrier.
"""

import math

import numpy as np
from keras import tree

from kprune.ids import tighten, varying
from kprune.layer_rules import concatenate, join, own_axis, softmax
from kprune.rules import Flow, Site, barrier, operation_rule, shape_of

operation_rule("Concatenate")(concatenate)
operation_rule("Softmax", "LogSoftmax")(softmax)


@operation_rule(
    "Abs",
    "Absolute",
    "Cast",
    "Celu",
    "Copy",
    "Elu",
    "Erf",
    "Exp",
    "Expm1",
    "Gelu",
    "HardShrink",
    "HardSigmoid",
    "HardSilu",
    "HardTanh",
    "LeakyRelu",
    "Log",
    "Log1p",
    "LogSigmoid",
    "Negative",
    "ReLU",
    "Reciprocal",
    "Relu",
    "Relu6",
    "Rsqrt",
    "Selu",
    "Sigmoid",
    "Sign",
    "Silu",
    "SoftShrink",
    "Softplus",
    "Softsign",
    "SparsePlus",
    "SparseSigmoid",
    "Sqrt",
    "Square",
    "Squareplus",
    "StopGradient",
    "Tanh",
    "TanhShrink",
    "Threshold",
)
def pointwise(site: Site) -> Flow:
    return Flow(site.x)


@operation_rule("Clip")
def clip(site: Site) -> Flow:
    if max(np.size(site.layer.x_min), np.size(site.layer.x_max)) > 1:
        site.hold(site.x, "has bounds for each of them")
    return Flow(site.x)


@operation_rule(
    "Add",
    "Subtract",
    "Multiply",
    "Divide",
    "TrueDivide",
    "Maximum",
    "Minimum",
    "Power",
)
def binary(site: Site) -> Flow:
    """Two tensors, or a tensor and a constant."""
    if len({x.ndim for x in site.inputs}) > 1:
        return barrier(site)  # NumPy aligns shapes at the end: the batch axis meets another.
    values = tree.flatten((site.call.args, site.call.kwargs))
    tensors = {id(t) for t in site.call.inputs}
    constants = [v for v in values if id(v) not in tensors]
    if sum(math.prod(getattr(c, "shape", ())) for c in constants) > 1:
        site.hold(site.x, "has a constant for each of them")
    return join(site)


@operation_rule("Mean", "Sum", "Max", "Amax", "Min", "Amin", "Var", "Std")
def reduction(site: Site) -> Flow:
    """Over positions only; over channels or the batch it is a barrier."""
    if site.layer.axis is None:
        return barrier(site)
    axes = {own_axis(site, axis) for axis in site.layer.axis}
    if axes & {-1, *varying(site.x)}:
        return barrier(site)
    kept = tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(site.x.ndim))
    return Flow(tighten(site.x[kept].reshape(site.shape)))


@operation_rule("ExpandDims", "Squeeze", "Reshape")
def reshape(site: Site) -> Flow:
    before, after = site.call.inputs[0], site.call.outputs[0]
    if before.shape[0] != after.shape[0] or math.prod(shape_of(after)) != site.x.size:
        return barrier(site)
    output = tighten(site.x.reshape(site.shape))
    if len(varying(output)) > 1:
        return barrier(site)
    # `newshape` counts the batch axis.
    config = {"newshape": output[np.newaxis]} if hasattr(site.layer, "newshape") else {}
    return Flow(output, config=config, moves=True)


@operation_rule("Transpose")
def transpose(site: Site) -> Flow:
    axes = site.layer.axes
    if axes is None or axes[0] != 0:
        return barrier(site)
    return Flow(site.x.transpose([axis - 1 for axis in axes[1:]]), moves=True)
