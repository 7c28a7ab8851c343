/* Inside of kp_nn.c: rounding and clamping, shared by all kernels. */
#ifndef KP_NN_ARITHMETIC_H
#define KP_NN_ARITHMETIC_H

#include <string.h>

#include "kp_nn.h"

/* The core has the DSP extension, and the compiler the functions for it: GCC since version 10. The
 * Arduino cores of 2026 bring GCC 7, and get the plain loops. */
#if defined(__ARM_FEATURE_DSP) && __ARM_FEATURE_DSP && (defined(__clang__) || __GNUC__ >= 10)
#define KP_DSP 1
#else
#define KP_DSP 0
#endif

static inline int32_t clamp(int32_t value, int32_t lowest, int32_t highest)
{
    return value < lowest ? lowest : value > highest ? highest : value;
}

/* a * b / 2^31, halves rounded up. Only a = b = -2^31 would overflow; b is a multiplier, >= 0. */
static inline int32_t rounding_high_multiply(int32_t a, int32_t b)
{
    return (int32_t)(((int64_t)a * b + (1 << 30)) >> 31);
}

/* The same for |a| < 2^30, in one instruction where the core has it. */
static inline int32_t rounding_high_multiply_short(int32_t a, int32_t b)
{
#if KP_DSP
    int32_t result;
    __asm__("smmulr %0, %1, %2" : "=r"(result) : "r"(a * 2), "r"(b));
    return result;
#else
    return rounding_high_multiply(a, b);
#endif
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

/* The same for |value| < 2^30 and a shift in place of the exponent. */
static inline int32_t scale_short(int32_t value, int32_t multiplier, int32_t shift)
{
    int32_t half = (int32_t)((1u << shift) >> 1);
    int32_t negative = shift > 0 ? -1 : 0;
    value = rounding_high_multiply_short(value, multiplier);
    return (value + half + ((value >> 31) & negative)) >> shift;
}

/* --- The end of every sum of products --------------------------------------------------------- */

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

/* --- Where things are ------------------------------------------------------------------------- */

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

/* The rows of one input channel under one row of outputs, as 16-bit values with the padding around
 * them. Row r, counted from the first row of padding, is in slot r % slots; values 2i and 2i + 1
 * of slot s are at ring[s * slot_step + i * pair_step] and behind it. */
typedef struct {
    int16_t *ring;
    int32_t slots, width;
    int32_t slot_step, pair_step;
} input_rows;

static inline int16_t *slot_of(const input_rows *rows, int32_t r)
{
    return rows->ring + r % rows->slots * rows->slot_step;
}

/* All of the ring is padding before the first row is loaded; the columns left and right of the
 * rows remain it. */
static void clear_rows(const input_rows *rows, int32_t input_zero)
{
    int32_t size = rows->slots * (rows->width + (rows->width & 1));
    for (int32_t i = 0; i < size; i++) {
        rows->ring[i] = (int16_t)input_zero;
    }
}

/* How rows of an input channel come into the ring. */
typedef struct {
    const int8_t *channel; /* its value at (0, 0) */
    int32_t step;          /* from one column to the next */
    int32_t height, row_step;
    int32_t pad_top, pad_left;
    int32_t count; /* columns that windows reach */
    int32_t pair_step;
    int8_t zero;
} row_loader;

static inline row_loader loader_of(const kp_window *window, const kp_rescale *rescale,
                                   const input_rows *rows, const int8_t *channel)
{
    row_loader loader;
    loader.channel = channel;
    loader.step = window->in_channels;
    loader.height = window->in_height;
    loader.row_step = window->in_width * window->in_channels;
    loader.pad_top = window->pad_top;
    loader.pad_left = window->pad_left;
    loader.count = rows->width - window->pad_left;
    loader.count = loader.count < window->in_width ? loader.count : window->in_width;
    loader.pair_step = rows->pair_step;
    loader.zero = (int8_t)rescale->input_zero;
    return loader;
}

/* Copies row r into a slot; rows outside the input are padding. */
static inline void load_row(const row_loader *loader, int32_t r, int16_t *slot)
{
    int32_t y = r - loader->pad_top;
    int32_t outside = y < 0 || y >= loader->height;
    const int8_t *from = outside ? &loader->zero : loader->channel + y * loader->row_step;
    int32_t step = outside ? 0 : loader->step;
    int32_t pair_step = loader->pair_step;
    int32_t count = loader->count;
    int16_t *to = slot + (loader->pad_left >> 1) * pair_step;
    if ((loader->pad_left & 1) != 0 && count > 0) {
        to[1] = *from;
        from += step;
        to += pair_step;
        count--;
    }
    for (; count >= 2; count -= 2) {
        to[0] = from[0];
        to[1] = from[step];
        from += 2 * step;
        to += pair_step;
    }
    if (count > 0) {
        to[0] = *from;
    }
}

#endif
