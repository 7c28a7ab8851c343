/* NUCLEO-L476RG: STM32L476RG at 80 MHz. */
#include "stm32.h"

const struct stm32l4_plan stm32l4_board_plan = {
    .m = 1,
    .n = 10,
    .wait_states = 4,
    .reset_hz = 4000000,
    .boost = 0,
};
