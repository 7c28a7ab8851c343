/* port.h: what a board provides. Four functions; nothing else in app/ knows the hardware.
 *
 * boards/template/ has an empty port that compiles: copy that folder to add a board. */
#ifndef KPRUNE_PORT
#define KPRUNE_PORT

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Bring up clocks, pins and the serial line: 115200 baud, 8 data bits, no parity, 1 stop bit.
 * Called once, before any other function. */
void port_init(void);

/* The next byte received, 0..255; waits for it. -1 at the end of the input, which only a program
 * on a computer ever sees. */
int port_getc(void);

/* Send one byte; waits until the line can take it. */
void port_putc(char c);

/* Microseconds since some fixed moment, modulo 2^32. May always be 0 where nothing counts time
 * (QEMU): nothing but the `time` command depends on it. */
uint32_t port_micros(void);

#ifdef __cplusplus
}
#endif
#endif
