/* Clock tree of L4 and G4: RM0351 and RM0440, chapters RCC, PWR and FLASH. */
#include "stm32.h"

#define INTERNAL_HZ 16000000u

#define RCC_CR REG32(0x40021000)
#define RCC_CFGR REG32(0x40021008)
#define RCC_PLLCFGR REG32(0x4002100C)
#define RCC_APB1ENR1 REG32(0x40021058)
#define FLASH_ACR REG32(0x40022000)
#define PWR_CR5 REG32(0x40007080)

#define INTERNAL_ON (1u << 8)
#define INTERNAL_READY (1u << 10)
#define PLL_ON (1u << 24)
#define PLL_READY (1u << 25)
#define PLL_FROM_INTERNAL 2u
#define PLL_OUTPUT (1u << 24)
#define FLASH_ACCELERATORS (7u << 8) /* prefetch, instruction cache, data cache */
#define AHB_HALF (8u << 4)
#define NOT_BOOSTED (1u << 8)

static int pll_start(const struct stm32l4_plan *plan)
{
    RCC_APB1ENR1 |= 1u << 28; /* PWR */
    RCC_CR |= INTERNAL_ON;
    if (!wait_for(&RCC_CR, INTERNAL_READY, INTERNAL_READY)) {
        return 0;
    }
    RCC_PLLCFGR = PLL_OUTPUT | (plan->n << 8) | ((plan->m - 1u) << 4) | PLL_FROM_INTERNAL;
    RCC_CR |= PLL_ON;
    return wait_for(&RCC_CR, PLL_READY, PLL_READY);
}

static int core_from_pll(void)
{
    RCC_CFGR |= 3u;
    return wait_for(&RCC_CFGR, 3u << 2, 3u << 2);
}

struct stm32_clocks stm32l4_clock_init(const struct stm32l4_plan *plan)
{
    struct stm32_clocks clocks = { plan->reset_hz, plan->reset_hz, plan->reset_hz };
    uint32_t final_hz = INTERNAL_HZ / plan->m * plan->n / 2u;

    if (!pll_start(plan)) {
        return clocks;
    }
    if (plan->boost) {
        PWR_CR5 &= ~NOT_BOOSTED;
        RCC_CFGR |= AHB_HALF; /* RM0440 6.1.5: no jump above 80 MHz in one step */
    }
    FLASH_ACR = FLASH_ACCELERATORS | plan->wait_states; /* before the clock rises */
    wait_for(&FLASH_ACR, 0xFu, plan->wait_states);
    if (!core_from_pll()) {
        return clocks;
    }
    for (volatile uint32_t settle = 200; plan->boost && settle > 0; settle--) {
    } /* at least 1 us at half speed */
    RCC_CFGR &= ~(0xFu << 4);
    clocks.core = final_hz;
    clocks.apb1 = final_hz;
    clocks.apb2 = final_hz;
    return clocks;
}
