/* network.h: the one network this program runs, whatever runtime is behind it.
 *
 * network.c (generated C) or network_tflm.cpp (TensorFlow Lite Micro) implements it; both are
 * written from the *.in files beside this one. */
/* Not KPRUNE_NETWORK_H, which is the guard of a network called kprune_network. */
#ifndef KPRUNE_NETWORK
#define KPRUNE_NETWORK

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

extern const char network_name[];
extern const size_t network_arena_size; /* bytes */

/* An input or output of the network: where it lies, and how many values it has. */
struct network_part {
    int8_t *values;
    size_t size;
};

/* Prepare the network; called once, before the other functions.
 * Returns NULL, or one line that says what is wrong. */
const char *network_init(void);

/* Where the next inputs go, in the order of the flatbuffer; size 0 beyond the last one.
 * They may be overwritten by network_invoke. */
struct network_part network_input(size_t index);

/* Run the network on what lies in its inputs. Returns 1, or 0 if the runtime failed. */
int network_invoke(void);

/* What the last run gave, valid until the next one; size 0 beyond the last output. */
struct network_part network_output(size_t index);

#ifdef __cplusplus
}
#endif
#endif
