/* main.c: read a line, run the network, print the scores. */
#include "network.h"
#include "port.h"
#include "protocol.h"
#include "stack.h"

/* The network cannot start: say why, again and again, for whoever opens the line later. */
static void complain(const char *problem)
{
    do {
        for (const char *c = "error "; *c != '\0'; c++) {
            port_putc(*c);
        }
        for (const char *c = problem; *c != '\0'; c++) {
            port_putc(*c);
        }
        port_putc('\n');
    } while (port_getc() >= 0);
}

int main(void)
{
    const char *problem;

    stack_paint();
    port_init();
    problem = network_init();
    if (problem != NULL) {
        complain(problem);
        return 1;
    }
    protocol_greet();
    while (protocol_serve()) {
    }
    return 0;
}
