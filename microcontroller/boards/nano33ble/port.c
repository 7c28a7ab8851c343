/* Arduino Nano 33 BLE: nRF52840 at 64 MHz, without the Arduino core.
 * Serial line: header pins TX and RX, through a USB-serial adapter: the USB plug is the part's own
 * USB, which only the Arduino sketch drives. In Renode: uart0.
 *
 * Source: pins as in Arduino's core for it (variants/ARDUINO_NANO33BLE/variant.cpp). */
#include "port.h"

#include "nrf.h"

#define TRANSMIT_PIN (32u + 3u) /* P1.03, TX */
#define RECEIVE_PIN (32u + 10u) /* P1.10, RX */

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
