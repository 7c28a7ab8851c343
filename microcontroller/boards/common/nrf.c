#include "nrf.h"

#include "cortex_m.h"

#define CLOCK_HFCLKSTART REG32(0x40000000)
#define CLOCK_HFCLKSTARTED REG32(0x40000100)

#define UART_STARTRX REG32(0x40002000)
#define UART_STARTTX REG32(0x40002008)
#define UART_RXDRDY REG32(0x40002108)
#define UART_TXDRDY REG32(0x4000211C)
#define UART_ENABLE REG32(0x40002500)
#define UART_PSELTXD REG32(0x4000250C)
#define UART_PSELRXD REG32(0x40002514)
#define UART_RXD REG32(0x40002518)
#define UART_TXD REG32(0x4000251C)
#define UART_BAUDRATE REG32(0x40002524)

#define TIMER_START REG32(0x40008000)
#define TIMER_CAPTURE0 REG32(0x40008040)
#define TIMER_MODE REG32(0x40008504)
#define TIMER_BITMODE REG32(0x40008508)
#define TIMER_PRESCALER REG32(0x40008510)
#define TIMER_CC0 REG32(0x40008540)

#define BAUD_115200 0x01D7E000u

/* Ports lie 0x300 apart. */
#define GPIO(pin, offset) REG32(0x50000000u + 0x300u * ((pin) / 32u) + (offset))
#define GPIO_OUTSET(pin) GPIO(pin, 0x508u)
#define GPIO_CONFIG(pin) GPIO(pin, 0x700u + 4u * ((pin) % 32u))
#define PIN_OUTPUT 3u /* output, input buffer off */
#define PIN_PULLED_UP_INPUT (3u << 2)

static void uart_init(uint32_t transmit_pin, uint32_t receive_pin)
{
    GPIO_OUTSET(transmit_pin) = 1u << (transmit_pin % 32u); /* idle level before it is driven */
    GPIO_CONFIG(transmit_pin) = PIN_OUTPUT;
    GPIO_CONFIG(receive_pin) = PIN_PULLED_UP_INPUT;
    UART_PSELTXD = transmit_pin;
    UART_PSELRXD = receive_pin;
    UART_BAUDRATE = BAUD_115200;
    UART_ENABLE = 4u;
    UART_RXDRDY = 0;
    UART_STARTTX = 1u;
    UART_STARTRX = 1u;
}

static void timer_init(void)
{
    TIMER_MODE = 0;       /* timer, not counter */
    TIMER_BITMODE = 3u;   /* 32 bits */
    TIMER_PRESCALER = 4u; /* 16 MHz / 2^4 */
    TIMER_START = 1u;
}

void nrf_init(uint32_t transmit_pin, uint32_t receive_pin)
{
    CLOCK_HFCLKSTART = 1u; /* the crystal: the RC oscillator is too inexact for a serial line */
    wait_for(&CLOCK_HFCLKSTARTED, 1u, 1u);
    uart_init(transmit_pin, receive_pin);
    timer_init();
}

int nrf_getc(void)
{
    while (UART_RXDRDY == 0) {
    }
    UART_RXDRDY = 0; /* before reading: the next byte may set it again at once */
    return (int)(UART_RXD & 0xFFu);
}

void nrf_putc(char c)
{
    UART_TXDRDY = 0;
    UART_TXD = (uint8_t)c;
    while (UART_TXDRDY == 0) {
    }
}

uint32_t nrf_micros(void)
{
    TIMER_CAPTURE0 = 1u;
    return TIMER_CC0;
}
