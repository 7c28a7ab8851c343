/* NUCLEO-F411RE: STM32F411RE at 100 MHz. */
#include "stm32.h"

const struct stm32f4_plan stm32f4_board_plan = {
    .m = 8,
    .n = 100,
    .q = 4,
    .voltage = 3,
    .flash = (7u << 8) | 3u, /* prefetch, both caches; 3 wait states */
    .apb1_divider = 2,
    .apb2_divider = 1,
    .over_drive = 0,
};
