/* Clock tree of F4 and F7: RM0090, RM0383, RM0390, RM0385, chapters RCC, PWR and FLASH. */
#include "stm32.h"

#define INTERNAL_HZ 16000000u

#define RCC_CR REG32(0x40023800)
#define RCC_PLLCFGR REG32(0x40023804)
#define RCC_CFGR REG32(0x40023808)
#define RCC_APB1ENR REG32(0x40023840)
#define FLASH_ACR REG32(0x40023C00)
#define PWR_CR REG32(0x40007000)
#define PWR_CSR REG32(0x40007004)

#define PLL_ON (1u << 24)
#define PLL_READY (1u << 25)
#define OVER_DRIVE_ON (1u << 16)
#define OVER_DRIVE_SWITCH (1u << 17)

/* The code of a bus divider: 1 -> 0, 2 -> 4, 4 -> 5. */
static uint32_t divider_code(uint32_t divider)
{
    return divider == 1u ? 0u : divider == 2u ? 4u : 5u;
}

static int over_drive_start(void)
{
    PWR_CR |= OVER_DRIVE_ON;
    if (!wait_for(&PWR_CSR, OVER_DRIVE_ON, OVER_DRIVE_ON)) {
        return 0;
    }
    PWR_CR |= OVER_DRIVE_SWITCH;
    return wait_for(&PWR_CSR, OVER_DRIVE_SWITCH, OVER_DRIVE_SWITCH);
}

static int pll_start(const struct stm32f4_plan *plan)
{
    RCC_APB1ENR |= 1u << 28; /* PWR */
    PWR_CR |= plan->voltage << 14;
    /* Source: internal oscillator. Output divider 2 is code 0; bit 29 stays at its reset value. */
    RCC_PLLCFGR = (2u << 28) | (plan->q << 24) | (plan->n << 6) | plan->m;
    RCC_CR |= PLL_ON;
    if (plan->over_drive && !over_drive_start()) {
        return 0;
    }
    return wait_for(&RCC_CR, PLL_READY, PLL_READY);
}

struct stm32_clocks stm32f4_clock_init(const struct stm32f4_plan *plan)
{
    struct stm32_clocks clocks = { INTERNAL_HZ, INTERNAL_HZ, INTERNAL_HZ };

    if (!pll_start(plan)) {
        return clocks;
    }
    FLASH_ACR = plan->flash; /* before the clock rises */
    wait_for(&FLASH_ACR, 0xFu, plan->flash & 0xFu);
    RCC_CFGR = (divider_code(plan->apb2_divider) << 13) | (divider_code(plan->apb1_divider) << 10);
    RCC_CFGR |= 2u; /* core: PLL */
    if (!wait_for(&RCC_CFGR, 3u << 2, 2u << 2)) {
        return clocks;
    }
    clocks.core = INTERNAL_HZ / plan->m * plan->n / 2u;
    clocks.apb1 = clocks.core / plan->apb1_divider;
    clocks.apb2 = clocks.core / plan->apb2_divider;
    return clocks;
}
