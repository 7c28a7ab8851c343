/* Inside of kp_nn.c: convolution as a product of weights and patches.
 *
 * A patch is what one output pixel sees: kernel_height * kernel_width * channels inputs, in the
 * order of the weights. PIXELS patches are gathered, then multiplied with all output channels. The
 * header that includes this one says how patches lie in memory and multiplies them:
 *     PIXELS, prepare_patches, patch_of_pixel, patch_fill, patch_copy, multiply_patches. */
#ifndef KP_NN_PATCHES_H
#define KP_NN_PATCHES_H

#include "kp_nn_arithmetic.h"

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

void kp_conv2d(const kp_window *window, const kp_rescale *rescale, const int8_t *weights,
               const int8_t *input, int8_t *output, int8_t *scratch)
{
    int32_t group_inputs = window->in_channels / window->groups;
    int32_t group_size = window->out_channels / window->groups;
    int32_t depth = window->kernel_height * window->kernel_width * group_inputs;
    int32_t pixels = window->out_height * window->out_width;
    int8_t *patches = aligned4(scratch);
    prepare_patches(patches, depth);
    for (int32_t done = 0; done < pixels; done += PIXELS) {
        int32_t count = pixels - done < PIXELS ? pixels - done : PIXELS;
        int8_t *first = output + done * window->out_channels;
        for (int32_t g = 0; g < window->groups; g++) {
            int32_t c = g * group_size;
            int32_t y = done / window->out_width;
            int32_t x = done % window->out_width;
            for (int32_t p = 0; p < count; p++) {
                gather(window, rescale->input_zero, input + g * group_inputs, y, x,
                       patch_of_pixel(patches, p, depth));
                if (++x == window->out_width) {
                    x = 0;
                    y++;
                }
            }
            multiply_patches(rescale, c, c + group_size, depth, weights + c * depth, patches,
                             count, first + c, window->out_channels);
        }
    }
    keep_within(rescale, output, pixels * window->out_channels);
}

#endif
