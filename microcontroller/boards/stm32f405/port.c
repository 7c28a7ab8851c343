/* STM32F405RG at 168 MHz, any board: no crystal is needed.
 * Serial line: USART1, transmit PA9, receive PA10. In QEMU: machine netduinoplus2, first -serial. */
#include "port.h"

#include "stm32.h"

#define RCC_AHB1ENR REG32(0x40023830)
#define RCC_APB2ENR REG32(0x40023844)
#define GPIOA ((struct stm32_gpio *)0x40020000)
#define USART1 ((struct stm32_usart_v1 *)0x40011000)

static const struct stm32f4_plan plan = {
    .m = 8,
    .n = 168,
    .q = 7,
    .voltage = 1,
    .flash = (7u << 8) | 5u, /* prefetch, both caches; 5 wait states */
    .apb1_divider = 4,
    .apb2_divider = 2,
    .over_drive = 0,
};

static uint32_t core_mhz;

void port_init(void)
{
    struct stm32_clocks clocks = stm32f4_clock_init(&plan);

    core_mhz = clocks.core / 1000000u;
    RCC_AHB1ENR |= 1u << 0; /* GPIOA */
    RCC_APB2ENR |= 1u << 4; /* USART1 */
    stm32_pin_function(GPIOA, 9, 7);
    stm32_pin_function(GPIOA, 10, 7);
    stm32_usart_v1_init(USART1, clocks.apb2);
    cycles_start();
}

int port_getc(void)
{
    return stm32_usart_v1_getc(USART1);
}

void port_putc(char c)
{
    stm32_usart_v1_putc(USART1, c);
}

uint32_t port_micros(void)
{
    return cycles_micros(core_mhz);
}
