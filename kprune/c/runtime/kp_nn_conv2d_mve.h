/* Inside of kp_nn.c: convolution for MVE (Cortex-M55).
 *
 * Patches are the bytes themselves, one pixel after the other. VMLADAVA adds sixteen products to a
 * sum at once; two channels times two pixels share every load. */
#ifndef KP_NN_CONV2D_MVE_H
#define KP_NN_CONV2D_MVE_H

#include <arm_mve.h>

#include "kp_nn_dsp.h"

#define PIXELS 2

static int8_t *patch_of_pixel(int8_t *patches, int32_t p, int32_t depth)
{
    return patches + p * depth;
}

static void prepare_patches(int8_t *patches, int32_t depth)
{
    (void)patches;
    (void)depth;
}

static void patch_fill(int8_t *patch, int32_t k, int32_t count, int32_t value)
{
    memset(patch + k, value, (size_t)count);
}

static void patch_copy(int8_t *patch, int32_t k, int32_t count, const int8_t *from)
{
    memcpy(patch + k, from, (size_t)count);
}

/* Channels c and c + 1 of two pixels, `stride` bytes apart in the output. */
static void two_channels(const kp_rescale *rescale, int32_t c, int32_t depth,
                         const int8_t *weights, const int8_t *first, const int8_t *second,
                         int8_t *output, int32_t stride)
{
    int32_t a0 = channel_bias(&rescale->channels[c]), a1 = a0;
    int32_t b0 = channel_bias(&rescale->channels[c + 1]), b1 = b0;
    for (; depth >= 16; depth -= 16) {
        int8x16x2_t pair = vld2q_s8(weights); /* takes a0 b0 a1 b1 ... apart */
        int8x16_t inputs0 = vldrbq_s8(first);
        int8x16_t inputs1 = vldrbq_s8(second);
        a0 = vmladavaq_s8(a0, pair.val[0], inputs0);
        b0 = vmladavaq_s8(b0, pair.val[1], inputs0);
        a1 = vmladavaq_s8(a1, pair.val[0], inputs1);
        b1 = vmladavaq_s8(b1, pair.val[1], inputs1);
        weights += 32;
        first += 16;
        second += 16;
    }
    if (depth > 0) {
        mve_pred16_t active = vctp8q((uint32_t)depth);
        uint8x16_t every_second = vidupq_n_u8(0, 2);
        int8x16_t weights_a = vldrbq_gather_offset_z_s8(weights, every_second, active);
        int8x16_t weights_b = vldrbq_gather_offset_z_s8(weights + 1, every_second, active);
        int8x16_t inputs0 = vldrbq_z_s8(first, active);
        int8x16_t inputs1 = vldrbq_z_s8(second, active);
        a0 = vmladavaq_s8(a0, weights_a, inputs0);
        b0 = vmladavaq_s8(b0, weights_b, inputs0);
        a1 = vmladavaq_s8(a1, weights_a, inputs1);
        b1 = vmladavaq_s8(b1, weights_b, inputs1);
    }
    output[0] = finish_any(rescale, c, a0);
    output[1] = finish_any(rescale, c + 1, b0);
    output[stride] = finish_any(rescale, c, a1);
    output[stride + 1] = finish_any(rescale, c + 1, b1);
}

/* Channel c of two pixels: the last of an odd number, whose weights stand alone. */
static void one_channel(const kp_rescale *rescale, int32_t c, int32_t depth,
                        const int8_t *weights, const int8_t *first, const int8_t *second,
                        int8_t *output, int32_t stride)
{
    int32_t a0 = channel_bias(&rescale->channels[c]), a1 = a0;
    for (; depth > 0; depth -= 16) {
        mve_pred16_t active = vctp8q((uint32_t)depth);
        int8x16_t weight = vldrbq_z_s8(weights, active);
        a0 = vmladavaq_s8(a0, weight, vldrbq_z_s8(first, active));
        a1 = vmladavaq_s8(a1, weight, vldrbq_z_s8(second, active));
        weights += 16;
        first += 16;
        second += 16;
    }
    output[0] = finish_any(rescale, c, a0);
    output[stride] = finish_any(rescale, c, a1);
}

/* Channels c ... end - 1. A pixel left over is computed twice, into the same place. */
static void multiply_patches(const kp_rescale *rescale, int32_t c, int32_t end, int32_t depth,
                             const int8_t *weights, int8_t *patches, int32_t count,
                             int8_t *output, int32_t stride)
{
    const int8_t *second = count == PIXELS ? patches + depth : patches;
    int32_t step = count == PIXELS ? stride : 0;
    for (; c + 2 <= end; c += 2) {
        two_channels(rescale, c, depth, weights, patches, second, output, step);
        weights += 2 * depth;
        output += 2;
    }
    if (c < end) {
        one_channel(rescale, c, depth, weights, patches, second, output, step);
    }
}

#include "kp_nn_patches.h"

#endif
