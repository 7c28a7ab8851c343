/* Inside of kp_nn.c: the inner loops for cores with the DSP extension (Cortex-M4, M7, M33).
 *
 * SMLAD multiplies two pairs of 16-bit values and adds both products to a sum, so bytes are
 * widened to pairs: inputs once per pixel into scratch memory, weights as they are used. */
#ifndef KP_NN_DSP_H
#define KP_NN_DSP_H

#include <arm_acle.h>

#include "kp_nn_arithmetic.h"

/* For what must keep its sums in registers. */
#define ALWAYS_INLINE inline __attribute__((always_inline))

static inline uint32_t load4(const int8_t *from)
{
    uint32_t word;
    memcpy(&word, from, 4);
    return word;
}

static inline void store4(int8_t *to, uint32_t word)
{
    memcpy(to, &word, 4);
}

static inline void store2(int8_t *to, int32_t value)
{
    int16_t half = (int16_t)value;
    memcpy(to, &half, 2);
}

/* Bytes 0 and 2, or 1 and 3, as a pair of 16-bit values. */
static inline uint32_t even_bytes(uint32_t word)
{
    uint32_t result;
    __asm__("sxtb16 %0, %1" : "=r"(result) : "r"(word));
    return result;
}

static inline uint32_t odd_bytes(uint32_t word)
{
    uint32_t result;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(result) : "r"(word));
    return result;
}

static inline uint32_t pair_of(int32_t low, int32_t high)
{
    return ((uint32_t)low & 0xffffu) | ((uint32_t)high << 16);
}

/* Both products of two pairs, added to `sum`. Not the intrinsic __smlad: with it, GCC keeps track
 * of the overflow flag that the instruction also sets. */
static inline int32_t multiply_add(uint32_t a, uint32_t b, int32_t sum)
{
    int32_t result;
    __asm__("smlad %0, %1, %2, %3" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
    return result;
}

/* The innermost steps. They fill every register of the core with sums, factors and addresses:
 * `volatile` keeps the compiler from moving the next loads up and the sums out to the stack. Each
 * load moves its address on. */

/* Two words at a multiple of 4. */
#define LOAD_PAIR(first, second, address)                         \
    __asm__ volatile("ldrd %0, %1, [%2], #8"                      \
                     : "=&r"(first), "=&r"(second), "+r"(address) \
                     : "m"(*(const uint8_t(*)[8])(address)))

/* Four bytes: 0 and 2 as one pair, 1 and 3 as another. */
#define LOAD_WIDENED(even, odd, address)                       \
    __asm__ volatile("ldr %1, [%2], #4\n\t"                    \
                     "sxtb16 %0, %1\n\t"                       \
                     "sxtb16 %1, %1, ror #8"                   \
                     : "=&r"(even), "=&r"(odd), "+r"(address)  \
                     : "m"(*(const uint8_t(*)[4])(address)))

/* Both products of two pairs. */
#define ADD_PRODUCTS(sum, a, b) \
    __asm__ volatile("smlad %0, %1, %2, %0" : "+r"(sum) : "r"(a), "r"(b))

/* One half of a pair times one of another: B the lower half, T the upper. */
#define ADD_PRODUCT(halves, sum, a, b) \
    __asm__ volatile("smla" halves " %0, %1, %2, %0" : "+r"(sum) : "r"(a), "r"(b))

/* --- The end of a sum of products --------------------------------------------------------------- */

/* A channel in the short form, prepared for several sums. The bounds of the short form leave room
 * to add the output's zero point before the shift, together with the half that rounds. */
typedef struct {
    int32_t multiplier, rounding, shift;
} short_channel;

static inline short_channel prepare(const kp_channel *channel, int32_t output_zero)
{
    short_channel prepared;
    prepared.multiplier = channel->multiplier;
    prepared.shift = channel_shift(channel);
    prepared.rounding = ((output_zero * 2 + 1) * (1 << prepared.shift)) >> 1;
    return prepared;
}

/* Clamped to a byte only; `keep_within` does what is left. */
static inline int8_t finish_short(short_channel channel, int32_t sum)
{
    int32_t value = rounding_high_multiply_short(sum, channel.multiplier);
    value = (value + channel.rounding + (value >> 31)) >> channel.shift;
    __asm__("ssat %0, #8, %0" : "+r"(value));
    return (int8_t)value;
}

/* The long form is rare: kept out of the loops. */
static __attribute__((noinline)) int8_t finish_wide(const kp_rescale *rescale, int32_t c,
                                                    int32_t sum)
{
    return finish(rescale, c, sum);
}

static ALWAYS_INLINE int8_t finish_any(const kp_rescale *rescale, int32_t c, int32_t sum)
{
    const kp_channel *channel = &rescale->channels[c];
    if (channel_shift(channel) > 0) {
        return finish_short(prepare(channel, rescale->output_zero), sum);
    }
    return finish_wide(rescale, c, sum);
}

static inline uint32_t larger_bytes(uint32_t a, uint32_t b)
{
    (void)__ssub8((int8x4_t)a, (int8x4_t)b); /* sets a flag for each byte with a >= b */
    return (uint32_t)__sel((uint8x4_t)a, (uint8x4_t)b);
}

static inline uint32_t smaller_bytes(uint32_t a, uint32_t b)
{
    (void)__ssub8((int8x4_t)a, (int8x4_t)b);
    return (uint32_t)__sel((uint8x4_t)b, (uint8x4_t)a);
}

#define KEEP_WITHIN(rescale, output, size) keep_within(rescale, output, size)

/* Clamps a whole output where relu cuts more than a byte's range does. */
static void keep_within(const kp_rescale *rescale, int8_t *output, int32_t size)
{
    uint32_t lowest = ((uint32_t)rescale->lowest & 0xffu) * 0x01010101u;
    uint32_t highest = ((uint32_t)rescale->highest & 0xffu) * 0x01010101u;
    if (rescale->lowest == -128 && rescale->highest == 127) {
        return;
    }
    for (; size >= 4; size -= 4) {
        store4(output, smaller_bytes(larger_bytes(load4(output), lowest), highest));
        output += 4;
    }
    for (; size > 0; size--) {
        *output = (int8_t)clamp(*output, rescale->lowest, rescale->highest);
        output++;
    }
}

/* --- Convolution --------------------------------------------------------------------------------
 *
 * The inputs of four pixels ("patches") are gathered as 16-bit values, interleaved by pairs:
 *     p0[0] p0[1] p1[0] p1[1] p2[0] p2[1] p3[0] p3[1] p0[2] p0[3] p1[2] …
 * Two output channels times four pixels then share every load: per pair of inputs one load and
 * two widenings of weights, two loads of inputs, eight SMLADs. */

enum { PIXELS = 4, PAIR = 4 * PIXELS }; /* PAIR: bytes from one pair of a patch to its next */

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

/* Gathers the inputs of one kernel row at (y, left). Returns the k behind them. */
static int32_t patch_row(const kp_window *window, int32_t input_zero, const int8_t *input,
                         int32_t y, int32_t left, int8_t *patch, int32_t k)
{
    int32_t depth = window->in_channels / window->groups;
    int32_t taps = window->kernel_width;
    int32_t step = window->dilation_width;
    if (y < 0 || y >= window->in_height) {
        patch_fill(patch, k, taps * depth, input_zero);
        return k + taps * depth;
    }
    if (step == 1 && window->groups == 1) { /* neighbours in memory, too */
        int32_t before = left < 0 ? -left : 0;
        int32_t end = window->in_width - left < taps ? window->in_width - left : taps;
        before = before < taps ? before : taps;
        end = end > before ? end : before;
        patch_fill(patch, k, before * depth, input_zero);
        patch_copy(patch, k + before * depth, (end - before) * depth,
                   input + (y * window->in_width + left + before) * depth);
        patch_fill(patch, k + end * depth, (taps - end) * depth, input_zero);
        return k + taps * depth;
    }
    for (int32_t tap = 0; tap < taps; tap++) {
        const int8_t *pixel = pixel_at(window, input, y, left + tap * step);
        if (pixel == NULL) {
            patch_fill(patch, k, depth, input_zero);
        } else {
            patch_copy(patch, k, depth, pixel);
        }
        k += depth;
    }
    return k;
}

static void gather(const kp_window *window, int32_t input_zero, const int8_t *input, int32_t y,
                   int32_t x, int8_t *patch)
{
    int32_t top = y * window->stride_height - window->pad_top;
    int32_t left = x * window->stride_width - window->pad_left;
    int32_t k = 0;
    for (int32_t ky = 0; ky < window->kernel_height; ky++) {
        k = patch_row(window, input_zero, input, top + ky * window->dilation_height, left, patch,
                      k);
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

/* Channels c … end - 1 of four pixels. */
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

void kp_conv2d(const kp_window *window, const kp_rescale *rescale, const int8_t *weights,
               const int8_t *input, int8_t *output, int8_t *scratch)
{
    int32_t group_inputs = window->in_channels / window->groups;
    int32_t group_size = window->out_channels / window->groups;
    int32_t depth = window->kernel_height * window->kernel_width * group_inputs;
    int32_t pixels = window->out_height * window->out_width;
    int8_t *patches = aligned4(scratch);
    int32_t y = 0, x = 0;
    if (depth & 1) { /* the second half of the last pair takes part, as 0 */
        for (int p = 0; p < PIXELS; p++) {
            store2(patch_at(patches + 4 * p, depth), 0);
        }
    }
    for (int32_t done = 0; done < pixels; done += PIXELS) {
        int32_t count = pixels - done < PIXELS ? pixels - done : PIXELS;
        int8_t *first = output + done * window->out_channels;
        int32_t block_y = y, block_x = x;
        for (int32_t g = 0; g < window->groups; g++) {
            int32_t c = g * group_size;
            y = block_y;
            x = block_x;
            for (int32_t p = 0; p < count; p++) {
                gather(window, rescale->input_zero, input + g * group_inputs, y, x,
                       patches + 4 * p);
                if (++x == window->out_width) {
                    x = 0;
                    y++;
                }
            }
            if (count == PIXELS) {
                four_pixels(rescale, c, c + group_size, depth, weights + c * depth, patches,
                            first + c, window->out_channels);
                continue;
            }
            for (int32_t p = 0; p < count; p++) {
                one_pixel(rescale, c, c + group_size, depth, weights + c * depth, patches + 4 * p,
                          first + p * window->out_channels + c);
            }
        }
    }
    keep_within(rescale, output, pixels * window->out_channels);
}

/* --- Fully connected ----------------------------------------------------------------------------- */

/* Weights and inputs are widened alike, even and odd ones apart: their order does not matter. */
static int32_t dense_unit(const int8_t *weights, const int8_t *input, int32_t depth, int32_t sum)
{
    for (; depth >= 4; depth -= 4) {
        uint32_t bytes = load4(input);
        uint32_t word = load4(weights);
        sum = multiply_add(even_bytes(word), even_bytes(bytes), sum);
        sum = multiply_add(odd_bytes(word), odd_bytes(bytes), sum);
        weights += 4;
        input += 4;
    }
    for (; depth > 0; depth--) {
        sum += *weights++ * *input++;
    }
    return sum;
}

/* Four inputs times four weights of one unit, from memory. */
#define MULTIPLY_FOUR(sum, weights, even, odd)                            \
    do {                                                                  \
        uint32_t low, high;                                               \
        LOAD_WIDENED(low, high, weights);                                 \
        ADD_PRODUCTS(sum, low, even);                                     \
        ADD_PRODUCTS(sum, high, odd);                                     \
    } while (0)

#define MULTIPLY_FOUR_UNITS(input)              \
    do {                                        \
        uint32_t even, odd;                     \
        LOAD_WIDENED(even, odd, input);         \
        MULTIPLY_FOUR(a, row0, even, odd);      \
        MULTIPLY_FOUR(b, row1, even, odd);      \
        MULTIPLY_FOUR(c, row2, even, odd);      \
        MULTIPLY_FOUR(d, row3, even, odd);      \
    } while (0)

/* Units `unit` … unit + 3 of one row. */
static void dense_four_units(const kp_rescale *rescale, int32_t unit, const int8_t *weights,
                             const int8_t *input, int32_t depth, int8_t *output)
{
    const kp_channel *channels = &rescale->channels[unit];
    const int8_t *row0 = weights, *row1 = row0 + depth;
    const int8_t *row2 = row1 + depth, *row3 = row2 + depth;
    const int8_t *last = input + (depth >> 3) * 8;
    int32_t a = channel_bias(&channels[0]), b = channel_bias(&channels[1]);
    int32_t c = channel_bias(&channels[2]), d = channel_bias(&channels[3]);
    while (input != last) {
        MULTIPLY_FOUR_UNITS(input);
        MULTIPLY_FOUR_UNITS(input);
    }
    if ((depth & 4) != 0) {
        MULTIPLY_FOUR_UNITS(input);
    }
    for (int32_t i = depth & 3; i > 0; i--) {
        int32_t value = *input++;
        a += *row0++ * value;
        b += *row1++ * value;
        c += *row2++ * value;
        d += *row3++ * value;
    }
    output[0] = finish_any(rescale, unit, a);
    output[1] = finish_any(rescale, unit + 1, b);
    output[2] = finish_any(rescale, unit + 2, c);
    output[3] = finish_any(rescale, unit + 3, d);
}

void kp_fully_connected(const kp_rescale *rescale, const int8_t *weights, int32_t rows,
                        int32_t depth, int32_t units, const int8_t *input, int8_t *output)
{
    int8_t *next = output;
    for (int32_t row = 0; row < rows; row++) {
        const int8_t *weight = weights;
        int32_t unit = 0;
        for (; unit + 4 <= units; unit += 4) {
            dense_four_units(rescale, unit, weight, input, depth, next);
            weight += 4 * depth;
            next += 4;
        }
        for (; unit < units; unit++) {
            int32_t sum = channel_bias(&rescale->channels[unit]);
            *next++ = finish_any(rescale, unit, dense_unit(weight, input, depth, sum));
            weight += depth;
        }
        input += depth;
    }
    keep_within(rescale, output, rows * units);
}

/* --- Depthwise convolution -----------------------------------------------------------------------
 *
 * The slots of the ring are interleaved pair by pair, so that one address leads to all rows. Rows
 * turn through the slots, so the rows of the kernel turn with them. */

static void arrange_slots(input_rows *rows)
{
    rows->slot_step = 2;
    rows->pair_step = 2 * rows->slots;
}

/* The values of the three rows at x … x + 3, as six pairs; `inputs` moves on by one column of
 * pairs. */
#define LOAD_COLUMN(first, second, inputs, offset)                   \
    __asm__ volatile("ldrd %0, %1, [%2, #" offset "]"                \
                     : "=&r"(first), "=&r"(second)                   \
                     : "r"(inputs), "m"(*(const int16_t(*)[12])(inputs)))

/* A channel and its kernel of 3 x 3, as pairs of weights: (w0, w1) and (w1, w2) of the rows
 * 0 1 2 0 1, of which any three in succession are one turn. */
typedef struct {
    short_channel channel;
    int32_t bias;
    uint32_t left[5], right[5];
} kernel_3x3;

/* One row of outputs, two neighbours at a time; the last one alone if their number is odd. */
static void row_3x3_stride_1(const kernel_3x3 *kernel, int32_t turn, const int16_t *inputs,
                             int32_t width, int32_t step, int8_t *output)
{
    const uint32_t *left = kernel->left + turn, *right = kernel->right + turn;
    uint32_t left0 = left[0], left1 = left[1], left2 = left[2];
    uint32_t right0 = right[0], right1 = right[1], right2 = right[2];
    for (; width > 0; width -= 2) {
        int32_t a = kernel->bias, b = a;
        uint32_t first, second;
        LOAD_COLUMN(first, second, inputs, "0");
        ADD_PRODUCTS(a, first, left0);
        ADD_PRODUCT("tb", b, first, left0);
        ADD_PRODUCTS(a, second, left1);
        ADD_PRODUCT("tb", b, second, left1);
        LOAD_COLUMN(first, second, inputs, "8");
        ADD_PRODUCTS(a, first, left2);
        ADD_PRODUCT("tb", b, first, left2);
        ADD_PRODUCT("bt", a, second, right0);
        ADD_PRODUCTS(b, second, right0);
        LOAD_COLUMN(first, second, inputs, "16");
        ADD_PRODUCT("bt", a, first, right1);
        ADD_PRODUCTS(b, first, right1);
        ADD_PRODUCT("bt", a, second, right2);
        ADD_PRODUCTS(b, second, right2);
        inputs += 6;
        *output = finish_short(kernel->channel, a);
        output += step;
        if (width > 1) {
            *output = finish_short(kernel->channel, b);
            output += step;
        }
    }
}

static void row_3x3_stride_2(const kernel_3x3 *kernel, int32_t turn, const int16_t *inputs,
                             int32_t width, int32_t step, int8_t *output)
{
    const uint32_t *left = kernel->left + turn, *right = kernel->right + turn;
    uint32_t left0 = left[0], left1 = left[1], left2 = left[2];
    uint32_t right0 = right[0], right1 = right[1], right2 = right[2];
    for (; width > 0; width--) {
        int32_t a = kernel->bias;
        uint32_t first, second;
        LOAD_COLUMN(first, second, inputs, "0");
        ADD_PRODUCTS(a, first, left0);
        ADD_PRODUCTS(a, second, left1);
        LOAD_COLUMN(first, second, inputs, "8");
        ADD_PRODUCTS(a, first, left2);
        ADD_PRODUCT("bt", a, second, right0);
        LOAD_COLUMN(first, second, inputs, "16");
        ADD_PRODUCT("bt", a, first, right1);
        ADD_PRODUCT("bt", a, second, right2);
        inputs += 6;
        *output = finish_short(kernel->channel, a);
        output += step;
    }
}

static void channel_3x3(const kp_window *window, const kp_rescale *rescale, int32_t c,
                        const int8_t *weights, const input_rows *rows, const int8_t *input,
                        int8_t *output)
{
    kernel_3x3 kernel;
    int32_t loaded = 0, slot = 0, turn = 0;
    kernel.channel = prepare(&rescale->channels[c], rescale->output_zero);
    kernel.bias = channel_bias(&rescale->channels[c]);
    for (int i = 0; i < 5; i++) {
        const int8_t *row = weights + (i < 3 ? 3 * i : 3 * i - 9);
        kernel.left[i] = pair_of(row[0], row[1]);
        kernel.right[i] = pair_of(row[1], row[2]);
    }
    for (int32_t y = 0; y < window->out_height; y++) {
        int32_t top = y * window->stride_height;
        for (; loaded < top + 3; loaded++) {
            if (loaded >= top) { /* with strides above 3, some rows are not needed */
                load_row(window, input, rescale->input_zero, loaded, rows, rows->ring + 2 * slot);
            }
            slot = slot < 2 ? slot + 1 : 0;
        }
        turn = (3 - slot) % 3; /* the oldest row is in the slot that comes next */
        if (window->stride_width == 1) {
            row_3x3_stride_1(&kernel, turn, rows->ring, window->out_width, window->out_channels,
                             output);
        } else {
            row_3x3_stride_2(&kernel, turn, rows->ring, window->out_width, window->out_channels,
                             output);
        }
        output += window->out_width * window->out_channels;
    }
}

/* One row of outputs of channel c, for any kernel. */
static void depthwise_row(const kp_window *window, const kp_rescale *rescale, int32_t c,
                          const int8_t *weights, const input_rows *rows, int32_t top,
                          int8_t *output)
{
    for (int32_t x = 0; x < window->out_width; x++) {
        const int8_t *weight = weights;
        int32_t sum = channel_bias(&rescale->channels[c]);
        for (int32_t ky = 0; ky < window->kernel_height; ky++) {
            const int16_t *slot = slot_of(rows, top + ky * window->dilation_height);
            int32_t column = x * window->stride_width;
            for (int32_t kx = 0; kx < window->kernel_width; kx++) {
                sum += *weight++ * slot[(column >> 1) * rows->pair_step + (column & 1)];
                column += window->dilation_width;
            }
        }
        *output = finish_any(rescale, c, sum);
        output += window->out_channels;
    }
}

/* All rows of outputs of channel c. */
static void depthwise_channel(const kp_window *window, const kp_rescale *rescale, int32_t c,
                              const int8_t *weights, const input_rows *rows, const int8_t *input,
                              int8_t *output)
{
    int32_t loaded = 0;
    if (window->kernel_height == 3 && window->kernel_width == 3 && window->dilation_height == 1 &&
        window->dilation_width == 1 && window->stride_width <= 2 &&
        channel_shift(&rescale->channels[c]) > 0) {
        channel_3x3(window, rescale, c, weights, rows, input, output);
        return;
    }
    for (int32_t y = 0; y < window->out_height; y++) {
        int32_t top = y * window->stride_height;
        for (loaded = loaded > top ? loaded : top; loaded < top + rows->slots; loaded++) {
            load_row(window, input, rescale->input_zero, loaded, rows, slot_of(rows, loaded));
        }
        depthwise_row(window, rescale, c, weights, rows, top, output);
        output += window->out_width * window->out_channels;
    }
}

/* --- Pooling ------------------------------------------------------------------------------------- */

/* best[i] = max(best[i], candidate[i]) */
static void keep_larger(int8_t *best, const int8_t *candidate, int32_t size)
{
    for (; size >= 4; size -= 4) {
        store4(best, larger_bytes(load4(candidate), load4(best)));
        best += 4;
        candidate += 4;
    }
    for (; size > 0; size--) {
        if (*candidate > *best) {
            *best = *candidate;
        }
        best++;
        candidate++;
    }
}

#endif
