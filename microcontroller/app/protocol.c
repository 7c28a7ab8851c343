#include "protocol.h"

#include "golden.h"
#include "network.h"
#include "port.h"
#include "stack.h"

#ifndef BOARD_NAME
#define BOARD_NAME "unknown"
#endif

/* Room for the longest word that means anything ("version", "-128") and the terminator. */
#define WORD_SIZE 16

/* The line being read: the last word of it, and how it ended. */
struct line {
    char word[WORD_SIZE];
    int too_long; /* the word was longer than WORD_SIZE - 1; its beginning is in `word` */
    int over;     /* the line's last character has been read */
    int closed;   /* there is no more input at all */
};

struct command {
    const char *name;
    void (*answer)(struct line *line);
};

static uint32_t run_micros;

/* Writing */

static void put_text(const char *text)
{
    while (*text != '\0') {
        port_putc(*text++);
    }
}

/* Text that came over the line: whatever is not plain ASCII is shown as a question mark. */
static void put_received(const char *text)
{
    for (; *text != '\0'; text++) {
        port_putc((*text > ' ' && *text < 127) ? *text : '?');
    }
}

static void put_unsigned(uint32_t value)
{
    char digits[10];
    int count = 0;

    do {
        digits[count++] = (char)('0' + value % 10u);
        value /= 10u;
    } while (value != 0u);
    while (count > 0) {
        port_putc(digits[--count]);
    }
}

static void put_signed(int32_t value)
{
    if (value < 0) {
        port_putc('-');
        value = -value;
    }
    put_unsigned((uint32_t)value);
}

static void put_values(struct network_part part)
{
    for (size_t i = 0; i < part.size; i++) {
        port_putc(' ');
        put_signed(part.values[i]);
    }
}

/* The network's values: of several inputs, or outputs, one after another */

typedef struct network_part (*part_getter)(size_t index);

static size_t num_values(part_getter part)
{
    size_t count = 0;

    for (size_t p = 0; part(p).size != 0; p++) {
        count += part(p).size;
    }
    return count;
}

/* Returns NULL beyond the last one. */
static int8_t *value_at(part_getter part, size_t index)
{
    for (size_t p = 0; part(p).size != 0; p++) {
        if (index < part(p).size) {
            return part(p).values + index;
        }
        index -= part(p).size;
    }
    return NULL;
}

/* Reading */

static void read_char(struct line *line, int *c)
{
    *c = port_getc();
    line->closed = *c < 0;
    line->over = line->closed || *c == '\n' || *c == '\r';
}

/* Read the next word of the line. Returns 0 if there is none left. */
static int read_word(struct line *line)
{
    size_t length = 0;
    int c = ' ';

    line->too_long = 0;
    while (!line->over) {
        read_char(line, &c);
        if (line->over || c == ' ' || c == '\t') {
            if (length > 0) {
                break;
            }
        } else if (length < WORD_SIZE - 1) {
            line->word[length++] = (char)(c == '\0' ? '?' : c); /* no hidden end of the word */
        } else {
            line->too_long = 1;
        }
    }
    line->word[length] = '\0';
    return length > 0;
}

static void skip_line(struct line *line)
{
    int c;

    while (!line->over) {
        read_char(line, &c);
    }
}

/* Not strcmp, nor any other function of the C library: newlib's costs 732 bytes on an M4. */
static int same(const char *a, const char *b)
{
    while (*a != '\0' && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

/* A decimal number of at most four characters, which is what an int8 takes. Returns 0 if `word` is
 * none. */
static int parse_value(const char *word, int *value)
{
    int negative = word[0] == '-';
    const char *first = word + negative;
    const char *digit = first;

    *value = 0;
    for (; *digit != '\0'; digit++) {
        if (*digit < '0' || *digit > '9' || digit - first == 3) {
            return 0;
        }
        *value = 10 * *value + (*digit - '0');
    }
    if (negative) {
        *value = -*value;
    }
    return digit > first && *value >= INT8_MIN && *value <= INT8_MAX;
}

/* Commands. Each reads the rest of its line before it answers, so that a host that waits for the
 * answer never writes while the program computes. */

static void answer_version(struct line *line)
{
    skip_line(line);
    put_text("ok kprune ");
    put_unsigned(PROTOCOL_VERSION);
    port_putc(' ');
    put_text(network_name);
    port_putc(' ');
    put_text(BOARD_NAME);
}

static void answer_sizes(struct line *line)
{
    skip_line(line);
    put_text("ok ");
    put_unsigned((uint32_t)num_values(network_input));
    port_putc(' ');
    put_unsigned((uint32_t)num_values(network_output));
    port_putc(' ');
    put_unsigned((uint32_t)network_arena_size);
}

/* Store the values of a `run` line. Returns 1 if all is well, else answers and returns 0. */
static int read_input(struct line *line)
{
    size_t count = 0;
    int8_t *place;
    int value;

    for (; read_word(line); count++) {
        if (line->too_long || !parse_value(line->word, &value)) {
            skip_line(line);
            put_text("error value ");
            put_unsigned((uint32_t)count + 1u);
            put_text(" is ");
            put_received(line->word);
            put_text(", not in -128..127");
            return 0;
        }
        place = value_at(network_input, count);
        if (place != NULL) {
            *place = (int8_t)value;
        }
    }
    if (count != num_values(network_input)) {
        put_text("error run needs ");
        put_unsigned((uint32_t)num_values(network_input));
        put_text(" values, got ");
        put_unsigned((uint32_t)count);
        return 0;
    }
    return 1;
}

/* Returns 1, or answers and returns 0. */
static int run_timed(void)
{
    uint32_t start = port_micros();
    int done = network_invoke();

    run_micros = port_micros() - start;
    if (!done) {
        put_text("error the runtime failed");
    }
    return done;
}

static void run_and_answer(void)
{
    if (run_timed()) {
        put_text("ok");
        for (size_t p = 0; network_output(p).size != 0; p++) {
            put_values(network_output(p));
        }
    }
}

static void answer_run(struct line *line)
{
    if (read_input(line)) {
        run_and_answer();
    }
}

static void answer_go(struct line *line)
{
    skip_line(line);
    run_and_answer();
}

static void fill_inputs(uint32_t state)
{
    int8_t *place;

    for (size_t i = 0; (place = value_at(network_input, i)) != NULL; i++) {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        *place = (int8_t)(uint8_t)(state >> 24);
    }
}

/* Compare one golden vector. Returns 1 if it came out right, else answers and returns 0. */
static int check_vector(size_t index)
{
    const int8_t *expected = &golden_outputs[index * num_values(network_output)];
    const int8_t *output;

    fill_inputs(golden_seeds[index]);
    if (!run_timed()) {
        return 0;
    }
    for (size_t i = 0; (output = value_at(network_output, i)) != NULL; i++) {
        if (*output != expected[i]) {
            put_text("error vector ");
            put_unsigned((uint32_t)index + 1u);
            put_text(" output ");
            put_unsigned((uint32_t)i + 1u);
            put_text(" is ");
            put_signed(*output);
            put_text(", expected ");
            put_signed(expected[i]);
            return 0;
        }
    }
    return 1;
}

static void answer_test(struct line *line)
{
    skip_line(line);
    if (golden_count == 0) {
        put_text("error this program has no golden vectors");
        return;
    }
    for (size_t i = 0; i < golden_count; i++) {
        if (!check_vector(i)) {
            return;
        }
    }
    put_text("ok ");
    put_unsigned((uint32_t)golden_count);
}

static void answer_stack(struct line *line)
{
    skip_line(line);
    put_text("ok ");
    put_unsigned(stack_peak());
}

static void answer_time(struct line *line)
{
    skip_line(line);
    put_text("ok ");
    put_unsigned(run_micros);
}

static void answer_help(struct line *line);

static const struct command commands[] = {
    { "version", answer_version }, { "sizes", answer_sizes }, { "run", answer_run },
    { "go", answer_go },           { "test", answer_test },   { "stack", answer_stack },
    { "time", answer_time },       { "help", answer_help },
};
#define NUM_COMMANDS (sizeof commands / sizeof commands[0])

static void answer_help(struct line *line)
{
    skip_line(line);
    put_text("ok");
    for (size_t i = 0; i < NUM_COMMANDS; i++) {
        port_putc(' ');
        put_text(commands[i].name);
    }
}

static void answer(struct line *line)
{
    for (size_t i = 0; !line->too_long && i < NUM_COMMANDS; i++) {
        if (same(line->word, commands[i].name)) {
            commands[i].answer(line);
            return;
        }
    }
    skip_line(line);
    put_text("error unknown command ");
    put_received(line->word);
    put_text(": try help");
}

void protocol_greet(void)
{
    put_text("# kprune: ");
    put_text(network_name);
    put_text(" on " BOARD_NAME " is ready\n");
}

int protocol_serve(void)
{
    struct line line = { { '\0' }, 0, 0, 0 };

    if (read_word(&line)) {
        answer(&line);
        port_putc('\n');
    }
    return !line.closed;
}
