"""Operators with windows and weights: convolutions, fully connected layers, pools."""

import math

import numpy as np

from kprune.c import rescale
from kprune.c.step import (
    Array,
    Call,
    Constant,
    Op,
    Overlap,
    Place,
    Record,
    Refusal,
    Scratch,
    Step,
    describe,
    int8,
    record,
    same_scale,
    size,
)
from kprune.flatbuffer import Tensor


def conv2d(op: Op) -> Step:
    weights = op.input(1)
    filters, kernel_height, kernel_width, group_inputs = _four(weights)
    channels = _image(op.input(0))[2]
    if group_inputs == 0 or channels % group_inputs or filters % (channels // group_inputs):
        raise Refusal(f"{channels} input channels, {filters} filters of {group_inputs} channels")
    groups = channels // group_inputs
    layer = rescale.layer(op)
    window = _window(op, op.input(0), (kernel_height, kernel_width), groups)
    constants: list[Array | Record] = [
        Array("weights", "int8_t", _interleave(layer.weights, groups)),
        *layer.records(),
        window.record(),
    ]
    arguments = ("window", "rescale", "weights")
    return Step(
        f"Conv2D {window.summary()}" + (f", {groups} groups" if groups > 1 else ""),
        tuple(constants),
        (_call("kp_conv2d", arguments, op.input(0), op.output, Scratch()),),
        8 * (layer.weights.shape[1] + layer.weights.shape[1] % 2) + 3,
        # The groups of a pixel are gathered one after the other, so its inputs must survive.
        {op.input(0).index: window.overlap()} if groups == 1 else {},
    )


def depthwise_conv2d(op: Op) -> Step:
    _, kernel_height, kernel_width, filters = _four(op.input(1))
    channels = _image(op.input(0))[2]
    if channels == 0 or filters % channels:
        raise Refusal(f"{filters} filters for {channels} input channels")
    layer = rescale.layer(op, axis=3)
    window = _window(op, op.input(0), (kernel_height, kernel_width))
    constants: list[Array | Record] = [
        Array("weights", "int8_t", layer.weights),
        *layer.records(),
        window.record(),
    ]
    rows, width = window.reach()
    in_place = op.input(0).shape == op.output.shape and window.stride == (1, 1)
    return Step(
        f"DepthwiseConv2D {window.summary()}",
        tuple(constants),
        (
            _call(
                "kp_depthwise_conv2d",
                ("window", "rescale", "weights"),
                op.input(0),
                op.output,
                Scratch(),
            ),
        ),
        2 * rows * (width + width % 2 + 2) + 3,
        {op.input(0).index: Overlap(0, 0)} if in_place else {},
    )


def transpose_conv(op: Op) -> Step:
    _, kernel_height, kernel_width, depth = _four(op.input(1))
    source = op.input(2)
    if depth != _image(source)[2]:
        raise Refusal(f"filters of {depth} channels for {_image(source)[2]} input channels")
    layer = rescale.layer(op, folded=False)
    # Its window is that of the convolution from its output back to its input.
    window = _window(op, source, (kernel_height, kernel_width), backwards=True)
    constants: list[Array | Record] = [
        Array("weights", "int8_t", layer.weights),
        *layer.records(),
        window.record(),
    ]
    return Step(
        f"Conv2DTranspose {window.summary()}",
        tuple(constants),
        (_call("kp_transpose_conv2d", ("window", "rescale", "weights"), source, op.output),),
    )


def fully_connected(op: Op) -> Step:
    source, weights = op.input(0), op.input(1)
    if op.option("weights_format"):
        raise Refusal(f"weights format {op.option('weights_format')} is shuffled")
    if len(weights.shape) != 2:
        raise Refusal(f"{describe(weights)} has shape {weights.shape}, expected (units, inputs)")
    units, depth = weights.shape
    if depth == 0 or size(source) % depth or size(op.output) != size(source) // depth * units:
        raise Refusal(f"input {source.shape}, weights {weights.shape}, output {op.output.shape}")
    rows = size(source) // depth
    layer = rescale.layer(op)
    call = Call(
        "kp_fully_connected",
        (
            Constant("rescale"),
            Constant("weights"),
            *map(str, (rows, depth, units)),
            Place(source.index),
            Place(op.output.index),
        ),
    )
    activation = rescale.ACTIVATION_NAMES[op.option("fused_activation_function")]
    return Step(
        f"Dense {depth} -> {units}{activation}",
        (Array("weights", "int8_t", layer.weights), *layer.records()),
        (call,),
    )


def pool(op: Op) -> Step:
    source = op.input(0)
    if not same_scale(source, op.output):
        raise Refusal("input and output have different scales")
    kernel = (op.option("filter_height"), op.option("filter_width"))
    window = _window(op, source, kernel)
    if window.shape[2] != window.out_shape[2]:
        raise Refusal(f"{window.shape[2]} input channels, {window.out_shape[2]} output channels")
    low, high = rescale.activation_limits(op)
    name, function = _POOLS[op.operator.name]
    call = Call(
        function,
        (
            Constant("window"),
            str(low),
            str(high),
            Place(source.index),
            Place(op.output.index),
        ),
    )
    return Step(
        f"{name} {window.summary()}",
        (window.record(),),
        (call,),
        overlaps={source.index: window.overlap()},
    )


_POOLS = {
    "AVERAGE_POOL_2D": ("AveragePooling2D", "kp_average_pool"),
    "MAX_POOL_2D": ("MaxPooling2D", "kp_max_pool"),
}


LOWERINGS = {
    "CONV_2D": conv2d,
    "DEPTHWISE_CONV_2D": depthwise_conv2d,
    "TRANSPOSE_CONV": transpose_conv,
    "FULLY_CONNECTED": fully_connected,
    "AVERAGE_POOL_2D": pool,
    "MAX_POOL_2D": pool,
}


class _Window:
    """kp_window; pairs are (vertical, horizontal), shapes (height, width, channels)."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        out_shape: tuple[int, int, int],
        kernel: tuple[int, int],
        stride: tuple[int, int],
        dilation: tuple[int, int],
        pad: tuple[int, int],
        groups: int,
        activation: str,
    ) -> None:
        self.shape = shape
        self.out_shape = out_shape
        self.kernel = kernel
        self.stride = stride
        self.dilation = dilation
        self.pad = pad
        self.groups = groups
        self.activation = activation

    def record(self) -> Record:
        return record(
            "window",
            "kp_window",
            (self.shape, "input: height, width, channels"),
            (self.out_shape, "output"),
            (self.kernel, "kernel"),
            (self.stride, "stride"),
            (self.dilation, "dilation"),
            (self.pad, "padding: top, left"),
            ((self.groups,), "groups"),
        )

    def summary(self) -> str:
        parts = [f"{self.kernel[0]}x{self.kernel[1]}"]
        if self.stride != (1, 1):
            parts.append(f"stride {self.stride[0]}x{self.stride[1]}")
        if self.dilation != (1, 1):
            parts.append(f"dilation {self.dilation[0]}x{self.dilation[1]}")
        return ", ".join(parts) + self.activation

    def reach(self) -> tuple[int, int]:
        """Rows under one row of outputs, and values of a row under all its outputs."""
        rows, columns = (
            (kernel - 1) * dilation + 1
            for kernel, dilation in zip(self.kernel, self.dilation, strict=True)
        )
        return rows, (self.out_shape[1] - 1) * self.stride[1] + columns

    def overlap(self) -> Overlap:
        """Outputs are written pixel by pixel; each must end before the input it still needs.

        That begins at the top left of its own window or, where the padding holds the next row's
        window back, at the beginning of that one.
        """
        _, width, channels = self.shape
        out_height, out_width, out_channels = self.out_shape
        rows = np.maximum(np.arange(out_height) * self.stride[0] - self.pad[0], 0)
        columns = np.maximum(np.arange(out_width) * self.stride[1] - self.pad[1], 0)
        next_rows = np.append(rows[1:], math.prod(self.shape))
        needed = np.minimum(rows[:, None] * width + columns, next_rows[:, None] * width)
        ends = np.arange(1, out_height * out_width + 1).reshape(out_height, out_width)
        return Overlap(int((ends * out_channels - needed * channels).max()))


def _window(
    op: Op, source: Tensor, kernel: tuple[int, int], groups: int = 1, *, backwards: bool = False
) -> _Window:
    """The window of an operator that slides over `source`, or whose output does."""
    shape, out_shape = _image(source), _image(op.output)
    stride = (op.option("stride_h"), op.option("stride_w"))
    dilation = (op.option("dilation_h_factor", 1), op.option("dilation_w_factor", 1))
    if min(*kernel, *stride, *dilation) < 1:
        raise Refusal(f"kernel {kernel}, stride {stride}, dilation {dilation} must be positive")
    slid, results = (out_shape, shape) if backwards else (shape, out_shape)
    pad = []
    for axis in range(2):
        extent = (kernel[axis] - 1) * dilation[axis] + 1
        length = -(-(slid[axis] - (extent - 1) * op.option("padding")) // stride[axis])
        if length != results[axis]:
            raise Refusal(f"shapes {shape} and {out_shape} do not fit its window")
        missing = max((length - 1) * stride[axis] + extent - slid[axis], 0)
        pad.append(0 if op.option("padding") else missing // 2)
    activation = rescale.ACTIVATION_NAMES.get(op.option("fused_activation_function"), "")
    return _Window(shape, out_shape, kernel, stride, dilation, (pad[0], pad[1]), groups, activation)


def _image(tensor: Tensor) -> tuple[int, int, int]:
    int8(tensor)
    batch, height, width, channels = _four(tensor)
    if batch != 1:
        raise Refusal(f"{describe(tensor)} has batch size {batch}, expected 1")
    if 0 in (height, width, channels):
        raise Refusal(f"{describe(tensor)} is empty")
    return height, width, channels


def _four(tensor: Tensor) -> tuple[int, int, int, int]:
    if len(tensor.shape) != 4:
        raise Refusal(f"{describe(tensor)} has {len(tensor.shape)} axes, expected 4")
    first, second, third, fourth = tensor.shape
    return first, second, third, fourth


def _interleave(weights: np.ndarray, groups: int) -> np.ndarray:
    """Two channels of a group at a time, value by value: a0 b0 a1 b1 …; an odd last one alone."""
    parts = []
    for group in np.split(weights, groups):
        paired = len(group) // 2 * 2
        parts.append(group[:paired].reshape(-1, 2, group.shape[1]).transpose(0, 2, 1).ravel())
        parts.append(group[paired:].ravel())
    return np.concatenate(parts).reshape(-1, math.gcd(weights.size, 2 * weights.shape[1]))


def _call(
    function: str,
    constants: tuple[str, ...],
    source: Tensor,
    output: Tensor,
    *more: Scratch,
) -> Call:
    return Call(
        function,
        (*map(Constant, constants), Place(source.index), Place(output.index), *more),
    )
