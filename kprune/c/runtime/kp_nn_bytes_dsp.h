/* Inside of kp_nn.c: whole rows of bytes, four at a time. */
#ifndef KP_NN_BYTES_DSP_H
#define KP_NN_BYTES_DSP_H

#include <arm_acle.h>

#include "kp_nn_dsp.h"

static inline uint32_t larger_bytes(uint32_t a, uint32_t b)
{
    (void)__ssub8((int8x4_t)a, (int8x4_t)b); /* sets a flag for each byte with a >= b */
    return (uint32_t)__sel((uint8x4_t)a, (uint8x4_t)b);
}

static inline uint32_t smaller_bytes(uint32_t a, uint32_t b)
{
    (void)__ssub8((int8x4_t)a, (int8x4_t)b);
    return (uint32_t)__sel((uint8x4_t)b, (uint8x4_t)a);
}

/* Clamps a whole output where relu cuts more than a byte's range does. */
static void keep_within(const kp_rescale *rescale, int8_t *output, int32_t size)
{
    uint32_t lowest = ((uint32_t)rescale->lowest & 0xffu) * 0x01010101u;
    uint32_t highest = ((uint32_t)rescale->highest & 0xffu) * 0x01010101u;
    if (rescale->lowest == -128 && rescale->highest == 127) {
        return;
    }
    for (; size >= 4; size -= 4) {
        store4(output, smaller_bytes(larger_bytes(load4(output), lowest), highest));
        output += 4;
    }
    for (; size > 0; size--) {
        *output = (int8_t)clamp(*output, rescale->lowest, rescale->highest);
        output++;
    }
}

/* best[i] = max(best[i], candidate[i]) */
static void keep_larger(int8_t *best, const int8_t *candidate, int32_t size)
{
    for (; size >= 4; size -= 4) {
        store4(best, larger_bytes(load4(candidate), load4(best)));
        best += 4;
        candidate += 4;
    }
    for (; size > 0; size--) {
        if (*candidate > *best) {
            *best = *candidate;
        }
        best++;
        candidate++;
    }
}

#endif
