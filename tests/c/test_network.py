"""Generated C on this computer == TensorFlow Lite Micro, byte for byte."""

import pathlib
import tempfile

import flatbuffer_zoo
import numpy as np
import pytest
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
