"""Generated C on this computer == TensorFlow Lite Micro, byte for byte."""

import pathlib
import tempfile

import flatbuffer_zoo
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from compiled import CompiledNetwork, random_inputs, tflite_micro
from conftest import require
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from single_operators import OPERATORS, tile

from kprune import flatbuffer as flatbuffers


@pytest.fixture(autouse=True, scope="module")
def _tools():
    require("gcc", "tflite_micro")


class Drawn:
    """A `Draw` from hypothesis."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data

    def integer(self, low, high):
        return self.data.draw(st.integers(low, high))

    def choice(self, options):
        return options[self.integer(0, len(options) - 1)]


def assert_equal_to_tflite_micro(flatbuffer: bytes) -> None:
    samples = random_inputs(flatbuffer)
    with tempfile.TemporaryDirectory() as folder:
        compiled = CompiledNetwork(flatbuffer, pathlib.Path(folder))
        for xs, expected in zip(samples, tflite_micro(flatbuffer, samples), strict=True):
            assert_equal(compiled(xs), expected)
            if len(compiled.offsets) == len(compiled.inputs) + len(compiled.outputs):
                assert_equal(compiled.inside(xs), expected)


def assert_equal(arrays: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for array, other in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(array, other)


@pytest.mark.parametrize("name", OPERATORS)
@settings(
    max_examples=15,
    deadline=None,  # each example runs a compiler
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_each_operator_gives_the_bytes_of_tflite_micro(name, data):
    assert_equal_to_tflite_micro(OPERATORS[name](Drawn(data)))


@settings(max_examples=15, derandomize=True)
@given(data=st.data())
def test_tile_gives_the_bytes_of_numpy(data):
    flatbuffer = tile(Drawn(data))
    network = flatbuffers.read(flatbuffer)
    counts = network.tensors[network.operators[0].inputs[1]].data
    for [x] in random_inputs(flatbuffer):
        with tempfile.TemporaryDirectory() as folder:
            compiled = CompiledNetwork(flatbuffer, pathlib.Path(folder))

            assert_equal(compiled([x]), [np.tile(x, counts)])


@pytest.mark.parametrize("name", flatbuffer_zoo.NETWORKS)
def test_networks_give_the_bytes_of_tflite_micro(name):
    assert_equal_to_tflite_micro(flatbuffer_zoo.NETWORKS[name]())


def _joined_and_parted() -> bytes:
    net = flatbuffer_zoo.Builder()
    x = net.add(net.relu(net.input((1, 4, 4, 2))), net.input((1, 4, 4, 2)))
    return net.build(x, net.dense(net.reshape(x, (1, 32)), 3), net.relu(x))


def _one_tensor_in_two_shapes() -> bytes:
    net = flatbuffer_zoo.Builder()
    x = net.relu(net.input((1, 4, 2)))
    return net.build(net.reshape(x, (1, 8)), net.reshape(net.reshape(x, (1, 2, 4)), (1, 4, 2)), x)


def _an_input_that_nothing_reads() -> bytes:
    net = flatbuffer_zoo.Builder()
    x = net.input((1, 4, 4, 2))
    net.input((1, 7))
    return net.build(net.conv2d(x, 3))


def _inputs_as_they_come() -> bytes:
    net = flatbuffer_zoo.Builder()
    a, b = net.input((1, 6)), net.input((1, 2, 3))
    return net.build(net.reshape(b, (1, 6)), net.reshape(a, (1, 3, 2)))


@pytest.mark.parametrize(
    "build",
    [
        _joined_and_parted,
        _one_tensor_in_two_shapes,
        _an_input_that_nothing_reads,
        _inputs_as_they_come,
    ],
)
def test_networks_of_several_inputs_and_outputs_give_the_bytes_of_tflite_micro(build):
    assert_equal_to_tflite_micro(build())


def _softmax(length: int, scale: float = 0.02, zero_point: int = -3) -> bytes:
    net = flatbuffer_zoo.Builder()
    return net.build(net.softmax(net.input((2, length), scale, zero_point)))


@pytest.mark.parametrize("zero_point", [-128, 0, 127])
@pytest.mark.parametrize("length", [511, 600, 5000])
def test_softmax_of_long_rows_gives_the_bytes_of_tflite_micro(length, zero_point, tmp_path):
    """Up to where that ends the process: a sum of exponentials of 512."""
    flatbuffer = _softmax(length, 0.5, zero_point)
    x = np.full((2, length), -128, np.int8)
    x[0, :511], x[1, ::12] = 7, 8

    assert_equal(CompiledNetwork(flatbuffer, tmp_path)([x]), tflite_micro(flatbuffer, [[x]])[0])


@pytest.mark.parametrize("zero_point", [-128, 0, 127])
@pytest.mark.parametrize("length", [512, 513, 600, 5000, 8192, 9000])
def test_no_probability_of_a_row_that_adds_up_to_512_is_half_a_step(length, zero_point, tmp_path):
    x = np.full((2, length), 5, np.int8)
    x[1] = -128

    [y] = CompiledNetwork(_softmax(length, 1e-3, zero_point), tmp_path)([x])

    assert np.unique(y).tolist() == [-128]


@pytest.mark.parametrize(
    ("begin", "end", "step", "masks"),
    [
        (2, 3, 1, {"shrinkAxisMask": 2}),
        (-1, 0, 1, {"shrinkAxisMask": 2}),
        (-9, 0, 2, {"shrinkAxisMask": 2}),
        (2, 0, 1, {"shrinkAxisMask": 2, "beginMask": 2}),
        (2, 0, 1, {"shrinkAxisMask": 2, "endMask": 2}),
        (2, 3, 1, {"beginMask": 2}),
        (2, 3, 1, {"endMask": 2}),
        (1, 2, -1, {"beginMask": 2}),
        (1, 2, -1, {"endMask": 2}),
        (9, -9, -2, {}),
        (2, 9, 1, {"offset": True}),
    ],
)
def test_masks_of_a_slice_mean_what_they_mean_in_tflite_micro(begin, end, step, masks):
    net = flatbuffer_zoo.Builder()
    x = net.input((1, 4, 5))
    # What TensorFlow Lite Micro makes of it is tested; here, only how many rows it takes.
    chosen = slice(
        None if masks.get("beginMask") else begin, None if masks.get("endMask") else end, step
    )
    shape = (1, 5) if "shrinkAxisMask" in masks else (1, len(range(4)[chosen]), 5)
    y = net.like(x, shape)
    bounds = [net.int32(0, begin, 0), net.int32(1, end, 5), net.int32(1, step, 1)]
    options = schema.StridedSliceOptionsT(**masks)
    net.operator("STRIDED_SLICE", [x, *bounds], [y], options, version=2)

    assert_equal_to_tflite_micro(net.build(y))


def test_an_offset_counts_from_the_first_position(tmp_path):
    """As in LiteRT; TensorFlow Lite Micro knows no offsets, and refuses this one."""
    net = flatbuffer_zoo.Builder()
    x = net.input((1, 8))
    y = net.like(x, (1, 3))
    options = schema.StridedSliceOptionsT(offset=True)
    bounds = [net.int32(0, -3), net.int32(1, 3), net.int32(1, 1)]
    net.operator("STRIDED_SLICE", [x, *bounds], [y], options, version=8)

    [y] = CompiledNetwork(net.build(y), tmp_path)([np.arange(8, dtype=np.int8).reshape(1, 8)])

    assert y.tolist() == [[5, 6, 7]]


@pytest.mark.parametrize(
    ("scale", "out_scale"),
    [(2.0**-10, 1.0), (2.0**-20, 2.0**-20), (2.0**-6, 2.0**9), (1e-6, 3.0), (2.0**20, 2.0**30)],
)
def test_hard_swish_of_far_apart_scales_gives_the_bytes_of_tflite_micro(scale, out_scale):
    net = flatbuffer_zoo.Builder()
    x = net.input((1, 256), scale, 4)
    y = net.tensor((1, 256), out_scale, -5)
    net.operator("HARD_SWISH", [x], [y], schema.HardSwishOptionsT())

    assert_equal_to_tflite_micro(net.build(y))


# Float values


def _float(net: flatbuffer_zoo.Builder, *shape: int) -> int:
    return net.tensor(shape, None, dtype=schema.TensorType.FLOAT32)


def _reshaped(net: flatbuffer_zoo.Builder, x: int) -> int:
    y = _float(net, 1, 2, 4)
    options = schema.ReshapeOptionsT(newShape=np.array([1, 2, 4], np.int32))
    net.operator("RESHAPE", [x, net.int32(1, 2, 4)], [y], options)
    return y


def _float_all_along(net: flatbuffer_zoo.Builder, x: int) -> tuple[int, ...]:
    return (_reshaped(net, x),)


def _float_as_well(net: flatbuffer_zoo.Builder, x: int) -> tuple[int, ...]:
    y = _reshaped(net, x)
    return net.quantize(y, 0.1, 3), y


def _float_first(net: flatbuffer_zoo.Builder, x: int) -> tuple[int, ...]:
    return (net.quantize(_reshaped(net, x), 0.1, 3),)


def _float_again(net: flatbuffer_zoo.Builder, x: int) -> tuple[int, ...]:
    y = _float(net, 1, 8)
    quantized = net.quantize(x, 0.1, 3)
    net.operator("DEQUANTIZE", [quantized], [y], schema.DequantizeOptionsT(), version=2)
    return (_reshaped(net, y),)


@pytest.mark.parametrize("build", [_float_all_along, _float_as_well, _float_first, _float_again])
def test_float_values_are_reshaped_whole(build, tmp_path):
    net = flatbuffer_zoo.Builder()
    x = _float(net, 1, 8)
    net.graph.inputs.append(x)
    flatbuffer = net.build(*build(net, x))
    values = np.linspace(-1, 1, 8, dtype=np.float32).reshape(1, 8)

    found = CompiledNetwork(flatbuffer, tmp_path)([values])

    assert_equal(found, tflite_micro(flatbuffer, [[values]])[0])


@pytest.mark.parametrize("zero_point", [-128, -3, 0, 127])
def test_values_that_no_byte_can_hold_are_quantized_to_the_nearest(zero_point, tmp_path):
    net = flatbuffer_zoo.Builder()
    x = _float(net, 1, 6)
    net.graph.inputs.append(x)
    flatbuffer = net.build(net.quantize(x, 0.1, zero_point))
    values = np.array([[np.nan, np.inf, -np.inf, 3e38, -3e38, -np.nan]], np.float32)

    [y] = CompiledNetwork(flatbuffer, tmp_path)([values])

    assert y.tolist() == [[zero_point, 127, -128, 127, -128, zero_point]]
