# STM32F405RG: Cortex-M4F
TOOLS   = arm-none-eabi-
CPU     = -mthumb -mcpu=cortex-m4 -mfpu=fpv4-sp-d16 -mfloat-abi=hard
SOURCES = stm32f405/port.c common/cortex_m.c common/stm32_gpio.c common/stm32_usart_v1.c common/stm32f4_clock.c
QEMU    = netduinoplus2
OPENOCD = interface/stlink.cfg -f target/stm32f4x.cfg
ORIGIN  = 0x08000000
