#include <string.h>

#include "shard/sample/sampler.h"

/* Philox 4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. */
double sampler_uniform(uint64_t seed, uint32_t sample_index, uint64_t position) {
    uint32_t c[4] = {(uint32_t)position, (uint32_t)(position >> 32), sample_index, 0};
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
        uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ key[0], (uint32_t)b,
                            (uint32_t)(a >> 32) ^ c[3] ^ key[1], (uint32_t)a};
        memcpy(c, next, sizeof c);
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    uint64_t bits = (uint64_t)c[0] << 21 ^ (uint64_t)c[1] >> 11; /* 32 + 21 bits */
    return (double)bits * 0x1p-53;
}

double sampler_log(double x) {
    int exponent = 0;
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (bits >> 52 == 0) { /* subnormal */
        x *= 0x1p54;
        memcpy(&bits, &x, sizeof bits);
        exponent = -54;
    }
    exponent += (int)(bits >> 52) - 1023;
    bits = (bits & 0x000FFFFFFFFFFFFFu) | 0x3FF0000000000000u;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        exponent++;
    }
    /* log m = 2 artanh((m - 1) / (m + 1)); |s| < 0.1716, so the term s^23/23 is below 2^-62. */
    double s = (m - 1) / (m + 1), s2 = s * s, sum = 0;
    for (int k = 23; k >= 3; k -= 2) sum = (sum + 1.0 / k) * s2;
    return (double)exponent * 0.69314718055994530942 + 2 * (s + s * sum);
}
