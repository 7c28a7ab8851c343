#include "stm32.h"

static void set_field(volatile uint32_t *reg, uint32_t shift, uint32_t mask, uint32_t value)
{
    *reg = (*reg & ~(mask << shift)) | (value << shift);
}

void stm32_pin_function(struct stm32_gpio *port, uint32_t pin, uint32_t function)
{
    set_field(&port->function[pin / 8u], 4u * (pin % 8u), 0xFu, function);
    set_field(&port->pull, 2u * pin, 3u, 1u);
    set_field(&port->mode, 2u * pin, 3u, 2u);
}
