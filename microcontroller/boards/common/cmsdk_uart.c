#include "cmsdk_uart.h"

#define BAUD 115200u
#define STATE_TRANSMIT_FULL (1u << 0)
#define STATE_RECEIVE_FULL (1u << 1)

void cmsdk_uart_init(struct cmsdk_uart *uart, uint32_t clock_hz)
{
    uart->divider = clock_hz / BAUD;
    uart->control = 3u; /* transmit, receive */
}

int cmsdk_uart_getc(struct cmsdk_uart *uart)
{
    while ((uart->state & STATE_RECEIVE_FULL) == 0) {
    }
    return (int)(uart->data & 0xFFu);
}

void cmsdk_uart_putc(struct cmsdk_uart *uart, char c)
{
    while (uart->state & STATE_TRANSMIT_FULL) {
    }
    uart->data = (uint8_t)c;
}
