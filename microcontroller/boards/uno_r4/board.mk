# Arduino UNO R4: Cortex-M4F. On the board itself the Arduino sketch runs; this program is for QEMU,
# which has no model of the RA4M1: the serial port is that of the machine that stands in.
TOOLS   = arm-none-eabi-
CPU     = -mthumb -mcpu=cortex-m4 -mfpu=fpv4-sp-d16 -mfloat-abi=hard
SOURCES = mps2-an386/port.c common/cortex_m.c common/cmsdk_uart.c
QEMU    = mps2-an386
