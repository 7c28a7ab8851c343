/* Inside of kp_nn.c: fully connected layers for any core. */
#ifndef KP_NN_DENSE_PLAIN_H
#define KP_NN_DENSE_PLAIN_H

#include "kp_nn_arithmetic.h"

void kp_fully_connected(const kp_rescale *rescale, const int8_t *weights, int32_t rows,
                        int32_t depth, int32_t units, const int8_t *input, int8_t *output)
{
    for (int32_t row = 0; row < rows; row++) {
        const int8_t *weight = weights;
        for (int32_t unit = 0; unit < units; unit++) {
            int32_t sum = channel_bias(&rescale->channels[unit]);
            for (int32_t i = 0; i < depth; i++) {
                sum += *weight++ * input[i];
            }
            *output++ = finish(rescale, unit, sum);
        }
        input += depth;
    }
}

#endif
