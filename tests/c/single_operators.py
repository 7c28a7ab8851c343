"""Random networks of one operator, for every operator that `to_c` has code for.

Each function draws its shapes, scales and options from a `Draw`, so that the same networks come
from hypothesis (which shrinks them) and from a seed (for the simulators, which run many at once).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import flatbuffer_zoo
import numpy as np
from ai_edge_litert import schema_py_generated as schema


class Draw(Protocol):
    def integer(self, low: int, high: int) -> int:
        """Both ends included."""

    def choice(self, options: Sequence[Any]) -> Any: ...


class Seeded:
    """A `Draw` from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def integer(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high + 1))

    def choice(self, options: Sequence[Any]) -> Any:
        return options[self.integer(0, len(options) - 1)]


class Single(flatbuffer_zoo.Builder):
    """A network of one operator whose numbers come from a `Draw`."""

    def __init__(self, draw: Draw) -> None:
        super().__init__(draw.integer(0, 2**32 - 1))
        self.draw = draw

    def zero(self) -> int:
        return self.draw.choice([0, -128, 127, self.draw.integer(-128, 127)])

    def factor(self, low: int = -12, high: int = 0) -> float:
        """A real scale, between powers of two or exactly one."""
        exponent = self.draw.integer(low, high)
        return 2.0**exponent * self.draw.choice([1.0, self.random.uniform(1, 2)])

    def image(self, longest: int = 9, channels: int = 9) -> int:
        height, width = self.draw.integer(1, longest), self.draw.integer(1, longest)
        shape = (1, height, width, self.draw.integer(1, channels))
        return self.input(shape, self.factor(-8, 0), self.zero())

    def weighted(
        self, x: int, shape: Sequence[int], axis: int, y_shape: Sequence[int], *, per_tensor: bool
    ) -> tuple[int, list[int], int]:
        """Weights and biases (or none) for `x`, and an output whose scale fits them.

        Now and then a channel is dead, or its numbers sit at the edges of 32 bits.
        """
        draw, count = self.draw, shape[axis]
        data = self.random.integers(-127, 128, shape).astype(np.int8)
        fan_in = math.prod(shape) // count
        scales = self.random.uniform(0.2, 1.0, 1 if per_tensor else count) * 2.0**-7
        if per_tensor is False and draw.integer(0, 3) == 0:
            scales[draw.integer(0, count - 1)] *= 2.0 ** draw.integer(-40, 8)
        scales = scales.astype(np.float32)
        biases = self.random.integers(-(2**9), 2**9, count)
        if draw.integer(0, 3) == 0:
            dead = draw.integer(0, count - 1)
            biases[dead] = draw.choice([2**30, -(2**30), 2**26, -(2**26) + 1, 2**31 - 1])
            if draw.integer(0, 1):
                np.moveaxis(data, axis, 0)[dead] = 0
        weights = self.tensor(shape, scales, data=data, axis=axis)
        inputs = [weights]
        if draw.integer(0, 3):
            scale = np.float32(self.scale(x)) * scales
            bias = biases.astype(np.int32)
            kind = schema.TensorType.INT32
            inputs.append(self.tensor((count,), scale, dtype=kind, data=bias))
        typical = self.scale(x) * 2.0**-8 * 90 * math.sqrt(fan_in)
        y = self.tensor(y_shape, typical * self.factor(-1, 3), self.zero())
        return weights, inputs, y

    def window(self, x: int, *, dilated: bool = True) -> dict[str, Any]:
        """Kernel, stride, dilation and padding that leave at least one output."""
        draw = self.draw
        _, height, width, _ = self.shape(x)
        options: dict[str, Any] = {"padding": draw.choice(["same", "valid"])}
        options["kernel"] = (draw.integer(1, min(5, height)), draw.integer(1, min(5, width)))
        options["stride"] = (draw.integer(1, 3), draw.integer(1, 3))
        options["dilation"] = (1, 1)
        if dilated and options["stride"] == (1, 1) and draw.integer(0, 1):
            options["dilation"] = (draw.integer(1, 3), draw.integer(1, 3))
        lengths = []
        for axis, length in enumerate((height, width)):
            kernel, dilation = options["kernel"][axis], options["dilation"][axis]
            if options["padding"] == "valid" and (kernel - 1) * dilation + 1 > length:
                options["padding"] = "same"
            lengths.append((kernel, dilation, length))
        options["out"] = tuple(
            flatbuffer_zoo._length(length, kernel, stride, dilation, options["padding"])
            for (kernel, dilation, length), stride in zip(lengths, options["stride"], strict=True)
        )
        return options

    def activation(self) -> int:
        return self.draw.choice([0, 0, 1, 3])


def _window_fields(window: dict[str, Any]) -> dict[str, Any]:
    return {
        "padding": flatbuffer_zoo._PADDINGS[window["padding"]],
        "strideH": window["stride"][0],
        "strideW": window["stride"][1],
    }


def conv2d(draw: Draw) -> bytes:
    net = Single(draw)
    groups = draw.choice([1, 1, 1, 2, 3])
    x = net.image(channels=9 if groups == 1 else 3)
    if groups > 1:
        net.graph.tensors[x].shape[3] *= groups
    window = net.window(x)
    filters = groups * draw.integer(1, 7)
    shape = (filters, *window["kernel"], net.shape(x)[3] // groups)
    y_shape = (1, *window["out"], filters)
    _, inputs, y = net.weighted(x, shape, 0, y_shape, per_tensor=draw.integer(0, 4) == 0)
    options = schema.Conv2DOptionsT(
        **_window_fields(window),
        dilationHFactor=window["dilation"][0],
        dilationWFactor=window["dilation"][1],
        fusedActivationFunction=net.activation(),
    )
    net.operator("CONV_2D", [x, *inputs], [y], options, version=3)
    return net.build(y)


def depthwise_conv2d(draw: Draw) -> bytes:
    net = Single(draw)
    x = net.image()
    window = net.window(x)
    multiplier = draw.choice([1, 1, 2, 3])
    filters = net.shape(x)[3] * multiplier
    shape, y_shape = (1, *window["kernel"], filters), (1, *window["out"], filters)
    _, inputs, y = net.weighted(x, shape, 3, y_shape, per_tensor=draw.integer(0, 4) == 0)
    options = schema.DepthwiseConv2DOptionsT(
        **_window_fields(window),
        depthMultiplier=multiplier,
        dilationHFactor=window["dilation"][0],
        dilationWFactor=window["dilation"][1],
        fusedActivationFunction=net.activation(),
    )
    net.operator("DEPTHWISE_CONV_2D", [x, *inputs], [y], options, version=3)
    return net.build(y)


def transpose_conv(draw: Draw) -> bytes:
    net = Single(draw)
    x = net.image(longest=5, channels=4)
    _, height, width, channels = net.shape(x)
    filters, kernel = draw.integer(1, 4), (draw.integer(1, 4), draw.integer(1, 4))
    stride = (draw.integer(1, 3), draw.integer(1, 3))
    padding = draw.choice(["same", "valid"])
    lengths = [
        length * step + (max(size - step, 0) if padding == "valid" else 0)
        for length, step, size in zip((height, width), stride, kernel, strict=True)
    ]
    y_shape = (1, *lengths, filters)
    _, inputs, y = net.weighted(x, (filters, *kernel, channels), 0, y_shape, per_tensor=False)
    options = schema.TransposeConvOptionsT(
        padding=flatbuffer_zoo._PADDINGS[padding],
        strideH=stride[0],
        strideW=stride[1],
        fusedActivationFunction=net.activation(),
    )
    inputs = [net.int32(*y_shape), inputs[0], x, *inputs[1:]]
    net.operator("TRANSPOSE_CONV", inputs, [y], options, version=3)
    return net.build(y)


def fully_connected(draw: Draw) -> bytes:
    net = Single(draw)
    rows, depth, units = draw.choice([1, 1, 3]), draw.integer(1, 40), draw.integer(1, 11)
    x = net.input((rows, depth), net.factor(-8, 0), net.zero())
    per_tensor = bool(draw.integer(0, 1))
    _, inputs, y = net.weighted(x, (units, depth), 0, (rows, units), per_tensor=per_tensor)
    options = schema.FullyConnectedOptionsT(fusedActivationFunction=net.activation())
    net.operator("FULLY_CONNECTED", [x, *inputs], [y], options, version=4)
    return net.build(y)


def rounding(draw: Draw) -> bytes:
    """All 256 inputs times small weights, so that many results lie halfway between two bytes."""
    net = Single(draw)
    kind = draw.choice(["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"])
    filters = draw.integer(1, 6)
    data = net.random.integers(-5, 6, filters).astype(np.int8)
    scales = 2.0 ** net.random.integers(-2, 1, filters)
    if kind == "FULLY_CONNECTED":
        x = net.input((256, 1), 0.5, draw.integer(-9, 9))
        weights = net.tensor((filters, 1), scales, data=data.reshape(filters, 1))
        y_shape: tuple[int, ...] = (256, filters)
        options: object = schema.FullyConnectedOptionsT()
    elif kind == "CONV_2D":
        x = net.input((1, 16, 16, 1), 0.5, draw.integer(-9, 9))
        weights = net.tensor((filters, 1, 1, 1), scales, data=data.reshape(filters, 1, 1, 1))
        y_shape = (1, 16, 16, filters)
        options = schema.Conv2DOptionsT(strideH=1, strideW=1)
        options.dilationHFactor = options.dilationWFactor = 1
    else:
        x = net.input((1, 16, 16, 1), 0.5, draw.integer(-9, 9))
        data = np.pad(data.reshape(1, 1, 1, filters), [(0, 0), (1, 1), (1, 1), (0, 0)])
        weights = net.tensor((1, 3, 3, filters), scales, data=data, axis=3)
        y_shape = (1, 16, 16, filters)
        options = schema.DepthwiseConv2DOptionsT(strideH=1, strideW=1, depthMultiplier=filters)
        options.dilationHFactor = options.dilationWFactor = 1
    y = net.tensor(y_shape, net.factor(0, 3), draw.integer(-9, 9))
    net.operator(kind, [x, weights], [y], options, version=3)
    return net.build(y)


def _pool(name: str) -> Callable[[Draw], bytes]:
    def build(draw: Draw) -> bytes:
        net = Single(draw)
        x = net.image(channels=11)
        window = net.window(x, dilated=False)
        y = net.like(x, (1, *window["out"], net.shape(x)[3]))
        options = schema.Pool2DOptionsT(
            **_window_fields(window),
            filterHeight=window["kernel"][0],
            filterWidth=window["kernel"][1],
            fusedActivationFunction=net.activation(),
        )
        net.operator(name, [x], [y], options, version=2)
        return net.build(y)

    return build


def mean(draw: Draw) -> bytes:
    net = Single(draw)
    x = net.image()
    axes = draw.choice([(1, 2), (1,), (2,), (3,), (-1,), (2, 3), (1, 2, 3), (2, 1)])
    keep = bool(draw.integer(0, 1))
    positive = {axis % 4 for axis in axes}
    lengths = enumerate(net.shape(x))
    shape = [1 if a in positive else n for a, n in lengths if keep or a not in positive]
    y = net.tensor(shape, net.scale(x) * net.factor(-3, 2), net.zero())
    options = schema.ReducerOptionsT(keepDims=keep)
    net.operator("MEAN", [x, net.int32(*axes)], [y], options, version=2)
    return net.build(y)


def reduce_max(draw: Draw) -> bytes:
    net = Single(draw)
    x = net.image(channels=21)
    axes = draw.choice([(1, 2), (1,), (3,), (2, 3)])
    shape = [length for axis, length in enumerate(net.shape(x)) if axis not in axes]
    y = net.like(x, shape)
    inputs = [x, net.int32(*axes)]
    net.operator("REDUCE_MAX", inputs, [y], schema.ReducerOptionsT(), version=2)
    return net.build(y)


def softmax(draw: Draw) -> bytes:
    net = Single(draw)
    x = net.input((draw.integer(1, 3), draw.integer(1, 20)), net.factor(-7, 1), net.zero())
    return net.build(net.softmax(x, draw.choice([1.0, 0.5, 2.0])))


def _function(name: str, low: int, high: int, **options: Any) -> Callable[[Draw], bytes]:
    """An operator on one value; the input holds all 256."""

    def build(draw: Draw) -> bytes:
        net = Single(draw)
        x = net.input((1, 256), net.factor(low, high), net.zero())
        if name == "LOGISTIC":
            y = net.tensor((1, 256), 1 / 256, -128)
        elif name == "TANH":
            y = net.tensor((1, 256), 1 / 128, 0)
        elif name == "RELU6":
            y = net.like(x)
        else:
            y = net.tensor((1, 256), net.scale(x) * net.factor(-2, 2), net.zero())
        kind = options.get("kind")
        values = kind(alpha=draw.choice([0.01, 0.3, 1.5])) if name == "LEAKY_RELU" else kind
        net.operator(name, [x], [y], values() if callable(values) else values, version=2)
        return net.build(y)

    return build


def hard_swish(draw: Draw) -> bytes:
    net = Single(draw)
    x = net.input((1, 256), net.factor(-8, -2), net.zero())
    y = net.tensor((1, 256), net.scale(x) * net.factor(-2, 1), net.zero())
    net.operator("HARD_SWISH", [x], [y], schema.HardSwishOptionsT(), version=1)
    return net.build(y)


def quantize_float(draw: Draw) -> bytes:
    net = Single(draw)
    shape = (1, draw.integer(1, 300))
    x = net.tensor(shape, None, dtype=schema.TensorType.FLOAT32)
    net.graph.inputs.append(x)
    return net.build(net.quantize(x, net.factor(-8, 2), net.zero()))


def dequantize(draw: Draw) -> bytes:
    net = Single(draw)
    x = net.input((1, 256), net.factor(-12, 4), net.zero())
    y = net.tensor((1, 256), None, dtype=schema.TensorType.FLOAT32)
    net.operator("DEQUANTIZE", [x], [y], schema.DequantizeOptionsT(), version=2)
    return net.build(y)


def _shapes(draw: Draw) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes that broadcast; the first is that of the result."""
    full = (1, draw.integer(1, 4), draw.integer(1, 5), draw.integer(1, 9))
    other = tuple(draw.choice([length, length, 1]) for length in full)
    if all(length == 1 for length in other[:2]) and draw.integer(0, 1):
        other = other[draw.integer(1, 3) :]
    return full, other


def _pair(name: str, *, shared: bool = False) -> Callable[[Draw], bytes]:
    def build(draw: Draw) -> bytes:
        net = Single(draw)
        full, other = _shapes(draw)
        x = net.input(full, net.factor(-6, 0), net.zero())
        scale, zero = (net.scale(x), net.zero_point(x)) if shared else (None, None)
        data = net.random.integers(-128, 128, other).astype(np.int8)
        b = net.tensor(
            other,
            scale or net.scale(x) * net.factor(-4, 4),
            net.zero() if zero is None else zero,
            data=data,
        )
        if name == "MUL":
            y = net.tensor(full, net.scale(x) * net.scale(b) * net.factor(0, 8), net.zero())
        else:
            larger = max(net.scale(x), net.scale(b))
            y = net.tensor(full, scale or larger * net.factor(-2, 2), zero or net.zero())
        if shared:
            net.graph.tensors[y].quantization = net.graph.tensors[x].quantization
        inputs = [x, b] if draw.integer(0, 1) or name == "PRELU" else [b, x]
        kinds = {"ADD": schema.AddOptionsT, "SUB": schema.SubOptionsT, "MUL": schema.MulOptionsT}
        options = None
        if name in kinds:
            options = kinds[name](fusedActivationFunction=net.activation())
        elif name != "PRELU":
            options = schema.MaximumMinimumOptionsT()
        net.operator(name, inputs, [y], options, version=2)
        return net.build(y)

    return build


def pad(draw: Draw) -> bytes:
    net = Single(draw)
    x = net.image(longest=5)
    amounts = [(0, 0)] + [(draw.integer(0, 2), draw.integer(0, 2)) for _ in range(3)]
    if draw.integer(0, 1):
        return net.build(net.pad(x, amounts))
    shape = [n + sum(pair) for n, pair in zip(net.shape(x), amounts, strict=True)]
    values = np.array(amounts, np.int32)
    constant = net.tensor(values.shape, None, dtype=schema.TensorType.INT32, data=values)
    value = np.array([draw.integer(-128, 127)], np.int8)
    fill = net.tensor((1,), net.scale(x), net.zero_point(x), data=value)
    y = net.like(x, shape)
    net.operator("PADV2", [x, constant, fill], [y], schema.PadV2OptionsT(), version=2)
    return net.build(y)


def concatenation(draw: Draw) -> bytes:
    net = Single(draw)
    x = net.image(longest=4)
    axis = draw.choice([1, 2, 3, -1])
    parts = [x]
    for _ in range(draw.integer(1, 3)):
        shape = list(net.shape(x))
        shape[axis] = draw.integer(1, 4)
        data = net.random.integers(-128, 128, shape).astype(np.int8)
        parts.append(net.tensor(shape, net.scale(x), net.zero_point(x), data=data))
    return net.build(net.concatenate(parts, axis))


def strided_slice(draw: Draw) -> bytes:
    net = Single(draw)
    x = net.image()
    begins, ends, steps, shape = [], [], [], []
    for length in net.shape(x):
        step = draw.choice([1, 1, 2, -1])
        first, last = sorted((draw.integer(0, length - 1), draw.integer(0, length - 1)))
        begin, end = (first, last + 1) if step > 0 else (last, first - 1)
        chosen = range(begin, end, step)
        begins.append(begin)
        ends.append(end if end >= 0 else -length - 1)
        steps.append(step)
        shape.append(len(chosen))
    y = net.like(x, shape)
    inputs = [x, net.int32(*begins), net.int32(*ends), net.int32(*steps)]
    net.operator("STRIDED_SLICE", inputs, [y], schema.StridedSliceOptionsT(), version=2)
    return net.build(y)


def transpose(draw: Draw) -> bytes:
    net = Single(draw)
    x = net.image()
    order = draw.choice([(0, 2, 1, 3), (0, 3, 1, 2), (0, 1, 3, 2), (0, 3, 2, 1)])
    y = net.like(x, [net.shape(x)[axis] for axis in order])
    net.operator("TRANSPOSE", [x, net.int32(*order)], [y], schema.TransposeOptionsT(), version=2)
    return net.build(y)


def split(draw: Draw) -> bytes:
    """Both parts, joined again the other way round."""
    net = Single(draw)
    x = net.image()
    axis = draw.choice([1, 2, 3])
    shape = list(net.shape(x))
    net.graph.tensors[x].shape = [n * 2 if a == axis else n for a, n in enumerate(shape)]
    parts = [net.like(x, shape), net.like(x, shape)]
    options = schema.SplitOptionsT(numSplits=2)
    dimension = net.tensor((), None, dtype=schema.TensorType.INT32, data=np.array(axis, np.int32))
    net.operator("SPLIT", [dimension, x], parts, options, version=2)
    return net.build(net.concatenate(parts[::-1], axis))


def tile(draw: Draw) -> bytes:
    """Not in TensorFlow Lite Micro, but what Keras's UpSampling2D becomes."""
    net = Single(draw)
    x = net.image(longest=4)
    axis = draw.choice([1, 2, 3])
    counts = [draw.integer(2, 3) if a == axis else 1 for a in range(4)]
    y = net.like(x, [n * count for n, count in zip(net.shape(x), counts, strict=True)])
    net.operator("TILE", [x, net.int32(*counts)], [y], version=1)
    return net.build(y)


def resize_nearest(draw: Draw) -> bytes:
    net = Single(draw)
    x = net.image(longest=6)
    height, width = draw.integer(1, 13), draw.integer(1, 13)
    align, half = draw.choice([(False, False), (True, False), (False, True)])
    y = net.like(x, (1, height, width, net.shape(x)[3]))
    options = schema.ResizeNearestNeighborOptionsT(alignCorners=align, halfPixelCenters=half)
    inputs = [x, net.int32(height, width)]
    net.operator("RESIZE_NEAREST_NEIGHBOR", inputs, [y], options, version=3)
    return net.build(y)


def reshape(draw: Draw) -> bytes:
    net = Single(draw)
    x = net.image()
    return net.build(net.reshape(x, (1, math.prod(net.shape(x)))))


OPERATORS: dict[str, Callable[[Draw], bytes]] = {
    "CONV_2D": conv2d,
    "DEPTHWISE_CONV_2D": depthwise_conv2d,
    "TRANSPOSE_CONV": transpose_conv,
    "FULLY_CONNECTED": fully_connected,
    "ROUNDING": rounding,
    "AVERAGE_POOL_2D": _pool("AVERAGE_POOL_2D"),
    "MAX_POOL_2D": _pool("MAX_POOL_2D"),
    "MEAN": mean,
    "REDUCE_MAX": reduce_max,
    "SOFTMAX": softmax,
    "LOGISTIC": _function("LOGISTIC", -8, 1),
    "TANH": _function("TANH", -8, 1),
    "HARD_SWISH": hard_swish,
    "RELU": _function("RELU", -8, 0),
    "RELU6": _function("RELU6", -5, 0),
    "LEAKY_RELU": _function("LEAKY_RELU", -8, 0, kind=schema.LeakyReluOptionsT),
    "QUANTIZE": _function("QUANTIZE", -8, 0, kind=schema.QuantizeOptionsT),
    "QUANTIZE_FLOAT": quantize_float,
    "DEQUANTIZE": dequantize,
    "ADD": _pair("ADD"),
    "SUB": _pair("SUB"),
    "MUL": _pair("MUL"),
    "PRELU": _pair("PRELU"),
    "MAXIMUM": _pair("MAXIMUM", shared=True),
    "MINIMUM": _pair("MINIMUM", shared=True),
    "PAD": pad,
    "CONCATENATION": concatenation,
    "STRIDED_SLICE": strided_slice,
    "TRANSPOSE": transpose,
    "SPLIT": split,
    "RESIZE_NEAREST_NEIGHBOR": resize_nearest,
    "RESHAPE": reshape,
}
