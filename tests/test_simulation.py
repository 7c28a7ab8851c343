"""Arrays in, scores out: the generated network on this computer and on simulated boards."""

import flatbuffer_zoo
import numpy as np
import pytest
from conftest import require
from tiny import QEMU_BOARDS, TINY, TOOLS, random_inputs, tiny_reference

from kprune.boards import BOARDS
from kprune.building import read_network
from kprune.c.files import write_files
from kprune.c.network import to_c
from kprune.flatbuffer import read
from kprune.interpreters import run_tflite
from kprune.simulation import input_rows, simulate


def test_the_host_gives_what_the_network_computes():
    require("make", "cc")
    x = random_inputs(50, 6)

    result = simulate(TINY, x)

    np.testing.assert_array_equal(result.outputs, tiny_reference(x))
    np.testing.assert_array_equal(result.scores, 0.25 * (tiny_reference(x) - 4.0))
    assert (result.simulator, result.instructions, result.flash) == ("host", None, {})


NETWORKS = {
    "plain": flatbuffer_zoo.plain_network(),
    "depthwise": flatbuffer_zoo.depthwise_network(),
    "residual": flatbuffer_zoo.residual_network(),
    "dense": flatbuffer_zoo.dense_network(),
}


SOME_BOARDS = ["mps2-an386", "microbit", "mps3-an547"]  # DSP, neither, MVE


@pytest.mark.parametrize(
    "name, board",
    [("depthwise", board) for board in QEMU_BOARDS]
    + [(name, board) for name in ("plain", "residual", "dense") for board in SOME_BOARDS],
)
def test_generated_networks_give_the_bytes_of_tensorflow_lite_micro(name, board, tmp_path):
    require("tflite_micro", *TOOLS)
    write_files(to_c(NETWORKS[name], name="net"), tmp_path)
    size = read_network(tmp_path).input_size
    x = random_inputs(4, size)

    result = simulate(tmp_path, x, board)

    shape = read(NETWORKS[name]).tensors[read(NETWORKS[name]).inputs[0]].shape
    expected = run_tflite(NETWORKS[name], x.reshape(-1, *shape[1:]), interpreter="tflm")
    np.testing.assert_array_equal(result.outputs, expected.reshape(len(x), -1))
    assert sum(result.layers.values()) == result.instructions > 1000
    assert len(result.layers) > 1
    assert result.flash["program"] <= BOARDS[board].reserve.flash_bytes
    assert result.stack_bytes <= result.ram["stack"]


@pytest.mark.parametrize("board", ["host", *SOME_BOARDS])
def test_several_inputs_and_outputs_give_the_bytes_of_tensorflow_lite_micro(board, tmp_path):
    require("tflite_micro", *TOOLS)
    flatbuffer = flatbuffer_zoo.several_network()
    write_files(to_c(flatbuffer, name="net"), tmp_path)
    shapes = ((3, 4, 4, 1), (3, 4, 4, 2))
    inputs = [np.random.default_rng(0).normal(size=shape).astype("float32") for shape in shapes]

    result = simulate(tmp_path, inputs, board)

    expected = run_tflite(flatbuffer, inputs, interpreter="tflm")
    assert len(expected) == 2
    for scores, given in zip(result.scores, expected, strict=True):
        np.testing.assert_array_equal(scores, given.reshape(3, -1))


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_that_is_no_time_is_refused(timeout):
    with pytest.raises(ValueError, match=r"timeout must be a number of seconds above 0"):
        simulate(TINY, random_inputs(1, 6), timeout=timeout)


def test_a_board_without_a_simulator_is_refused():
    with pytest.raises(ValueError, match=r"nothing simulates board 'nucleo_f446re'"):
        simulate(TINY, random_inputs(1, 6), "nucleo_f446re")


def test_a_simulator_that_does_not_know_the_board_is_refused():
    with pytest.raises(ValueError, match=r"renode has no model of board 'microbit': use .*'qemu'"):
        simulate(TINY, random_inputs(1, 6), "microbit", simulator="renode")


def test_real_values_are_quantised_with_the_scale_of_the_header():
    network = read_network(TINY)

    steps = input_rows(np.array([[0.0, 0.5, -0.5, 1000.0, -1000.0, 1.2]]), network)

    assert steps.tolist() == [[-1, 0, -2, 127, -128, 1]]


def test_inputs_of_any_shape_are_taken_row_by_row():
    x = random_inputs(4, 6)

    np.testing.assert_array_equal(input_rows(x.reshape(4, 3, 2), read_network(TINY)), x)


@pytest.mark.parametrize(
    ("shape", "cure"),
    [
        ((6,), r"for this one, pass x\[None\]"),
        ((2, 3), r"for this one, pass x\[None\]"),
        ((1, 5), r"expected \(inputs, ...\) with 6 values each"),
        ((), r"expected \(inputs, ...\) with 6 values each"),
        ((0, 6), "it is empty. Pass at least one input"),
        ((6, 0), "it is empty. Pass at least one input"),
        ((0,), "it is empty. Pass at least one input"),
    ],
)
def test_inputs_of_the_wrong_size_are_refused_with_what_to_do(shape, cure):
    message = rf"'tiny' takes inputs of 6 values, but x has shape .*{cure}"
    with pytest.raises(ValueError, match=message):
        input_rows(np.zeros(shape, np.int8), read_network(TINY))


def test_the_cure_names_the_array_of_several(tmp_path):
    write_files(to_c(flatbuffer_zoo.several_network(), name="net"), tmp_path)
    x = [np.zeros((1, 16), np.int8), np.zeros(32, np.int8)]

    with pytest.raises(ValueError, match=r"pass x\[1\]\[None\]\."):
        input_rows(x, read_network(tmp_path))


@pytest.mark.parametrize(
    ("x", "content"),
    [
        (np.full((1, 6), "one"), "text"),
        (np.array("one"), "text"),
        (np.full((1, 6), None), "object"),
    ],
)
def test_arrays_of_something_else_than_numbers_are_refused(x, content):
    message = rf"'tiny' takes numbers, but x is an array of {content}\. Expected floating point"
    with pytest.raises(TypeError, match=message):
        input_rows(x, read_network(TINY))


def test_the_wrong_number_of_inputs_is_refused(tmp_path):
    write_files(to_c(flatbuffer_zoo.several_network(), name="net"), tmp_path)
    x = np.zeros((2, 16), np.int8)

    with pytest.raises(ValueError, match=r"'tiny' takes 1 inputs, but x is 2 arrays"):
        input_rows([x, x], read_network(TINY))
    with pytest.raises(ValueError, match=r"'net' takes 2 inputs, but x is 1 arrays"):
        input_rows(x, read_network(tmp_path))
    with pytest.raises(ValueError, match=r"inputs of 32 values, but x\[1\] has shape \(2, 16\)"):
        input_rows([x, x], read_network(tmp_path))
    with pytest.raises(ValueError, match=r"equally many samples for each input, got 2, 1"):
        input_rows([x, np.zeros((1, 32), np.int8)], read_network(tmp_path))


def test_integers_that_are_not_int8_are_refused():
    with pytest.raises(TypeError, match=r"floating point.*or int8.*got int64"):
        input_rows(np.zeros((1, 6), np.int64), read_network(TINY))


def test_nan_is_refused():
    with pytest.raises(ValueError, match=r"NaN"):
        input_rows(np.full((1, 6), np.nan), read_network(TINY))
