/* kp_nn: the operators of an int8 network, as plain C99 functions.
 *
 * The arithmetic is TensorFlow Lite Micro's, bit for bit: real = scale * (q - zero_point), sums of
 * products in 32 bits, then a multiplication by a 32-bit factor and a shift, each rounded (see
 * https://ai.google.dev/edge/litert/models/quantization_spec). No function allocates, keeps state
 * or can fail: `kprune to-c` checks shapes and sizes when it writes the calls.
 *
 * Tensors are (height, width, channels), the last axis fastest. Pointers may have any alignment.
 * An output may lie in the memory of an input only where the function says so.
 *
 *     static const kp_window pool1_window = { 28, 28, 8, 14, 14, 8, 2, 2, 2, 2, 1, 1, 0, 0, 1 };
 *     kp_max_pool(&pool1_window, -128, 127, arena, arena + 6272);
 *
 * Compiled for a core with the DSP extension (Cortex-M4, M7, M33) or with MVE (M55), the same
 * functions use those instructions and give the same bytes.
 */
#ifndef KP_NN_H
#define KP_NN_H

#include <stdint.h>

/* Raised whenever code generated for the older version would no longer fit. */
#define KP_NN_VERSION 1

#ifdef __cplusplus
extern "C" {
#endif

/* --- Layers with weights ---------------------------------------------------------------------- */

/* How a window moves over an input. Positions outside the input count as its zero point. */
typedef struct {
    int32_t in_height, in_width, in_channels;
    int32_t out_height, out_width, out_channels;
    int32_t kernel_height, kernel_width;
    int32_t stride_height, stride_width;
    int32_t dilation_height, dilation_width;
    int32_t pad_top, pad_left;
    int32_t groups; /* of kp_conv2d: output channels of group g see only the inputs of group g */
} kp_window;

/* What turns the sum of products of one output channel into a byte:
 *     (sum + bias) * multiplier / 2^(31 + shift), rounded after each of the two divisions.
 * The zero point of the input is folded into the bias, so that products are of raw bytes.
 * Short form: 1 <= shift <= 22, |bias| < 2^26, and no input can bring |sum + bias| to 2^30. */
typedef struct {
    int32_t multiplier;
    int32_t bias_and_shift;
} kp_channel;

#define KP_CHANNEL(multiplier, bias, shift) { (multiplier), (bias) * 32 + (shift) }

/* The long form, for a channel whose numbers do not fit the short one. Its kp_channel is
 * KP_CHANNEL(0, 0, 0). A positive exponent shifts the sum left before it is multiplied. */
typedef struct {
    int32_t multiplier;
    int32_t bias;
    int32_t exponent;
} kp_wide_channel;

typedef struct {
    int32_t input_zero;
    int32_t output_zero;
    int32_t lowest, highest;     /* of the output: -128 and 127, less where relu cuts it */
    const kp_channel *channels;  /* one per output channel */
    const kp_wide_channel *wide; /* one per output channel; NULL if all fit the short form */
} kp_rescale;

/* Convolution.
 * weights: two output channels interleaved, for each pair its inputs in the order
 *          (kernel_height, kernel_width, in_channels / groups): a0 b0 a1 b1 a2 b2 ...
 *          The last channel of a group with an odd number of them stands alone: c0 c1 c2 ...
 * scratch: 3 bytes, and 8 for each input of an output pixel (kernel_height * kernel_width *
 *          in_channels / groups, rounded up to even): four pixels are gathered at once.
 * output:  may overlap the input if groups is 1 and each of its pixels ends at or before the first
 *          input pixel that it or a later pixel needs. */
void kp_conv2d(const kp_window *window, const kp_rescale *rescale, const int8_t *weights,
               const int8_t *input, int8_t *output, int8_t *scratch);

/* Depthwise convolution: out_channels is a multiple of in_channels, `groups` is not read.
 * weights: (out_channels, kernel_height, kernel_width).
 * scratch: 3 bytes, and 2 for each input under one row of outputs of one channel, padding included:
 *          ((kernel_height - 1) * dilation_height + 1) rows of
 *          ((out_width - 1) * stride_width + (kernel_width - 1) * dilation_width + 1) values,
 *          rounded up to even, and 2 more.
 * output:  may be the input itself if both have the same shape. */
void kp_depthwise_conv2d(const kp_window *window, const kp_rescale *rescale, const int8_t *weights,
                         const int8_t *input, int8_t *output, int8_t *scratch);

/* Transposed convolution; `window` is that of the convolution it reverses, with in_* and out_*
 * as seen from here. input_zero is not folded into the biases: how many inputs reach an output
 * depends on its place.
 * weights: (out_channels, kernel_height, kernel_width, in_channels). */
void kp_transpose_conv2d(const kp_window *window, const kp_rescale *rescale, const int8_t *weights,
                         const int8_t *input, int8_t *output);

/* Fully connected layer on `rows` inputs of `depth` values.
 * weights: (units, depth). */
void kp_fully_connected(const kp_rescale *rescale, const int8_t *weights, int32_t rows,
                        int32_t depth, int32_t units, const int8_t *input, int8_t *output);

/* --- Pooling and reductions ------------------------------------------------------------------- */

/* The windows of both pools skip positions outside the input. Channels stay. The output may
 * overlap the input as in kp_conv2d. */
void kp_max_pool(const kp_window *window, int32_t lowest, int32_t highest, const int8_t *input,
                 int8_t *output);
void kp_average_pool(const kp_window *window, int32_t lowest, int32_t highest, const int8_t *input,
                     int8_t *output);

/* Mean over the middle axis of an input of shape (outer, reduced, inner). */
typedef struct {
    int32_t outer, reduced, inner;
    int32_t input_zero;
    int32_t multiplier, exponent; /* of input_scale / output_scale / reduced */
    int32_t output_zero;
} kp_mean_shape;

void kp_mean(const kp_mean_shape *shape, const int8_t *input, int8_t *output);

/* The largest value along the middle axis. */
void kp_reduce_max(int32_t outer, int32_t reduced, int32_t inner, const int8_t *input,
                   int8_t *output);

/* Softmax of `rows` rows of `depth` values; the output has scale 1/256 and zero point -128.
 * exponentials: exp(-beta * scale * d) in Q0.31 for d = 0 ... count - 1; what lies further below
 *               the largest value of its row becomes 0. So does a whole row whose exponentials add
 *               up to 512 or more.
 * output:       may be the input. */
void kp_softmax(const int32_t *exponentials, int32_t count, int32_t rows, int32_t depth,
                const int8_t *input, int8_t *output);

/* --- Element by element ----------------------------------------------------------------------- */

/* output[i] = table[input[i] + 128]. Any function of one value: relu, logistic, tanh, another
 * scale ... The output may be the input. */
void kp_lookup(const int8_t table[256], int32_t size, const int8_t *input, int8_t *output);

/* How the elements of two inputs meet. Strides are in elements, 0 where an input is repeated;
 * the output is dense. It may be an input that has its shape. */
typedef struct {
    int32_t size[4];
    int32_t a_stride[4], b_stride[4];
} kp_pairs;

/* The sum is (q - zero) * 2^20 * multiplier / 2^(31 + shift) of each input, rescaled alike. */
typedef struct {
    int32_t a_zero, a_multiplier, a_shift;
    int32_t b_zero, b_multiplier, b_shift;
    int32_t multiplier, shift;
    int32_t zero, lowest, highest;
} kp_sum;

void kp_add(const kp_pairs *pairs, const kp_sum *sum, const int8_t *a, const int8_t *b,
            int8_t *output);
void kp_sub(const kp_pairs *pairs, const kp_sum *sum, const int8_t *a, const int8_t *b,
            int8_t *output);

typedef struct {
    int32_t a_zero, b_zero;
    int32_t multiplier, exponent; /* of a_scale * b_scale / output_scale */
    int32_t zero, lowest, highest;
} kp_product;

void kp_mul(const kp_pairs *pairs, const kp_product *product, const int8_t *a, const int8_t *b,
            int8_t *output);

/* Both inputs and the output share one scale. */
void kp_maximum(const kp_pairs *pairs, const int8_t *a, const int8_t *b, int8_t *output);
void kp_minimum(const kp_pairs *pairs, const int8_t *a, const int8_t *b, int8_t *output);

/* output = input where it is positive, else input * alpha. */
typedef struct {
    int32_t input_zero, alpha_zero;
    int32_t multiplier, exponent;             /* of input_scale / output_scale */
    int32_t alpha_multiplier, alpha_exponent; /* of input_scale * alpha_scale / output_scale */
    int32_t zero;
} kp_prelu_scales;

void kp_prelu(const kp_pairs *pairs, const kp_prelu_scales *scales, const int8_t *input,
              const int8_t *alpha, int8_t *output);

/* --- Moving bytes ----------------------------------------------------------------------------- */

/* A block of up to four axes, copied between two layouts: slices, transpositions, paddings and
 * the parts of a concatenation. Strides are in elements and may be negative. */
typedef struct {
    int32_t size[4];
    int32_t from_stride[4], to_stride[4];
} kp_block;

void kp_copy(const kp_block *block, const int8_t *from, int8_t *to);

/* output pixel (y, x) = input pixel (rows[y], columns[x]). */
void kp_resize_nearest(const uint16_t *rows, const uint16_t *columns, const kp_window *window,
                       const int8_t *input, int8_t *output);

/* --- To and from float ------------------------------------------------------------------------ */

/* NaN counts as 0. */
void kp_quantize(float scale, int32_t zero, int32_t size, const float *input, int8_t *output);
void kp_dequantize(float scale, int32_t zero, int32_t size, const int8_t *input, float *output);

#ifdef __cplusplus
}
#endif

#endif
