/* The operators of kp_nn.h. The inner loops of those that take the time are in headers, one for
 * each operator and instruction set. */
#include "kp_nn.h"

#include <string.h>

#include "kp_nn_arithmetic.h"

#if defined(__ARM_FEATURE_MVE) && (__ARM_FEATURE_MVE & 1)
#include "kp_nn_bytes_mve.h"
#include "kp_nn_conv2d_mve.h"
#include "kp_nn_dense_mve.h"
#include "kp_nn_depthwise_mve.h"
#elif KP_DSP
#include "kp_nn_bytes_dsp.h"
#include "kp_nn_conv2d_dsp.h"
#include "kp_nn_dense_dsp.h"
#include "kp_nn_depthwise_dsp.h"
#else
#include "kp_nn_bytes_plain.h"
#include "kp_nn_conv2d_plain.h"
#include "kp_nn_dense_plain.h"
#include "kp_nn_depthwise_plain.h"
#endif

/* --- Depthwise convolution -------------------------------------------------------------------- */

void kp_depthwise_conv2d(const kp_window *window, const kp_rescale *rescale, const int8_t *weights,
                         const int8_t *input, int8_t *output, int8_t *scratch)
{
    int32_t taps = window->kernel_height * window->kernel_width;
    int32_t multiplier = window->out_channels / window->in_channels;
    input_rows rows;
    rows.ring = (int16_t *)(void *)aligned4(scratch);
    rows.slots = (window->kernel_height - 1) * window->dilation_height + 1;
    rows.width = (window->out_width - 1) * window->stride_width +
                 (window->kernel_width - 1) * window->dilation_width + 1;
    arrange_slots(&rows);
    clear_rows(&rows, rescale->input_zero);
    /* Channel by channel: what one has read, its outputs may overwrite. */
    for (int32_t c = 0; c < window->out_channels; c++) {
        depthwise_channel(window, rescale, c, weights + c * taps, &rows, input + c / multiplier,
                          output + c);
    }
    keep_within(rescale, output, window->out_height * window->out_width * window->out_channels);
}

/* --- Transposed convolution ------------------------------------------------------------------- */

/* Output position `out` gets input i through kernel position k if i * stride + k = out + pad.
 * Returns i, or -1 if there is none. */
static int32_t reaching(int32_t out, int32_t pad, int32_t k, int32_t stride, int32_t in_size)
{
    int32_t distance = out + pad - k;
    if (distance < 0 || distance % stride != 0 || distance / stride >= in_size) {
        return -1;
    }
    return distance / stride;
}

static int32_t transpose_conv2d_sum(const kp_window *window, int32_t input_zero,
                                    const int8_t *weights, const int8_t *input, int32_t out_y,
                                    int32_t out_x)
{
    int32_t depth = window->in_channels;
    int32_t sum = 0;
    for (int32_t ky = 0; ky < window->kernel_height; ky++) {
        int32_t y = reaching(out_y, window->pad_top, ky, window->stride_height, window->in_height);
        for (int32_t kx = 0; kx < window->kernel_width; kx++) {
            int32_t x =
                reaching(out_x, window->pad_left, kx, window->stride_width, window->in_width);
            const int8_t *weight = weights + (ky * window->kernel_width + kx) * depth;
            const int8_t *pixel = pixel_at(window, input, y, x);
            for (int32_t i = 0; pixel != NULL && i < depth; i++) {
                sum += weight[i] * (pixel[i] - input_zero);
            }
        }
    }
    return sum;
}

void kp_transpose_conv2d(const kp_window *window, const kp_rescale *rescale, const int8_t *weights,
                         const int8_t *input, int8_t *output)
{
    int32_t size = window->kernel_height * window->kernel_width * window->in_channels;
    for (int32_t y = 0; y < window->out_height; y++) {
        for (int32_t x = 0; x < window->out_width; x++) {
            for (int32_t c = 0; c < window->out_channels; c++) {
                int32_t sum = channel_bias(&rescale->channels[c]);
                sum += transpose_conv2d_sum(window, rescale->input_zero, weights + c * size, input,
                                            y, x);
                *output++ = finish(rescale, c, sum);
            }
        }
    }
}

/* --- Pooling and reductions ------------------------------------------------------------------- */

/* The part of a window that lies inside the input. */
typedef struct {
    int32_t top, bottom, left, right;
} extent;

static extent extent_at(const kp_window *window, int32_t y, int32_t x)
{
    extent part;
    part.top = y * window->stride_height - window->pad_top;
    part.left = x * window->stride_width - window->pad_left;
    part.bottom = part.top + window->kernel_height;
    part.right = part.left + window->kernel_width;
    part.top = part.top > 0 ? part.top : 0;
    part.left = part.left > 0 ? part.left : 0;
    part.bottom = part.bottom < window->in_height ? part.bottom : window->in_height;
    part.right = part.right < window->in_width ? part.right : window->in_width;
    return part;
}

void kp_max_pool(const kp_window *window, int32_t lowest, int32_t highest, const int8_t *input,
                 int8_t *output)
{
    int32_t channels = window->in_channels;
    for (int32_t y = 0; y < window->out_height; y++) {
        for (int32_t x = 0; x < window->out_width; x++) {
            extent part = extent_at(window, y, x);
            memset(output, lowest, (size_t)channels);
            for (int32_t in_y = part.top; in_y < part.bottom; in_y++) {
                for (int32_t in_x = part.left; in_x < part.right; in_x++) {
                    keep_larger(output, pixel_at(window, input, in_y, in_x), channels);
                }
            }
            for (int32_t c = 0; highest < 127 && c < channels; c++) {
                output[c] = (int8_t)clamp(output[c], lowest, highest);
            }
            output += channels;
        }
    }
}

/* total / count, halves rounded away from zero. */
static int32_t average(int32_t total, int32_t count)
{
    return total > 0 ? (total + count / 2) / count : (total - count / 2) / count;
}

void kp_average_pool(const kp_window *window, int32_t lowest, int32_t highest, const int8_t *input,
                     int8_t *output)
{
    int32_t channels = window->in_channels;
    for (int32_t y = 0; y < window->out_height; y++) {
        for (int32_t x = 0; x < window->out_width; x++) {
            extent part = extent_at(window, y, x);
            int32_t count = (part.bottom - part.top) * (part.right - part.left);
            for (int32_t c = 0; c < channels; c++) {
                int32_t total = 0;
                for (int32_t in_y = part.top; in_y < part.bottom; in_y++) {
                    const int8_t *pixel = pixel_at(window, input, in_y, part.left);
                    for (int32_t in_x = part.left; in_x < part.right; in_x++) {
                        total += pixel[c];
                        pixel += channels;
                    }
                }
                *output++ = (int8_t)clamp(average(total, count), lowest, highest);
            }
        }
    }
}

void kp_mean(const kp_mean_shape *shape, const int8_t *input, int8_t *output)
{
    int32_t zeros = shape->input_zero * shape->reduced;
    for (int32_t outer = 0; outer < shape->outer; outer++) {
        for (int32_t inner = 0; inner < shape->inner; inner++) {
            int32_t total = 0;
            for (int32_t i = 0; i < shape->reduced; i++) {
                total += input[i * shape->inner + inner];
            }
            total = scale(total - zeros, shape->multiplier, shape->exponent);
            *output++ = (int8_t)clamp(total + shape->output_zero, -128, 127);
        }
        input += shape->reduced * shape->inner;
    }
}

void kp_reduce_max(int32_t outer, int32_t reduced, int32_t inner, const int8_t *input,
                   int8_t *output)
{
    for (; outer > 0; outer--) {
        memset(output, -128, (size_t)inner);
        for (int32_t i = 0; i < reduced; i++) {
            keep_larger(output, input, inner);
            input += inner;
        }
        output += inner;
    }
}

/* --- Softmax ---------------------------------------------------------------------------------- */

/* A sum of exponentials, in Q12.19, beside which each of them is less than half a step. */
#define SUM_OF_ZEROS (512u << 19)

/* a * b in Q0.31 or in Q2.29, as the numbers are. */
static int32_t fixed_multiply(int32_t a, int32_t b)
{
    return (int32_t)(((int64_t)a * b + (1 << 30)) >> 31);
}

/* 1 / (1 + value) for value in [0, 1), both Q0.31, by three steps of Newton's method from
 * 48/17 - 32/17 d (https://en.wikipedia.org/wiki/Division_algorithm). */
static int32_t reciprocal_of_one_plus(int32_t value)
{
    int32_t half = (int32_t)(((int64_t)value + INT32_MAX + 1) / 2); /* (1 + value) / 2 */
    int32_t x = 1515870810 + fixed_multiply(half, -1010580540);     /* Q2.29 */
    for (int i = 0; i < 3; i++) {
        int32_t error = (1 << 29) - fixed_multiply(half, x);
        x += fixed_multiply(x, error) * 4;
    }
    /* x is 2 / (1 + value): half of it, from Q2.29 to Q0.31. */
    int32_t halved = rounding_shift_right(x, 1);
    return halved > INT32_MAX / 4 ? INT32_MAX : halved * 4;
}

static int32_t leading_zeros(uint32_t value)
{
    int32_t count = 0;
    while (value < 0x80000000u) {
        value <<= 1;
        count++;
    }
    return count;
}

void kp_softmax(const int32_t *exponentials, int32_t count, int32_t rows, int32_t depth,
                const int8_t *input, int8_t *output)
{
    for (int32_t row = 0; row < rows; row++) {
        int32_t largest = -128;
        for (int32_t i = 0; i < depth; i++) {
            largest = input[i] > largest ? input[i] : largest;
        }
        uint32_t sum = 0; /* at least exp(0); however long the row, it cannot wrap */
        for (int32_t i = 0; i < depth && sum < SUM_OF_ZEROS; i++) {
            int32_t below = largest - input[i];
            if (below < count) {
                sum += (uint32_t)rounding_shift_right(exponentials[below], 12);
            }
        }
        int32_t kept = sum < SUM_OF_ZEROS ? count : 0; /* so that the shift below is at most 31 */
        int32_t zeros = leading_zeros(sum);
        int32_t inverse = reciprocal_of_one_plus((int32_t)((sum << zeros) - 0x80000000u));
        for (int32_t i = 0; i < depth; i++) {
            int32_t below = largest - input[i];
            int32_t value = 0;
            if (below < kept) {
                value = fixed_multiply(inverse, exponentials[below]);
                value = rounding_shift_right(value, 23 + 12 - zeros);
            }
            output[i] = (int8_t)clamp(value - 128, -128, 127);
        }
        input += depth;
        output += depth;
    }
}

/* --- Element by element ----------------------------------------------------------------------- */

void kp_lookup(const int8_t table[256], int32_t size, const int8_t *input, int8_t *output)
{
    for (int32_t i = 0; i < size; i++) {
        output[i] = table[input[i] + 128];
    }
}

typedef int8_t (*pair_function)(const void *constants, int32_t a, int32_t b);

/* Inlined into each operator, so that `function` costs no call. */
static inline void for_each_pair(const kp_pairs *pairs, pair_function function,
                                 const void *constants, const int8_t *a, const int8_t *b,
                                 int8_t *output)
{
    const int32_t *size = pairs->size;
    for (int32_t i = 0; i < size[0]; i++) {
        for (int32_t j = 0; j < size[1]; j++) {
            for (int32_t k = 0; k < size[2]; k++) {
                const int8_t *a_row = a + i * pairs->a_stride[0] + j * pairs->a_stride[1] +
                                      k * pairs->a_stride[2];
                const int8_t *b_row = b + i * pairs->b_stride[0] + j * pairs->b_stride[1] +
                                      k * pairs->b_stride[2];
                const int32_t a_step = pairs->a_stride[3], b_step = pairs->b_stride[3];
                for (int32_t l = size[3]; l > 0; l--) {
                    *output++ = function(constants, *a_row, *b_row);
                    a_row += a_step;
                    b_row += b_step;
                }
            }
        }
    }
}

static inline int32_t term(int32_t value, int32_t zero, int32_t multiplier, int32_t shift)
{
    return scale_short((value - zero) * (1 << 20), multiplier, shift);
}

static inline int8_t rescale_sum(const kp_sum *s, int32_t sum)
{
    int32_t value = scale_short(sum, s->multiplier, s->shift) + s->zero;
    return (int8_t)clamp(value, s->lowest, s->highest);
}

static inline int8_t add_pair(const void *constants, int32_t a, int32_t b)
{
    const kp_sum *s = (const kp_sum *)constants;
    return rescale_sum(s, term(a, s->a_zero, s->a_multiplier, s->a_shift) +
                              term(b, s->b_zero, s->b_multiplier, s->b_shift));
}

static inline int8_t sub_pair(const void *constants, int32_t a, int32_t b)
{
    const kp_sum *s = (const kp_sum *)constants;
    return rescale_sum(s, term(a, s->a_zero, s->a_multiplier, s->a_shift) -
                              term(b, s->b_zero, s->b_multiplier, s->b_shift));
}

static inline int8_t mul_pair(const void *constants, int32_t a, int32_t b)
{
    const kp_product *p = (const kp_product *)constants;
    int32_t product = (a - p->a_zero) * (b - p->b_zero);
    return (int8_t)clamp(scale(product, p->multiplier, p->exponent) + p->zero, p->lowest,
                         p->highest);
}

static inline int8_t larger(const void *constants, int32_t a, int32_t b)
{
    (void)constants;
    return (int8_t)(a > b ? a : b);
}

static inline int8_t smaller(const void *constants, int32_t a, int32_t b)
{
    (void)constants;
    return (int8_t)(a < b ? a : b);
}

static inline int8_t prelu_pair(const void *constants, int32_t value, int32_t alpha)
{
    const kp_prelu_scales *s = (const kp_prelu_scales *)constants;
    int32_t difference = value - s->input_zero;
    int32_t result;
    if (difference >= 0) {
        result = scale(difference, s->multiplier, s->exponent);
    } else {
        result = scale(difference * (alpha - s->alpha_zero), s->alpha_multiplier,
                       s->alpha_exponent);
    }
    return (int8_t)clamp(result + s->zero, -128, 127);
}

void kp_add(const kp_pairs *pairs, const kp_sum *sum, const int8_t *a, const int8_t *b,
            int8_t *output)
{
    const kp_sum local = *sum; /* no output can overwrite it, so it stays in registers */
    for_each_pair(pairs, add_pair, &local, a, b, output);
}

void kp_sub(const kp_pairs *pairs, const kp_sum *sum, const int8_t *a, const int8_t *b,
            int8_t *output)
{
    const kp_sum local = *sum;
    for_each_pair(pairs, sub_pair, &local, a, b, output);
}

void kp_mul(const kp_pairs *pairs, const kp_product *product, const int8_t *a, const int8_t *b,
            int8_t *output)
{
    const kp_product local = *product;
    for_each_pair(pairs, mul_pair, &local, a, b, output);
}

void kp_maximum(const kp_pairs *pairs, const int8_t *a, const int8_t *b, int8_t *output)
{
    for_each_pair(pairs, larger, NULL, a, b, output);
}

void kp_minimum(const kp_pairs *pairs, const int8_t *a, const int8_t *b, int8_t *output)
{
    for_each_pair(pairs, smaller, NULL, a, b, output);
}

void kp_prelu(const kp_pairs *pairs, const kp_prelu_scales *scales, const int8_t *input,
              const int8_t *alpha, int8_t *output)
{
    const kp_prelu_scales local = *scales;
    for_each_pair(pairs, prelu_pair, &local, input, alpha, output);
}

/* --- Moving bytes ----------------------------------------------------------------------------- */

void kp_copy(const kp_block *block, const int8_t *from, int8_t *to)
{
    const int32_t *size = block->size;
    const int32_t *step = block->from_stride;
    const int32_t *to_step = block->to_stride;
    for (int32_t i = 0; i < size[0]; i++) {
        for (int32_t j = 0; j < size[1]; j++) {
            for (int32_t k = 0; k < size[2]; k++) {
                const int8_t *from_row = from + i * step[0] + j * step[1] + k * step[2];
                int8_t *to_row = to + i * to_step[0] + j * to_step[1] + k * to_step[2];
                if (step[3] == 1 && to_step[3] == 1) {
                    memcpy(to_row, from_row, (size_t)size[3]);
                    continue;
                }
                for (int32_t l = 0; l < size[3]; l++) {
                    to_row[l * to_step[3]] = from_row[l * step[3]];
                }
            }
        }
    }
}

void kp_resize_nearest(const uint16_t *rows, const uint16_t *columns, const kp_window *window,
                       const int8_t *input, int8_t *output)
{
    for (int32_t y = 0; y < window->out_height; y++) {
        for (int32_t x = 0; x < window->out_width; x++) {
            memcpy(output, pixel_at(window, input, rows[y], columns[x]),
                   (size_t)window->in_channels);
            output += window->in_channels;
        }
    }
}

/* --- To and from float ------------------------------------------------------------------------ */

void kp_quantize(float scale, int32_t zero, int32_t size, const float *input, int8_t *output)
{
    for (int32_t i = 0; i < size; i++) {
        float real = input[i] / scale;
        /* The conversion below is defined only within bounds. Beyond these the result is clamped
         * anyway; NaN counts as 0, as Arm's cores convert it. */
        if (!(real > -1000.0f && real < 1000.0f)) {
            real = real < 0.0f ? -1000.0f : real > 0.0f ? 1000.0f : 0.0f;
        }
        int32_t value = (int32_t)real;
        float rest = real - (float)value;
        value += (rest >= 0.5f) - (rest <= -0.5f);
        output[i] = (int8_t)clamp(value + zero, -128, 127);
    }
}

void kp_dequantize(float scale, int32_t zero, int32_t size, const int8_t *input, float *output)
{
    for (int32_t i = 0; i < size; i++) {
        output[i] = scale * (float)(input[i] - zero);
    }
}
