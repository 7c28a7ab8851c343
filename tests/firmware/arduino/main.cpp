#include <Arduino.h>

#include <stdio.h>
#include <stdlib.h>

Stream Serial;

void Stream::begin(unsigned long) {}

int Stream::available()
{
    int next = getchar();
    if (next == EOF) {
        exit(0);
    }
    ungetc(next, stdin);
    return 1;
}

int Stream::read() { return getchar(); }
void Stream::write(uint8_t byte) { putchar(byte); }
void Stream::println(const char *text) { puts(text); }

unsigned long millis() { return 0; }
unsigned long micros() { return 0; }
void delay(unsigned long) {}
void yield() {}

int main()
{
    setup();
    for (;;) {
        loop();
    }
}
