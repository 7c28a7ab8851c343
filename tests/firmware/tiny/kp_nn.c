#include "kp_nn.h"

static int8_t clamp(int32_t value)
{
    return (int8_t)(value > 127 ? 127 : value < -128 ? -128 : value);
}

void kp_multiply(const int8_t *a, const int8_t *b, int32_t count, int8_t *out)
{
    for (int32_t i = 0; i < count; i++) {
        out[i] = clamp(a[i] * b[i]);
    }
}

void kp_add_pairs(const int8_t *a, int32_t count, int8_t *out)
{
    for (int32_t i = 0; i < count; i++) {
        out[i] = clamp(a[2 * i] + a[2 * i + 1]);
    }
}
