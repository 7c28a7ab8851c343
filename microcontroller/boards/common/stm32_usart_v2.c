#include "stm32.h"

#define STATUS_OVERRUN (1u << 3)
#define STATUS_RXNE (1u << 5)
#define STATUS_TXE (1u << 7)
#define CONTROL1_ENABLE (1u << 0)
#define CONTROL1_RECEIVE (1u << 2)
#define CONTROL1_TRANSMIT (1u << 3)

void stm32_usart_v2_init(struct stm32_usart_v2 *usart, uint32_t clock_hz)
{
    usart->baud = (clock_hz + BAUD / 2u) / BAUD;
    usart->control1 = CONTROL1_TRANSMIT | CONTROL1_RECEIVE;
    usart->control1 |= CONTROL1_ENABLE;
}

int stm32_usart_v2_getc(struct stm32_usart_v2 *usart)
{
    while ((usart->status & STATUS_RXNE) == 0) {
        usart->clear = STATUS_OVERRUN; /* an overrun blocks reception until it is cleared */
    }
    return (int)(usart->receive & 0xFFu);
}

void stm32_usart_v2_putc(struct stm32_usart_v2 *usart, char c)
{
    while ((usart->status & STATUS_TXE) == 0) {
    }
    usart->transmit = (uint8_t)c;
}
