/* Inside of kp_nn.c: depthwise convolution of one channel, row by row, by the `depthwise_row` of
 * the header that includes this one. */
#ifndef KP_NN_ROWS_H
#define KP_NN_ROWS_H

#include "kp_nn_arithmetic.h"

/* All rows of outputs of channel c. */
static void channel_by_rows(const kp_window *window, const kp_rescale *rescale, int32_t c,
                            const int8_t *weights, const input_rows *rows, const int8_t *input,
                            int8_t *output)
{
    const row_loader loader = loader_of(window, rescale, rows, input);
    int32_t loaded = 0;
    for (int32_t y = 0; y < window->out_height; y++) {
        int32_t top = y * window->stride_height;
        for (loaded = loaded > top ? loaded : top; loaded < top + rows->slots; loaded++) {
            load_row(&loader, loaded, slot_of(rows, loaded));
        }
        depthwise_row(window, rescale, c, weights, rows, top, output);
        output += window->out_width * window->out_channels;
    }
}

#endif
