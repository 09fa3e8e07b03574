/* half.h - float16 to float32 and back, on any processor. */
#ifndef EDGEPT_HALF_H
#define EDGEPT_HALF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The bits of a float16 as those of a float32, exactly. */
uint32_t edgept_half_widen(uint16_t half);

/* The nearest float16, ties to even; too large ones become infinite. */
uint16_t edgept_half_narrow(float value);

/* Copy float32 to the graph's float type: float16 where is_half, else as they are. */
void edgept_half_store(void *into, const float *values, size_t count, bool is_half);

#endif
