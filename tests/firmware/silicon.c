/* silicon.c: runs an STM32 board's port_init on this computer, with memory where the part has its
 * registers, and prints what it left there: one `address value` a line.
 *
 *     silicon 1    clocks become ready as soon as they are waited for
 *     silicon 0    they never do
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "cortex_m.h"
#include "port.h"

/* Peripherals of the families: APB and AHB of F1 to G4 and H7; GPIO of L4 and G4; flash, AXI, RCC
 * and debug of H7. */
static const struct {
    uintptr_t begin, size;
} blocks[] = {
    { 0x40000000, 0x30000 }, { 0x48000000, 0x2000 },  { 0x51000000, 0x10000 },
    { 0x52002000, 0x1000 },  { 0x58020000, 0x10000 }, { 0x5C001000, 0x1000 },
};
#define NUM_BLOCKS (sizeof blocks / sizeof blocks[0])

static int ready;

int wait_for(volatile uint32_t *reg, uint32_t mask, uint32_t value)
{
    if (ready) {
        *reg = (*reg & ~mask) | value;
    }
    return ready;
}

void cycles_start(void) {}
uint32_t cycles_micros(uint32_t core_mhz) { return core_mhz; } /* shown as what port_micros says */
void caches_enable(void) {}

int main(int argc, char **argv)
{
    ready = argc > 1 && atoi(argv[1]);
    for (size_t i = 0; i < NUM_BLOCKS; i++) {
        void *at = mmap((void *)blocks[i].begin, blocks[i].size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (at != (void *)blocks[i].begin) {
            return 1;
        }
    }
    port_init();
    printf("0 %lu\n", (unsigned long)port_micros());
    for (size_t i = 0; i < NUM_BLOCKS; i++) {
        for (uintptr_t at = blocks[i].begin; at < blocks[i].begin + blocks[i].size; at += 4) {
            if (*(uint32_t *)at != 0) {
                printf("%#lx %lu\n", (unsigned long)at, (unsigned long)*(uint32_t *)at);
            }
        }
    }
    return 0;
}
