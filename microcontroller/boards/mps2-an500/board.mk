# Arm MPS2, image AN500: Cortex-M7; single-precision FPU, as in QEMU's model
TOOLS   = arm-none-eabi-
CPU     = -mthumb -mcpu=cortex-m7 -mfpu=fpv5-sp-d16 -mfloat-abi=hard
SOURCES = mps2-an500/port.c common/cortex_m.c common/cmsdk_uart.c
QEMU    = mps2-an500
