/* What a warp's lanes get when they have met: shuffles, votes and matrix operations, as the PTX manual has them. */
#include <string.h>

#include "sim.h"

static const char *const names[SIM_MEETINGS] = {
    [SIM_SYNC] = "__syncwarp", [SIM_SHUFFLE] = "__shfl_sync", [SIM_SHUFFLE_XOR] = "__shfl_xor_sync",
    [SIM_SHUFFLE_UP] = "__shfl_up_sync", [SIM_SHUFFLE_DOWN] = "__shfl_down_sync", [SIM_BALLOT] = "a vote",
    [SIM_MMA_BF16] = "mma_bf16", [SIM_LDMATRIX] = "ldmatrix_x4", [SIM_LDMATRIX_TRANS] = "ldmatrix_x4_trans",
};
const char *sim_meeting_name(enum sim_meeting kind) { return names[kind]; }

static void shuffle(enum sim_meeting kind, uint32_t mask, sim_exchange *const lanes[32]) {
    uint32_t before[32][2];
    for (uint32_t i = 0; i < 32; i++)
        if (mask >> i & 1) memcpy(before[i], lanes[i]->word, 8);
    for (uint32_t i = 0; i < 32; i++) {
        if (!(mask >> i & 1)) continue;
        uint32_t by = lanes[i]->word[2], width = lanes[i]->word[3], from = i;
        if (width == 0 || width > 32 || (width & (width - 1)) != 0) sim_die("%s with a width of %u", names[kind], width);
        uint32_t first = i & ~(width - 1), last = first + width - 1;
        if (kind == SIM_SHUFFLE) from = first | (by & (width - 1));
        else if (kind == SIM_SHUFFLE_XOR) from = (i ^ by) <= last ? i ^ by : i;
        else if (kind == SIM_SHUFFLE_UP) from = by <= i - first ? i - by : i;
        else from = by <= last - i ? i + by : i;
        if (from > 31 || !(mask >> from & 1)) sim_die("%s: lane %u reads lane %u, which does not take part", names[kind], i, from);
        memcpy(lanes[i]->word, before[from], 8);
    }
}

typedef float four __attribute__((vector_size(16)));

/* m16n8k16: products of bf16 are exact in float; they are added one by one, in the order of k. */
static void mma_bf16(sim_exchange *const lanes[32]) {
    _Alignas(16) float a[16][16], b[16][8], d[16][8];
    for (int i = 0; i < 32; i++) {
        const uint32_t *w = lanes[i]->word;
        int g = i / 4, t = i % 4;
        for (int r = 0; r < 4; r++) {
            int row = g + (r & 1) * 8, k = 2 * t + (r >> 1) * 8;
            a[row][k] = sim_bf16_float(w[r]);
            a[row][k + 1] = sim_bf16_float(w[r] >> 16);
        }
        for (int r = 0; r < 2; r++) {
            b[2 * t + 8 * r][g] = sim_bf16_float(w[4 + r]);
            b[2 * t + 8 * r + 1][g] = sim_bf16_float(w[4 + r] >> 16);
        }
        memcpy(&d[g][2 * t], w + 6, 8);
        memcpy(&d[g + 8][2 * t], w + 8, 8);
    }
    for (int i = 0; i < 16; i++) {
        four *sum = (four *)d[i], low = sum[0], high = sum[1];
        for (int k = 0; k < 16; k++) {
            const four *row = (const four *)b[k];
            low += a[i][k] * row[0];
            high += a[i][k] * row[1];
        }
        sum[0] = low;
        sum[1] = high;
    }
    for (int i = 0; i < 32; i++) {
        uint32_t *w = lanes[i]->word;
        memcpy(w + 6, &d[i / 4][i % 4 * 2], 8);
        memcpy(w + 8, &d[i / 4 + 8][i % 4 * 2], 8);
    }
}

static void ldmatrix(bool transposed, sim_exchange *const lanes[32]) {
    uint16_t m[4][8][8];
    for (int i = 0; i < 32; i++) {
        const void *row = lanes[i]->address;
        if ((uintptr_t)row % 16 != 0) sim_die("ldmatrix_x4: the row of lane %d is at %p, not 16-byte aligned", i, row);
        if (!sim_is_shared(row, 16)) sim_die("ldmatrix_x4: the row of lane %d at %p is not in shared memory", i, row);
        memcpy(m[i / 8][i % 8], row, 16);
    }
    for (int i = 0; i < 32; i++)
        for (int r = 0; r < 4; r++) {
            int row = i / 4, at = i % 4 * 2;
            uint32_t low = transposed ? m[r][at][row] : m[r][row][at];
            uint32_t high = transposed ? m[r][at + 1][row] : m[r][row][at + 1];
            lanes[i]->word[r] = low | high << 16;
        }
}

void sim_warp_exchange(enum sim_meeting kind, uint32_t mask, sim_exchange *const lanes[32]) {
    uint32_t votes = 0;
    switch (kind) {
    case SIM_SYNC:
    case SIM_MEETINGS: break;
    case SIM_BALLOT:
        for (int i = 0; i < 32; i++)
            if (mask >> i & 1) votes |= lanes[i]->word[0] << i;
        for (int i = 0; i < 32; i++)
            if (mask >> i & 1) lanes[i]->word[0] = votes;
        break;
    case SIM_SHUFFLE:
    case SIM_SHUFFLE_XOR:
    case SIM_SHUFFLE_UP:
    case SIM_SHUFFLE_DOWN: shuffle(kind, mask, lanes); break;
    case SIM_MMA_BF16: mma_bf16(lanes); break;
    case SIM_LDMATRIX:
    case SIM_LDMATRIX_TRANS: ldmatrix(kind == SIM_LDMATRIX_TRANS, lanes); break;
    }
}
