#include "stack.h"

#include <stddef.h>

#define PATTERN 0xC5C5C5C5u

/* Bytes below the caller's frame that stay unpainted: this function's own frame lies there. */
#define MARGIN 64u

/* Set by boards/common/sections.ld. Weak: on a computer, and under Arduino, both are NULL. */
extern uint32_t kprune_stack_limit[] __attribute__((weak));
extern uint32_t kprune_stack_top[] __attribute__((weak));

/* Addresses are compared as numbers: to the compiler the stack is no part of these arrays. */
static uintptr_t limit(void)
{
    return (uintptr_t)kprune_stack_limit;
}

void stack_paint(void)
{
    volatile uint32_t here = 0;
    uintptr_t end = (uintptr_t)&here - MARGIN;

    if (limit() == 0) {
        return;
    }
    for (uintptr_t at = limit(); at < end; at += sizeof(uint32_t)) {
        *(volatile uint32_t *)at = PATTERN;
    }
}

uint32_t stack_peak(void)
{
    uintptr_t top = (uintptr_t)kprune_stack_top;
    uintptr_t at = limit();

    while (at < top && *(const volatile uint32_t *)at == PATTERN) {
        at += sizeof(uint32_t);
    }
    return (uint32_t)(top - at);
}
