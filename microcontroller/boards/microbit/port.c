/* BBC micro:bit, version 1: nRF51822 at 16 MHz.
 * Serial line: the USB cable of the on-board interface chip. In QEMU: machine microbit.
 *
 * Source: pins as in Zephyr (boards/bbc/microbit). */
#include "port.h"

#include "nrf.h"

#define TRANSMIT_PIN 24u /* P0.24 */
#define RECEIVE_PIN 25u /* P0.25 */

void port_init(void)
{
    nrf_init(TRANSMIT_PIN, RECEIVE_PIN);
}

int port_getc(void)
{
    return nrf_getc();
}

void port_putc(char c)
{
    nrf_putc(c);
}

uint32_t port_micros(void)
{
    return nrf_micros();
}
