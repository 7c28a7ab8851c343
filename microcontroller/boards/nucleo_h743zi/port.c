/* NUCLEO-H743ZI and -H743ZI2: STM32H743ZI at 400 MHz, which every revision of the part allows.
 * Serial line: USART3, transmit PD8, receive PD9: the USB cable of the on-board ST-LINK.
 *
 * Source: RM0433, chapters RCC, PWR and FLASH; errata sheet ES0392. Compared with ST's
 * stm32h7xx_ll_utils.h (wait states) and Zephyr (boards/st/nucleo_h743zi: dividers, pins). */
#include "port.h"

#include "stm32.h"

#define INTERNAL_HZ 64000000u
#define CORE_HZ 400000000u
#define BUS_HZ 100000000u

#define RCC_CR REG32(0x58024400)
#define RCC_CFGR REG32(0x58024410)
#define RCC_D1CFGR REG32(0x58024418)
#define RCC_D2CFGR REG32(0x5802441C)
#define RCC_D3CFGR REG32(0x58024420)
#define RCC_PLLCKSELR REG32(0x58024428)
#define RCC_PLLCFGR REG32(0x5802442C)
#define RCC_PLL1DIVR REG32(0x58024430)
#define RCC_AHB4ENR REG32(0x580244E0)
#define RCC_APB1LENR REG32(0x580244E8)
#define PWR_CSR1 REG32(0x58024804)
#define PWR_CR3 REG32(0x5802480C)
#define PWR_D3CR REG32(0x58024818)
#define FLASH_ACR REG32(0x52002000)
#define DBGMCU_IDC REG32(0x5C001000)
#define AXI_TARG7_FN_MOD REG32(0x51008108)

#define PLL1_ON (1u << 24)
#define PLL1_READY (1u << 25)
#define VOLTAGE_READY (1u << 13)
#define SCALE_1 (3u << 14)

#define GPIOD ((struct stm32_gpio *)0x58020C00)
#define USART3 ((struct stm32_usart_v2 *)0x40004800)

static uint32_t core_hz = INTERNAL_HZ;

/* Revision Y may corrupt concurrent reads of the AXI SRAM (ES0392 2.2.9): one at a time. */
static void work_around_revision_y(void)
{
    if ((DBGMCU_IDC >> 16) < 0x2000u) {
        AXI_TARG7_FN_MOD = 1u;
    }
}

static int voltage_raise(void)
{
    PWR_CR3 = (PWR_CR3 & ~1u) | (1u << 1); /* supplied by the internal regulator: written once */
    if (!wait_for(&PWR_CSR1, VOLTAGE_READY, VOLTAGE_READY)) {
        return 0;
    }
    PWR_D3CR |= SCALE_1;
    return wait_for(&PWR_D3CR, VOLTAGE_READY, VOLTAGE_READY);
}

/* 64 MHz / 16 * 200 / 2 = 400 MHz */
static int pll_start(void)
{
    RCC_PLLCKSELR = 16u << 4;                       /* divide by 16; internal oscillator */
    RCC_PLLCFGR = (1u << 16) | (2u << 2);           /* output P on; 4..8 MHz in, wide range out */
    RCC_PLL1DIVR = (1u << 9) | (200u - 1u);         /* P = 2, N = 200 */
    RCC_CR |= PLL1_ON;
    return wait_for(&RCC_CR, PLL1_READY, PLL1_READY);
}

static void clock_init(void)
{
    if (!voltage_raise() || !pll_start()) {
        return;
    }
    FLASH_ACR = (2u << 4) | 2u;               /* 200 MHz on the bus: 2 wait states */
    wait_for(&FLASH_ACR, 0xFu, 2u);
    RCC_D1CFGR = (4u << 4) | 8u;              /* buses: core / 2; APB3: a half of that */
    RCC_D2CFGR = (4u << 8) | (4u << 4);       /* APB1, APB2: likewise */
    RCC_D3CFGR = 4u << 4;                     /* APB4: likewise */
    RCC_CFGR |= 3u;                           /* core: PLL1 */
    if (wait_for(&RCC_CFGR, 7u << 3, 3u << 3)) {
        core_hz = CORE_HZ;
    }
}

void port_init(void)
{
    work_around_revision_y();
    caches_enable();
    clock_init();
    RCC_AHB4ENR |= 1u << 3;   /* GPIOD */
    RCC_APB1LENR |= 1u << 18; /* USART3 */
    stm32_pin_function(GPIOD, 8, 7);
    stm32_pin_function(GPIOD, 9, 7);
    stm32_usart_v2_init(USART3, core_hz == CORE_HZ ? BUS_HZ : core_hz);
    cycles_start();
}

int port_getc(void)
{
    return stm32_usart_v2_getc(USART3);
}

void port_putc(char c)
{
    stm32_usart_v2_putc(USART3, c);
}

uint32_t port_micros(void)
{
    return cycles_micros(core_hz / 1000000u);
}
