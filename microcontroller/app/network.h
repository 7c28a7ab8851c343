/* network.h: the one network this program runs, whatever runtime is behind it.
 *
 * network.c (generated C) or network_tflm.cpp (TensorFlow Lite Micro) implements it; both are
 * written from the *.in files beside this one. */
#ifndef KPRUNE_NETWORK_H
#define KPRUNE_NETWORK_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

extern const char network_name[];
extern const size_t network_input_size;  /* int8 values */
extern const size_t network_output_size; /* int8 values */
extern const size_t network_arena_size;  /* bytes */

/* Prepare the network; called once, before the other functions.
 * Returns NULL, or one line that says what is wrong. */
const char *network_init(void);

/* Where the next input goes: network_input_size values. It may be overwritten by network_run. */
int8_t *network_input(void);

/* Run the network on what lies in network_input().
 * Returns network_output_size values, valid until the next run, or NULL if the runtime failed. */
const int8_t *network_run(void);

#ifdef __cplusplus
}
#endif
#endif
