/* Arm MPS2 with FPGA image AN500: Cortex-M7 at 25 MHz.
 * Serial line: UART0. In QEMU: machine mps2-an500, first -serial. */
#include "port.h"

#include "cmsdk_uart.h"
#include "cortex_m.h"

#define UART0 ((struct cmsdk_uart *)0x40004000)
#define UART_HZ 25000000u
#define CORE_MHZ 25u

void port_init(void)
{
    caches_enable();
    cmsdk_uart_init(UART0, UART_HZ);
    cycles_start();
}

int port_getc(void)
{
    return cmsdk_uart_getc(UART0);
}

void port_putc(char c)
{
    cmsdk_uart_putc(UART0, c);
}

uint32_t port_micros(void)
{
    return cycles_micros(CORE_MHZ);
}
