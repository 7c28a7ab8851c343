/* Inside of kp_nn.c: what the inner loops for the DSP extension (Cortex-M4, M7, M33, M55) share.
 *
 * SMLAD multiplies two pairs of 16-bit values and adds both products to a sum, so bytes are widened
 * to pairs first. */
#ifndef KP_NN_DSP_H
#define KP_NN_DSP_H

#include "kp_nn_arithmetic.h"

/* For what must keep its sums in registers. */
#define ALWAYS_INLINE inline __attribute__((always_inline))

/* For what must have the registers for itself, or is rare. */
#define NEVER_INLINE __attribute__((noinline))

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

/* What the loads read, for the compiler. Structs, because a cast to an array of constants would
 * count as one that drops `const`. */
typedef struct {
    uint8_t bytes[4];
} four_bytes;

typedef struct {
    uint8_t bytes[8];
} eight_bytes;

/* Two words at a multiple of 4. */
#define LOAD_PAIR(first, second, address)                         \
    __asm__ volatile("ldrd %0, %1, [%2], #8"                      \
                     : "=&r"(first), "=&r"(second), "+r"(address) \
                     : "m"(*(const eight_bytes *)(address)))

/* Four bytes: 0 and 2 as one pair, 1 and 3 as another. */
#define LOAD_WIDENED(even, odd, address)                       \
    __asm__ volatile("ldr %1, [%2], #4\n\t"                    \
                     "sxtb16 %0, %1\n\t"                       \
                     "sxtb16 %1, %1, ror #8"                   \
                     : "=&r"(even), "=&r"(odd), "+r"(address)  \
                     : "m"(*(const four_bytes *)(address)))

/* Both products of two pairs. */
#define ADD_PRODUCTS(sum, a, b) \
    __asm__ volatile("smlad %0, %1, %2, %0" : "+r"(sum) : "r"(a), "r"(b))

/* One half of a pair times one of another: B the lower half, T the upper. */
#define ADD_PRODUCT(halves, sum, a, b) \
    __asm__ volatile("smla" halves " %0, %1, %2, %0" : "+r"(sum) : "r"(a), "r"(b))

/* --- The end of a sum of products ------------------------------------------------------------- */

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

static NEVER_INLINE int8_t finish_wide(const kp_rescale *rescale, int32_t c, int32_t sum)
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

#endif
