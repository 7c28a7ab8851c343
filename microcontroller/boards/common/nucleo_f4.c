/* NUCLEO-64 boards with an F4, at the clock of their plan.c.
 * Serial line: USART2, transmit PA2, receive PA3: the USB cable of the on-board ST-LINK. */
#include "port.h"

#include "stm32.h"

#define RCC_AHB1ENR REG32(0x40023830)
#define RCC_APB1ENR REG32(0x40023840)
#define GPIOA ((struct stm32_gpio *)0x40020000)
#define USART2 ((struct stm32_usart_v1 *)0x40004400)

static uint32_t core_mhz;

void port_init(void)
{
    struct stm32_clocks clocks = stm32f4_clock_init(&stm32f4_board_plan);

    core_mhz = clocks.core / 1000000u;
    RCC_AHB1ENR |= 1u << 0; /* GPIOA */
    RCC_APB1ENR |= 1u << 17; /* USART2 */
    stm32_pin_function(GPIOA, 2, 7);
    stm32_pin_function(GPIOA, 3, 7);
    stm32_usart_v1_init(USART2, clocks.apb1);
    cycles_start();
}

int port_getc(void)
{
    return stm32_usart_v1_getc(USART2);
}

void port_putc(char c)
{
    stm32_usart_v1_putc(USART2, c);
}

uint32_t port_micros(void)
{
    return cycles_micros(core_mhz);
}
