/* Inside of kp_nn.c: the inner loops in plain C, for any core. */
#ifndef KP_NN_PLAIN_H
#define KP_NN_PLAIN_H

#include "kp_nn_arithmetic.h"

/* `finish` clamps to the limits of relu already. */
#define KEEP_WITHIN(rescale, output, size) ((void)0)

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

/* All rows of outputs of channel c. */
static void depthwise_channel(const kp_window *window, const kp_rescale *rescale, int32_t c,
                              const int8_t *weights, const input_rows *rows, const int8_t *input,
                              int8_t *output)
{
    int32_t loaded = 0;
    for (int32_t y = 0; y < window->out_height; y++) {
        int32_t top = y * window->stride_height;
        for (loaded = loaded > top ? loaded : top; loaded < top + rows->slots; loaded++) {
            load_row(window, input, rescale->input_zero, loaded, rows, slot_of(rows, loaded));
        }
        depthwise_row(window, rescale, c, weights, rows, top, output);
        output += window->out_width * window->out_channels;
    }
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
