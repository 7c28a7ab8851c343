/* nrf.h: what nRF51 and nRF52 share: crystal oscillator, UART and a 1 MHz timer.
 *
 * Source: Nordic nRF51 Series Reference Manual 3.0, nRF52840 Product Specification 1.1. */
#ifndef KPRUNE_NRF_H
#define KPRUNE_NRF_H

#include <stdint.h>

/* Pins are counted through the ports: P1.03 is 32 + 3. */
void nrf_init(uint32_t transmit_pin, uint32_t receive_pin);
int nrf_getc(void);
void nrf_putc(char c);
uint32_t nrf_micros(void);

#endif
