"""The oracle: what it gives, and what it says when it cannot."""

import flatbuffer_zoo
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from conftest import require

from kprune import tflm
from kprune.errors import FlatbufferError, ToolNotFoundError, UnsupportedOpError
from kprune.interpreters import run_tflite


def test_golden_vectors_quantize_real_values_and_take_the_first_rows():
    require("tflite_micro")
    content = flatbuffer_zoo.dense_network()
    x = np.full((5, 20), 0.5, np.float32)

    inputs, outputs = tflm.golden_vectors(content, 2, x)

    # 0.5 / 0.02 - 3, the zoo's input scale and zero point.
    np.testing.assert_array_equal(inputs, np.full((2, 20), 22, np.int8))
    np.testing.assert_array_equal(outputs, run_tflite(content, inputs, "tflm"))


def test_pseudo_random_golden_vectors_are_the_same_every_time():
    require("tflite_micro")
    content = flatbuffer_zoo.dense_network()

    first, second = tflm.golden_vectors(content, 3), tflm.golden_vectors(content, 3)

    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert first[0].min() < -100 and first[0].max() > 100


def test_golden_vectors_of_several_inputs_and_outputs_are_lists():
    require("tflite_micro")
    content = flatbuffer_zoo.several_network()

    inputs, outputs = tflm.golden_vectors(content, 2)

    assert [x.shape for x in inputs] == [(2, 4, 4, 1), (2, 4, 4, 2)]
    for y, expected in zip(outputs, run_tflite(content, inputs, "tflm"), strict=True):
        np.testing.assert_array_equal(y, expected)


def test_golden_vectors_refuses_more_rows_than_there_are():
    with pytest.raises(ValueError, match="between 1 and the 2 samples, got 3"):
        tflm.golden_vectors(flatbuffer_zoo.dense_network(), 3, np.zeros((2, 20)))


@pytest.mark.parametrize("count", [0, -3])
def test_golden_vectors_refuses_less_than_one(count):
    with pytest.raises(ValueError, match=f"count must be at least 1, got {count}"):
        tflm.golden_vectors(flatbuffer_zoo.dense_network(), count)


def test_an_operator_that_tflite_micro_lacks_is_named():
    require("tflite_micro")
    net = flatbuffer_zoo.Builder()
    x = net.input((1, 4))
    y = net.like(x)
    net.operator("GELU", [x], [y], schema.GeluOptionsT())

    with pytest.raises(UnsupportedOpError, match=r"cannot run this network: .*GELU"):
        tflm.measure_arena(net.build(y))


def test_a_missing_wheel_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(ToolNotFoundError, match=r"pip install 'kprune\[tflm\]'"):
        tflm.measure_arena(flatbuffer_zoo.dense_network())


def test_a_damaged_file_never_reaches_the_interpreter():
    with pytest.raises(FlatbufferError):
        tflm.measure_arena(flatbuffer_zoo.dense_network()[:-500])


def test_an_interpreter_that_crashes_is_an_error_and_not_the_end(monkeypatch):
    require("tflite_micro")
    monkeypatch.setattr(tflm, "_PROGRAM", "import os; os.abort()")

    with pytest.raises(UnsupportedOpError, match=r"it ended without a message, .*SIGABRT\.$"):
        tflm.measure_arena(flatbuffer_zoo.dense_network())


def test_an_interpreter_that_hangs_is_given_up(monkeypatch):
    require("tflite_micro")
    monkeypatch.setattr(tflm, "_PROGRAM", "import time; time.sleep(60)")
    monkeypatch.setattr(tflm, "_TIMEOUT_S", 0.2)

    with pytest.raises(UnsupportedOpError, match=r"did not prepare this network within 0\.2 s"):
        tflm.measure_arena(flatbuffer_zoo.dense_network())
