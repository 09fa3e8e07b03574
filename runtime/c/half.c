/* half.c - float16. */
#include "half.h"

#include <string.h>

uint32_t edgept_half_widen(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 0x1F;
    uint32_t fraction = half & 0x3FF;
    if (exponent == 0x1F) /* infinity, NaN */
        return sign | 0x7F800000 | fraction << 13;
    if (exponent == 0) {
        if (fraction == 0)
            return sign;
        for (exponent = 1; (fraction & 0x400) == 0; exponent--) /* a subnormal is normal as float32 */
            fraction <<= 1;
        fraction &= 0x3FF;
    }
    return sign | (exponent + 112) << 23 | fraction << 13;
}

/* Drop the low bits of a number, rounding to nearest, ties to even. */
static uint32_t round_off(uint32_t number, uint32_t bits)
{
    uint32_t half = 1u << (bits - 1), rest = number & ((1u << bits) - 1);
    number >>= bits;
    return number + (rest > half || (rest == half && (number & 1)));
}

uint16_t edgept_half_narrow(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000, exponent = bits >> 23 & 0xFF, fraction = bits & 0x7FFFFF;
    if (exponent == 0xFF)
        return (uint16_t)(sign | 0x7C00 | (fraction != 0 ? 0x200 | fraction >> 13 : 0));
    if (exponent > 142) /* 2^16 and more */
        return (uint16_t)(sign | 0x7C00);
    if (exponent > 112) /* rounding may carry into the exponent, up to infinity: as it should */
        return (uint16_t)(sign | round_off((exponent - 112) << 23 | fraction, 13));
    if (exponent < 102) /* less than half of the smallest subnormal */
        return (uint16_t)sign;
    return (uint16_t)(sign | round_off(fraction | 0x800000, 126 - exponent));
}

void edgept_half_store(void *into, const float *values, size_t count, bool is_half)
{
    uint16_t *halves = into;
    if (!is_half)
        memcpy(into, values, count * sizeof *values);
    for (size_t i = 0; is_half && i < count; i++)
        halves[i] = edgept_half_narrow(values[i]);
}
