/* Inside of kp_nn.c: whole rows of bytes, sixteen at a time (MVE, Cortex-M55). */
#ifndef KP_NN_BYTES_MVE_H
#define KP_NN_BYTES_MVE_H

#include <arm_mve.h>

#include "kp_nn_arithmetic.h"

/* Clamps a whole output where relu cuts more than a byte's range does. */
static void keep_within(const kp_rescale *rescale, int8_t *output, int32_t size)
{
    int8x16_t lowest = vdupq_n_s8((int8_t)rescale->lowest);
    int8x16_t highest = vdupq_n_s8((int8_t)rescale->highest);
    if (rescale->lowest == -128 && rescale->highest == 127) {
        return;
    }
    for (; size > 0; size -= 16) {
        mve_pred16_t active = vctp8q((uint32_t)size);
        int8x16_t bytes = vldrbq_z_s8(output, active);
        vstrbq_p_s8(output, vminq_s8(vmaxq_s8(bytes, lowest), highest), active);
        output += 16;
    }
}

/* best[i] = max(best[i], candidate[i]) */
static void keep_larger(int8_t *best, const int8_t *candidate, int32_t size)
{
    for (; size > 0; size -= 16) {
        mve_pred16_t active = vctp8q((uint32_t)size);
        int8x16_t larger = vmaxq_s8(vldrbq_z_s8(best, active), vldrbq_z_s8(candidate, active));
        vstrbq_p_s8(best, larger, active);
        best += 16;
        candidate += 16;
    }
}

#endif
