/* cortex_m.c: vector table, reset, faults, cycle counter and caches of any Cortex-M.
 *
 * Source: Armv6-M, Armv7-M and Armv8-M Architecture Reference Manuals. */
#include "cortex_m.h"

#include "port.h"

/* System control block and debug registers. */
#define SCB_VTOR REG32(0xE000ED08)
#define SCB_CCR REG32(0xE000ED14)
#define SCB_CFSR REG32(0xE000ED28)
#define SCB_CCSIDR REG32(0xE000ED80)
#define SCB_CSSELR REG32(0xE000ED84)
#define SCB_CPACR REG32(0xE000ED88)
#define SCB_ICIALLU REG32(0xE000EF50)
#define SCB_DCISW REG32(0xE000EF60)
#define DEMCR REG32(0xE000EDFC)
#define DWT_CTRL REG32(0xE0001000)
#define DWT_CYCCNT REG32(0xE0001004)
#define DWT_LAR REG32(0xE0001FB0)

/* Armv7-M, Armv8-M mainline: relocatable vectors, fault status, cycle counter. */
#if __ARM_ARCH >= 7 && !defined(__ARM_ARCH_8M_BASE__)
#define MAINLINE 1
#else
#define MAINLINE 0
#endif

extern uint32_t kprune_stack_limit[], kprune_stack_top[];
extern uint32_t kprune_data_load[], kprune_data_start[], kprune_data_end[];
extern uint32_t kprune_bss_start[], kprune_bss_end[], kprune_ram_end[];
extern void (*__init_array_start[])(void);
extern void (*__init_array_end[])(void);
extern int main(void);

void Reset_Handler(void);
void Fault_Handler(void);
void fault_report(const uint32_t *frame);

typedef void (*vector)(void);
struct vector_table {
    uint32_t *stack;
    vector handlers[15];
};

/* Nothing here enables an interrupt, so the table ends with the system exceptions: whatever
 * else arrives is a fault too. */
__attribute__((section(".vectors"), used)) const struct vector_table vectors = {
    kprune_stack_top,
    { Reset_Handler, Fault_Handler, Fault_Handler, Fault_Handler, Fault_Handler, Fault_Handler,
      Fault_Handler, Fault_Handler, Fault_Handler, Fault_Handler, Fault_Handler, Fault_Handler,
      Fault_Handler, Fault_Handler, Fault_Handler },
};

/* Faults */

static void put_text(const char *text)
{
    while (*text != '\0') {
        port_putc(*text++);
    }
}

static void put_hex(uint32_t value)
{
    put_text("0x");
    for (int shift = 28; shift >= 0; shift -= 4) {
        port_putc("0123456789abcdef"[(value >> shift) & 15u]);
    }
}

/* Whether the processor could save the eight registers that it saves on a fault. */
static int frame_was_saved(const uint32_t *frame)
{
    uintptr_t at = (uintptr_t)frame;

    return at >= (uintptr_t)kprune_stack_limit && at <= (uintptr_t)kprune_ram_end - 32u;
}

__attribute__((used, noreturn)) void fault_report(const uint32_t *frame)
{
    put_text("\nfault ");
    if (frame_was_saved(frame)) {
        put_text("pc=");
        put_hex(frame[6]);
    } else {
        put_text("stack overflow");
    }
#if MAINLINE
    put_text(" cfsr=");
    put_hex(SCB_CFSR);
#endif
    port_putc('\n');
    for (;;) {
    }
}

/* The report runs on a fresh stack, because the old one may be what is broken. Thumb-1 only, so
 * that it suits the M0; nothing here uses the process stack. */
__attribute__((naked)) void Fault_Handler(void)
{
    __asm__ volatile("mrs r0, msp                \n"
                     "ldr r1, =kprune_stack_top  \n"
                     "msr msp, r1                \n"
                     "ldr r2, =fault_report      \n"
                     "bx  r2                     \n"
                     ".ltorg                     \n");
}

/* Reset */

#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
static void coprocessor_enable(void)
{
    SCB_CPACR |= 0xFu << 20; /* full access to CP10 and CP11: FPU and MVE */
    __asm__ volatile("dsb\n isb" ::: "memory");
}
#endif

/* Word by word through volatile, so that the compiler does not turn the loops into memcpy and
 * memset, which may use registers that are only now being enabled. */
static void memory_init(void)
{
    volatile uint32_t *to = kprune_data_start;

    for (const uint32_t *from = kprune_data_load; to < kprune_data_end;) {
        *to++ = *from++;
    }
    for (to = kprune_bss_start; to < kprune_bss_end;) {
        *to++ = 0;
    }
}

__attribute__((noreturn)) void Reset_Handler(void)
{
#if MAINLINE
    SCB_VTOR = (uint32_t)(uintptr_t)&vectors; /* a boot loader leaves its own table here */
#endif
#if __ARM_ARCH >= 8
    __asm__ volatile("msr msplim, %0" ::"r"(kprune_stack_limit));
#endif
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    coprocessor_enable();
#endif
    memory_init();
    for (void (**init)(void) = __init_array_start; init < __init_array_end; init++) {
        (*init)();
    }
    main();
    for (;;) {
    }
}

/* Clocks and time */

int wait_for(volatile uint32_t *reg, uint32_t mask, uint32_t value)
{
    for (uint32_t tries = 100000u; tries > 0; tries--) {
        if ((*reg & mask) == value) {
            return 1;
        }
    }
    return 0;
}

void cycles_start(void)
{
#if MAINLINE
    DEMCR |= 1u << 24;     /* TRCENA */
    DWT_LAR = 0xC5ACCE55u; /* the M7 locks the block; elsewhere the write is ignored */
    DWT_CYCCNT = 0;
    DWT_CTRL |= 1u;
#endif
}

uint32_t cycles_now(void)
{
#if MAINLINE
    return DWT_CYCCNT;
#else
    return 0;
#endif
}

uint32_t cycles_micros(uint32_t core_mhz)
{
    static uint32_t last, micros, rest;
    uint32_t now = cycles_now();
    uint32_t passed = now - last;

    last = now;
    micros += passed / core_mhz;
    rest += passed % core_mhz;
    micros += rest / core_mhz;
    rest %= core_mhz;
    return micros;
}

/* Caches of the Cortex-M7: Arm DDI 0489, chapter on level-1 memory. */

static void data_cache_invalidate(void)
{
    uint32_t size, sets, ways;

    SCB_CSSELR = 0; /* level 1, data */
    __asm__ volatile("dsb" ::: "memory");
    size = SCB_CCSIDR;
    sets = ((size >> 13) & 0x7FFFu) + 1u;
    ways = ((size >> 3) & 0x3FFu) + 1u;
    for (uint32_t set = 0; set < sets; set++) {
        for (uint32_t way = 0; way < ways; way++) {
            SCB_DCISW = (set << 5) | (way << 30);
        }
    }
}

void caches_enable(void)
{
    __asm__ volatile("dsb\n isb" ::: "memory");
    SCB_ICIALLU = 0;
    data_cache_invalidate();
    __asm__ volatile("dsb\n isb" ::: "memory");
    SCB_CCR |= (1u << 17) | (1u << 16); /* instruction, data */
    __asm__ volatile("dsb\n isb" ::: "memory");
}
