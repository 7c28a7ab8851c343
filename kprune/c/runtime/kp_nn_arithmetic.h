/* Inside of kp_nn.c: rounding and clamping, shared by all kernels. */
#ifndef KP_NN_ARITHMETIC_H
#define KP_NN_ARITHMETIC_H

#include <string.h>

#include "kp_nn.h"

static inline int32_t clamp(int32_t value, int32_t lowest, int32_t highest)
{
    return value < lowest ? lowest : value > highest ? highest : value;
}

/* a * b / 2^31, halves rounded up. Only a = b = -2^31 would overflow; b is a multiplier, >= 0. */
static inline int32_t rounding_high_multiply(int32_t a, int32_t b)
{
    return (int32_t)(((int64_t)a * b + (1 << 30)) >> 31);
}

/* value / 2^shift for 0 <= shift <= 31, halves rounded away from zero. */
static inline int32_t rounding_shift_right(int32_t value, int32_t shift)
{
    int32_t mask = (int32_t)((1u << shift) - 1u);
    int32_t remainder = value & mask;
    int32_t threshold = (mask >> 1) + (value < 0);
    return (value >> shift) + (remainder > threshold);
}

/* value * multiplier * 2^(exponent - 31), rounded as TensorFlow Lite Micro does: twice. */
static inline int32_t scale(int32_t value, int32_t multiplier, int32_t exponent)
{
    if (exponent > 0) {
        uint32_t shifted = (uint32_t)value << exponent; /* may wrap, as it does there */
        return rounding_high_multiply((int32_t)shifted, multiplier);
    }
    return rounding_shift_right(rounding_high_multiply(value, multiplier), -exponent);
}

/* --- The end of every sum of products ---------------------------------------------------------- */

static inline int32_t channel_bias(const kp_channel *channel)
{
    return channel->bias_and_shift >> 5;
}

static inline int32_t channel_shift(const kp_channel *channel)
{
    return channel->bias_and_shift & 31;
}

/* The output byte of channel c, whose products (and short bias, if any) add up to `sum`. */
static inline int8_t finish(const kp_rescale *rescale, int32_t c, int32_t sum)
{
    const kp_channel *channel = &rescale->channels[c];
    int32_t shift = channel_shift(channel);
    int32_t value;
    if (shift > 0) {
        value = scale(sum, channel->multiplier, -shift);
    } else {
        const kp_wide_channel *wide = &rescale->wide[c];
        uint32_t biased = (uint32_t)sum + (uint32_t)wide->bias; /* may wrap, as it does there */
        value = scale((int32_t)biased, wide->multiplier, wide->exponent);
    }
    return (int8_t)clamp(value + rescale->output_zero, rescale->lowest, rescale->highest);
}

/* --- Where things are -------------------------------------------------------------------------- */

/* The pixel at (y, x), or NULL outside the input. */
static inline const int8_t *pixel_at(const kp_window *window, const int8_t *input, int32_t y,
                                     int32_t x)
{
    if (y < 0 || y >= window->in_height || x < 0 || x >= window->in_width) {
        return NULL;
    }
    return input + (y * window->in_width + x) * window->in_channels;
}

/* Scratch memory at a multiple of 4 bytes: the sizes in kp_nn.h have 3 bytes to spare. */
static inline int8_t *aligned4(int8_t *scratch)
{
    return scratch + (-(uintptr_t)scratch & 3u);
}

/* The last rows read of one channel, padded to the left and right, in a ring of `count` rows of
 * `stride` values. */
typedef struct {
    int16_t *ring;
    const int16_t *outside; /* stands for the rows above and below the input */
    int32_t count, stride;
    int32_t in_height;
} input_rows;

static inline const int16_t *input_row(const input_rows *rows, int32_t y)
{
    if (y < 0 || y >= rows->in_height) {
        return rows->outside;
    }
    return rows->ring + y % rows->count * rows->stride;
}

#endif
