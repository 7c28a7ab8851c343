"""Inspecting: the figures add up, agree with the plan, and are told in full."""

import dataclasses
import json
import subprocess
import sys

import flatbuffer_zoo
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

import kprune
from kprune import arena, flatbuffer
from kprune.boards import BOARDS, TFLM_RAM_BYTES
from kprune.errors import FlatbufferError, UnsupportedOpError
from kprune.inspection import inspect, plot_arena
from kprune.repacking import repack


def test_macs_and_weights_are_those_of_the_layers():
    net = flatbuffer_zoo.Builder()
    x = net.conv2d(net.input((1, 8, 6, 3)), 4, kernel=(3, 2), strides=2)
    x = net.depthwise(x, 2, kernel=3)
    steps = inspect(net.build(net.dense(x, 5, per_channel=True))).steps

    assert [step.macs for step in steps] == [
        4 * 3 * 4 * (3 * 2 * 3),
        4 * 3 * 8 * (3 * 3),
        4 * 3 * 8 * 5,
    ]
    assert [step.weight_bytes for step in steps] == [
        4 * 3 * 2 * 3 + 4 * 4,
        3 * 3 * 8 + 4 * 8,
        4 * 3 * 8 * 5 + 4 * 5,
    ]
    assert [step.operator for step in steps] == ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"]


def test_a_transposed_convolution_counts_each_input_value_times_its_kernel():
    net = flatbuffer_zoo.Builder()
    x, y = net.input((1, 4, 4, 3)), net.fresh((1, 8, 8, 5))
    _, weights, biases = net._weights(x, (5, 3, 3, 3), 0, True, True)
    options = schema.TransposeConvOptionsT(strideW=2, strideH=2)
    inputs = [net.int32(1, 8, 8, 5), weights, x, biases]
    net.operator("TRANSPOSE_CONV", inputs, [y], options, version=3)

    assert inspect(net.build(y)).macs == (4 * 4 * 3) * (3 * 3) * 5


@pytest.mark.parametrize("build", flatbuffer_zoo.NETWORKS.values(), ids=flatbuffer_zoo.NETWORKS)
@pytest.mark.parametrize("repacked", [False, True])
def test_the_parts_of_flash_add_up_to_the_file(build, repacked):
    content = repack(build()) if repacked else build()
    network = flatbuffer.read(content)
    result = inspect(content)

    assert sum(result.flash.values()) == result.file_bytes == len(content)
    assert all(size >= 0 for size in result.flash.values())
    weights = [t.num_bytes for t in network.tensors if t.data is not None and t.dtype == "int8"]
    assert result.flash["weights"] == sum(weights)


def test_repacking_shows_as_names_and_zero_points_that_are_gone():
    content = flatbuffer_zoo.depthwise_network()
    before, after = inspect(content).flash, inspect(repack(content)).flash

    assert after["weights"] == before["weights"]
    assert after["names"] < before["names"] / 3
    assert after["zero points"] < before["zero points"] / 2
    assert after["structure"] <= before["structure"]


@given(st.integers(0, 2**31), st.integers(1, 16))
@settings(max_examples=30)
def test_memory_in_use_never_exceeds_the_peak_and_holds_what_an_operator_touches(seed, depth):
    result = inspect(flatbuffer_zoo.random_network(seed, depth))
    tensors = result.network.tensors

    assert max(step.alive_bytes for step in result.steps) <= result.plan.peak
    for step, operator in zip(result.steps, result.network.operators, strict=True):
        touched = {i for i in (*operator.inputs, *operator.outputs) if tensors[i].data is None}
        assert step.alive_bytes >= sum(tensors[i].num_bytes for i in touched)


def test_a_board_fits_when_program_arena_and_file_fit():
    result = inspect(flatbuffer_zoo.plain_network())
    fits = {fit.board.name: fit for fit in result.fits}

    assert set(fits) == set(BOARDS) - {"host"}
    small, large = fits["stm32f100"], fits["nucleo_h743zi"]
    others = large.board.reserve.ram_bytes + TFLM_RAM_BYTES
    assert large.ram_bytes == others + result.arena.total
    assert large.flash_bytes > large.board.reserve.flash_bytes + result.file_bytes
    assert large.is_enough
    tight = dataclasses.replace(small, ram_bytes=small.board.ram_bytes, flash_bytes=1)
    assert tight.is_enough
    assert not dataclasses.replace(tight, ram_bytes=small.board.ram_bytes + 1).is_enough
    assert not dataclasses.replace(tight, flash_bytes=small.board.flash_bytes + 1).is_enough


def test_the_report_has_a_line_for_every_operator_tensor_part_and_board():
    content = flatbuffer_zoo.residual_network()
    result = inspect(content)
    lines = str(result).splitlines()

    assert lines[0] == "input   1 x 8 x 8 x 3 int8, scale 0.02, zero point -3"
    total = arena.arena(flatbuffer.read(content)).total
    assert any(line.endswith(f"= {total:,} bytes") for line in lines)
    assert sum("CONV_2D " in line for line in lines) >= 4
    for name in [*BOARDS.keys() - {"host"}, *result.flash, "input_0"]:
        assert any(line.startswith(name) for line in lines), name
    full = [line for line in lines if line.startswith("stm32f405")]
    assert "%" in full[0] and "of 131,072)" in full[0] and full[0].endswith("fits")


def test_the_figures_are_plain_data():
    figures = json.loads(json.dumps(inspect(flatbuffer_zoo.plain_network()).to_dict()))

    assert figures["operators"]["CONV_2D"] == 2
    assert figures["inputs"][0]["shape"] == [1, 12, 12, 1]
    arena = figures["arena"]
    parts = max(arena["head"], arena["start"]) + arena["tail"] + arena["margin"]
    assert parts <= arena["total"] < parts + 16
    assert figures["buffers"][0]["tensor"] == 0 and figures["buffers"][0]["first"] == 0


def test_the_plot_is_written_in_the_format_of_the_suffix(tmp_path):
    result = inspect(flatbuffer_zoo.residual_network())

    plot_arena(result, tmp_path / "arena.png")
    plot_arena(result, tmp_path / "arena.svg")

    assert (tmp_path / "arena.png").read_bytes().startswith(b"\x89PNG")
    drawn = (tmp_path / "arena.svg").read_text()
    # One bar for each buffer, besides the axes' own background.
    assert drawn.count('<g id="patch_') >= len(result.plan.buffers)


def test_names_that_would_break_the_terminal_are_shown_as_question_marks():
    net = flatbuffer_zoo.Builder()
    x = net.tensor((1, 4), name="\x1b[31mred\n")
    net.graph.inputs.append(x)

    text = str(inspect(net.build(net.relu(x))))

    assert "\x1b" not in text and "?[31mred?" in text


def test_inspecting_loads_neither_tensorflow_nor_matplotlib():
    program = (
        "import kprune, sys; kprune.inspect; "
        "print({'tensorflow', 'keras', 'matplotlib', 'rich'} & set(sys.modules))"
    )

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    assert result.stdout.strip() == b"set()"


def test_what_cannot_be_inspected_is_refused():
    model = schema.ModelT.InitFromPackedBuf(flatbuffer_zoo.dense_network(), 0)
    model.subgraphs.append(schema.SubGraphT())

    with pytest.raises(UnsupportedOpError, match="1 further subgraphs"):
        inspect(flatbuffer.pack(model))
    with pytest.raises(FlatbufferError):
        kprune.inspect(b"")
