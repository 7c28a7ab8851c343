/* The host: the serial line is stdin and stdout. */
#define _POSIX_C_SOURCE 199309L
#include "port.h"

#include <stdio.h>
#include <time.h>

void port_init(void)
{
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ); /* a reply is out when its line is complete */
}

int port_getc(void)
{
    return getchar(); /* EOF is negative */
}

void port_putc(char c)
{
    putchar(c);
}

uint32_t port_micros(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint32_t)now.tv_sec * 1000000u + (uint32_t)(now.tv_nsec / 1000);
}
