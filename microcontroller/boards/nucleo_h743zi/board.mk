# NUCLEO-H743ZI(2): Cortex-M7 with double-precision FPU
TOOLS   = arm-none-eabi-
CPU     = -mthumb -mcpu=cortex-m7 -mfpu=fpv5-d16 -mfloat-abi=hard
SOURCES = nucleo_h743zi/port.c common/cortex_m.c common/stm32_gpio.c common/stm32_usart_v2.c
OPENOCD = board/st_nucleo_h743zi.cfg
ORIGIN  = 0x08000000
