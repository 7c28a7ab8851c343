"""The folder of a network, the program built around it, and what part takes how much."""

import os
import shutil
import subprocess

import flatbuffer_zoo
import numpy as np
import pytest
from conftest import require
from tiny import TINY, TOOLS, network_with, random_inputs, tiny_reference

from kprune.boards import BOARDS
from kprune.building import build, read_network, require_tool, split
from kprune.c.files import write_files
from kprune.c.network import to_c
from kprune.errors import DoesNotFitError, ToolNotFoundError
from kprune.simulation import simulate


def test_a_folder_may_have_a_space_in_its_name(tmp_path):
    require("make", "cc")
    folder = tmp_path / "my model"
    shutil.copytree(TINY, folder)
    x = random_inputs(1, 6)

    np.testing.assert_array_equal(simulate(folder, x).outputs, tiny_reference(x))


@pytest.mark.parametrize("name", ["network", "stack"])
def test_a_network_may_be_called_as_a_part_of_the_program_is(name, tmp_path):
    require(*TOOLS)
    for path in TINY.iterdir():
        text = path.read_text().replace("tiny", name).replace("TINY", name.upper())
        tmp_path.joinpath(path.name.replace("tiny", name)).write_text(text)
    x = random_inputs(5, 6)

    result, usual = (simulate(folder, x, "stm32f405") for folder in (tmp_path, TINY))

    np.testing.assert_array_equal(result.outputs, tiny_reference(x))
    assert (result.instructions, result.stack_bytes) == (usual.instructions, usual.stack_bytes)
    assert result.flash["weights"] == usual.flash["weights"] == 6
    assert result.ram == usual.ram


def test_flash_and_ram_add_up_to_what_the_linker_placed(tmp_path):
    require(*TOOLS)
    network = read_network(TINY)

    result = simulate(TINY, random_inputs(1, 6), "stm32f100")

    elf = build(network, BOARDS["stm32f100"], tmp_path)
    listing = subprocess.run(
        ["arm-none-eabi-size", elf], capture_output=True, text=True, check=True
    ).stdout
    text, data, bss = map(int, listing.splitlines()[1].split()[:3])
    assert result.flash_bytes == text + data
    assert result.ram_bytes == data + bss
    assert result.flash["weights"] == 6
    assert result.ram["arena"] == 20
    assert result.ram["stack"] == 2048


def test_what_is_too_large_for_the_flash_does_not_link_and_says_by_how_much(tmp_path):
    require(*TOOLS)
    weights = "static const int8_t double_weights[6] ="
    folder = network_with(tmp_path, {weights: weights.replace("[6]", "[200000]")})

    with pytest.raises(DoesNotFitError, match=r"'tiny' does not fit board 'stm32f100'.*flash"):
        simulate(folder, random_inputs(1, 6), "stm32f100")


def test_what_is_too_large_for_the_ram_does_not_link_and_says_by_how_much(tmp_path):
    require(*TOOLS)
    folder = network_with(tmp_path, {"TINY_ARENA_SIZE 20": "TINY_ARENA_SIZE 131072"}, "tiny.h")

    # QEMU's machine has 192 KiB in one piece; the part has 128.
    with pytest.raises(DoesNotFitError, match=r"'stm32f405': it needs [\d,]+ bytes more RAM"):
        simulate(folder, random_inputs(1, 6), "stm32f405")


def test_code_that_does_not_compile_is_told_by_its_first_error(tmp_path):
    require("make", "cc")
    folder = network_with(tmp_path, {"kp_multiply(input": "kp_multiplied(inputs"})

    with pytest.raises(
        RuntimeError, match=r"'tiny' did not build for board 'host': .*tiny.c.*error"
    ):
        simulate(folder, random_inputs(1, 6))


@pytest.mark.parametrize(
    "tool, package",
    [
        ("make", "make"),
        ("arm-none-eabi-gcc", "gcc-arm-none-eabi libnewlib-arm-none-eabi"),
        ("qemu-system-arm", "qemu-system-arm"),
    ],
)
def test_a_missing_tool_is_named_with_its_package(tool, package, tmp_path, monkeypatch):
    require(*TOOLS)
    found = shutil.which
    monkeypatch.setattr("shutil.which", lambda name: None if name == tool else found(name))

    with pytest.raises(ToolNotFoundError, match=rf"needs `{tool}`.*apt install {package}\."):
        simulate(TINY, random_inputs(1, 6), "mps2-an386")


def test_a_folder_without_a_network_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"there is none.*kprune to-c"):
        simulate(tmp_path, random_inputs(1, 6))


def test_a_header_that_lacks_a_definition_is_refused(tmp_path):
    header = TINY.joinpath("tiny.h").read_text().replace("#define TINY_INPUT_SCALE", "//")
    tmp_path.joinpath("tiny.h").write_text(header)

    with pytest.raises(ValueError, match=r"tiny.h does not define TINY_INPUT_SCALE"):
        read_network(tmp_path)


def test_a_folder_with_two_networks_is_refused_with_both(tmp_path):
    header = TINY.joinpath("tiny.h").read_text()
    tmp_path.joinpath("tiny.h").write_text(header)
    tmp_path.joinpath("second.h").write_text(header.replace("TINY", "SECOND"))

    with pytest.raises(
        ValueError, match=r"folder with one network, .* is second.h, tiny.h\. Write"
    ):
        read_network(tmp_path)


def test_the_header_says_sizes_and_quantisation():
    network = read_network(TINY)

    assert (network.name, network.arena_size) == ("tiny", 20)
    assert (network.input_size, network.output_size) == (6, 3)
    (scores,) = network.outputs
    assert (scores.size, scores.scale, scores.zero, scores.offset) == (3, 0.25, 4, 16)


def test_several_inputs_and_outputs_are_read_in_their_order(tmp_path):
    write_files(to_c(flatbuffer_zoo.several_network(), name="net"), tmp_path)

    network = read_network(tmp_path)

    assert [part.size for part in network.inputs] == [16, 32]
    assert network.input_size == 48
    assert len(network.outputs) == 2
    row = np.arange(3 * 48).reshape(3, 48)
    first, second = split(row, network.inputs)
    np.testing.assert_array_equal(first, row[:, :16])
    np.testing.assert_array_equal(second, row[:, 16:])


def test_a_tool_that_no_package_is_known_for_is_named_alone():
    with pytest.raises(ToolNotFoundError, match=r"^flashing needs `no-such-tool`, .* on PATH\.$"):
        require_tool("no-such-tool", "flashing")


def test_a_build_that_fails_without_a_word_says_so(tmp_path, monkeypatch):
    make = tmp_path / "make"
    make.write_text("#!/bin/sh\nexit 2\n")
    make.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    with pytest.raises(RuntimeError, match=r"'tiny' did not build .*: make gave no reason"):
        build(read_network(TINY), BOARDS["host"], tmp_path / "build")
