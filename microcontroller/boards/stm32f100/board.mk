# STM32VLDISCOVERY: Cortex-M3
TOOLS   = arm-none-eabi-
CPU     = -mthumb -mcpu=cortex-m3
SOURCES = stm32f100/port.c common/cortex_m.c common/stm32_usart_v1.c
QEMU    = stm32vldiscovery
OPENOCD = board/stm32vldiscovery.cfg
ORIGIN  = 0x08000000
