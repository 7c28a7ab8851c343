"""Both runtimes, on real values and on the bytes themselves."""

import contextlib
import sys

import flatbuffer_zoo as zoo
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from conftest import require

from kprune import FlatbufferError, ToolNotFoundError, child, run_tflite
from kprune.flatbuffer import read
from kprune.interpreters import dequantize, quantize

FLATBUFFER = zoo.residual_network()
NETWORK = read(FLATBUFFER)
SOURCE, TARGET = (NETWORK.tensors[i] for i in (NETWORK.inputs[0], NETWORK.outputs[0]))
BYTES = np.random.default_rng(0).integers(-128, 128, (6, *SOURCE.shape[1:]), np.int8)


@pytest.mark.parametrize("interpreter", ["litert", "tflm"])
def test_real_values_are_quantised_run_and_dequantised(interpreter: str) -> None:
    require(*["tflite_micro"] * (interpreter == "tflm"))
    outputs = run_tflite(FLATBUFFER, BYTES, interpreter)

    real = run_tflite(FLATBUFFER, dequantize(BYTES, SOURCE), interpreter)

    assert outputs.dtype == np.int8
    assert real.dtype == np.float32
    np.testing.assert_array_equal(real, dequantize(outputs, TARGET))


def test_the_two_runtimes_differ_by_rounding_only() -> None:
    require("tflite_micro")
    litert, tflm = (run_tflite(FLATBUFFER, BYTES, name).astype(int) for name in ("litert", "tflm"))

    # LiteRT rounds once where TensorFlow Lite Micro rounds twice.
    assert np.abs(litert - tflm).max() <= 2


def test_quantising_is_the_inverse_within_the_range_and_saturates_beyond() -> None:
    np.testing.assert_array_equal(quantize(dequantize(BYTES, SOURCE), SOURCE), BYTES)
    assert quantize(np.array([-1e9, 1e9]), SOURCE).tolist() == [-128, 127]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (BYTES[:, 1:], r"x must have the shape \(samples, .*\) of the network's input, got"),
        (BYTES.astype("int32"), "x must be float .* or int8, .* got int32"),
        (np.float32(1), r"x must have the shape .* got \(\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(x: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_tflite(FLATBUFFER, x)


def test_what_is_no_flatbuffer_is_refused() -> None:
    with pytest.raises(FlatbufferError, match="not a TensorFlow Lite flatbuffer"):
        run_tflite(b"PK\x03\x04 a .keras file is a zip", BYTES)


@pytest.mark.parametrize("interpreter", ["litert", "tflm"])
def test_a_file_that_only_the_interpreter_finds_damaged_is_refused(interpreter: str) -> None:
    require(*["tflite_micro"] * (interpreter == "tflm"))
    refused = []
    for position in range(40, len(FLATBUFFER), 61):
        damaged = bytearray(FLATBUFFER)
        damaged[position] ^= 0xFF
        with contextlib.suppress(FlatbufferError):
            read(bytes(damaged))
            refused.append(bytes(damaged))

    # Whatever happens to the interpreter, this process lives, and the error is a ValueError.
    for damaged in refused[:12]:
        with contextlib.suppress(ValueError):
            run_tflite(damaged, BYTES[:1], interpreter)


@pytest.mark.parametrize("interpreter", ["litert", "tflm"])
def test_several_inputs_and_outputs_are_lists_in_the_order_of_the_file(interpreter: str) -> None:
    require(*["tflite_micro"] * (interpreter == "tflm"))
    net = zoo.Builder(0)
    a, b = net.input((1, 3), 0.5, 0), net.input((1, 4), 0.25, 0)
    flatbuffer = net.build(net.quantize(b, 0.25, 1), net.quantize(a, 0.5, 2))
    x = [np.float32([[1, 2, 3], [4, 5, 6]]), np.float32([[1, 2, 3, 4]] * 2)]

    outputs = run_tflite(flatbuffer, x, interpreter)

    np.testing.assert_array_equal(outputs[0], x[1])
    np.testing.assert_array_equal(outputs[1], x[0])
    for wrong, message in ((x[0], "each of the network's 2 inputs"), ([x[0], x[1][:1]], "2, 1")):
        with pytest.raises(ValueError, match=message):
            run_tflite(flatbuffer, wrong)


@pytest.mark.parametrize("interpreter", ["litert", "tflm"])
def test_an_output_of_a_single_number_is_one_value_per_sample(interpreter: str) -> None:
    require(*["tflite_micro"] * (interpreter == "tflm"))
    net = zoo.Builder(0)
    source = net.input((1, 3), 0.5, 0)
    options = schema.ReducerOptionsT()
    total = net.tensor((), 0.5)
    net.operator("SUM", [source, net.int32(0, 1)], [total], options, version=2)

    outputs = run_tflite(net.build(total), np.float32([[1, 2, 3], [4, 5, 6]]), interpreter)

    assert outputs.tolist() == [6, 15]


def test_an_interpreter_that_dies_is_told_by_its_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_PROGRAM", "import os; os.abort()")

    with pytest.raises(ValueError, match=r"LiteRT refuses the network: .* signal SIGABRT"):
        run_tflite(FLATBUFFER, BYTES)


def test_no_samples_give_no_outputs() -> None:
    assert run_tflite(FLATBUFFER, BYTES[:0]).shape == (0, *TARGET.shape[1:])


def test_an_unknown_interpreter_is_refused() -> None:
    with pytest.raises(ValueError, match="interpreter must be one of litert, tflm, got 'tf'"):
        run_tflite(FLATBUFFER, BYTES, "tf")


def test_missing_tflite_micro_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tflite_micro", None)

    with pytest.raises(ToolNotFoundError, match=r"pip install 'kprune\[tflm\]'"):
        run_tflite(FLATBUFFER, BYTES, "tflm")
