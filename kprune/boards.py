"""The boards: what each one has room for, how it is flashed, and which simulator stands in for it.

`BOARDS` is plain data, a row per board. A row whose `program` is "bare-metal" has a folder of the
same name under `microcontroller/boards/`, whose linker script holds the very sizes written here.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

KIB = 1024
MIB = 1024 * KIB

# Code of TensorFlow Lite Micro and CMSIS-NN, linked for a Cortex-M4 at -O2 without error strings,
# with the operators of the largest of MLPerf Tiny's networks (DS-CNN).
TFLM_FLASH_BYTES = 77 * KIB


@dataclass(frozen=True)
class Reserve:
    """What the program around the network takes: start-up, drivers, line protocol and stack.

    Attributes:
        flash_bytes: Code and constants of everything that is neither weights nor kernels.
        ram_bytes: Static variables and stack of everything but the network's buffers.
        measured: True: held by the tests against the linker map of the programs they build, with
            what kernels pull in from the C library. False: an allowance for a core that kprune
            does not link itself (Arduino, Zephyr, ESP-IDF); never measured here.
    """

    flash_bytes: int
    ram_bytes: int
    measured: bool


@dataclass(frozen=True)
class Board:
    """One board, in the units of its data sheet.

    Attributes:
        name: What a user types: "nucleo_f446re".
        title: What is printed on the box.
        mcu: The part.
        core: The processor core in the compiler's spelling, "cortex-m4"; "host" for this computer.
        clock_hz: Highest core clock of the part.
        flash_bytes: Flash a program may use.
        ram_bytes: Contiguous RAM a program may use; 0 for the host, which has no limit of interest.
        reserve: What of the above the program around the network takes.
        program: "bare-metal" (a folder in `microcontroller/boards/`), "arduino" (a sketch), "host",
            or None: kprune knows the sizes and writes no project.
        flashed_with: "arduino-cli", "st-flash" or None.
        fqbn: Arduino's fully qualified board name, or None.
        platformio: PlatformIO's board id, or None.
        qemu: QEMU's machine that stands in for the board, or None.
        renode: The serial port in `microcontroller/renode/<name>.repl`, or None.
    """

    name: str
    title: str
    mcu: str
    core: str
    clock_hz: int
    flash_bytes: int
    ram_bytes: int
    reserve: Reserve
    program: Literal["bare-metal", "arduino", "host"] | None = None
    flashed_with: Literal["arduino-cli", "st-flash"] | None = None
    fqbn: str | None = None
    platformio: str | None = None
    qemu: str | None = None
    renode: str | None = None

    @property
    def free_flash_bytes(self) -> int:
        """Flash left for weights and kernels."""
        return self.flash_bytes - self.reserve.flash_bytes

    @property
    def free_ram_bytes(self) -> int:
        """RAM left for the network's arena, input and output."""
        return self.ram_bytes - self.reserve.ram_bytes


# Bare metal: 2,546 to 3,546 bytes of flash were seen (`Simulation.flash["program"]`); RAM is the
# stack that the board's linker script reserves plus 64 bytes of static variables.
_SMALL = Reserve(4 * KIB, 2 * KIB + 64, measured=True)
_BARE = Reserve(4 * KIB, 4 * KIB + 64, measured=True)
_MBED = Reserve(96 * KIB, 56 * KIB, measured=False)
_RENESAS = Reserve(56 * KIB, 8 * KIB, measured=False)
_OTHER_CORE = Reserve(96 * KIB, 32 * KIB, measured=False)


def _simulated(
    name: str,
    title: str,
    mcu: str,
    core: str,
    mhz: int,
    flash: int,
    ram: int,
    qemu: str,
    reserve: Reserve = _BARE,
    renode: str | None = None,
) -> Board:
    return Board(
        name,
        title,
        mcu,
        core,
        mhz * 1_000_000,
        flash,
        ram,
        reserve,
        "bare-metal",
        qemu=qemu,
        renode=renode,
    )


def _nucleo(
    name: str,
    title: str,
    mcu: str,
    core: str,
    mhz: int,
    flash: int,
    ram: int,
    platformio: str | None,
    bare_metal: bool = False,
    renode: str | None = None,
) -> Board:
    return Board(
        name,
        title,
        mcu,
        core,
        mhz * 1_000_000,
        flash,
        ram,
        _BARE if bare_metal else _OTHER_CORE,
        "bare-metal" if bare_metal else None,
        "st-flash",
        platformio=platformio,
        renode=renode,
    )


def _arduino(
    name: str,
    title: str,
    mcu: str,
    core: str,
    mhz: int,
    flash: int,
    ram: int,
    reserve: Reserve,
    fqbn: str,
    platformio: str | None,
) -> Board:
    return Board(
        name,
        title,
        mcu,
        core,
        mhz * 1_000_000,
        flash,
        ram,
        reserve,
        "arduino",
        "arduino-cli",
        fqbn,
        platformio,
    )


# fmt: off
_TABLE = (
    Board("host", "this computer", "any", "host", 0, 0, 0, Reserve(0, 0, True), "host"),

    # Boards that CI runs in QEMU.
    _simulated("stm32f405", "any STM32F405 board", "STM32F405RG", "cortex-m4", 168,
               MIB, 128 * KIB, "netduinoplus2", renode="sysbus.usart1"),
    _simulated("stm32f100", "STM32VLDISCOVERY", "STM32F100RB", "cortex-m3", 24,
               128 * KIB, 8 * KIB, "stm32vldiscovery", _SMALL),
    _simulated("mps2-an386", "Arm MPS2 with image AN386", "FPGA", "cortex-m4", 25,
               4 * MIB, 4 * MIB, "mps2-an386"),
    _simulated("mps2-an500", "Arm MPS2 with image AN500", "FPGA", "cortex-m7", 25,
               4 * MIB, 4 * MIB, "mps2-an500"),
    _simulated("mps3-an547", "Arm MPS3 with image AN547", "FPGA", "cortex-m55", 32,
               512 * KIB, 512 * KIB, "mps3-an547"),
    _simulated("microbit", "BBC micro:bit", "nRF51822", "cortex-m0", 16,
               256 * KIB, 16 * KIB, "microbit", _SMALL),

    # Arduino: sizes as in the cores' own board files.
    Board("nano33ble", "Arduino Nano 33 BLE (Sense)", "nRF52840", "cortex-m4", 64_000_000,
          983_040, 262_144, _MBED, "arduino", "arduino-cli",
          "arduino:mbed_nano:nano33ble", "nano33ble", renode="sysbus.uart0"),
    _arduino("nano_rp2040", "Arduino Nano RP2040 Connect", "RP2040", "cortex-m0plus", 133,
             16 * MIB, 270_336, _MBED, "arduino:mbed_nano:nanorp2040connect",
             "nanorp2040connect"),
    _arduino("nano_esp32", "Arduino Nano ESP32", "ESP32-S3", "xtensa-lx7", 240,
             8 * MIB, 512 * KIB, Reserve(512 * KIB, 192 * KIB, False),
             "arduino:esp32:nano_nora", "arduino_nano_esp32"),
    _arduino("uno_r4", "Arduino UNO R4 Minima", "RA4M1", "cortex-m4", 48,
             262_144, 32_768, _RENESAS, "arduino:renesas_uno:minima", "uno_r4_minima"),
    _arduino("uno_r4_wifi", "Arduino UNO R4 WiFi", "RA4M1", "cortex-m4", 48,
             262_144, 32_768, _RENESAS, "arduino:renesas_uno:unor4wifi", "uno_r4_wifi"),
    _arduino("portenta_c33", "Arduino Portenta C33", "RA6M5", "cortex-m33", 200,
             2_097_152, 523_624, _RENESAS, "arduino:renesas_portenta:portenta_c33", None),
    _arduino("portenta_h7", "Arduino Portenta H7 (M7 core)", "STM32H747XI", "cortex-m7", 480,
             786_432, 523_624, _MBED, "arduino:mbed_portenta:envie_m7", "portenta_h7_m7"),
    _arduino("giga_r1", "Arduino GIGA R1 WiFi (M7 core)", "STM32H747XI", "cortex-m7", 480,
             786_432, 523_624, _MBED, "arduino:mbed_giga:giga", "giga_r1_m7"),
    _arduino("nicla_vision", "Arduino Nicla Vision (M7 core)", "STM32H747AII6", "cortex-m7", 480,
             786_432, 523_624, _MBED, "arduino:mbed_nicla:nicla_vision", "nicla_vision"),
    _arduino("nicla_sense", "Arduino Nicla Sense ME", "nRF52832", "cortex-m4", 64,
             527_616, 64_288, _OTHER_CORE, "arduino:mbed_nicla:nicla_sense", None),
    _arduino("pico", "Raspberry Pi Pico", "RP2040", "cortex-m0plus", 133,
             2 * MIB, 264 * KIB, _OTHER_CORE, "rp2040:rp2040:rpipico", "pico"),
    _arduino("pico2", "Raspberry Pi Pico 2", "RP2350", "cortex-m33", 150,
             4 * MIB, 520 * KIB, _OTHER_CORE, "rp2040:rp2040:rpipico2", "rpipico2"),

    # ST boards. RAM is the largest contiguous block that DMA and core both reach.
    _nucleo("nucleo_f411re", "NUCLEO-F411RE", "STM32F411RE", "cortex-m4", 100,
            512 * KIB, 128 * KIB, "nucleo_f411re", bare_metal=True),
    _nucleo("nucleo_f446re", "NUCLEO-F446RE", "STM32F446RE", "cortex-m4", 180,
            512 * KIB, 128 * KIB, "nucleo_f446re", bare_metal=True),
    _nucleo("nucleo_l476rg", "NUCLEO-L476RG", "STM32L476RG", "cortex-m4", 80,
            MIB, 96 * KIB, "nucleo_l476rg", bare_metal=True),
    _nucleo("nucleo_l4r5zi", "NUCLEO-L4R5ZI", "STM32L4R5ZI", "cortex-m4", 120,
            2 * MIB, 640 * KIB, "nucleo_l4r5zi"),
    _nucleo("nucleo_g0b1re", "NUCLEO-G0B1RE", "STM32G0B1RE", "cortex-m0plus", 64,
            512 * KIB, 144 * KIB, "nucleo_g0b1re"),
    _nucleo("nucleo_g474re", "NUCLEO-G474RE", "STM32G474RE", "cortex-m4", 170,
            512 * KIB, 128 * KIB, "nucleo_g474re", bare_metal=True),
    _nucleo("stm32f746", "32F746GDISCOVERY", "STM32F746NG", "cortex-m7", 216,
            MIB, 320 * KIB, "disco_f746ng", bare_metal=True, renode="sysbus.usart1"),
    _nucleo("nucleo_f746zg", "NUCLEO-F746ZG", "STM32F746ZG", "cortex-m7", 216,
            MIB, 320 * KIB, "nucleo_f746zg"),
    _nucleo("nucleo_f767zi", "NUCLEO-F767ZI", "STM32F767ZI", "cortex-m7", 216,
            2 * MIB, 512 * KIB, "nucleo_f767zi"),
    _nucleo("nucleo_h743zi", "NUCLEO-H743ZI(2)", "STM32H743ZI", "cortex-m7", 400,
            2 * MIB, 512 * KIB, "nucleo_h743zi", bare_metal=True),
    _nucleo("nucleo_h723zg", "NUCLEO-H723ZG", "STM32H723ZG", "cortex-m7", 550,
            MIB, 320 * KIB, "nucleo_h723zg"),
    _nucleo("nucleo_h7a3zi_q", "NUCLEO-H7A3ZI-Q", "STM32H7A3ZI", "cortex-m7", 280,
            2 * MIB, MIB, None),
    _nucleo("nucleo_u575zi_q", "NUCLEO-U575ZI-Q", "STM32U575ZI", "cortex-m33", 160,
            2 * MIB, 768 * KIB, "nucleo_u575zi_q"),
    _nucleo("b_u585i_iot02a", "B-U585I-IOT02A", "STM32U585AI", "cortex-m33", 160,
            2 * MIB, 768 * KIB, None),
    _nucleo("nucleo_u385rg_q", "NUCLEO-U385RG-Q", "STM32U385RG", "cortex-m33", 96,
            MIB, 256 * KIB, None),
    _nucleo("nucleo_u3c5zi_q", "NUCLEO-U3C5ZI-Q", "STM32U3C5ZI", "cortex-m33", 96,
            2 * MIB, 640 * KIB, None),
)
# fmt: on

BOARDS: dict[str, Board] = {board.name: board for board in _TABLE}


def board(name: str) -> Board:
    """Look a board up by its name.

    Args:
        name: A key of `BOARDS`.

    Returns:
        The board's row.

    Raises:
        ValueError: No board has that name; the message proposes the nearest ones.

    Example:
        >>> uno = board("uno_r4")
        >>> uno.mcu, uno.ram_bytes
        ('RA4M1', 32768)
    """
    if name in BOARDS:
        return BOARDS[name]
    near = difflib.get_close_matches(name, BOARDS, n=3, cutoff=0.4)
    raise ValueError(
        f"no board is called {name!r}. "
        + (f"Did you mean {' or '.join(near)}? " if near else "")
        + "`kprune boards` lists them all."
    )
