/* Runs many small networks and compares their outputs with those of TensorFlow Lite Micro: on a
 * simulated core, where it prints through semihosting, or on this computer. test_kp_nn.py writes
 * `cases.h`. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
    const char *name;
    void (*run)(const int8_t *input, int8_t *output, int8_t *arena);
    const int8_t *input, *expected;
    int32_t output_size;
} test_case;

#include "cases.h"

/* Nothing may rely on the alignment of the buffers. */
static int8_t arena[ARENA_SIZE + 1];
static int8_t output[OUTPUT_SIZE + 1];

int main(void)
{
    int failures = 0;
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const test_case *c = &cases[i];
        c->run(c->input, output + 1, arena + 1);
        for (int32_t k = 0; k < c->output_size; k++) {
            if (output[k + 1] != c->expected[k]) {
                printf("%s: output %d is %d, expected %d\n", c->name, (int)k, output[k + 1],
                       c->expected[k]);
                failures++;
                break;
            }
        }
    }
    printf("%u networks, %d differ\n", (unsigned)(sizeof cases / sizeof cases[0]), failures);
    exit(failures != 0);
}

#ifdef __arm__
extern uint32_t stack_top[];
extern void _start(void);

static void reset(void)
{
    *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20; /* floating point and MVE on */
    __asm__ volatile("dsb\n isb");
    _start();
}

static void fault(void)
{
    puts("fault");
    exit(2);
}

__attribute__((section(".vectors"), used)) static void (*const vectors[])(void) = {
    (void (*)(void))stack_top, reset, fault, fault, fault, fault, fault, fault,
};
#endif
