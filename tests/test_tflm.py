"""The oracle: what it gives, and what it says when it cannot."""

import flatbuffer_zoo
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from conftest import require

from kprune import tflm
from kprune.errors import FlatbufferError, ToolNotFoundError, UnsupportedOpError


def test_run_gives_the_outputs_of_the_interpreter():
    require("tflite_micro")
    from tflite_micro.python.tflite_micro import runtime

    content = flatbuffer_zoo.plain_network()
    x = np.random.default_rng(0).integers(-128, 128, (4, 12, 12, 1)).astype(np.int8)
    interpreter = runtime.Interpreter.from_bytes(content, arena_size=2**20)
    expected = []
    for row in x:
        interpreter.set_input(row[None], 0)
        interpreter.invoke()
        expected.append(interpreter.get_output(0)[0])

    np.testing.assert_array_equal(tflm.run(content, x), expected)


def test_golden_vectors_quantize_real_values_and_take_the_first_rows():
    require("tflite_micro")
    content = flatbuffer_zoo.dense_network()
    x = np.full((5, 20), 0.5, np.float32)

    inputs, outputs = tflm.golden_vectors(content, 2, x)

    # 0.5 / 0.02 - 3, the zoo's input scale and zero point.
    np.testing.assert_array_equal(inputs, np.full((2, 20), 22, np.int8))
    np.testing.assert_array_equal(outputs, tflm.run(content, inputs))


def test_pseudo_random_test_vectors_are_the_same_every_time():
    require("tflite_micro")
    content = flatbuffer_zoo.dense_network()

    first, second = tflm.golden_vectors(content, 3), tflm.golden_vectors(content, 3)

    np.testing.assert_array_equal(first[0], second[0])
    assert first[0].min() < -100 and first[0].max() > 100


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((1, 21), np.int8), r"expected \(n, 20\) of type int8"),
        (np.zeros((1, 20), np.float32), "type float32, expected"),
    ],
)
def test_run_refuses_inputs_that_do_not_fit(x, message):
    with pytest.raises(ValueError, match=message):
        tflm.run(flatbuffer_zoo.dense_network(), x)


def test_golden_vectors_refuses_more_rows_than_there_are():
    with pytest.raises(ValueError, match="between 1 and the 2 rows of x, got 3"):
        tflm.golden_vectors(flatbuffer_zoo.dense_network(), 3, np.zeros((2, 20)))


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
        tflm.run(flatbuffer_zoo.dense_network()[:-500], np.zeros((1, 20), np.int8))
