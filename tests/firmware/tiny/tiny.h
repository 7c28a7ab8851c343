/* A hand-written stand-in with the interface of what `kprune to-c` writes. */
#ifndef TINY_H
#define TINY_H

#include <stdint.h>

#define TINY_INPUT_SIZE 6
#define TINY_OUTPUT_SIZE 3
#define TINY_ARENA_SIZE 20

/* real = SCALE * (q - ZERO) */
#define TINY_INPUT_SCALE 0.5f
#define TINY_INPUT_ZERO (-1)
#define TINY_OUTPUT_SCALE 0.25f
#define TINY_OUTPUT_ZERO 4

#define TINY_INPUT_OFFSET 8
#define TINY_OUTPUT_OFFSET 16
#define TINY_INPUTS(each) each(TINY_INPUT)
#define TINY_OUTPUTS(each) each(TINY_OUTPUT)

void tiny_run(const int8_t input[TINY_INPUT_SIZE], int8_t output[TINY_OUTPUT_SIZE],
              int8_t arena[TINY_ARENA_SIZE]);

#endif
