/* Inside of kp_nn.c: depthwise convolution for MVE (Cortex-M55).
 *
 * Four neighbouring outputs of a channel at a time: each tap is one vector of inputs, times one
 * weight. */
#ifndef KP_NN_DEPTHWISE_MVE_H
#define KP_NN_DEPTHWISE_MVE_H

#include <arm_mve.h>

#include "kp_nn_dsp.h"

/* One slot after the other. */
static void arrange_slots(input_rows *rows)
{
    rows->pair_step = 2;
    rows->slot_step = rows->width + (rows->width & 1);
}

/* What `finish_short` does, for four sums of one channel. */
static int32x4_t finish_vector(short_channel channel, int32x4_t sums)
{
    int32x4_t values = vqrdmulhq_n_s32(sums, channel.multiplier);
    int32x4_t signs = vshrq_n_s32(values, 31);
    values = vaddq_s32(vaddq_n_s32(values, channel.rounding), signs);
    values = vshlq_r_s32(values, -channel.shift);
    return vminq_s32(vmaxq_s32(values, vdupq_n_s32(-128)), vdupq_n_s32(127));
}

/* What the rows of one channel have in common. */
typedef struct {
    const int8_t *weights;
    short_channel channel;
    int32_t bias;
    uint32x4_t columns, places; /* of four neighbours in the input rows, in the output */
} row_kernel;

/* Four outputs from `column` on, above which the oldest row of inputs is in slot `oldest`. */
static inline int32x4_t four_sums(const kp_window *window, const row_kernel *kernel,
                                  const input_rows *rows, int32_t oldest, int32_t column,
                                  mve_pred16_t active)
{
    const int8_t *weight = kernel->weights;
    int32x4_t sums = vdupq_n_s32(kernel->bias);
    int32_t slot = oldest;
    for (int32_t ky = window->kernel_height; ky > 0; ky--) {
        const int16_t *tap = rows->ring + slot * rows->slot_step + column;
        for (int32_t kx = window->kernel_width; kx > 0; kx--) {
            int32x4_t inputs = vldrhq_gather_shifted_offset_z_s32(tap, kernel->columns, active);
            sums = vmlaq_n_s32(sums, inputs, *weight++);
            tap += window->dilation_width;
        }
        slot += window->dilation_height;
        slot -= slot >= rows->slots ? rows->slots : 0;
    }
    return sums;
}

static int32x4_t finish_each_wide(const kp_rescale *rescale, int32_t c, int32x4_t sums)
{
    sums = vsetq_lane_s32(finish_wide(rescale, c, vgetq_lane_s32(sums, 0)), sums, 0);
    sums = vsetq_lane_s32(finish_wide(rescale, c, vgetq_lane_s32(sums, 1)), sums, 1);
    sums = vsetq_lane_s32(finish_wide(rescale, c, vgetq_lane_s32(sums, 2)), sums, 2);
    return vsetq_lane_s32(finish_wide(rescale, c, vgetq_lane_s32(sums, 3)), sums, 3);
}

/* All rows of outputs of channel c. */
static void depthwise_channel(const kp_window *window, const kp_rescale *rescale, int32_t c,
                              const int8_t *weights, const input_rows *rows, const int8_t *input,
                              int8_t *output)
{
    const kp_channel *channel = &rescale->channels[c];
    const row_loader loader = loader_of(window, rescale, rows, input);
    int32_t step = window->out_channels;
    int32_t loaded = 0, next_slot = 0; /* the slot of row `loaded` */
    row_kernel kernel;
    kernel.weights = weights;
    kernel.channel = prepare(channel, rescale->output_zero);
    kernel.bias = channel_bias(channel);
    kernel.columns = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)window->stride_width);
    kernel.places = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)step);
    for (int32_t y = 0; y < window->out_height; y++) {
        for (; loaded < y * window->stride_height + rows->slots; loaded++) {
            load_row(&loader, loaded, rows->ring + next_slot * rows->slot_step);
            next_slot = next_slot + 1 < rows->slots ? next_slot + 1 : 0;
        }
        int32_t column = 0;
        for (int32_t left = window->out_width; left > 0; left -= 4) {
            mve_pred16_t active = vctp32q((uint32_t)left);
            int32x4_t sums = four_sums(window, &kernel, rows, next_slot, column, active);
            sums = kernel.channel.shift > 0 ? finish_vector(kernel.channel, sums)
                                            : finish_each_wide(rescale, c, sums);
            vstrbq_scatter_offset_p_s32(output, kernel.places, sums, active);
            output += (left < 4 ? left : 4) * step;
            column += 4 * window->stride_width;
        }
    }
}

#endif
