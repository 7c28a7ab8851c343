"""The table of boards, held against the linker scripts and the programs that are built."""

import re
import subprocess
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
    assert folders - expected == {"common", "template", "nano33ble", "uno_r4"}


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


# Clocks and pins, from the registers that port_init leaves, read as the reference manuals say.
# No simulator models them, and no board is here: this is the check that they get.


def registers(target, tmp_path, ready):
    """Run a board's port_init on this computer: what it wrote, by address."""
    require("cc")
    boards = microcontroller() / "boards"
    settings = (boards / target / "board.mk").read_text()
    sources = re.search(r"^SOURCES\s*= (.*)$", settings, re.MULTILINE)[1].split()
    sources = [boards / source for source in sources if not source.endswith("cortex_m.c")]
    includes = [f"-I{folder}" for folder in (microcontroller() / "app", boards / "common")]
    # Registers lie at 32-bit addresses; -w: casting those to pointers is what a port does.
    harness = Path(__file__).parent / "firmware" / "silicon.c"
    command = ["cc", "-w", "-no-pie", *includes, *sources, harness, "-o", tmp_path / "silicon"]
    subprocess.run(command, check=True)
    run = [tmp_path / "silicon", str(ready)]
    listing = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    values = {int(a, 16): int(v) for a, v in (line.split() for line in listing.splitlines())}
    return lambda address: values.get(address, 0)


def field(value, low, bits):
    return value >> low & (1 << bits) - 1


BUS_DIVIDER = {0: 1, 4: 2, 5: 4}


def f4_clocks(read):
    """Core, APB1, APB2 in MHz and flash wait states: RM0090, RM0383, RM0390, RM0385."""
    pll, config = read(0x40023804), read(0x40023808)
    vco_in = 16 / field(pll, 0, 6)
    vco = vco_in * field(pll, 6, 9)
    assert 1 <= vco_in <= 2 and 100 <= vco <= 432
    assert field(pll, 22, 1) == 0  # from the internal oscillator
    assert field(config, 0, 2) == 2 and field(config, 4, 4) == 0  # core: PLL, undivided
    core = vco / (2 * field(pll, 16, 2) + 2)
    dividers = (BUS_DIVIDER[field(config, low, 3)] for low in (10, 13))
    return core, *(core / divider for divider in dividers), field(read(0x40023C00), 0, 4)


def l4_clocks(read):
    """The same for L4 and G4: RM0351, RM0440."""
    pll, config = read(0x4002100C), read(0x40021008)
    vco_in = 16 / (field(pll, 4, 3) + 1)
    vco = vco_in * field(pll, 8, 7)
    assert 2.66 <= vco_in <= 16 and 64 <= vco <= 344
    assert field(pll, 0, 2) == 2 and field(pll, 24, 1) == 1  # internal oscillator in, output R on
    assert field(config, 0, 2) == 3 and field(config, 4, 4) == 0
    core = vco / (2 * field(pll, 25, 2) + 2)
    return core, core, core, field(read(0x40022000), 0, 4)


def h7_clocks(read):
    """The same for H7; wait states at voltage scale 1: RM0433."""
    dividers = read(0x58024430)
    vco_in = 64 / field(read(0x58024428), 4, 6)
    vco = vco_in * (field(dividers, 0, 9) + 1)
    assert 4 <= vco_in <= 8 and field(read(0x5802442C), 2, 2) == 2 and 192 <= vco <= 836
    assert field(read(0x58024410), 0, 3) == 3
    assert field(read(0x58024818), 14, 2) == 3  # voltage scale 1
    core = vco / (field(dividers, 9, 7) + 1)
    assert field(read(0x58024418), 0, 4) == 8 and field(read(0x52002000), 4, 2) == 2  # half of it
    apb = (core / 2 / BUS_DIVIDER[field(read(0x5802441C), low, 3)] for low in (4, 8))
    return core, *apb, field(read(0x52002000), 0, 4)


def f1_clocks(read):
    """The same for F100, whose flash has no wait states: RM0041."""
    config = read(0x40021004)
    assert field(config, 0, 2) == 2 and field(config, 16, 1) == 0
    core = 8 / 2 * (field(config, 18, 4) + 2)
    return core, core, core, 0


# board: clocks, (core, APB1, APB2, wait states) as the part's manual allows at 3.3 V, clock after
# reset, serial port (address, offset of its divider, bus).
SILICON = {
    "stm32f405": (f4_clocks, (168, 42, 84, 5), 16, (0x40011000, 8, 2)),
    "nucleo_f411re": (f4_clocks, (100, 50, 100, 3), 16, (0x40004400, 8, 1)),
    "nucleo_f446re": (f4_clocks, (180, 45, 90, 5), 16, (0x40004400, 8, 1)),
    "stm32f746": (f4_clocks, (216, 54, 108, 7), 16, (0x40011000, 12, 2)),
    "nucleo_l476rg": (l4_clocks, (80, 80, 80, 4), 4, (0x40004400, 12, 1)),
    "nucleo_g474re": (l4_clocks, (170, 170, 170, 4), 16, (0x40004400, 12, 1)),
    "nucleo_h743zi": (h7_clocks, (400, 100, 100, 2), 64, (0x40004800, 12, 1)),
    "stm32f100": (f1_clocks, (24, 24, 24, 0), 8, (0x40013800, 8, 1)),
}


@pytest.mark.parametrize("name", SILICON)
def test_the_clocks_are_what_the_part_allows_and_the_serial_port_fits_them(name, tmp_path):
    clocks, expected, _, (port, divider, bus) = SILICON[name]

    read = registers(name, tmp_path, ready=1)

    assert clocks(read) == expected
    assert expected[0] * 1_000_000 == board(name).clock_hz
    assert read(0) == expected[0]  # what port_micros counts with
    assert expected[bus] * 1e6 / read(port + divider) == pytest.approx(115200, rel=0.01)


@pytest.mark.parametrize("name", SILICON)
def test_without_a_clock_the_serial_port_fits_the_clock_after_reset(name, tmp_path):
    _, _, reset_mhz, (port, divider, _) = SILICON[name]

    read = registers(name, tmp_path, ready=0)

    assert reset_mhz * 1e6 / read(port + divider) == pytest.approx(115200, rel=0.01)


# Pins of the serial port: address of the GPIO, pins, and the bit that gives it a clock. All have
# alternate function 7 there (data sheets, table of alternate functions).
PINS = {
    "stm32f405": [(0x40020000, (9, 10), 0x40023830, 0)],
    "nucleo_f411re": [(0x40020000, (2, 3), 0x40023830, 0)],
    "nucleo_f446re": [(0x40020000, (2, 3), 0x40023830, 0)],
    "stm32f746": [(0x40020000, (9,), 0x40023830, 0), (0x40020400, (7,), 0x40023830, 1)],
    "nucleo_l476rg": [(0x48000000, (2, 3), 0x4002104C, 0)],
    "nucleo_g474re": [(0x48000000, (2, 3), 0x4002104C, 0)],
    "nucleo_h743zi": [(0x58020C00, (8, 9), 0x580244E0, 3)],
}


@pytest.mark.parametrize("name", PINS)
def test_the_pins_are_handed_to_the_serial_port(name, tmp_path):
    read = registers(name, tmp_path, ready=1)

    for gpio, pins, enable, bit in PINS[name]:
        assert field(read(enable), bit, 1) == 1
        for pin in pins:
            assert field(read(gpio), 2 * pin, 2) == 2
            assert field(read(gpio + 0x20 + 4 * (pin // 8)), 4 * (pin % 8), 4) == 7
