# BBC micro:bit, version 1: Cortex-M0
TOOLS   = arm-none-eabi-
CPU     = -mthumb -mcpu=cortex-m0
SOURCES = microbit/port.c common/cortex_m.c common/nrf.c
QEMU    = microbit
OPENOCD = interface/cmsis-dap.cfg -f target/nrf51.cfg
