/* Inside of kp_nn.c: whole rows of bytes, for any core. */
#ifndef KP_NN_BYTES_PLAIN_H
#define KP_NN_BYTES_PLAIN_H

#include "kp_nn_arithmetic.h"

/* `finish` clamps to the limits of relu already. */
static void keep_within(const kp_rescale *rescale, int8_t *output, int32_t size)
{
    (void)rescale;
    (void)output;
    (void)size;
}

/* best[i] = max(best[i], candidate[i]) */
static void keep_larger(int8_t *best, const int8_t *candidate, int32_t size)
{
    for (int32_t i = 0; i < size; i++) {
        if (candidate[i] > best[i]) {
            best[i] = candidate[i];
        }
    }
}

#endif
