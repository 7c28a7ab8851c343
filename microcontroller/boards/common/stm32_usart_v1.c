#include "stm32.h"

#define STATUS_RXNE (1u << 5)
#define STATUS_TXE (1u << 7)
#define CONTROL1_ENABLE (1u << 13)
#define CONTROL1_TRANSMIT (1u << 3)
#define CONTROL1_RECEIVE (1u << 2)

void stm32_usart_v1_init(struct stm32_usart_v1 *usart, uint32_t clock_hz)
{
    usart->baud = (clock_hz + BAUD / 2u) / BAUD; /* oversampling by 16: the divider in 1/16 */
    usart->control1 = CONTROL1_ENABLE | CONTROL1_TRANSMIT | CONTROL1_RECEIVE;
}

int stm32_usart_v1_getc(struct stm32_usart_v1 *usart)
{
    while ((usart->status & STATUS_RXNE) == 0) {
    }
    return (int)(usart->data & 0xFFu); /* reading clears an overrun as well */
}

void stm32_usart_v1_putc(struct stm32_usart_v1 *usart, char c)
{
    while ((usart->status & STATUS_TXE) == 0) {
    }
    usart->data = (uint8_t)c;
}
