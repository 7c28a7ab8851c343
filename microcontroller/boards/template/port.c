/* An empty port that compiles: copy this folder and fill in the four functions.
 * common/ has drivers for the serial ports of several families; see the other boards. */
#include "port.h"

#include "cortex_m.h"

#define CORE_MHZ 16u /* what the core runs on when port_init is done */

void port_init(void)
{
    /* Clock: oscillator or PLL, flash wait states first where the clock rises.
     * Pins: the transmit and receive pins to their alternate function.
     * Serial line: 115200 baud, 8 data bits, no parity, 1 stop bit. */
    cycles_start();
}

int port_getc(void)
{
    /* Wait for a byte and return it. */
    for (;;) {
    }
}

void port_putc(char c)
{
    /* Wait until the line can take a byte, then send it. */
    (void)c;
}

uint32_t port_micros(void)
{
    return cycles_micros(CORE_MHZ);
}
