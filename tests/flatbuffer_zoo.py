"""Small int8 flatbuffers, built without TensorFlow: one operator each, or a small network.

    net = Builder(seed=0)
    x = net.input((1, 8, 8, 3))
    x = net.conv2d(x, 4, kernel=3, activation="relu")
    flatbuffer = net.build(x)

A tensor is its index. Weights are random, scales such that the outputs neither vanish nor
saturate. What TensorFlow Lite's int8 specification fixes (zero points of weights, scale of biases,
scale of softmax) is kept to, so every file runs in TFLite Micro, and in LiteRT too unless a
convolution lacks its biases.
"""

import math
from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from kprune import flatbuffer

_ACTIVATIONS = {"none": 0, "relu": 1, "relu6": 3}
_PADDINGS = {"same": schema.Padding.SAME, "valid": schema.Padding.VALID}


class Builder:
    """Collects tensors and operators of one network."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.graph = schema.SubGraphT(tensors=[], operators=[], inputs=[], name=b"main")
        self.codes: dict[tuple[int, int], int] = {}
        self.buffers = [flatbuffer.AlignedBuffer()]

    # Tensors

    def tensor(
        self,
        shape: Sequence[int],
        scale: float | Sequence[float] | None = 0.05,
        zero_point: int | Sequence[int] = 0,
        *,
        dtype: int = schema.TensorType.INT8,
        data: np.ndarray | None = None,
        axis: int = 0,
        name: str = "",
    ) -> int:
        """Add any tensor and return its index."""
        buffer = 0
        if data is not None:
            assert data.shape == tuple(shape), (data.shape, shape)
            self.buffers.append(
                flatbuffer.AlignedBuffer(data=np.frombuffer(data.tobytes(), np.uint8))
            )
            buffer = len(self.buffers) - 1
        quantization = None
        if scale is not None:
            scales = np.atleast_1d(np.asarray(scale, np.float32))
            zeros = np.broadcast_to(np.asarray(zero_point, np.int64), scales.shape).copy()
            quantization = schema.QuantizationParametersT(
                scale=scales, zeroPoint=zeros, quantizedDimension=axis
            )
        index = len(self.graph.tensors)
        self.graph.tensors.append(
            schema.TensorT(
                shape=np.array(shape, np.int32),
                type=dtype,
                buffer=buffer,
                name=name or f"tensor_{index}",
                quantization=quantization,
            )
        )
        return index

    def input(self, shape: Sequence[int], scale: float = 0.02, zero_point: int = -3) -> int:
        index = self.tensor(shape, scale, zero_point, name=f"input_{len(self.graph.inputs)}")
        self.graph.inputs.append(index)
        return index

    def int32(self, *values: int) -> int:
        """A constant int32 vector: axes, shapes, paddings."""
        data = np.array(values, np.int32)
        return self.tensor(data.shape, None, dtype=schema.TensorType.INT32, data=data)

    def shape(self, x: int) -> tuple[int, ...]:
        return tuple(int(dim) for dim in self.graph.tensors[x].shape)

    def scale(self, x: int) -> float:
        return float(self.graph.tensors[x].quantization.scale[0])

    def zero_point(self, x: int) -> int:
        return int(self.graph.tensors[x].quantization.zeroPoint[0])

    def like(self, x: int, shape: Sequence[int] | None = None) -> int:
        """A new tensor with the scale of `x`, as pooling, reshaping and padding need."""
        return self.tensor(shape or self.shape(x), self.scale(x), self.zero_point(x))

    def fresh(self, shape: Sequence[int], real_range: float = 6.0) -> int:
        """A new tensor with a scale of its own, covering about `real_range`."""
        scale = real_range / 255 * self.random.uniform(0.8, 1.2)
        return self.tensor(shape, scale, int(self.random.integers(-40, 40)))

    # Operators

    def operator(
        self,
        name: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        options: object = None,
        *,
        version: int = 1,
    ) -> None:
        """Add any operator; `options` is the schema's object, such as `schema.AddOptionsT()`."""
        code = (getattr(schema.BuiltinOperator, name), version)
        kind = 0
        if options is not None:
            kind = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.graph.operators.append(
            schema.OperatorT(
                opcodeIndex=self.codes.setdefault(code, len(self.codes)),
                inputs=list(inputs),
                outputs=list(outputs),
                builtinOptionsType=kind,
                builtinOptions=options,
            )
        )

    def conv2d(
        self,
        x: int,
        filters: int,
        kernel: int | tuple[int, int] = 3,
        strides: int | tuple[int, int] = 1,
        dilation: int | tuple[int, int] = 1,
        padding: str = "same",
        activation: str = "none",
        bias: bool = True,
        per_channel: bool = True,
    ) -> int:
        (kh, kw), (sh, sw), (dh, dw) = _pair(kernel), _pair(strides), _pair(dilation)
        batch, height, width, channels = self.shape(x)
        inputs = self._weights(x, (filters, kh, kw, channels), 0, bias, per_channel)
        y = self.fresh(
            (
                batch,
                _length(height, kh, sh, dh, padding),
                _length(width, kw, sw, dw, padding),
                filters,
            )
        )
        options = schema.Conv2DOptionsT(
            padding=_PADDINGS[padding],
            strideW=sw,
            strideH=sh,
            fusedActivationFunction=_ACTIVATIONS[activation],
            dilationWFactor=dw,
            dilationHFactor=dh,
        )
        self.operator("CONV_2D", inputs, [y], options, version=3)
        return y

    def depthwise(
        self,
        x: int,
        multiplier: int = 1,
        kernel: int | tuple[int, int] = 3,
        strides: int | tuple[int, int] = 1,
        dilation: int | tuple[int, int] = 1,
        padding: str = "same",
        activation: str = "none",
        bias: bool = True,
        per_channel: bool = True,
    ) -> int:
        (kh, kw), (sh, sw), (dh, dw) = _pair(kernel), _pair(strides), _pair(dilation)
        batch, height, width, channels = self.shape(x)
        filters = channels * multiplier
        inputs = self._weights(x, (1, kh, kw, filters), 3, bias, per_channel)
        y = self.fresh(
            (
                batch,
                _length(height, kh, sh, dh, padding),
                _length(width, kw, sw, dw, padding),
                filters,
            )
        )
        options = schema.DepthwiseConv2DOptionsT(
            padding=_PADDINGS[padding],
            strideW=sw,
            strideH=sh,
            depthMultiplier=multiplier,
            fusedActivationFunction=_ACTIVATIONS[activation],
            dilationWFactor=dw,
            dilationHFactor=dh,
        )
        self.operator("DEPTHWISE_CONV_2D", inputs, [y], options, version=3)
        return y

    def dense(
        self,
        x: int,
        units: int,
        activation: str = "none",
        bias: bool = True,
        per_channel: bool = False,
    ) -> int:
        size = math.prod(self.shape(x)[1:])
        inputs = self._weights(x, (units, size), 0, bias, per_channel)
        inputs += [] if bias else [-1]
        y = self.fresh((self.shape(x)[0], units))
        options = schema.FullyConnectedOptionsT(fusedActivationFunction=_ACTIVATIONS[activation])
        self.operator("FULLY_CONNECTED", inputs, [y], options, version=4)
        return y

    def pool(
        self,
        x: int,
        kind: str = "AVERAGE_POOL_2D",
        size: int | tuple[int, int] = 2,
        strides: int | tuple[int, int] | None = None,
        padding: str = "valid",
        activation: str = "none",
    ) -> int:
        (kh, kw), (sh, sw) = _pair(size), _pair(strides or size)
        batch, height, width, channels = self.shape(x)
        y = self.like(
            x,
            (
                batch,
                _length(height, kh, sh, 1, padding),
                _length(width, kw, sw, 1, padding),
                channels,
            ),
        )
        options = schema.Pool2DOptionsT(
            padding=_PADDINGS[padding],
            strideW=sw,
            strideH=sh,
            filterWidth=kw,
            filterHeight=kh,
            fusedActivationFunction=_ACTIVATIONS[activation],
        )
        self.operator(kind, [x], [y], options, version=2)
        return y

    def add(self, a: int, b: int, activation: str = "none") -> int:
        options = schema.AddOptionsT(fusedActivationFunction=_ACTIVATIONS[activation])
        return self._elementwise("ADD", a, b, options)

    def mul(self, a: int, b: int, activation: str = "none") -> int:
        options = schema.MulOptionsT(fusedActivationFunction=_ACTIVATIONS[activation])
        return self._elementwise("MUL", a, b, options)

    def sub(self, a: int, b: int, activation: str = "none") -> int:
        options = schema.SubOptionsT(fusedActivationFunction=_ACTIVATIONS[activation])
        return self._elementwise("SUB", a, b, options)

    def mean(self, x: int, axes: Sequence[int] = (1, 2), keep_dims: bool = False) -> int:
        shape = list(self.shape(x))
        for axis in sorted(axes, reverse=True):
            shape[axis : axis + 1] = [1] if keep_dims else []
        y = self.fresh(shape, 2.0)
        options = schema.ReducerOptionsT(keepDims=keep_dims)
        self.operator("MEAN", [x, self.int32(*axes)], [y], options, version=2)
        return y

    def pad(self, x: int, paddings: Sequence[tuple[int, int]]) -> int:
        shape = [dim + sum(pair) for dim, pair in zip(self.shape(x), paddings, strict=True)]
        values = np.array(paddings, np.int32)
        constant = self.tensor(values.shape, None, dtype=schema.TensorType.INT32, data=values)
        y = self.like(x, shape)
        self.operator("PAD", [x, constant], [y], schema.PadOptionsT(), version=2)
        return y

    def concatenate(self, xs: Sequence[int], axis: int = 3) -> int:
        """TFLite Micro wants one scale for all, so the others pass through QUANTIZE."""
        scale, zero_point = self.scale(xs[0]), self.zero_point(xs[0])
        xs = [
            x
            if (self.scale(x), self.zero_point(x)) == (scale, zero_point)
            else self.quantize(x, scale, zero_point)
            for x in xs
        ]
        shape = list(self.shape(xs[0]))
        shape[axis] = sum(self.shape(x)[axis] for x in xs)
        y = self.like(xs[0], shape)
        options = schema.ConcatenationOptionsT(axis=axis)
        self.operator("CONCATENATION", xs, [y], options, version=2)
        return y

    def reshape(self, x: int, shape: Sequence[int]) -> int:
        y = self.like(x, shape)
        options = schema.ReshapeOptionsT(newShape=np.array(shape, np.int32))
        self.operator("RESHAPE", [x, self.int32(*shape)], [y], options)
        return y

    def softmax(self, x: int, beta: float = 1.0) -> int:
        y = self.tensor(self.shape(x), 1 / 256, -128)
        self.operator("SOFTMAX", [x], [y], schema.SoftmaxOptionsT(beta=beta), version=2)
        return y

    def logistic(self, x: int) -> int:
        y = self.tensor(self.shape(x), 1 / 256, -128)
        self.operator("LOGISTIC", [x], [y], version=2)
        return y

    def tanh(self, x: int) -> int:
        y = self.tensor(self.shape(x), 1 / 128, 0)
        self.operator("TANH", [x], [y], version=2)
        return y

    def relu(self, x: int, kind: str = "RELU") -> int:
        y = self.fresh(self.shape(x))
        self.operator(kind, [x], [y], version=2)
        return y

    def quantize(self, x: int, scale: float, zero_point: int) -> int:
        y = self.tensor(self.shape(x), scale, zero_point)
        self.operator("QUANTIZE", [x], [y], schema.QuantizeOptionsT(), version=2)
        return y

    # The file

    def build(self, *outputs: int) -> bytes:
        """The network with these outputs as a flatbuffer."""
        self.graph.outputs = list(outputs)
        codes = [
            schema.OperatorCodeT(
                deprecatedBuiltinCode=min(code, 127), builtinCode=code, version=version
            )
            for code, version in self.codes
        ]
        model = schema.ModelT(
            version=3,
            operatorCodes=codes,
            subgraphs=[self.graph],
            description="flatbuffer_zoo",
            buffers=self.buffers,
        )
        return flatbuffer.pack(model)

    def _weights(
        self, x: int, shape: Sequence[int], axis: int, bias: bool, per_channel: bool
    ) -> list[int]:
        """The inputs of a layer on `x`: itself, random weights and, if wanted, biases."""
        channels = shape[axis]
        fan_in = math.prod(shape) // channels
        scales = 3 / 127 / math.sqrt(fan_in) * self.random.uniform(0.3, 1.0, channels)
        scales = scales.astype(np.float32) if per_channel else scales[:1].astype(np.float32)
        data = self.random.integers(-127, 128, shape).astype(np.int8)
        weights = self.tensor(shape, scales, data=data, axis=axis, name=f"weights_{x}")
        if not bias:
            return [x, weights]
        values = self.random.integers(-2000, 2000, channels).astype(np.int32)
        biases = self.tensor(
            (channels,),
            scales * np.float32(self.scale(x)),
            dtype=schema.TensorType.INT32,
            data=values,
            name=f"biases_{x}",
        )
        return [x, weights, biases]

    def _elementwise(self, name: str, a: int, b: int, options: object) -> int:
        y = self.fresh(np.broadcast_shapes(self.shape(a), self.shape(b)))
        self.operator(name, [a, b], [y], options, version=2)
        return y


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def _length(size: int, kernel: int, stride: int, dilation: int, padding: str) -> int:
    if padding == "same":
        return -(-size // stride)
    return (size - (kernel - 1) * dilation - 1) // stride + 1


# Small networks


def single_convolution(seed: int = 0) -> bytes:
    net = Builder(seed)
    return net.build(net.conv2d(net.input((1, 6, 6, 3)), 4, activation="relu"))


def dense_network(seed: int = 0) -> bytes:
    net = Builder(seed)
    x = net.dense(net.input((1, 20)), 16, activation="relu")
    return net.build(net.softmax(net.dense(x, 4)))


def plain_network(seed: int = 0) -> bytes:
    """Convolutions, pooling, a dense layer: what a first image classifier looks like."""
    net = Builder(seed)
    x = net.conv2d(net.input((1, 12, 12, 1)), 4, activation="relu", padding="valid")
    x = net.pool(x, "MAX_POOL_2D")
    x = net.conv2d(x, 6, activation="relu6", strides=2)
    x = net.reshape(x, (1, math.prod(net.shape(x))))
    return net.build(net.softmax(net.dense(x, 5)))


def depthwise_network(seed: int = 0) -> bytes:
    """Depthwise and 1x1 convolutions, as in DS-CNN and MobileNet."""
    net = Builder(seed)
    x = net.conv2d(net.input((1, 10, 6, 1)), 8, kernel=(4, 2), strides=2, activation="relu")
    for _ in range(2):
        x = net.depthwise(x, activation="relu")
        x = net.conv2d(x, 8, kernel=1, activation="relu")
    return net.build(net.softmax(net.dense(net.mean(x), 3)))


def residual_network(seed: int = 0) -> bytes:
    """Two branches that meet again, so that a tensor outlives its neighbours."""
    net = Builder(seed)
    x = net.conv2d(net.input((1, 8, 8, 3)), 6, activation="relu")
    y = net.conv2d(net.conv2d(x, 6, activation="relu", strides=2), 6)
    x = net.add(net.conv2d(x, 6, kernel=1, strides=2), y, activation="relu")
    return net.build(net.softmax(net.dense(net.pool(x, size=4), 3)))


def random_network(seed: int, depth: int = 6) -> bytes:
    """A random directed graph of operators that keep rank 4, ending in a dense layer.

    Earlier tensors are picked up again by additions and concatenations, so lifetimes overlap
    in every way that a planner of memory can meet.
    """
    net = Builder(seed)
    draw = net.random.integers
    tensors = [net.input((1, int(draw(2, 13)), int(draw(2, 13)), int(draw(1, 6))))]
    for _ in range(depth):
        x = tensors[-int(draw(1, min(3, len(tensors)) + 1))]
        fitting = [t for t in tensors if net.shape(t)[:3] == net.shape(x)[:3]]
        other = fitting[int(draw(len(fitting)))]
        choice = int(draw(7))
        if choice == 0:
            y = net.conv2d(x, int(draw(1, 9)), int(draw(1, 4)), int(draw(1, 3)))
        elif choice == 1:
            y = net.depthwise(x, int(draw(1, 3)), int(draw(1, 4)), int(draw(1, 3)))
        elif choice == 2 and min(net.shape(x)[1:3]) >= 2:
            y = net.pool(x, ["AVERAGE_POOL_2D", "MAX_POOL_2D"][int(draw(2))])
        elif choice == 3 and net.shape(other) == net.shape(x):
            y = net.add(x, other)
        elif choice == 4:
            y = net.concatenate([x, other])
        elif choice == 5:
            y = net.pad(x, [(0, 0), (1, 0), (0, int(draw(2))), (0, 0)])
        else:
            y = net.relu(x)
        tensors.append(y)
    read = {i for operator in net.graph.operators for i in operator.inputs}
    loose = [t for t in tensors[1:-1] if t not in read]
    ends = [net.dense(t, 2) for t in [*loose, tensors[-1]]]
    return net.build(*ends)


def several_network() -> bytes:
    """Two inputs; two outputs, of which an operator reads the first."""
    net = Builder()
    x = net.add(net.conv2d(net.input((1, 4, 4, 1)), 2), net.input((1, 4, 4, 2)))
    return net.build(x, net.dense(net.reshape(x, (1, 32)), 3))


NETWORKS = {
    "single_convolution": single_convolution,
    "dense_network": dense_network,
    "plain_network": plain_network,
    "depthwise_network": depthwise_network,
    "residual_network": residual_network,
}


def inputs_for(network: flatbuffer.Network) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    shapes = [network.tensors[i].shape for i in network.inputs]
    return [random.integers(-128, 128, shape).astype(np.int8) for shape in shapes]


def run_tflm(content: bytes, inputs: list[np.ndarray], count: int) -> list[np.ndarray]:
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(content, arena_size=2**22)
    for i, x in enumerate(inputs):
        interpreter.set_input(x, i)
    interpreter.invoke()
    return [interpreter.get_output(i) for i in range(count)]
