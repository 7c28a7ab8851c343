/* Inside of kp_nn.c: depthwise convolution for any core. */
#ifndef KP_NN_DEPTHWISE_PLAIN_H
#define KP_NN_DEPTHWISE_PLAIN_H

#include "kp_nn_arithmetic.h"

/* One slot after the other. */
static void arrange_slots(input_rows *rows)
{
    rows->pair_step = 2;
    rows->slot_step = rows->width + (rows->width & 1);
}

/* One row of outputs of channel c, under which the input rows from `top` on lie. */
static void depthwise_row(const kp_window *window, const kp_rescale *rescale, int32_t c,
                          const int8_t *weights, const input_rows *rows, int32_t top,
                          int8_t *output)
{
    for (int32_t x = 0; x < window->out_width; x++) {
        const int8_t *weight = weights;
        int32_t sum = channel_bias(&rescale->channels[c]);
        for (int32_t ky = 0; ky < window->kernel_height; ky++) {
            const int16_t *tap = slot_of(rows, top + ky * window->dilation_height);
            tap += x * window->stride_width;
            for (int32_t kx = 0; kx < window->kernel_width; kx++) {
                sum += *weight++ * tap[kx * window->dilation_width];
            }
        }
        output[x * window->out_channels] = finish(rescale, c, sum);
    }
}

#include "kp_nn_rows.h"

static void depthwise_channel(const kp_window *window, const kp_rescale *rescale, int32_t c,
                              const int8_t *weights, const input_rows *rows, const int8_t *input,
                              int8_t *output)
{
    channel_by_rows(window, rescale, c, weights, rows, input, output);
}

#endif
