/* golden.h: inputs with known outputs, for the self-test.
 *
 * Inputs are made on the board from a seed, so a vector costs only its outputs in flash:
 * xorshift32 (Marsaglia, Xorshift RNGs, 2003) with shifts 13, 17, 5; value i is the top byte
 * of state i + 1, as int8. Several inputs take their values one after another, and so do outputs. */
#ifndef KPRUNE_GOLDEN
#define KPRUNE_GOLDEN

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

extern const size_t golden_count;
extern const uint32_t golden_seeds[];  /* golden_count, none of them 0 */
extern const int8_t golden_outputs[];  /* golden_count x all output values */

#ifdef __cplusplus
}
#endif
#endif
