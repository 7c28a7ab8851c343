// Enough of Arduino to compile a sketch on a computer: Serial is stdin and stdout.
#ifndef ARDUINO_H
#define ARDUINO_H

#include <stdint.h>

class Stream
{
  public:
    void begin(unsigned long baud);
    int available();
    int read();
    void write(uint8_t byte);
    void println(const char *text);
    explicit operator bool() const { return true; }
};
extern Stream Serial;

unsigned long millis();
unsigned long micros();
void delay(unsigned long ms);
void yield();

void setup();
void loop();

#endif
