# Arm MPS3, image AN547: Cortex-M55 with MVE
TOOLS   = arm-none-eabi-
CPU     = -mthumb -mcpu=cortex-m55 -mfloat-abi=hard
SOURCES = mps3-an547/port.c common/cortex_m.c common/cmsdk_uart.c
QEMU    = mps3-an547
