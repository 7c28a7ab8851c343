/* count_plugin.c: a TCG plugin for QEMU that counts the instructions of one inference, tells which
 * line of the network's function each was spent on, and finds the deepest stack.
 *
 *     cc -O2 -shared -fPIC -DPLUGIN_API=1 -o count_plugin.so count_plugin.c
 *     qemu-system-arm ... -d plugin -D report.txt \
 *         -plugin ./count_plugin.so,network=0xLO-0xHI,caller=0xLO-0xHI,stack=0xLO-0xHI
 *
 *     network  the function <name>_run
 *     caller   the function that calls it
 *     stack    lowest and highest address of the stack
 *
 * An inference begins with the first instruction of `network` and ends when `caller` goes on. What
 * is executed in between belongs to the place in `network` it was called from. The report, of the
 * inference that took most:
 *
 *     inferences 3
 *     instructions 5132
 *     site 0x80000a4 120          address in `network`, instructions from there; one line each
 *     stack 612                   bytes below the top, in any inference
 *
 * Instructions are not cycles: QEMU has no model of time. Tried with QEMU 7.2. Distributions leave
 * qemu-plugin.h out, so the entry points used are declared here from the documented interface:
 * version 1 (QEMU 4.2 to 8) and 2 (from QEMU 9) have them alike. */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef PLUGIN_API
#define PLUGIN_API 1
#endif

struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { CB_NO_REGS = 0, MEM_WRITE = 2 };
typedef void (*block_callback)(unsigned cpu, void *user);
typedef void (*memory_callback)(unsigned cpu, uint32_t info, uint64_t address, void *user);

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t, void (*)(uint64_t, struct qemu_plugin_tb *));
void qemu_plugin_register_atexit_cb(uint64_t, void (*)(uint64_t, void *), void *);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, block_callback, int, void *);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, memory_callback, int, int, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
void qemu_plugin_outs(const char *);

__attribute__((visibility("default"))) int qemu_plugin_version = PLUGIN_API;

/* Addresses, the end excluded. */
struct range {
    uint64_t begin, end;
};

/* A translated block. Those of `network` also gather what is spent on their behalf. */
struct block {
    uint64_t num_instructions;
    uint64_t site; /* last instruction of the block: the call, if it ends in one */
    uint64_t spent, spent_most;
    int in_network, in_caller, is_entry;
    struct block *next; /* of those in `network` */
};

static struct range network, caller, stack;
static struct block *sites;   /* every block of `network` */
static struct block *current; /* the one being executed, or called from; NULL outside inferences */
static uint64_t instructions, instructions_most, inferences, deepest = UINT64_MAX;

static int contains(const struct range *range, uint64_t address)
{
    return address >= range->begin && address < range->end;
}

/* An inference is over: keep its figures if it took more than any before. */
static void finish(void)
{
    int most = instructions > instructions_most;

    for (struct block *site = sites; site != NULL; site = site->next) {
        if (most) {
            site->spent_most = site->spent;
        }
        site->spent = 0;
    }
    if (most) {
        instructions_most = instructions;
    }
    inferences++;
    instructions = 0;
    current = NULL;
}

static void on_block(unsigned cpu, void *user)
{
    struct block *block = user;

    (void)cpu;
    if (current != NULL && block->in_caller) {
        finish();
    }
    if (block->is_entry || (current != NULL && block->in_network)) {
        current = block;
    }
    if (current != NULL) {
        current->spent += block->num_instructions;
        instructions += block->num_instructions;
    }
}

static void on_store(unsigned cpu, uint32_t info, uint64_t address, void *user)
{
    (void)cpu;
    (void)info;
    (void)user;
    if (current != NULL && contains(&stack, address) && address < deepest) {
        deepest = address;
    }
}

static void on_translate(uint64_t id, struct qemu_plugin_tb *tb)
{
    struct block *block = calloc(1, sizeof *block); /* lives as long as the run */
    size_t count = qemu_plugin_tb_n_insns(tb);
    uint64_t first = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, 0));

    (void)id;
    block->num_instructions = count;
    block->site = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, count - 1));
    block->in_network = contains(&network, first);
    block->in_caller = contains(&caller, first);
    block->is_entry = first == network.begin;
    if (block->in_network) {
        block->next = sites;
        sites = block;
    }
    qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, CB_NO_REGS, block);
    for (size_t i = 0; i < count; i++) {
        qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(tb, i), on_store, CB_NO_REGS,
                                         MEM_WRITE, NULL);
    }
}

static void report(const char *format, uint64_t a, uint64_t b)
{
    char line[96];

    snprintf(line, sizeof line, format, a, b);
    qemu_plugin_outs(line);
}

static void on_exit_of_qemu(uint64_t id, void *user)
{
    (void)id;
    (void)user;
    report("inferences %" PRIu64 "\n", inferences, 0);
    report("instructions %" PRIu64 "\n", instructions_most, 0);
    for (struct block *site = sites; site != NULL; site = site->next) {
        if (site->spent_most > 0) {
            report("site 0x%" PRIx64 " %" PRIu64 "\n", site->site, site->spent_most);
        }
    }
    report("stack %" PRIu64 "\n", deepest < stack.end ? stack.end - deepest : 0, 0);
}

static int parse_range(const char *argument, const char *name, struct range *range)
{
    size_t length = strlen(name);

    return strncmp(argument, name, length) == 0 && argument[length] == '=' &&
           sscanf(argument + length + 1, "%" SCNi64 "-%" SCNi64, (int64_t *)&range->begin,
                  (int64_t *)&range->end) == 2;
}

__attribute__((visibility("default"))) int qemu_plugin_install(uint64_t id, const void *info,
                                                               int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (!parse_range(argv[i], "network", &network) &&
            !parse_range(argv[i], "caller", &caller) && !parse_range(argv[i], "stack", &stack)) {
            fprintf(stderr, "count_plugin: cannot read '%s'\n", argv[i]);
            return -1;
        }
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
    qemu_plugin_register_atexit_cb(id, on_exit_of_qemu, NULL);
    return 0;
}
