/* 32F746GDISCOVERY: STM32F746NG at 216 MHz.
 * Serial line: USART1, transmit PA9, receive PB7: the USB cable of the on-board ST-LINK. */
#include "port.h"

#include "stm32.h"

#define RCC_AHB1ENR REG32(0x40023830)
#define RCC_APB2ENR REG32(0x40023844)
#define GPIOA ((struct stm32_gpio *)0x40020000)
#define GPIOB ((struct stm32_gpio *)0x40020400)
#define USART1 ((struct stm32_usart_v2 *)0x40011000)

static const struct stm32f4_plan plan = {
    .m = 8,
    .n = 216,
    .q = 9,
    .voltage = 3,
    .flash = (3u << 8) | 7u, /* prefetch, accelerator; 7 wait states */
    .apb1_divider = 4,
    .apb2_divider = 2,
    .over_drive = 1,
};

static uint32_t core_mhz;

void port_init(void)
{
    struct stm32_clocks clocks;

    caches_enable();
    clocks = stm32f4_clock_init(&plan);
    core_mhz = clocks.core / 1000000u;
    RCC_AHB1ENR |= 3u << 0; /* GPIOA, GPIOB */
    RCC_APB2ENR |= 1u << 4; /* USART1 */
    stm32_pin_function(GPIOA, 9, 7);
    stm32_pin_function(GPIOB, 7, 7);
    stm32_usart_v2_init(USART1, clocks.apb2);
    cycles_start();
}

int port_getc(void)
{
    return stm32_usart_v2_getc(USART1);
}

void port_putc(char c)
{
    stm32_usart_v2_putc(USART1, c);
}

uint32_t port_micros(void)
{
    return cycles_micros(core_mhz);
}
