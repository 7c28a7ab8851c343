/* NUCLEO-G474RE: STM32G474RE at 170 MHz. */
#include "stm32.h"

const struct stm32l4_plan stm32l4_board_plan = {
    .m = 4,
    .n = 85,
    .wait_states = 4,
    .reset_hz = 16000000,
    .boost = 1,
};
