/* Inside of kp_nn.c: convolution for the DSP extension.
 *
 * The patches of four pixels are 16-bit values, interleaved by pairs:
 *     p0[0] p0[1] p1[0] p1[1] p2[0] p2[1] p3[0] p3[1] p0[2] p0[3] p1[2] ...
 * Two output channels times four pixels then share every load: per pair of inputs, one load and two
 * widenings of weights, two loads of inputs, eight SMLADs. */
#ifndef KP_NN_CONV2D_DSP_H
#define KP_NN_CONV2D_DSP_H

#include "kp_nn_dsp.h"

#define PIXELS 4
#define PAIR (4 * PIXELS) /* bytes from one pair of a patch to its next */

static int8_t *patch_of_pixel(int8_t *patches, int32_t p, int32_t depth)
{
    (void)depth;
    return patches + 4 * p;
}

/* Value k of a patch. */
static inline int8_t *patch_at(int8_t *patch, int32_t k)
{
    return patch + (k >> 1) * PAIR + (k & 1) * 2;
}

static void patch_fill(int8_t *patch, int32_t k, int32_t count, int32_t value)
{
    for (; count > 0; count--) {
        store2(patch_at(patch, k++), value);
    }
}

/* The other half of the last pair takes part in the products, as 0. */
static void prepare_patches(int8_t *patches, int32_t depth)
{
    for (int32_t p = 0; (depth & 1) != 0 && p < PIXELS; p++) {
        store2(patch_at(patch_of_pixel(patches, p, depth), depth), 0);
    }
}

static void patch_copy(int8_t *patch, int32_t k, int32_t count, const int8_t *from)
{
    if ((k & 1) && count > 0) {
        store2(patch_at(patch, k++), *from++);
        count--;
    }
    int8_t *to = patch_at(patch, k);
    for (; count >= 4; count -= 4) {
        uint32_t bytes = load4(from);
        uint32_t even = even_bytes(bytes);
        uint32_t odd = odd_bytes(bytes);
        store4(to, (even & 0xffffu) | odd << 16);
        store4(to + PAIR, even >> 16 | (odd & 0xffff0000u));
        from += 4;
        to += 2 * PAIR;
    }
    if (count >= 2) {
        store4(to, pair_of(from[0], from[1]));
        from += 2;
        to += PAIR;
        count -= 2;
    }
    if (count > 0) {
        store2(to, *from);
    }
}

/* The sums of one channel for four pixels, `stride` bytes apart in the output. */
static ALWAYS_INLINE void finish_four(const kp_rescale *rescale, int32_t c, int32_t sum0,
                                      int32_t sum1, int32_t sum2, int32_t sum3, int8_t *output,
                                      int32_t stride)
{
    const kp_channel *channel = &rescale->channels[c];
    if (channel_shift(channel) > 0) {
        short_channel prepared = prepare(channel, rescale->output_zero);
        output[0] = finish_short(prepared, sum0);
        output[stride] = finish_short(prepared, sum1);
        output[2 * stride] = finish_short(prepared, sum2);
        output[3 * stride] = finish_short(prepared, sum3);
    } else {
        output[0] = finish_wide(rescale, c, sum0);
        output[stride] = finish_wide(rescale, c, sum1);
        output[2 * stride] = finish_wide(rescale, c, sum2);
        output[3 * stride] = finish_wide(rescale, c, sum3);
    }
}

/* One pair of inputs of four pixels, times one pair of weights of two channels. */
#define MULTIPLY_PAIRS(weight_a, weight_b, inputs) \
    do {                                           \
        uint32_t even, odd;                        \
        LOAD_PAIR(even, odd, inputs);              \
        ADD_PRODUCTS(a0, weight_a, even);          \
        ADD_PRODUCTS(b0, weight_b, even);          \
        ADD_PRODUCTS(a1, weight_a, odd);           \
        ADD_PRODUCTS(b1, weight_b, odd);           \
        LOAD_PAIR(even, odd, inputs);              \
        ADD_PRODUCTS(a2, weight_a, even);          \
        ADD_PRODUCTS(b2, weight_b, even);          \
        ADD_PRODUCTS(a3, weight_a, odd);           \
        ADD_PRODUCTS(b3, weight_b, odd);           \
    } while (0)

/* The same, with the weights from memory: a0 b0 a1 b1. */
#define MULTIPLY_WORD(weights, inputs)                            \
    do {                                                          \
        uint32_t weight_a, weight_b;                              \
        LOAD_WIDENED(weight_a, weight_b, weights);                \
        MULTIPLY_PAIRS(weight_a, weight_b, inputs);               \
    } while (0)

/* Channels c and c + 1 of four pixels. */
static void four_pixels_two_channels(const kp_rescale *rescale, int32_t c, int32_t depth,
                                     const int8_t *weights, const int8_t *inputs, int8_t *output,
                                     int32_t stride)
{
    int32_t a0 = channel_bias(&rescale->channels[c]), a1 = a0, a2 = a0, a3 = a0;
    int32_t b0 = channel_bias(&rescale->channels[c + 1]), b1 = b0, b2 = b0, b3 = b0;
    const int8_t *last = weights + (depth >> 3) * 16;
    while (weights != last) {
        MULTIPLY_WORD(weights, inputs);
        MULTIPLY_WORD(weights, inputs);
        MULTIPLY_WORD(weights, inputs);
        MULTIPLY_WORD(weights, inputs);
    }
    for (last = weights + ((depth & 7) >> 1) * 4; weights != last;) {
        MULTIPLY_WORD(weights, inputs);
    }
    if (depth & 1) { /* the other half of the last pair of inputs is 0 */
        MULTIPLY_PAIRS((uint32_t)weights[0], (uint32_t)weights[1], inputs);
    }
    finish_four(rescale, c, a0, a1, a2, a3, output, stride);
    finish_four(rescale, c + 1, b0, b1, b2, b3, output + 1, stride);
}

/* Channel c of four pixels: the last of an odd number, whose weights stand alone. */
static void four_pixels_one_channel(const kp_rescale *rescale, int32_t c, int32_t depth,
                                    const int8_t *weights, const int8_t *inputs, int8_t *output,
                                    int32_t stride)
{
    int32_t a0 = channel_bias(&rescale->channels[c]), a1 = a0, a2 = a0, a3 = a0;
    for (; depth > 0; depth -= 2) {
        uint32_t weight = pair_of(weights[0], depth > 1 ? weights[1] : 0);
        a0 = multiply_add(weight, load4(inputs), a0);
        a1 = multiply_add(weight, load4(inputs + 4), a1);
        a2 = multiply_add(weight, load4(inputs + 8), a2);
        a3 = multiply_add(weight, load4(inputs + 12), a3);
        weights += 2;
        inputs += PAIR;
    }
    finish_four(rescale, c, a0, a1, a2, a3, output, stride);
}

/* Channels c ... end - 1 of four pixels. */
static void four_pixels(const kp_rescale *rescale, int32_t c, int32_t end, int32_t depth,
                        const int8_t *weights, const int8_t *patches, int8_t *output,
                        int32_t stride)
{
    for (; c + 2 <= end; c += 2) {
        four_pixels_two_channels(rescale, c, depth, weights, patches, output, stride);
        weights += 2 * depth;
        output += 2;
    }
    if (c < end) {
        four_pixels_one_channel(rescale, c, depth, weights, patches, output, stride);
    }
}

/* The same for a pixel left over. */
static void one_pixel(const kp_rescale *rescale, int32_t first_channel, int32_t end, int32_t depth,
                      const int8_t *weights, const int8_t *patch, int8_t *output)
{
    int32_t c = first_channel;
    for (; c + 2 <= end; c += 2) {
        int32_t a = channel_bias(&rescale->channels[c]);
        int32_t b = channel_bias(&rescale->channels[c + 1]);
        const int8_t *inputs = patch;
        for (int32_t k = depth >> 1; k > 0; k--) {
            uint32_t word = load4(weights);
            uint32_t pair = load4(inputs);
            a = multiply_add(even_bytes(word), pair, a);
            b = multiply_add(odd_bytes(word), pair, b);
            weights += 4;
            inputs += PAIR;
        }
        if (depth & 1) {
            uint32_t pair = load4(inputs);
            a = multiply_add((uint32_t)weights[0], pair, a);
            b = multiply_add((uint32_t)weights[1], pair, b);
            weights += 2;
        }
        *output++ = finish_any(rescale, c, a);
        *output++ = finish_any(rescale, c + 1, b);
    }
    if (c < end) {
        int32_t a = channel_bias(&rescale->channels[c]);
        for (int32_t k = 0; k < depth; k += 2) {
            uint32_t weight = pair_of(weights[k], k + 1 < depth ? weights[k + 1] : 0);
            a = multiply_add(weight, load4(patch), a);
            patch += PAIR;
        }
        *output = finish_any(rescale, c, a);
    }
}

static void multiply_patches(const kp_rescale *rescale, int32_t c, int32_t end, int32_t depth,
                             const int8_t *weights, int8_t *patches, int32_t count,
                             int8_t *output, int32_t stride)
{
    if (count == PIXELS) {
        four_pixels(rescale, c, end, depth, weights, patches, output, stride);
        return;
    }
    for (int32_t p = 0; p < count; p++) {
        one_pixel(rescale, c, end, depth, weights, patch_of_pixel(patches, p, depth),
                  output + p * stride);
    }
}

#include "kp_nn_patches.h"

#endif
