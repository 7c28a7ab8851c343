"""The table of boards, held against the linker scripts and the programs that are built."""

import re
from pathlib import Path

import pytest
from conftest import require

from kprune.boards import BOARDS, KIB, board
from kprune.building import build, microcontroller, part_sizes, read_network

BARE_METAL = [
    b for b in BOARDS.values() if (microcontroller() / "boards" / b.name / "link.ld").is_file()
]
UNITS = {"K": KIB, "M": KIB * KIB}


@pytest.fixture
def tiny():
    """A hand-written network with the interface of a generated one."""
    return Path(__file__).parent / "firmware" / "tiny"


def test_a_name_with_a_slip_is_answered_with_the_nearest_ones():
    with pytest.raises(ValueError, match=r"no board is called 'uno_r5'. Did you mean uno_r4"):
        board("uno_r5")


def test_every_board_that_says_so_has_a_folder_and_no_folder_is_forgotten():
    folders = {path.name for path in (microcontroller() / "boards").iterdir()}

    expected = {b.name for b in BOARDS.values() if b.program in ("bare-metal", "host")}
    assert expected <= folders
    assert folders - expected == {"common", "template", "nano33ble"}


def test_every_renode_board_has_a_platform_file_with_that_serial_port():
    for renode_board in (b for b in BOARDS.values() if b.renode):
        platform = microcontroller() / "renode" / f"{renode_board.name}.repl"

        port = renode_board.renode.removeprefix("sysbus.")
        assert re.search(rf"^{port}: UART\.", platform.read_text(), re.MULTILINE)


@pytest.mark.parametrize("target", BARE_METAL, ids=lambda b: b.name)
def test_the_linker_script_has_the_sizes_of_the_table(target):
    script = (microcontroller() / "boards" / target.name / "link.ld").read_text()

    lengths = dict(re.findall(r"^\s*(\w+) .*LENGTH = (\d+[KM])", script, re.MULTILINE))
    sizes = {name: int(text[:-1]) * UNITS[text[-1]] for name, text in lengths.items()}
    assert sizes["FLASH"] == target.flash_bytes
    assert sizes["RAM"] == target.ram_bytes


@pytest.mark.parametrize("target", BARE_METAL, ids=lambda b: b.name)
def test_qemu_and_make_are_told_the_same_machine(target):
    settings = (microcontroller() / "boards" / target.name / "board.mk").read_text()

    machine = re.search(r"^QEMU\s*= (\S+)$", settings, re.MULTILINE)
    assert (machine and machine[1]) == target.qemu
    assert f"-mcpu={target.core}" in settings


@pytest.mark.parametrize("target", BARE_METAL, ids=lambda b: b.name)
def test_the_program_takes_no_more_than_the_reserve(target, tiny, tmp_path):
    require("make", "arm-none-eabi-gcc")

    elf = build(read_network(tiny), target, tmp_path)

    flash, ram = part_sizes(elf.with_suffix(".map"), read_network(tiny))
    if target.reserve.measured:
        assert flash["program"] <= target.reserve.flash_bytes <= 2 * flash["program"]
        assert ram["program"] + ram["stack"] <= target.reserve.ram_bytes


def test_the_template_compiles(tiny, tmp_path):
    require("make", "arm-none-eabi-gcc")
    template = board("stm32f405").__class__(
        **{**vars(board("stm32f405")), "name": "template", "qemu": None}
    )

    assert build(read_network(tiny), template, tmp_path).is_file()
