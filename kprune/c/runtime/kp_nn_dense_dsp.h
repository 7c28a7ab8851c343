/* Inside of kp_nn.c: fully connected layers for the DSP extension. */
#ifndef KP_NN_DENSE_DSP_H
#define KP_NN_DENSE_DSP_H

#include "kp_nn_dsp.h"

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

/* Units `unit` ... unit + 3 of one row. */
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

#include "kp_nn_units.h"

#endif
