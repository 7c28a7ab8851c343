# Arduino Nano 33 BLE: Cortex-M4F
TOOLS   = arm-none-eabi-
CPU     = -mthumb -mcpu=cortex-m4 -mfpu=fpv4-sp-d16 -mfloat-abi=hard
SOURCES = nano33ble/port.c common/cortex_m.c common/nrf.c
