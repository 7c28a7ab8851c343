/* Inside of kp_nn.c: convolution for any core. */
#ifndef KP_NN_CONV2D_PLAIN_H
#define KP_NN_CONV2D_PLAIN_H

#include "kp_nn_arithmetic.h"

/* Where weight k of output channel c starts, and the distance to its weight k + 1: channels of a
 * group come in interleaved pairs, an odd last one alone. */
typedef struct {
    const int8_t *first;
    int32_t step;
} weight_row;

static weight_row weights_of(const int8_t *weights, int32_t c, int32_t group_size, int32_t depth)
{
    int32_t within = c % group_size;
    int32_t alone = (within == group_size - 1) && (group_size & 1);
    weight_row row;
    row.first = alone ? weights + c * depth : weights + (c - (within & 1)) * depth + (within & 1);
    row.step = alone ? 1 : 2;
    return row;
}

static int32_t conv2d_sum(const kp_window *window, int32_t input_zero, weight_row weight,
                          const int8_t *input, int32_t top, int32_t left)
{
    int32_t depth = window->in_channels / window->groups;
    int32_t sum = 0;
    for (int32_t ky = 0; ky < window->kernel_height; ky++) {
        int32_t y = top + ky * window->dilation_height;
        for (int32_t kx = 0; kx < window->kernel_width; kx++) {
            int32_t x = left + kx * window->dilation_width;
            const int8_t *pixel = pixel_at(window, input, y, x);
            for (int32_t i = 0; i < depth; i++) {
                sum += *weight.first * (pixel != NULL ? pixel[i] : input_zero);
                weight.first += weight.step;
            }
        }
    }
    return sum;
}

void kp_conv2d(const kp_window *window, const kp_rescale *rescale, const int8_t *weights,
               const int8_t *input, int8_t *output, int8_t *scratch)
{
    int32_t group_inputs = window->in_channels / window->groups;
    int32_t group_size = window->out_channels / window->groups;
    int32_t depth = window->kernel_height * window->kernel_width * group_inputs;
    (void)scratch;
    for (int32_t y = 0; y < window->out_height; y++) {
        for (int32_t x = 0; x < window->out_width; x++) {
            int32_t top = y * window->stride_height - window->pad_top;
            int32_t left = x * window->stride_width - window->pad_left;
            for (int32_t c = 0; c < window->out_channels; c++) {
                weight_row row = weights_of(weights, c, group_size, depth);
                const int8_t *group = input + c / group_size * group_inputs;
                int32_t sum = channel_bias(&rescale->channels[c]);
                sum += conv2d_sum(window, rescale->input_zero, row, group, top, left);
                *output++ = finish(rescale, c, sum);
            }
        }
    }
}

#endif
