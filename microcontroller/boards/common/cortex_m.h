/* cortex_m.h: what every Cortex-M shares. */
#ifndef KPRUNE_CORTEX_M_H
#define KPRUNE_CORTEX_M_H

#include <stdint.h>

/* The register at a fixed address. */
#define REG32(address) (*(volatile uint32_t *)(uintptr_t)(address))

/* Wait until (*reg & mask) == value, but not for ever: a crystal may be missing, and a simulator
 * may not model the clocks at all. Returns 1 if it came true, 0 after a hundred thousand looks. */
int wait_for(volatile uint32_t *reg, uint32_t mask, uint32_t value);

/* Start the cycle counter (DWT CYCCNT; Armv7-M and later). */
void cycles_start(void);

/* Cycles since cycles_start, modulo 2^32. 0 on cores and simulators without the counter. */
uint32_t cycles_now(void);

/* Microseconds since cycles_start for a core of `core_mhz` MHz. To be called at least once per
 * 2^32 cycles, else whole turns of the counter are lost. */
uint32_t cycles_micros(uint32_t core_mhz);

/* Invalidate and enable both level-1 caches of a Cortex-M7. */
void caches_enable(void);

#endif
