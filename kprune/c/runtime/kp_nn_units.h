/* Inside of kp_nn.c: fully connected layers, four units at a time, by the `dense_four_units` and
 * `dense_unit` of the header that includes this one. */
#ifndef KP_NN_UNITS_H
#define KP_NN_UNITS_H

#include "kp_nn_dsp.h"

void kp_fully_connected(const kp_rescale *rescale, const int8_t *weights, int32_t rows,
                        int32_t depth, int32_t units, const int8_t *input, int8_t *output)
{
    int8_t *next = output;
    for (int32_t row = 0; row < rows; row++) {
        const int8_t *weight = weights;
        int32_t unit = 0;
        for (; unit + 4 <= units; unit += 4) {
            dense_four_units(rescale, unit, weight, input, depth, next);
            weight += 4 * depth;
            next += 4;
        }
        for (; unit < units; unit++) {
            int32_t sum = channel_bias(&rescale->channels[unit]);
            *next++ = finish_any(rescale, unit, dense_unit(weight, input, depth, sum));
            weight += depth;
        }
        input += depth;
    }
    keep_within(rescale, output, rows * units);
}

#endif
