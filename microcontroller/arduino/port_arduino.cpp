// Arduino: the serial line is Serial, the one behind the USB plug. Standard calls only, so that
// any core will do.
#include "port.h"

#include <Arduino.h>

// A board whose USB is its own shows up some time after reset; do not wait for it for ever, as
// nobody may be listening.
static const unsigned long kWaitForUsbMs = 3000;

void port_init(void)
{
    Serial.begin(115200);
    while (!Serial && millis() < kWaitForUsbMs) {
    }
}

int port_getc(void)
{
    while (Serial.available() <= 0) {
        yield();
    }
    return Serial.read();
}

void port_putc(char c)
{
    Serial.write(static_cast<uint8_t>(c));
}

uint32_t port_micros(void)
{
    return micros();
}
