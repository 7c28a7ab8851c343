/* stm32.h: the few registers of STM32 parts that a board's port sets.
 *
 * Source: ST reference manuals RM0041 (F100), RM0090 (F405), RM0383 (F411), RM0390 (F446),
 * RM0385 (F746), RM0351 (L476), RM0440 (G474), RM0433 (H743). Compared with libopencm3
 * (lib/stm32/<family>/rcc.c: multipliers, bus dividers, wait states, voltage scales) and with Zephyr
 * (boards/st/<board>/<board>.dts: serial ports, pins, bus dividers). */
#ifndef KPRUNE_STM32_H
#define KPRUNE_STM32_H

#include <stdint.h>

#include "cortex_m.h"

#define BAUD 115200u

/* Clocks that really run, in Hz. Where the PLL does not lock (a simulator without a clock model), the
 * part stays on its reset clock and these say so: nothing that is derived from them is wrong. */
struct stm32_clocks {
    uint32_t core, apb1, apb2;
};

/* F4 and F7: core = 16 MHz (internal oscillator) / m * n / 2, the buses that clock over their
 * dividers. The internal oscillator is good to 1 %, which a serial line takes, and spares us from
 * knowing a board's crystal. */
struct stm32f4_plan {
    uint32_t m;            /* 8: 2 MHz into the PLL */
    uint32_t n;            /* 50..432 */
    uint32_t q;            /* 48 MHz domain, 2..15; unused, but has to be legal */
    uint32_t voltage;      /* PWR_CR's field VOS for the highest core voltage: 1 on F405, else 3 */
    uint32_t flash;        /* FLASH_ACR: wait states and accelerators */
    uint32_t apb1_divider; /* 1, 2 or 4 */
    uint32_t apb2_divider; /* 1, 2 or 4 */
    int over_drive;        /* F446 and F7 above 168 MHz */
};
struct stm32_clocks stm32f4_clock_init(const struct stm32f4_plan *plan);
extern const struct stm32f4_plan stm32f4_board_plan; /* of boards that share their port: plan.c */

/* L4 and G4: core = 16 MHz (internal oscillator) / m * n / 2; both buses run at that clock. */
struct stm32l4_plan {
    uint32_t m;           /* 1..8 */
    uint32_t n;           /* 8..127 */
    uint32_t wait_states; /* of the flash, at the final clock */
    uint32_t reset_hz;    /* what the part runs on after reset */
    int boost;            /* G4 above 150 MHz */
};
struct stm32_clocks stm32l4_clock_init(const struct stm32l4_plan *plan);
extern const struct stm32l4_plan stm32l4_board_plan; /* likewise */

/* General-purpose pins of every family but F1. */
struct stm32_gpio {
    volatile uint32_t mode;  /* 2 bits a pin: 2 = alternate function */
    volatile uint32_t type;  /* 0 = push-pull */
    volatile uint32_t speed; /* 2 bits a pin */
    volatile uint32_t pull;  /* 2 bits a pin: 1 = up */
    volatile uint32_t in, out, set, lock;
    volatile uint32_t function[2]; /* 4 bits a pin */
};

/* Hand a pin to a peripheral: pulled up, so that an open receive line rests at its idle level.
 * pin: 0..15; function: 0..15, from the part's data sheet. The port's clock must be on. */
void stm32_pin_function(struct stm32_gpio *port, uint32_t pin, uint32_t function);

/* The older serial port: F1, F2, F4. */
struct stm32_usart_v1 {
    volatile uint32_t status, data, baud, control1, control2, control3;
};

/* clock_hz: of the bus the port hangs on. */
void stm32_usart_v1_init(struct stm32_usart_v1 *usart, uint32_t clock_hz);
int stm32_usart_v1_getc(struct stm32_usart_v1 *usart);
void stm32_usart_v1_putc(struct stm32_usart_v1 *usart, char c);

/* The newer serial port: F7, L4, G4, H7. */
struct stm32_usart_v2 {
    volatile uint32_t control1, control2, control3, baud, guard, timeout, request, status, clear;
    volatile uint32_t receive, transmit;
};

void stm32_usart_v2_init(struct stm32_usart_v2 *usart, uint32_t clock_hz);
int stm32_usart_v2_getc(struct stm32_usart_v2 *usart);
void stm32_usart_v2_putc(struct stm32_usart_v2 *usart, char c);

#endif
