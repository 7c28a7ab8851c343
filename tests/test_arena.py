"""The plan of the arena against TensorFlow Lite Micro's recording allocator."""

import dataclasses
import itertools
import os
import re
import tempfile

import flatbuffer_zoo
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from conftest import require
from flatbuffer_zoo import inputs_for, run_tflm
from hypothesis import given, settings
from hypothesis import strategies as st

from kprune import arena, flatbuffer
from kprune.arena import Buffer, place
from kprune.errors import UnsupportedOpError
from kprune.repacking import repack
from kprune.tflm import measure_arena

BUFFERS = st.builds(
    lambda size, first, length: Buffer(16 * size, first, first + length),
    st.integers(1, 64),
    st.integers(0, 12),
    st.integers(0, 12),
)


@given(st.lists(BUFFERS, max_size=24))
def test_no_two_buffers_share_a_byte_at_the_same_time(buffers):
    offsets = place(buffers)

    for (a, x), (b, y) in itertools.combinations(zip(buffers, offsets, strict=True), 2):
        assert not a.meets(b) or x + a.size <= y or y + b.size <= x


@given(st.lists(BUFFERS, min_size=1, max_size=24))
def test_the_peak_is_at_least_what_is_alive_at_once_and_at_most_everything(buffers):
    peak = max(o + b.size for o, b in zip(place(buffers), buffers, strict=True))
    alive = [sum(b.size for b in buffers if b.first <= step <= b.last) for step in range(25)]

    assert max(alive) <= peak <= sum(b.size for b in buffers)


def recorded(content: bytes) -> tuple[int, int]:
    """Head and tail on this computer, without the cost of a process for each network."""
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(content, arena_size=2**22)
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            interpreter.print_allocations()
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        file.seek(0)
        text = file.read().decode()
    ends = dict(re.findall(r"Arena allocation (head|tail) (\d+)", text))
    return int(ends["head"]), int(ends["tail"])


def reduction(net, name):
    x = net.input((1, 3, 2, 300))
    y = net.like(x, (1, 300))
    options = schema.ReducerOptionsT()
    net.operator(name, [x, net.int32(1, 2)], [y], options, version=2)
    return y


def transposed_convolution(net):
    x = net.input((1, 4, 4, 3))
    y = net.fresh((1, 8, 8, 5))
    _, weights, biases = net._weights(x, (5, 3, 3, 3), 0, True, True)
    options = schema.TransposeConvOptionsT(padding=0, strideW=2, strideH=2)
    inputs = [net.int32(1, 8, 8, 5), weights, x, biases]
    net.operator("TRANSPOSE_CONV", inputs, [y], options, version=3)
    return y


def mirrored(net):
    x = net.input((1, 7, 5, 3))
    paddings = np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32)
    amounts = net.tensor((4, 2), None, dtype=schema.TensorType.INT32, data=paddings)
    y = net.like(x, (1, 9, 7, 3))
    net.operator("MIRROR_PAD", [x, amounts], [y], schema.MirrorPadOptionsT(), version=2)
    return y


def summed(net):
    xs = [net.input((1, 7, 5, 3), 0.02, 0) for _ in range(5)]
    y = net.like(xs[0])
    net.operator("ADD_N", xs, [y], schema.AddNOptionsT())
    return y


def matrix_product(net):
    x, y = net.input((1, 12, 40)), net.input((1, 40, 30))
    z = net.fresh((1, 12, 30))
    net.operator("BATCH_MATMUL", [x, y], [z], schema.BatchMatMulOptionsT(), version=2)
    return z


def single(kind, options=None, x=(1, 7, 5, 3), y=None, constants=(), version=1):
    """One operator that takes one activation of shape `x`, and constant int32 vectors."""

    def build(net):
        source = net.input(x)
        sink = net.like(source, y)
        net.operator(
            kind, [source, *(net.int32(*c) for c in constants)], [sink], options, version=version
        )
        return sink

    return build


def scaled(kind, scale, zero_point, options=None, version=2):
    """One operator whose output has the scale that its specification fixes."""

    def build(net):
        source = net.input((1, 30))
        sink = net.tensor((1, 30), scale, zero_point)
        net.operator(kind, [source], [sink], options, version=version)
        return sink

    return build


def largest(net):
    x, y = net.input((1, 30)), net.tensor((1,), None, dtype=schema.TensorType.INT32)
    options = schema.ArgMaxOptionsT(outputType=schema.TensorType.INT32)
    net.operator("ARG_MAX", [x, net.int32(1)], [y], options, version=2)
    return y


def in_16_bits(kind, scale=1 / 32768, options=None, version=2):
    """One operator on 16-bit activations."""

    def build(net):
        x, y = (net.tensor((1, 30), s, dtype=schema.TensorType.INT16) for s in (0.001, scale))
        net.graph.inputs.append(x)
        net.operator(kind, [x], [y], options, version=version)
        return y

    return build


def softmax_in_float(net):
    x, y = (net.tensor((1, 30), None, dtype=schema.TensorType.FLOAT32) for _ in range(2))
    net.graph.inputs.append(x)
    net.operator("SOFTMAX", [x], [y], schema.SoftmaxOptionsT(beta=1.0))
    return y


def dequantized(net):
    x, y = net.input((1, 30)), net.tensor((1, 30), None, dtype=schema.TensorType.FLOAT32)
    net.operator("DEQUANTIZE", [x], [y], schema.DequantizeOptionsT(), version=2)
    return y


def pairwise(kind, options):
    def build(net):
        x, y = net.input((1, 6, 6, 3)), net.input((1, 6, 6, 3))
        z = net.like(x)
        net.operator(kind, [x, y], [z], options)
        return z

    return build


def unused_input(net):
    net.input((1, 500))
    return net.relu(net.input((1, 20)))


def unused_tensor(net):
    net.tensor((1, 500))
    return net.relu(net.input((1, 20)))


def input_that_is_an_output(net):
    x = net.input((1, 30))
    return x, net.relu(net.relu(x))


OPERATORS = {
    "MEAN": lambda net: net.mean(net.input((1, 7, 5, 33))),
    "MEAN over one axis": lambda net: net.mean(net.input((1, 7, 5, 33)), (1,)),
    "SUM": lambda net: reduction(net, "SUM"),
    "REDUCE_MAX": lambda net: reduction(net, "REDUCE_MAX"),
    "REDUCE_MIN": lambda net: reduction(net, "REDUCE_MIN"),
    "TRANSPOSE_CONV": transposed_convolution,
    "MIRROR_PAD": mirrored,
    "ADD_N": summed,
    "SOFTMAX": lambda net: net.softmax(net.input((1, 300))),
    "LOGISTIC": lambda net: net.logistic(net.input((1, 300))),
    "TANH": lambda net: net.tanh(net.input((1, 300))),
    "RESHAPE": lambda net: net.reshape(net.input((1, 10, 30)), (1, 300)),
    "QUANTIZE": lambda net: net.quantize(net.input((1, 300)), 0.1, 2),
    "BATCH_MATMUL": matrix_product,
    "MUL": lambda net: net.mul(net.input((1, 6, 6, 3)), net.input((1, 1, 1, 3))),
    "SUB": lambda net: net.sub(net.input((1, 6, 6, 3)), net.input((1, 6, 6, 3))),
    "MAXIMUM": pairwise("MAXIMUM", schema.MaximumMinimumOptionsT()),
    "MINIMUM": pairwise("MINIMUM", schema.MaximumMinimumOptionsT()),
    "ARG_MAX": largest,
    "DEQUANTIZE": dequantized,
    "L2_NORMALIZATION": scaled("L2_NORMALIZATION", 1 / 128, 0, schema.L2NormOptionsT()),
    "LOG_SOFTMAX": scaled("LOG_SOFTMAX", 16 / 256, 127, schema.LogSoftmaxOptionsT()),
    "ELU": single("ELU"),
    "HARD_SWISH": single("HARD_SWISH", schema.HardSwishOptionsT()),
    "LEAKY_RELU": single("LEAKY_RELU", schema.LeakyReluOptionsT(alpha=0.1)),
    "TRANSPOSE": single(
        "TRANSPOSE", schema.TransposeOptionsT(), y=(1, 5, 7, 3), constants=[(0, 2, 1, 3)]
    ),
    "RESIZE_NEAREST_NEIGHBOR": single(
        "RESIZE_NEAREST_NEIGHBOR",
        schema.ResizeNearestNeighborOptionsT(),
        y=(1, 14, 10, 3),
        constants=[(14, 10)],
        version=2,
    ),
    "RESIZE_BILINEAR": single(
        "RESIZE_BILINEAR",
        schema.ResizeBilinearOptionsT(),
        y=(1, 14, 10, 3),
        constants=[(14, 10)],
        version=2,
    ),
    "STRIDED_SLICE": single(
        "STRIDED_SLICE",
        schema.StridedSliceOptionsT(),
        y=(1, 3, 5, 3),
        constants=[(0, 1, 0, 0), (1, 4, 5, 3), (1, 1, 1, 1)],
        version=2,
    ),
    "SLICE": single(
        "SLICE",
        schema.SliceOptionsT(),
        y=(1, 3, 5, 3),
        constants=[(0, 1, 0, 0), (1, 3, 5, 3)],
        version=2,
    ),
    "SQUEEZE": single("SQUEEZE", schema.SqueezeOptionsT(squeezeDims=[0]), x=(1, 4, 3), y=(4, 3)),
    "EXPAND_DIMS": single(
        "EXPAND_DIMS", schema.ExpandDimsOptionsT(), x=(1, 4, 3), y=(1, 1, 4, 3), constants=[(1,)]
    ),
    "DEPTH_TO_SPACE": single(
        "DEPTH_TO_SPACE",
        schema.DepthToSpaceOptionsT(blockSize=2),
        x=(1, 4, 4, 4),
        y=(1, 8, 8, 1),
    ),
    "SPACE_TO_DEPTH": single(
        "SPACE_TO_DEPTH",
        schema.SpaceToDepthOptionsT(blockSize=2),
        x=(1, 8, 8, 1),
        y=(1, 4, 4, 4),
    ),
    "PACK": single(
        "PACK", schema.PackOptionsT(valuesCount=1, axis=0), x=(4, 3), y=(1, 4, 3), version=2
    ),
    "SOFTMAX of int16": in_16_bits("SOFTMAX", options=schema.SoftmaxOptionsT(beta=1.0), version=3),
    "SOFTMAX of float": softmax_in_float,
    "LOGISTIC of int16": in_16_bits("LOGISTIC"),
    "TANH of int16": in_16_bits("TANH"),
    "per tensor": lambda net: net.conv2d(net.input((1, 6, 6, 3)), 9, per_channel=False),
    "dense per channel": lambda net: net.dense(net.input((1, 20)), 7, per_channel=True),
    "unused input": unused_input,
    "unused tensor": unused_tensor,
    "input that is an output": input_that_is_an_output,
}


@pytest.mark.parametrize("build", OPERATORS.values(), ids=OPERATORS)
def test_one_operator_alone_takes_what_the_recording_allocator_reports(build):
    require("tflite_micro")
    net = flatbuffer_zoo.Builder()
    outputs = build(net)
    content = net.build(*(outputs if isinstance(outputs, tuple) else [outputs]))
    network = flatbuffer.read(content)
    head, tail = recorded(content)

    assert arena.plan(network).peak == head
    assert 0 <= arena.tail_bytes(network, pointer_bytes=8) - tail <= 900


@given(st.integers(0, 2**31), st.integers(1, 24))
@settings(max_examples=100)
def test_random_networks_take_what_the_recording_allocator_reports(seed, depth):
    require("tflite_micro")
    content = flatbuffer_zoo.random_network(seed, depth)
    network = flatbuffer.read(content)
    head, tail = recorded(content)

    assert arena.plan(network).peak == head
    assert 0 <= arena.tail_bytes(network, pointer_bytes=8) - tail <= 200 + 50 * depth


@given(st.integers(0, 2**31), st.integers(1, 24), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_what_a_file_plans_itself_is_kept_and_the_rest_placed_around_it(seed, depth, random):
    require("tflite_micro")
    bare = repack(flatbuffer_zoo.random_network(seed, depth))
    found = arena.plan(flatbuffer.read(bare))
    offsets = [-1] * len(flatbuffer.read(bare).tensors)
    for tensor, offset in zip(found.tensors, found.offsets, strict=True):
        if tensor is not None and random.random() < 0.8:
            offsets[tensor] = offset + 48
    planned = repack(bare, offsets=offsets)

    assert arena.plan(flatbuffer.read(planned)).peak == recorded(planned)[0]
    for before, after in zip(outputs(bare), outputs(planned), strict=True):
        np.testing.assert_array_equal(before, after)


def outputs(content: bytes) -> list[np.ndarray]:
    network = flatbuffer.read(content)
    return run_tflm(content, inputs_for(network), len(network.outputs))


@pytest.mark.parametrize("widths", [(57, 50, 50, 50), (40, 17, 42, 53), (32, 22, 37, 44, 27)])
def test_a_plan_ahead_leaves_no_gap_between_layers_of_unequal_width(widths):
    require("tflite_micro")
    bare = repack(chain(widths))
    offsets = arena.plan_ahead(flatbuffer.read(bare))
    planned = repack(bare, offsets=offsets)
    held = [16 * 16 * width for width in (1, *widths)]

    assert recorded(planned)[0] == max(a + b for a, b in itertools.pairwise(held))
    assert measure_arena(planned).head == arena.arena(flatbuffer.read(planned)).head
    spared = recorded(bare)[0] - recorded(planned)[0]
    assert spared > arena.plan_bytes(flatbuffer.read(bare)) >= len(planned) - len(bare) > 0
    np.testing.assert_array_equal(outputs(bare)[0], outputs(planned)[0])


def test_no_plan_is_made_where_the_interpreter_makes_one_as_good():
    network = flatbuffer.read(chain((8, 8, 8)))

    assert arena.plan_ahead(network) == ()


def test_a_plan_leaves_room_for_scratch_buffers():
    """Convolutions of CMSIS-NN want some beside input and output."""
    bare = repack(chain((57, 50, 50, 50), kernel=3))
    before = flatbuffer.read(bare)
    after = dataclasses.replace(before, offsets=arena.plan_ahead(before))

    assert after.offsets
    assert arena.arena(after).total < arena.arena(before).total


def chain(widths: tuple[int, ...], kernel: int = 1) -> bytes:
    net = flatbuffer_zoo.Builder()
    x = net.input((1, 16, 16, 1))
    for width in widths:
        x = net.conv2d(x, width, kernel)
    return net.build(x)


@pytest.mark.parametrize("name", flatbuffer_zoo.NETWORKS)
def test_an_arena_as_predicted_is_enough_to_start_and_to_run_in(name):
    """A small network needs more to start than it keeps: what the recorder does not show."""
    require("tflite_micro")
    from tflite_micro.python.tflite_micro import runtime

    content = flatbuffer_zoo.NETWORKS[name]()
    network = flatbuffer.read(content)
    predicted = arena.arena(network)
    low = max(predicted.head, arena.start_bytes(network, pointer_bytes=8))
    tail = arena.tail_bytes(network, pointer_bytes=8)

    interpreter = runtime.Interpreter.from_bytes(content, arena_size=low + tail)
    interpreter.set_input(np.zeros(network.tensors[network.inputs[0]].shape, np.int8), 0)
    interpreter.invoke()


def test_a_measured_arena_has_the_same_head_and_a_tail_for_32_bits():
    require("tflite_micro")
    content = flatbuffer_zoo.residual_network()
    predicted = arena.arena(flatbuffer.read(content))
    measured = measure_arena(content)
    _, tail = recorded(content)

    assert (measured.head, measured.margin) == (predicted.head, predicted.margin)
    assert tail / 2 < measured.tail < tail
    assert measured.tail <= predicted.tail
    assert predicted.total % 16 == 0
    assert "recording allocator" in measured.source and "kprune" in predicted.source


def test_a_network_without_operators_is_measured():
    require("tflite_micro")
    net = flatbuffer_zoo.Builder()
    content = net.build(net.input((1, 4)))

    measured = measure_arena(content)

    assert measured.head == arena.arena(flatbuffer.read(content)).head == 16
    assert 0 < measured.tail <= arena.arena(flatbuffer.read(content)).tail


def test_the_margin_holds_the_scratch_buffers_of_cmsis_nn():
    net = flatbuffer_zoo.Builder()
    content = net.build(net.conv2d(net.input((1, 8, 8, 16)), 16, kernel=5))

    # Two patches of 5 x 5 x 16 as int16, and 32 bytes for the one operator.
    assert arena.cmsis_margin(flatbuffer.read(content)) == 2 * 5 * 5 * 16 * 2 + 32


def test_further_subgraphs_are_refused():
    network = flatbuffer.read(flatbuffer_zoo.dense_network())

    with pytest.raises(UnsupportedOpError, match="1 further subgraphs"):
        arena.plan(dataclasses.replace(network, subgraphs=(network,)))


def test_operators_with_unknown_scratch_buffers_are_refused_by_name():
    network = flatbuffer.read(flatbuffer_zoo.dense_network())
    first, *others = network.operators
    unknown = dataclasses.replace(first, name="SVDF")

    with pytest.raises(UnsupportedOpError, match="scratch buffers of SVDF: measure"):
        arena.plan(dataclasses.replace(network, operators=(unknown, *others)))
