# Arm MPS2, image AN386: Cortex-M4F
TOOLS   = arm-none-eabi-
CPU     = -mthumb -mcpu=cortex-m4 -mfpu=fpv4-sp-d16 -mfloat-abi=hard
SOURCES = mps2-an386/port.c common/cortex_m.c common/cmsdk_uart.c
QEMU    = mps2-an386
