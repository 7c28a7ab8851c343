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
MHZ = 1_000_000

# Code of TensorFlow Lite Micro and CMSIS-NN, and what they pull in from the C library, linked for a
# Cortex-M4 at -O2 without error strings, with the operators of MLPerf Tiny's DS-CNN (85,232 bytes);
# and its static variables: interpreter 208, resolver 228, C library 112, rounded up.
TFLM_FLASH_BYTES = 84 * KIB
TFLM_RAM_BYTES = 576


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
        qemu: QEMU's machine that stands in for the board, or None. It has the core; the memory of
            the board is in the linker script.
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


# Bare metal: 2,720 to 3,646 bytes of flash were seen (`Simulation.flash["program"]`); RAM is the
# stack that the board's linker script reserves plus 64 bytes of static variables.
_SMALL = Reserve(4 * KIB, 2 * KIB + 64, measured=True)
_BARE = Reserve(4 * KIB, 4 * KIB + 64, measured=True)
_MBED = Reserve(96 * KIB, 56 * KIB, measured=False)
_RENESAS = Reserve(56 * KIB, 8 * KIB, measured=False)
_OTHER_CORE = Reserve(96 * KIB, 32 * KIB, measured=False)


# fmt: off
_TABLE = (
    Board("host", "this computer", "any", "host", 0, 0, 0, Reserve(0, 0, True), "host"),

    # Boards that CI runs in QEMU.
    Board("stm32f405", "STM32F405 board", "STM32F405RG", "cortex-m4", 168 * MHZ, MIB, 128 * KIB,
          _BARE, "bare-metal", qemu="netduinoplus2", renode="sysbus.usart1"),
    Board("stm32f100", "STM32VLDISCOVERY", "STM32F100RB", "cortex-m3", 24 * MHZ, 128 * KIB, 8 * KIB,
          _SMALL, "bare-metal", qemu="stm32vldiscovery"),
    Board("mps2-an386", "Arm MPS2 with image AN386", "FPGA", "cortex-m4", 25 * MHZ, 4 * MIB,
          4 * MIB, _BARE, "bare-metal", qemu="mps2-an386"),
    Board("mps2-an500", "Arm MPS2 with image AN500", "FPGA", "cortex-m7", 25 * MHZ, 4 * MIB,
          4 * MIB, _BARE, "bare-metal", qemu="mps2-an500"),
    Board("mps3-an547", "Arm MPS3 with image AN547", "FPGA", "cortex-m55", 32 * MHZ, 512 * KIB,
          512 * KIB, _BARE, "bare-metal", qemu="mps3-an547"),
    Board("microbit", "BBC micro:bit", "nRF51822", "cortex-m0", 16 * MHZ, 256 * KIB, 16 * KIB,
          _SMALL, "bare-metal", qemu="microbit"),

    # Arduino: sizes as in the cores' own board files.
    Board("nano33ble", "Arduino Nano 33 BLE (Sense)", "nRF52840", "cortex-m4", 64 * MHZ, 983_040,
          262_144, _MBED, "arduino", "arduino-cli", "arduino:mbed_nano:nano33ble", "nano33ble",
          renode="sysbus.uart0"),
    Board("nano_rp2040", "Arduino Nano RP2040 Connect", "RP2040", "cortex-m0plus", 133 * MHZ,
          16 * MIB, 270_336, _MBED, "arduino", "arduino-cli", "arduino:mbed_nano:nanorp2040connect",
          "nanorp2040connect"),
    Board("nano_esp32", "Arduino Nano ESP32", "ESP32-S3", "xtensa-lx7", 240 * MHZ, 8 * MIB,
          512 * KIB, Reserve(512 * KIB, 192 * KIB, False), "arduino", "arduino-cli",
          "arduino:esp32:nano_nora", "arduino_nano_esp32"),
    Board("uno_r4", "Arduino UNO R4 Minima", "RA4M1", "cortex-m4", 48 * MHZ, 262_144, 32_768,
          _RENESAS, "arduino", "arduino-cli", "arduino:renesas_uno:minima", "uno_r4_minima",
          qemu="mps2-an386"),
    Board("uno_r4_wifi", "Arduino UNO R4 WiFi", "RA4M1", "cortex-m4", 48 * MHZ, 262_144, 32_768,
          _RENESAS, "arduino", "arduino-cli", "arduino:renesas_uno:unor4wifi", "uno_r4_wifi"),
    Board("portenta_c33", "Arduino Portenta C33", "RA6M5", "cortex-m33", 200 * MHZ, 2 * MIB,
          523_624, _RENESAS, "arduino", "arduino-cli", "arduino:renesas_portenta:portenta_c33"),
    Board("portenta_h7", "Arduino Portenta H7 (M7 core)", "STM32H747XI", "cortex-m7", 480 * MHZ,
          786_432, 523_624, _MBED, "arduino", "arduino-cli", "arduino:mbed_portenta:envie_m7",
          "portenta_h7_m7"),
    Board("giga_r1", "Arduino GIGA R1 WiFi (M7 core)", "STM32H747XI", "cortex-m7", 480 * MHZ,
          786_432, 523_624, _MBED, "arduino", "arduino-cli", "arduino:mbed_giga:giga",
          "giga_r1_m7"),
    Board("nicla_vision", "Arduino Nicla Vision (M7 core)", "STM32H747AII6", "cortex-m7", 480 * MHZ,
          786_432, 523_624, _MBED, "arduino", "arduino-cli", "arduino:mbed_nicla:nicla_vision",
          "nicla_vision"),
    Board("nicla_sense", "Arduino Nicla Sense ME", "nRF52832", "cortex-m4", 64 * MHZ, 527_616,
          64_288, _OTHER_CORE, "arduino", "arduino-cli", "arduino:mbed_nicla:nicla_sense"),
    Board("pico", "Raspberry Pi Pico", "RP2040", "cortex-m0plus", 133 * MHZ, 2 * MIB, 270_336,
          _OTHER_CORE, "arduino", "arduino-cli", "rp2040:rp2040:rpipico", "pico"),
    Board("pico2", "Raspberry Pi Pico 2", "RP2350", "cortex-m33", 150 * MHZ, 4 * MIB, 520 * KIB,
          _OTHER_CORE, "arduino", "arduino-cli", "rp2040:rp2040:rpipico2", "rpipico2"),

    # ST boards. RAM is the largest contiguous block that DMA and core both reach.
    Board("nucleo_f411re", "NUCLEO-F411RE", "STM32F411RE", "cortex-m4", 100 * MHZ, 512 * KIB,
          128 * KIB, _BARE, "bare-metal", "st-flash", platformio="nucleo_f411re"),
    Board("nucleo_f446re", "NUCLEO-F446RE", "STM32F446RE", "cortex-m4", 180 * MHZ, 512 * KIB,
          128 * KIB, _BARE, "bare-metal", "st-flash", platformio="nucleo_f446re"),
    Board("nucleo_l476rg", "NUCLEO-L476RG", "STM32L476RG", "cortex-m4", 80 * MHZ, MIB, 96 * KIB,
          _BARE, "bare-metal", "st-flash", platformio="nucleo_l476rg"),
    Board("nucleo_l4r5zi", "NUCLEO-L4R5ZI", "STM32L4R5ZI", "cortex-m4", 120 * MHZ, 2 * MIB,
          640 * KIB, _OTHER_CORE, None, "st-flash", platformio="nucleo_l4r5zi"),
    Board("nucleo_g0b1re", "NUCLEO-G0B1RE", "STM32G0B1RE", "cortex-m0plus", 64 * MHZ, 512 * KIB,
          144 * KIB, _OTHER_CORE, None, "st-flash", platformio="nucleo_g0b1re"),
    Board("nucleo_g474re", "NUCLEO-G474RE", "STM32G474RE", "cortex-m4", 170 * MHZ, 512 * KIB,
          128 * KIB, _BARE, "bare-metal", "st-flash", platformio="nucleo_g474re"),
    Board("stm32f746", "32F746GDISCOVERY", "STM32F746NG", "cortex-m7", 216 * MHZ, MIB, 320 * KIB,
          _BARE, "bare-metal", "st-flash", platformio="disco_f746ng", renode="sysbus.usart1"),
    Board("nucleo_f746zg", "NUCLEO-F746ZG", "STM32F746ZG", "cortex-m7", 216 * MHZ, MIB, 320 * KIB,
          _OTHER_CORE, None, "st-flash", platformio="nucleo_f746zg"),
    Board("nucleo_f767zi", "NUCLEO-F767ZI", "STM32F767ZI", "cortex-m7", 216 * MHZ, 2 * MIB,
          512 * KIB, _OTHER_CORE, None, "st-flash", platformio="nucleo_f767zi"),
    Board("nucleo_h743zi", "NUCLEO-H743ZI(2)", "STM32H743ZI", "cortex-m7", 400 * MHZ, 2 * MIB,
          512 * KIB, _BARE, "bare-metal", "st-flash", platformio="nucleo_h743zi"),
    Board("nucleo_h723zg", "NUCLEO-H723ZG", "STM32H723ZG", "cortex-m7", 550 * MHZ, MIB, 320 * KIB,
          _OTHER_CORE, None, "st-flash", platformio="nucleo_h723zg"),
    Board("nucleo_h7a3zi_q", "NUCLEO-H7A3ZI-Q", "STM32H7A3ZI", "cortex-m7", 280 * MHZ, 2 * MIB, MIB,
          _OTHER_CORE, None, "st-flash"),
    Board("nucleo_u575zi_q", "NUCLEO-U575ZI-Q", "STM32U575ZI", "cortex-m33", 160 * MHZ, 2 * MIB,
          786_432, _OTHER_CORE, None, "st-flash", platformio="nucleo_u575zi_q"),
    Board("b_u585i_iot02a", "B-U585I-IOT02A", "STM32U585AI", "cortex-m33", 160 * MHZ, 2 * MIB,
          786_432, _OTHER_CORE, None, "st-flash"),
    Board("nucleo_u385rg_q", "NUCLEO-U385RG-Q", "STM32U385RG", "cortex-m33", 96 * MHZ, MIB, 262_144,
          _OTHER_CORE, None, "st-flash"),
    Board("nucleo_u3c5zi_q", "NUCLEO-U3C5ZI-Q", "STM32U3C5ZI", "cortex-m33", 96 * MHZ, 2 * MIB,
          640 * KIB, _OTHER_CORE, None, "st-flash"),
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
