/* protocol.h: the conversation over the serial line, the same for tests, simulators and people.
 *
 * One request per line, one reply per line. A line ends with LF, CR or both; words are separated
 * by spaces or tabs; empty lines are ignored.
 *
 *     request      reply
 *     version      ok kprune 1 gesture stm32f405      protocol version, network, board
 *     sizes        ok 1024 5 6144                     input, output, arena: bytes
 *     run 12 -5 …  ok 3 97 …                          int8 values in, int8 values out
 *     go           ok 3 97 …                          as run, on the input that a debugger has
 *                                                     written to where network_input() says
 *     test         ok 3                               golden vectors reproduced bit for bit
 *     stack        ok 612                             most bytes of stack used since reset
 *     time         ok 8123                            microseconds of the last run
 *     help         ok version sizes run go test stack time help
 *
 * A network of several inputs takes their values one after another, and several outputs come so;
 * `sizes` then counts them together.
 *
 * What went wrong is said in a reply as well, and the line after it is read as usual:
 *
 *     run 1 2      error run needs 1024 values, got 2
 *     run 128 …    error value 1 is 128, not in -128..127
 *     jump         error unknown command jump: try help
 *
 * A line may be of any length: values are stored as they arrive, and a word longer than any number
 * or command is refused. A processor fault prints one line that begins with `fault` and stops.
 * After reset the program says `# kprune: gesture on stm32f405 is ready`. */
#ifndef KPRUNE_PROTOCOL
#define KPRUNE_PROTOCOL

#define PROTOCOL_VERSION 1

#ifdef __cplusplus
extern "C" {
#endif

/* Say that the program is ready. */
void protocol_greet(void);

/* Read one request and answer it. Returns 0 at the end of the input, else 1. */
int protocol_serve(void);

#ifdef __cplusplus
}
#endif
#endif
