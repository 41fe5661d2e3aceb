/* Exchanges through pinned host memory and the host's comm. Two buffers: while one is exchanged, the next piece of a sum is
 * already copied into the other. Every call waits for the stream, so buffers are the host's again when it returns. */
#include <stdlib.h>

#include "base/memory.h"
#include "shard/comm/cuda/cuda_comm_internal.h"

enum { STAGE_BYTES_MAX = 8 << 20, STAGE_BYTES_MIN = 64 };

struct staged_part {
    char *buffer[2];        /* [bytes], pinned */
    size_t bytes;           /* a multiple of 64 */
    cudaEvent_t arrived[2]; /* what was copied into a buffer is there */
    size_t *send, *recv;    /* [size]: of one piece */
    size_t *longest;        /* [size] */
};

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

static status take(cuda_state *s, staged_part *g) {
    size_t want = s->large_bytes < STAGE_BYTES_MAX ? s->large_bytes : STAGE_BYTES_MAX;
    if (want < STAGE_BYTES_MIN * (size_t)s->c.size) want = STAGE_BYTES_MIN * (size_t)s->c.size;
    g->bytes = want / STAGE_BYTES_MIN * STAGE_BYTES_MIN;
    for (int i = 0; i < 2; i++) {
        CUDA_TRY(cudaHostAlloc((void **)&g->buffer[i], g->bytes, cudaHostAllocDefault));
        CUDA_TRY(cudaEventCreateWithFlags(&g->arrived[i], cudaEventDisableTiming));
    }
    return ST_OK;
}

status staged_part_open(cuda_state *s) {
    staged_part *g = s->staged = memory_alloc(sizeof *g);
    g->send = memory_alloc_array(s->c.size, sizeof *g->send);
    g->recv = memory_alloc_array(s->c.size, sizeof *g->recv);
    g->longest = memory_alloc_array(s->c.size, sizeof *g->longest);
    return cuda_state_agree(s, take(s, g));
}

void staged_part_close(cuda_state *s) {
    staged_part *g = s->staged;
    if (!g) return;
    for (int i = 0; i < 2; i++) {
        if (g->arrived[i]) (void)cudaEventDestroy(g->arrived[i]);
        if (g->buffer[i]) (void)cudaFreeHost(g->buffer[i]);
    }
    free(g->send);
    free(g->recv);
    free(g->longest);
    free(g);
    s->staged = NULL;
}

static status wait_stream(cuda_state *s) {
    CUDA_TRY(cudaStreamSynchronize(s->stream));
    return ST_OK;
}
static status to_host(cuda_state *s, void *to, const void *from, size_t bytes) {
    if (bytes) CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, s->stream));
    return ST_OK;
}
static status to_device(cuda_state *s, void *to, const void *from, size_t bytes) {
    if (bytes) CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, s->stream));
    return ST_OK;
}

/* Piece `k` of a sum begins its way to the host. Its buffer is free: what left it for the device is before it on the stream,
 * and nothing on the host writes it before `arrived`. */
static status fetch_piece(cuda_state *s, const float *x, size_t at, size_t count, size_t k) {
    staged_part *g = s->staged;
    TRY(to_host(s, g->buffer[k % 2], x + at, count * sizeof *x));
    CUDA_TRY(cudaEventRecord(g->arrived[k % 2], s->stream));
    return ST_OK;
}

status staged_all_reduce(cuda_state *s, float *x, size_t count) {
    staged_part *g = s->staged;
    const size_t piece = g->bytes / sizeof *x;
    if (count) TRY(fetch_piece(s, x, 0, least(piece, count), 0));
    for (size_t at = 0, k = 0; at < count; at += piece, k++) {
        size_t some = least(piece, count - at), next = at + some;
        if (next < count) TRY(fetch_piece(s, x, next, least(piece, count - next), k + 1));
        CUDA_TRY(cudaEventSynchronize(g->arrived[k % 2]));
        float *sum = (float *)(void *)g->buffer[k % 2];
        TRY(comm_all_reduce(s->ranks, sum, some));
        TRY(to_device(s, x + at, sum, some * sizeof *x));
    }
    return wait_stream(s);
}

/* Of a block of so many bytes, what goes at once behind those that are done. */
static size_t piece_of(size_t bytes, size_t done, size_t piece) { return bytes > done ? least(piece, bytes - done) : 0; }

/* What came into the second buffer, some[r] bytes from each rank, to its place in that rank's block of bytes[r]. */
static status hand_out(cuda_state *s, const size_t *some, const size_t *bytes, size_t done, void *out) {
    const char *from = s->staged->buffer[1];
    char *block = out;
    for (uint32_t r = 0; r < s->c.size; r++) {
        TRY(to_device(s, block + done, from, some[r]));
        from += some[r];
        block += bytes[r];
    }
    return wait_stream(s);
}

status staged_all_gather_v(cuda_state *s, const void *in, const size_t *bytes, void *out) {
    staged_part *g = s->staged;
    size_t longest = 0, piece = g->bytes / s->c.size;
    for (uint32_t r = 0; r < s->c.size; r++)
        if (bytes[r] > longest) longest = bytes[r];
    for (size_t done = 0; done < longest; done += piece) {
        for (uint32_t r = 0; r < s->c.size; r++) g->send[r] = piece_of(bytes[r], done, piece);
        TRY(to_host(s, g->buffer[0], (const char *)in + done, g->send[s->c.rank]));
        TRY(wait_stream(s));
        TRY(comm_all_gather_v(s->ranks, g->buffer[0], g->send, g->buffer[1]));
        TRY(hand_out(s, g->send, bytes, done, out));
    }
    return ST_OK;
}

/* Pairs alone know their counts, so ranks first find how many pieces the longest block has. */
static status longest_block(cuda_state *s, const size_t *send_bytes, size_t *longest) {
    size_t mine = 0;
    for (uint32_t r = 0; r < s->c.size; r++)
        if (send_bytes[r] > mine) mine = send_bytes[r];
    TRY(comm_all_gather(s->ranks, &mine, sizeof mine, s->staged->longest));
    *longest = 0;
    for (uint32_t r = 0; r < s->c.size; r++)
        if (s->staged->longest[r] > *longest) *longest = s->staged->longest[r];
    return ST_OK;
}

status staged_all_to_all_v(cuda_state *s, const void *in, const size_t *send_bytes, void *out,
                           const size_t *recv_bytes) {
    staged_part *g = s->staged;
    size_t longest = 0, piece = g->bytes / s->c.size;
    TRY(longest_block(s, send_bytes, &longest));
    for (size_t done = 0; done < longest; done += piece) {
        const char *block = in;
        char *to = g->buffer[0];
        for (uint32_t r = 0; r < s->c.size; r++) {
            g->send[r] = piece_of(send_bytes[r], done, piece);
            g->recv[r] = piece_of(recv_bytes[r], done, piece);
            TRY(to_host(s, to, block + done, g->send[r]));
            to += g->send[r];
            block += send_bytes[r];
        }
        TRY(wait_stream(s));
        TRY(comm_all_to_all_v(s->ranks, g->buffer[0], g->send, g->buffer[1], g->recv));
        TRY(hand_out(s, g->recv, recv_bytes, done, out));
    }
    return ST_OK;
}

status staged_broadcast(cuda_state *s, void *data, size_t bytes, uint32_t root) {
    staged_part *g = s->staged;
    for (size_t done = 0; done < bytes; done += g->bytes) {
        size_t some = least(g->bytes, bytes - done);
        char *place = (char *)data + done;
        if (s->c.rank == root) TRY(to_host(s, g->buffer[0], place, some));
        TRY(wait_stream(s));
        TRY(comm_broadcast(s->ranks, g->buffer[0], some, root));
        if (s->c.rank != root) TRY(to_device(s, place, g->buffer[0], some));
        TRY(wait_stream(s));
    }
    return ST_OK;
}

status staged_barrier(cuda_state *s) {
    TRY(wait_stream(s));
    return comm_barrier(s->ranks);
}
