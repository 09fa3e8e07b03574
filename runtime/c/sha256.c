/* sha256.c - SHA-256, FIPS 180-4: https://doi.org/10.6028/NIST.FIPS.180-4 */
#include "sha256.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 64

struct sha256 {
    uint32_t state[8];
    unsigned char pending[BLOCK];
    uint64_t size; /* of what was added, in bytes */
};

/* The first 32 bits of the fractional parts of the cube roots of the first 64 primes. */
static const uint32_t constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t turn(uint32_t word, int by)
{
    return word >> by | word << (32 - by);
}

static void add_block(uint32_t state[8], const unsigned char *block)
{
    uint32_t words[64], v[8];
    for (int i = 0; i < 16; i++, block += 4)
        words[i] = (uint32_t)block[0] << 24 | (uint32_t)block[1] << 16 | (uint32_t)block[2] << 8 | block[3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = words[i - 15], b = words[i - 2];
        words[i] = words[i - 16] + (turn(a, 7) ^ turn(a, 18) ^ a >> 3) + words[i - 7] +
                   (turn(b, 17) ^ turn(b, 19) ^ b >> 10);
    }
    memcpy(v, state, sizeof v);
    for (int i = 0; i < 64; i++) {
        uint32_t sum1 = turn(v[4], 6) ^ turn(v[4], 11) ^ turn(v[4], 25);
        uint32_t chosen = (v[4] & v[5]) ^ (~v[4] & v[6]);
        uint32_t first = v[7] + sum1 + chosen + constants[i] + words[i];
        uint32_t sum0 = turn(v[0], 2) ^ turn(v[0], 13) ^ turn(v[0], 22);
        uint32_t majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += first;
        v[0] = first + sum0 + majority;
    }
    for (int i = 0; i < 8; i++)
        state[i] += v[i];
}

static void begin(struct sha256 *hash)
{
    static const uint32_t initial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(hash->state, initial, sizeof initial);
    hash->size = 0;
}

static void add(struct sha256 *hash, const unsigned char *data, size_t size)
{
    size_t held = hash->size % BLOCK;
    hash->size += size;
    while (size > 0) {
        if (held == 0 && size >= BLOCK) {
            add_block(hash->state, data);
            data += BLOCK;
            size -= BLOCK;
            continue;
        }
        size_t part = BLOCK - held < size ? BLOCK - held : size;
        memcpy(hash->pending + held, data, part);
        data += part;
        size -= part;
        held = (held + part) % BLOCK;
        if (held == 0)
            add_block(hash->state, hash->pending);
    }
}

static void finish(struct sha256 *hash, char hex[65])
{
    uint64_t bits = hash->size * 8;
    unsigned char length[8];
    for (int i = 7; i >= 0; i--, bits >>= 8)
        length[i] = (unsigned char)bits;
    add(hash, (const unsigned char *)"\x80", 1);
    while (hash->size % BLOCK != BLOCK - sizeof length)
        add(hash, (const unsigned char *)"", 1);
    add(hash, length, sizeof length);
    for (int i = 0; i < 8; i++)
        snprintf(hex + 8 * i, 9, "%08x", (unsigned)hash->state[i]);
}

void edgept_sha256_bytes(const void *data, size_t size, char hex[65])
{
    struct sha256 hash;
    begin(&hash);
    add(&hash, data, size);
    finish(&hash, hex);
}

bool edgept_sha256_file(int descriptor, char hex[65])
{
    unsigned char block[16384];
    struct sha256 hash;
    ssize_t got;
    begin(&hash);
    while ((got = read(descriptor, block, sizeof block)) != 0) {
        if (got < 0 && errno != EINTR)
            return false;
        if (got > 0)
            add(&hash, block, (size_t)got);
    }
    finish(&hash, hex);
    return true;
}
