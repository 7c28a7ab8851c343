/* cmsdk_uart.h: serial port of Arm's FPGA images (Arm DDI 0479, Cortex-M System Design Kit). */
#ifndef KPRUNE_CMSDK_UART_H
#define KPRUNE_CMSDK_UART_H

#include <stdint.h>

struct cmsdk_uart {
    volatile uint32_t data, state, control, interrupt, divider;
};

void cmsdk_uart_init(struct cmsdk_uart *uart, uint32_t clock_hz);
int cmsdk_uart_getc(struct cmsdk_uart *uart);
void cmsdk_uart_putc(struct cmsdk_uart *uart, char c);

#endif
