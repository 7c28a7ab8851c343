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

/* One row of outputs of channel c, under which the input rows from `top` on lie. */
static void depthwise_row(const kp_window *window, const kp_rescale *rescale, int32_t c,
                          const int8_t *weights, const input_rows *rows, int32_t top,
                          int8_t *output)
{
    const kp_channel *channel = &rescale->channels[c];
    short_channel prepared = prepare(channel, rescale->output_zero);
    uint32x4_t columns = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)window->stride_width);
    uint32x4_t places = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)window->out_channels);
    int32_t left = window->out_width;
    for (int32_t x = 0; left > 0; x += 4 * window->stride_width) {
        mve_pred16_t active = vctp32q((uint32_t)left);
        const int8_t *weight = weights;
        int32x4_t sums = vdupq_n_s32(channel_bias(channel));
        for (int32_t ky = 0; ky < window->kernel_height; ky++) {
            const int16_t *tap = slot_of(rows, top + ky * window->dilation_height) + x;
            for (int32_t kx = 0; kx < window->kernel_width; kx++) {
                int32x4_t inputs = vldrhq_gather_shifted_offset_z_s32(tap, columns, active);
                sums = vmlaq_n_s32(sums, inputs, *weight++);
                tap += window->dilation_width;
            }
        }
        if (channel_shift(channel) > 0) {
            sums = finish_vector(prepared, sums);
        } else {
            sums = vsetq_lane_s32(finish_wide(rescale, c, vgetq_lane_s32(sums, 0)), sums, 0);
            sums = vsetq_lane_s32(finish_wide(rescale, c, vgetq_lane_s32(sums, 1)), sums, 1);
            sums = vsetq_lane_s32(finish_wide(rescale, c, vgetq_lane_s32(sums, 2)), sums, 2);
            sums = vsetq_lane_s32(finish_wide(rescale, c, vgetq_lane_s32(sums, 3)), sums, 3);
        }
        vstrbq_scatter_offset_p_s32(output, places, sums, active);
        output += 4 * window->out_channels;
        left -= 4;
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
