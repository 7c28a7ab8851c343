# NUCLEO-F446RE: Cortex-M4F
TOOLS   = arm-none-eabi-
CPU     = -mthumb -mcpu=cortex-m4 -mfpu=fpv4-sp-d16 -mfloat-abi=hard
SOURCES = nucleo_f446re/plan.c common/nucleo_f4.c common/cortex_m.c common/stm32_gpio.c common/stm32_usart_v1.c common/stm32f4_clock.c
OPENOCD = board/st_nucleo_f4.cfg
ORIGIN  = 0x08000000
