/* Inside of kp_nn.c: fully connected layers for MVE (Cortex-M55). */
#ifndef KP_NN_DENSE_MVE_H
#define KP_NN_DENSE_MVE_H

#include <arm_mve.h>

#include "kp_nn_dsp.h"

/* Units `unit` ... unit + 3 of one row: four times sixteen products per load of the input. */
static void dense_four_units(const kp_rescale *rescale, int32_t unit, const int8_t *weights,
                             const int8_t *input, int32_t depth, int8_t *output)
{
    const kp_channel *channels = &rescale->channels[unit];
    const int8_t *row0 = weights, *row1 = row0 + depth;
    const int8_t *row2 = row1 + depth, *row3 = row2 + depth;
    int32_t a = channel_bias(&channels[0]), b = channel_bias(&channels[1]);
    int32_t c = channel_bias(&channels[2]), d = channel_bias(&channels[3]);
    for (; depth > 0; depth -= 16) {
        mve_pred16_t active = vctp8q((uint32_t)depth);
        int8x16_t inputs = vldrbq_z_s8(input, active);
        a = vmladavaq_s8(a, inputs, vldrbq_z_s8(row0, active));
        b = vmladavaq_s8(b, inputs, vldrbq_z_s8(row1, active));
        c = vmladavaq_s8(c, inputs, vldrbq_z_s8(row2, active));
        d = vmladavaq_s8(d, inputs, vldrbq_z_s8(row3, active));
        input += 16;
        row0 += 16;
        row1 += 16;
        row2 += 16;
        row3 += 16;
    }
    output[0] = finish_any(rescale, unit, a);
    output[1] = finish_any(rescale, unit + 1, b);
    output[2] = finish_any(rescale, unit + 2, c);
    output[3] = finish_any(rescale, unit + 3, d);
}

static int32_t dense_unit(const int8_t *weights, const int8_t *input, int32_t depth, int32_t sum)
{
    for (; depth > 0; depth -= 16) {
        mve_pred16_t active = vctp8q((uint32_t)depth);
        sum = vmladavaq_s8(sum, vldrbq_z_s8(input, active), vldrbq_z_s8(weights, active));
        input += 16;
        weights += 16;
    }
    return sum;
}

#include "kp_nn_units.h"

#endif
