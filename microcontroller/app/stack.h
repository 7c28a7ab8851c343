/* stack.h: how much stack was ever in use. */
#ifndef KPRUNE_STACK
#define KPRUNE_STACK

#include <stdint.h>

/* Fill the unused part of the stack with a pattern. Call it first thing in main. */
void stack_paint(void);

/* Bytes of stack from its top to the deepest word written since stack_paint; a function that
 * reserves space without writing to it is missed. 0 where the linker script names no stack. */
uint32_t stack_peak(void);

#endif
