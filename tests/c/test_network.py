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
    xs = random_inputs(flatbuffer)
    with tempfile.TemporaryDirectory() as folder:
        compiled = CompiledNetwork(flatbuffer, pathlib.Path(folder))
        for x, expected in zip(xs, tflite_micro(flatbuffer, xs), strict=True):
            np.testing.assert_array_equal(compiled(x), expected)
            if None not in compiled.offsets:
                np.testing.assert_array_equal(compiled.inside(x), expected)


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
    for x in random_inputs(flatbuffer):
        with tempfile.TemporaryDirectory() as folder:
            compiled = CompiledNetwork(flatbuffer, pathlib.Path(folder))

            np.testing.assert_array_equal(compiled(x), np.tile(x, counts))


@pytest.mark.parametrize("name", flatbuffer_zoo.NETWORKS)
def test_networks_give_the_bytes_of_tflite_micro(name):
    assert_equal_to_tflite_micro(flatbuffer_zoo.NETWORKS[name]())
