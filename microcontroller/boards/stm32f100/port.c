/* STM32VLDISCOVERY: STM32F100RB at 24 MHz.
 * Serial line: USART1, transmit PA9, receive PA10, through a USB-serial adapter (the board's
 * ST-LINK has no serial line). In QEMU: machine stm32vldiscovery.
 *
 * Source: RM0041, chapters RCC and GPIO. */
#include "port.h"

#include "stm32.h"

#define INTERNAL_HZ 8000000u
#define CORE_HZ 24000000u

#define RCC_CR REG32(0x40021000)
#define RCC_CFGR REG32(0x40021004)
#define RCC_APB2ENR REG32(0x40021018)
#define GPIOA_CRH REG32(0x40010804)
#define GPIOA_BSRR REG32(0x40010810)
#define USART1 ((struct stm32_usart_v1 *)0x40013800)

#define PLL_ON (1u << 24)
#define PLL_READY (1u << 25)

/* 8 MHz / 2 * 6 = 24 MHz, for core and buses. Up to there the flash needs no wait states. */
static uint32_t clock_init(void)
{
    RCC_CFGR = 4u << 18;
    RCC_CR |= PLL_ON;
    if (!wait_for(&RCC_CR, PLL_READY, PLL_READY)) {
        return INTERNAL_HZ;
    }
    RCC_CFGR |= 2u;
    return wait_for(&RCC_CFGR, 3u << 2, 2u << 2) ? CORE_HZ : INTERNAL_HZ;
}

static uint32_t core_hz;

void port_init(void)
{
    core_hz = clock_init();
    RCC_APB2ENR |= (1u << 14) | (1u << 2); /* USART1, GPIOA */
    GPIOA_BSRR = 1u << 10;                 /* PA10: pulled up, not down */
    /* PA9: alternate function, push-pull, 10 MHz; PA10: input with pull. */
    GPIOA_CRH = (GPIOA_CRH & ~0xFF0u) | (0x8u << 8) | (0x9u << 4);
    stm32_usart_v1_init(USART1, core_hz);
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
    return cycles_micros(core_hz / 1000000u);
}
