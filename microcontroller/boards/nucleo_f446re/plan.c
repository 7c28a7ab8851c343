/* NUCLEO-F446RE: STM32F446RE at 180 MHz. */
#include "stm32.h"

const struct stm32f4_plan stm32f4_board_plan = {
    .m = 8,
    .n = 180,
    .q = 8,
    .voltage = 3,
    .flash = (7u << 8) | 5u, /* prefetch, both caches; 5 wait states */
    .apb1_divider = 4,
    .apb2_divider = 2,
    .over_drive = 1,
};
