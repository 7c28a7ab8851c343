#ifndef KP_NN_H
#define KP_NN_H

#include <stdint.h>

void kp_multiply(const int8_t *a, const int8_t *b, int32_t count, int8_t *out);
void kp_add_pairs(const int8_t *a, int32_t count, int8_t *out);

#endif
