# NUCLEO-L476RG: Cortex-M4F
TOOLS   = arm-none-eabi-
CPU     = -mthumb -mcpu=cortex-m4 -mfpu=fpv4-sp-d16 -mfloat-abi=hard
SOURCES = nucleo_l476rg/plan.c common/nucleo_l4.c common/cortex_m.c common/stm32_gpio.c common/stm32_usart_v2.c common/stm32l4_clock.c
OPENOCD = board/st_nucleo_l4.cfg
ORIGIN  = 0x08000000
