# What the board is: core. Plain `NAME = value` lines: make and CMake both read this file.
TOOLS   = arm-none-eabi-
CPU     = -mthumb -mcpu=cortex-m4 -mfpu=fpv4-sp-d16 -mfloat-abi=hard
SOURCES = template/port.c common/cortex_m.c
# QEMU    = a machine of qemu-system-arm, if one stands in for the board
# OPENOCD = the configuration that reaches the board, for `make flash`
# ORIGIN  = where flash begins, for st-flash
