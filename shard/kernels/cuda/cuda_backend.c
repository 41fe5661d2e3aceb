/* Memory, order and errors of the device; operators are in their own files. */
#include "shard/kernels/cuda/cuda_backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "shard/kernels/cuda/attention.h"
#include "shard/kernels/cuda/devices.h"
#include "shard/kernels/cuda/graphs.h"
#include "shard/kernels/cuda/linear.h"
#include "shard/kernels/cuda/moe.h"
#include "shard/kernels/cuda/scan.h"

/* ---- errors ---- */

status cuda_check(cuda_backend *c, cudaError_t e, const char *what) {
    if (c->failed != ST_OK) return fail(c->failed, "%s", c->failure);
    if (e == cudaSuccess) return ST_OK;
    c->failed = cuda_status_of(e);
    snprintf(c->failure, sizeof c->failure, "%s: %s: %s (%s)", c->where, what, cuda_cause_of(e),
             cudaGetErrorName(e));
    return fail(c->failed, "%s", c->failure);
}

/* For calls that return nothing: the step's end tells. */
static void keep_error(cuda_backend *c, cudaError_t e, const char *what) { (void)!cuda_check(c, e, what); }

/* ---- memory ---- */

status cuda_take(cuda_backend *c, size_t bytes, const char *what, void **out) {
    *out = NULL;
    if (bytes == 0) return ST_OK;
    cudaError_t e = cudaMalloc(out, bytes);
    if (e != cudaSuccess) {
        size_t left = 0, total = 0;
        *out = NULL;
        (void)cudaGetLastError(); /* a refused allocation is no failure of the device */
        (void)cudaMemGetInfo(&left, &total);
        return fail(cuda_status_of(e), "%s: %zu bytes for %s, %zu of %zu are free: %s", c->where, bytes, what, left,
                    total, cuda_cause_of(e));
    }
    return cuda_check(c, cudaMemsetAsync(*out, 0, bytes, c->stream), what);
}

void cuda_give(void *p) {
    if (p) (void)cudaFree(p);
}

static status alloc(backend *b, size_t bytes, const char *what, void **out) {
    return cuda_take(cuda_of(b), bytes, what, out);
}

static void release(backend *b, void *p, size_t bytes) {
    (void)b, (void)bytes;
    cuda_give(p);
}

/* Pinned memory in pieces. A piece is free again once the copies out of it are done. */
enum { PIECES = 4, PIECE_BYTES = 2 << 20, GET_BYTES = 1 << 20, LATER_BYTES = 256 << 10, LATER_MAX = 8 };
typedef struct late_copy {
    void *to;
    const void *from; /* pinned */
    size_t bytes;
} late_copy;
typedef struct cuda_staging {
    char *host;  /* [PIECES, PIECE_BYTES], [GET_BYTES], [LATER_BYTES] */
    late_copy later[LATER_MAX]; /* what get_later has asked for and nobody has waited for yet */
    uint32_t later_count;
    size_t later_used;
    cudaEvent_t done[PIECES];
    bool waits[PIECES]; /* copies out of it have been asked for */
    uint32_t piece;
    size_t used; /* of the current piece */
} cuda_staging;

static status open_staging(cuda_backend *c) {
    cuda_staging *s = c->staging = memory_alloc(sizeof *s);
    void *p;
    TRY(cuda_check(c, cudaMallocHost(&p, (size_t)PIECES * PIECE_BYTES + GET_BYTES + LATER_BYTES), "pinned memory"));
    s->host = p;
    for (int i = 0; i < PIECES; i++)
        TRY(cuda_check(c, cudaEventCreateWithFlags(&s->done[i], cudaEventDisableTiming), "events"));
    return ST_OK;
}

static void close_staging(cuda_staging *s) {
    if (!s) return;
    for (int i = 0; i < PIECES; i++)
        if (s->done[i]) (void)cudaEventDestroy(s->done[i]);
    if (s->host) (void)cudaFreeHost(s->host);
    free(s);
}

static void next_piece(cuda_backend *c) {
    cuda_staging *s = c->staging;
    keep_error(c, cudaEventRecord(s->done[s->piece], c->stream), "copies to the device");
    s->waits[s->piece] = true;
    s->piece = (s->piece + 1) % PIECES;
    s->used = 0;
    if (s->waits[s->piece])
        keep_error(c, cudaEventSynchronize(s->done[s->piece]), "copies to the device");
}

void cuda_put(cuda_backend *c, void *to, const void *host, size_t bytes) {
    cuda_staging *s = c->staging;
    for (size_t at = 0, n; at < bytes && c->failed == ST_OK; at += n) {
        if (s->used == PIECE_BYTES) next_piece(c);
        n = bytes - at < PIECE_BYTES - s->used ? bytes - at : PIECE_BYTES - s->used;
        char *from = s->host + (size_t)s->piece * PIECE_BYTES + s->used;
        memcpy(from, (const char *)host + at, n);
        keep_error(c, cudaMemcpyAsync((char *)to + at, from, n, cudaMemcpyHostToDevice, c->stream),
                   "copies to the device");
        s->used += (n + 63) / 64 * 64;
        if (s->used > PIECE_BYTES) s->used = PIECE_BYTES;
    }
}

/* Waits for the stream; what was asked for before is then there. */
static status wait_for_stream(cuda_backend *c) {
    cuda_staging *s = c->staging;
    TRY(cuda_check(c, cudaStreamSynchronize(c->stream), "a step"));
    for (uint32_t i = 0; i < s->later_count; i++) memcpy(s->later[i].to, s->later[i].from, s->later[i].bytes);
    s->later_count = 0;
    s->later_used = 0;
    return ST_OK;
}

status cuda_get(cuda_backend *c, void *host, const void *from, size_t bytes) {
    char *pinned = c->staging->host + (size_t)PIECES * PIECE_BYTES;
    for (size_t at = 0, n; at < bytes; at += n) {
        n = bytes - at < GET_BYTES ? bytes - at : GET_BYTES;
        TRY(cuda_check(c, cudaMemcpyAsync(pinned, (const char *)from + at, n, cudaMemcpyDeviceToHost, c->stream),
                       "copies from the device"));
        TRY(wait_for_stream(c));
        memcpy((char *)host + at, pinned, n);
    }
    return ST_OK;
}

static void put(backend *b, void *to, const void *host, size_t bytes) { cuda_put(cuda_of(b), to, host, bytes); }
static status get(backend *b, void *host, const void *from, size_t bytes) {
    return cuda_get(cuda_of(b), host, from, bytes);
}

/* What there is no room for is waited for. */
static void get_later(backend *b, void *host, const void *from, size_t bytes) {
    cuda_backend *c = cuda_of(b);
    cuda_staging *s = c->staging;
    if (bytes == 0 || c->failed != ST_OK) return;
    if (s->later_count == LATER_MAX || bytes > LATER_BYTES - s->later_used) {
        (void)!cuda_get(c, host, from, bytes); /* its failure is kept */
        return;
    }
    char *pinned = s->host + (size_t)PIECES * PIECE_BYTES + GET_BYTES + s->later_used;
    keep_error(c, cudaMemcpyAsync(pinned, from, bytes, cudaMemcpyDeviceToHost, c->stream), "copies from the device");
    s->later[s->later_count++] = (late_copy){host, pinned, bytes};
    s->later_used += (bytes + 63) / 64 * 64;
    if (s->later_used > LATER_BYTES) s->later_used = LATER_BYTES;
}

static status finish(backend *b) {
    cuda_backend *c = cuda_of(b);
    keep_error(c, cudaGetLastError(), "starting a kernel");
    return wait_for_stream(c);
}

/* ---- rows and pages ---- */

enum { CHANGES = 4096 }; /* that travel together */

static void pages_change(backend *b, const page_change *changes, uint32_t count) {
    cuda_backend *c = cuda_of(b);
    for (uint32_t at = 0, n; at < count; at += n) {
        n = count - at < CHANGES ? count - at : CHANGES;
        cuda_put(c, c->changes, changes + at, n * sizeof *changes);
        cuda_pages_set(c->stream, c->pages, c->rows.pages_per_slot, c->changes, n);
    }
}

static uint32_t slot_of_row(const step_rows *rows, uint32_t *span, uint32_t row) {
    const row_span *s = rows->spans[0] ? rows->spans[0] : rows->spans[1];
    while (row >= s[*span].row + s[*span].count) ++*span;
    return s[*span].slot;
}

static void rows_begin(backend *b, const step_rows *rows) {
    cuda_backend *c = cuda_of(b);
    uint32_t most = c->options.rows_max, span = 0;
    INVARIANT(rows->n <= most);
    c->host_rows = *rows;
    uint32_t *words = c->row_host, *token = words + 1, *position = token + most, *slot = position + most;
    memset(words, 0, (1 + 3 * (size_t)most) * sizeof *words);
    words[0] = rows->n;
    for (uint32_t i = 0; i < rows->n; i++) {
        token[i] = rows->token ? rows->token[i] : 0;
        position[i] = rows->position[i];
        slot[i] = slot_of_row(rows, &span, i);
    }
    cuda_put(c, c->row_words, words, (1 + 3 * (size_t)most) * sizeof *words);
    cuda_attention_plan(c);
}

/* ---- angles ---- */

static void rope_close(backend *b, rope *r) {
    (void)b;
    if (!r) return;
    cuda_give(r->cosine), cuda_give(r->sine);
    cuda_give(r->offset_cosine), cuda_give(r->offset_sine);
    cuda_give(r->page_cosine), cuda_give(r->page_sine);
    free(r);
}

static status take_angles(cuda_backend *c, uint32_t n, uint32_t pairs, float **cosine, float **sine) {
    void *p;
    TRY(cuda_take(c, (size_t)n * pairs * sizeof(float), "angles", &p));
    *cosine = p;
    TRY(cuda_take(c, (size_t)n * pairs * sizeof(float), "angles", &p));
    *sine = p;
    return ST_OK;
}

static status rope_open(backend *b, double base, uint32_t head_dim, uint32_t pairs, uint32_t context,
                        uint32_t rows_max, rope **out) {
    enum { PAGE = 64 };
    cuda_backend *c = cuda_of(b);
    status st;
    rope *r = memory_alloc(sizeof *r);
    uint32_t pages = context / PAGE + 1;
    *r = (rope){.base = base, .head_dim = head_dim, .pairs = pairs, .context = context, .rows_max = rows_max};
    TRY_OR_FAIL(take_angles(c, rows_max, pairs, &r->cosine, &r->sine));
    TRY_OR_FAIL(take_angles(c, PAGE, pairs, &r->offset_cosine, &r->offset_sine));
    cuda_rope_angles(c->stream, r->offset_cosine, r->offset_sine, NULL, PAGE, 1, base, head_dim, pairs);
    if (context) {
        TRY_OR_FAIL(take_angles(c, pages, pairs, &r->page_cosine, &r->page_sine));
        cuda_rope_angles(c->stream, r->page_cosine, r->page_sine, NULL, pages, PAGE, base, head_dim, pairs);
    }
    *out = r;
    return ST_OK;
fail:
    rope_close(b, r);
    return st;
}

static void rope_begin(backend *b, rope *r) {
    cuda_backend *c = cuda_of(b);
    /* All rows that a step may have: what is recorded serves the next step, which has others. */
    uint32_t n = c->recording ? RECORDED_ROWS_MAX : c->host_rows.n;
    if (n > r->rows_max) n = r->rows_max;
    cuda_rope_angles(c->stream, r->cosine, r->sine, c->rows.position, n, 0, r->base, r->head_dim, r->pairs);
}

/* ---- life ---- */

static void close_backend(backend *b) {
    if (!b) return;
    cuda_backend *c = cuda_of(b);
    if (c->stream) (void)cudaStreamSynchronize(c->stream);
    cuda_graphs_close(c);
    cuda_scan_close(c);
    cuda_moe_close(c);
    cuda_attention_close(c);
    cuda_linear_close(c);
    for (int i = 0; i < PAGE_TABLES; i++) cuda_give(c->pages[i]);
    cuda_give(c->row_words);
    cuda_give(c->changes);
    close_staging(c->staging);
    free(c->row_host);
    if (c->stream) (void)cudaStreamDestroy(c->stream);
    free(c);
}

static const backend_ops ops = {
    .close = close_backend,
    .alloc = alloc,
    .release = release,
    .finish = finish,
    .put = put,
    .get = get,
    .get_later = get_later,
    .rope_open = rope_open,
    .rope_close = rope_close,
    .pages_change = pages_change,
    .rows_begin = rows_begin,
    .rope_begin = rope_begin,
    .replay = cuda_replay,
    .record_begin = cuda_record_begin,
    .record_end = cuda_record_end,
    .forget = cuda_forget,
    .embed = cuda_embed,
    .gather = cuda_gather,
    .sum_blocks = cuda_sum_blocks,
    .norm = cuda_norm,
    .add_norm = cuda_add_norm,
    .add_mixture = cuda_add_mixture,
    .linear = cuda_linear,
    .gated = cuda_gated,
    .gelu_multiply = cuda_gelu_multiply,
    .softcap = cuda_softcap,
    .ple_mix = cuda_ple_mix,
    .attention_prepare = cuda_attention_prepare,
    .attention = cuda_attention,
    .route = cuda_route,
    .experts = cuda_experts,
    .scan = cuda_scan,
};

static status open_device(cuda_backend *c) {
    cuda_device d;
    TRY(cuda_device_look(c->options.device, &d));
    snprintf(c->name, sizeof c->name, "cuda %s", d.name);
    snprintf(c->where, sizeof c->where, "GPU %u (%s, %s)", c->options.device, d.name, d.bus_id);
    c->device = (int)c->options.device;
    c->capability = d.capability;
    c->multiprocessors = d.multiprocessors;
    c->shared_bytes_max = d.shared_bytes_max;
    TRY(cuda_check(c, cudaSetDevice(c->device), "taking the device"));
    return cuda_check(c, cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), "a stream");
}

static uint32_t pages_per_slot(const cuda_backend_options *o) { return o->context / 64 + 1; }

static status open_tables(cuda_backend *c) {
    const cuda_backend_options *o = &c->options;
    size_t words = 1 + 3 * (size_t)o->rows_max;
    void *p;
    c->row_host = memory_alloc_array(words, sizeof *c->row_host);
    TRY(cuda_take(c, words * sizeof *c->row_words, "rows of a step", &p));
    c->row_words = p;
    TRY(cuda_take(c, CHANGES * sizeof *c->changes, "changes of pages", &p));
    c->changes = p;
    c->rows = (cuda_rows){.count = c->row_words,
                          .token = c->row_words + 1,
                          .position = c->row_words + 1 + o->rows_max,
                          .slot = c->row_words + 1 + 2 * (size_t)o->rows_max,
                          .pages_per_slot = pages_per_slot(o)};
    for (int i = 0; i < PAGE_TABLES; i++) {
        TRY(cuda_take(c, (size_t)o->slots * pages_per_slot(o) * sizeof(uint32_t), "page tables", &p));
        c->rows.pages[i] = c->pages[i] = p;
    }
    return ST_OK;
}

uint64_t cuda_backend_bytes(const cuda_backend_options *o) {
    uint64_t tables = (uint64_t)PAGE_TABLES * o->slots * pages_per_slot(o) * sizeof(uint32_t),
             angles = 2 * (2 * ((uint64_t)o->rows_max + 64) + pages_per_slot(o)) * o->head_dim_max / 2 * sizeof(float);
    return tables + angles + CUDA_CONTEXT_BYTES + cuda_linear_bytes(o) + cuda_attention_bytes(o) +
           cuda_moe_bytes(o) + cuda_scan_bytes(o);
}

status cuda_backend_open(backend **out, const cuda_backend_options *options) {
    cuda_backend *c = memory_alloc(sizeof *c);
    status st;
    c->base.ops = &ops;
    c->base.name = c->name;
    c->options = *options;
    snprintf(c->name, sizeof c->name, "cuda");
    snprintf(c->where, sizeof c->where, "GPU %u", c->options.device);
    TRY_OR_FAIL(open_device(c));
    TRY_OR_FAIL(open_staging(c));
    TRY_OR_FAIL(open_tables(c));
    TRY_OR_FAIL(cuda_linear_open(c));
    TRY_OR_FAIL(cuda_attention_open(c));
    TRY_OR_FAIL(cuda_moe_open(c));
    TRY_OR_FAIL(cuda_scan_open(c));
    TRY_OR_FAIL(cuda_graphs_open(c));
    TRY_OR_FAIL(finish(&c->base));
    *out = &c->base;
    return ST_OK;
fail:
    close_backend(&c->base);
    return st;
}

void *cuda_backend_stream(backend *b) { return cuda_of(b)->stream; }
