# 32F746GDISCOVERY: Cortex-M7 with single-precision FPU
TOOLS   = arm-none-eabi-
CPU     = -mthumb -mcpu=cortex-m7 -mfpu=fpv5-sp-d16 -mfloat-abi=hard
SOURCES = stm32f746/port.c common/cortex_m.c common/stm32_gpio.c common/stm32_usart_v2.c common/stm32f4_clock.c
OPENOCD = board/stm32f7discovery.cfg
ORIGIN  = 0x08000000
