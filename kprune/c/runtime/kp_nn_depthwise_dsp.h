/* Inside of kp_nn.c: depthwise convolution for the DSP extension.
 *
 * The slots of the ring are interleaved pair by pair, so that one address leads to all rows. Rows
 * turn through the slots, so the rows of the kernel turn with them. */
#ifndef KP_NN_DEPTHWISE_DSP_H
#define KP_NN_DEPTHWISE_DSP_H

#include "kp_nn_dsp.h"

static void arrange_slots(input_rows *rows)
{
    rows->slot_step = 2;
    rows->pair_step = 2 * rows->slots;
}

/* What the load of a column reads, as in kp_nn_dsp.h. */
typedef struct {
    int16_t pairs[6][2];
} two_columns;

/* The values of the three rows at x ... x + 3, as six pairs; `inputs` moves on by one column of
 * pairs. */
#define LOAD_COLUMN(first, second, inputs, offset)                   \
    __asm__ volatile("ldrd %0, %1, [%2, #" offset "]"                \
                     : "=&r"(first), "=&r"(second)                   \
                     : "r"(inputs), "m"(*(const two_columns *)(inputs)))

/* A channel and its kernel of 3 x 3, as pairs of weights: (w0, w1) and (w1, w2) of the rows
 * 0 1 2 0 1, of which any three in succession are one turn. */
typedef struct {
    short_channel channel;
    int32_t bias;
    uint32_t left[5], right[5];
} kernel_3x3;

/* One row of outputs, two neighbours at a time; the last one alone if their number is odd. */
static NEVER_INLINE void row_3x3_stride_1(const kernel_3x3 *kernel, int32_t turn,
                                         const int16_t *inputs, int32_t width, int32_t step,
                                         int8_t *output)
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

static NEVER_INLINE void row_3x3_stride_2(const kernel_3x3 *kernel, int32_t turn,
                                         const int16_t *inputs, int32_t width, int32_t step,
                                         int8_t *output)
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

static kernel_3x3 kernel_of(const kp_rescale *rescale, int32_t c, const int8_t *weights)
{
    kernel_3x3 kernel;
    kernel.channel = prepare(&rescale->channels[c], rescale->output_zero);
    kernel.bias = channel_bias(&rescale->channels[c]);
    for (int i = 0; i < 5; i++) {
        const int8_t *row = weights + (i < 3 ? 3 * i : 3 * i - 9);
        kernel.left[i] = pair_of(row[0], row[1]);
        kernel.right[i] = pair_of(row[1], row[2]);
    }
    return kernel;
}

/* All rows of outputs of a channel with a kernel of 3 x 3 and strides of 1 or 2. */
static void channel_3x3(const kp_window *window, const kp_rescale *rescale, int32_t c,
                        const int8_t *weights, const input_rows *rows, const int8_t *input,
                        int8_t *output)
{
    const kernel_3x3 kernel = kernel_of(rescale, c, weights);
    const row_loader loader = loader_of(window, rescale, rows, input);
    const int32_t height = window->out_height, width = window->out_width;
    const int32_t channels = window->out_channels;
    const int32_t stride_height = window->stride_height, stride_width = window->stride_width;
    int32_t loaded = 0, turn = 0; /* turn: (3 - loaded % 3) % 3 */
    for (int32_t y = 0; y < height; y++) {
        for (; loaded < y * stride_height + 3; loaded++) {
            load_row(&loader, loaded, rows->ring + 2 * ((3 - turn) % 3));
            turn = turn > 0 ? turn - 1 : 2;
        }
        if (stride_width == 1) {
            row_3x3_stride_1(&kernel, turn, rows->ring, width, channels, output);
        } else {
            row_3x3_stride_2(&kernel, turn, rows->ring, width, channels, output);
        }
        output += width * channels;
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

#include "kp_nn_rows.h"

static void depthwise_channel(const kp_window *window, const kp_rescale *rescale, int32_t c,
                              const int8_t *weights, const input_rows *rows, const int8_t *input,
                              int8_t *output)
{
    if (window->kernel_height == 3 && window->kernel_width == 3 && window->dilation_height == 1 &&
        window->dilation_width == 1 && window->stride_width <= 2 && window->stride_height <= 2 &&
        channel_shift(&rescale->channels[c]) > 0) {
        channel_3x3(window, rescale, c, weights, rows, input, output);
    } else {
        channel_by_rows(window, rescale, c, weights, rows, input, output);
    }
}

#endif
