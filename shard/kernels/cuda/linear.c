/* Products: which way each goes (linear.h). */
#include "shard/kernels/cuda/linear.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "base/invariant.h"
#include "base/log.h"
#include "base/memory.h"
#include "shard/kernels/cuda/lt_library.h"

struct cuda_linear_state {
    linear_lt *lt;              /* NULL: there is no cuBLASLt, or every row is to have the bits that it has alone */
    uint16_t *x;                /* [rows_max, columns_max up to a multiple of 8]: activations as bf16 */
    uint16_t *matrix;           /* [matrix_elements]: a part of a matrix as bf16 */
    uint64_t x_elements, matrix_elements;
};

enum {
    /* Up to this many tokens, reading q8, q4 or fp8 weights once for each 16 tokens, mostly from the second cache, is
     * less than writing them as bf16 and reading those. */
    NARROW_ROWS = 64,
    /* A matrix is widened in parts of 64 MiB: most of a part is read again from the second cache. */
    WIDE_ELEMENTS = 32 << 20,
};

static uint64_t x_elements(const cuda_backend_options *o) {
    if (o->batch_invariant || o->rows_max <= CUDA_STREAM_ROWS) return 0;
    return (uint64_t)o->rows_max * ((o->columns_max + 7) / 8 * 8);
}

/* At least one strip of the longest rows. */
static uint64_t matrix_elements(const cuda_backend_options *o) {
    if (o->batch_invariant || o->rows_max <= NARROW_ROWS) return 0;
    uint64_t strip = (uint64_t)QUANT_ROWS * ((o->columns_max + 7) / 8 * 8);
    uint64_t most = o->matrix_max + strip < WIDE_ELEMENTS ? o->matrix_max + strip : WIDE_ELEMENTS;
    return most < strip ? strip : most;
}

uint64_t cuda_linear_bytes(const cuda_backend_options *o) {
    uint64_t x = x_elements(o);
    return x ? (x + matrix_elements(o)) * sizeof(uint16_t) + LT_WORKSPACE_BYTES : 0;
}

/* Without it the streaming kernel takes prompts too, 16 tokens at a time. */
static bool have_lt(void) {
    static _Atomic bool said;
    if (lt_library_open() == ST_OK) return true;
    if (!atomic_exchange(&said, true)) log_warn("%s: our own kernels read prompts, more slowly", status_text());
    return false;
}

status cuda_linear_open(cuda_backend *c) {
    cuda_linear_state *s = c->linear = memory_alloc(sizeof *s);
    s->x_elements = x_elements(&c->options);
    s->matrix_elements = matrix_elements(&c->options);
    if (s->x_elements == 0 || !have_lt()) return ST_OK;
    void *p;
    TRY(cuda_take(c, s->x_elements * sizeof *s->x, "activations as bf16", &p));
    s->x = p;
    TRY(cuda_take(c, s->matrix_elements * sizeof *s->matrix, "weights as bf16", &p));
    s->matrix = p;
    return linear_lt_open(&s->lt, c);
}

void cuda_linear_close(cuda_backend *c) {
    cuda_linear_state *s = c->linear;
    c->linear = NULL;
    if (!s) return;
    linear_lt_close(s->lt);
    cuda_give(s->x);
    cuda_give(s->matrix);
    free(s);
}

/* ---- which way ---- */

typedef enum linear_way { WAY_STREAM, WAY_FLOAT, WAY_LT } linear_way;

static linear_way way_of(const cuda_backend *c, const weight *w, uint32_t n) {
    INVARIANT(w->type != WEIGHT_BLOCKS);
    if (w->cols == 0 || w->type == WEIGHT_F32 || w->type == WEIGHT_F16) return WAY_FLOAT;
    /* Rows that do not begin at a multiple of 16 bytes. */
    if (w->type == WEIGHT_BF16 && (w->cols % 8 != 0 || (uintptr_t)w->data % 16 != 0)) return WAY_FLOAT;
    if (n <= CUDA_STREAM_ROWS || !c->linear->lt) return WAY_STREAM;
    if (w->type != WEIGHT_BF16 && n <= NARROW_ROWS) return WAY_STREAM;
    return WAY_LT;
}

static bool vectors(const float *x, size_t x_stride) { return (uintptr_t)x % 16 == 0 && x_stride % 4 == 0; }

static void run_float(cuda_backend *c, const product *p, const float *x, size_t x_stride, uint32_t n) {
    const weight *w = p->w;
    float_call call = {.w = w->data, .x = x, .y = p->y, .x_stride = x_stride, .y_stride = p->y_stride, .rows = w->rows,
                       .cols = w->cols, .n = n};
    call.vector = vectors(x, x_stride) && w->cols % 4 == 0 && (uintptr_t)w->data % 16 == 0;
    linear_float_launch(c->stream, w->cols ? w->type : WEIGHT_F32, &call);
}

static uint64_t tile_bytes(const weight *w) {
    return weight_in_strips(w->type) ? quant_strip_bytes(w->type, w->cols)
                                     : (uint64_t)STREAM_TILE * w->cols * weight_element_bytes(w->type);
}

static void run_stream(cuda_backend *c, const product *products, uint32_t count, const float *x, size_t x_stride,
                       uint32_t n, bool gated) {
    const weight *w = products[0].w;
    stream_call call = {.x = x, .x_stride = x_stride, .tile_bytes = tile_bytes(w), .count = count, .n = n, .cols = w->cols,
                        .gated = gated, .vector_x = vectors(x, x_stride) && w->cols % 4 == 0};
    for (uint32_t i = 0; i < count; i++) {
        const product *p = &products[i];
        uint32_t tiles = (p->w->rows + STREAM_TILE - 1) / STREAM_TILE;
        call.units = gated ? tiles : call.units + tiles;
        call.product[i] = (stream_product){p->w->data, p->y, p->y_stride, p->w->rows, call.units};
    }
    size_t shared = linear_stream_plan(&call, w->type, c->multiprocessors, c->shared_bytes_max);
    linear_stream_launch(c->stream, w->type, &call, shared);
}

/* x is in the scratch already, `stride` from row to row. false: it is left to others. */
static bool run_lt(cuda_backend *c, const product *p, uint32_t stride, uint32_t n) {
    cuda_linear_state *s = c->linear;
    const weight *w = p->w;
    if (w->type == WEIGHT_BF16) return linear_lt_product(s->lt, c, p->y, p->y_stride, w->data, s->x, w->rows, w->cols, n);
    uint64_t most = s->matrix_elements / stride / QUANT_ROWS * QUANT_ROWS;
    INVARIANT(most > 0);
    for (uint32_t first = 0, rows; first < w->rows; first += rows) {
        rows = w->rows - first < most ? w->rows - first : (uint32_t)most;
        linear_widen_launch(c->stream, s->matrix, stride, w, first, rows);
        if (!linear_lt_product(s->lt, c, p->y + first, p->y_stride, s->matrix, s->x, rows, stride, n)) return false;
    }
    return true;
}

void cuda_linear(backend *b, const product *products, uint32_t count, const float *x, size_t x_stride, uint32_t n) {
    cuda_backend *c = cuda_of(b);
    INVARIANT(count <= PRODUCTS_MAX);
    if (n == 0) return;
    product together[WEIGHT_TYPES][PRODUCTS_MAX];
    uint32_t together_count[WEIGHT_TYPES] = {0};
    bool rounded = false;
    for (uint32_t i = 0; i < count; i++) {
        const product *p = &products[i];
        const weight *w = p->w;
        if (w->rows == 0) continue;
        linear_way way = way_of(c, w, n);
        if (way == WAY_FLOAT) run_float(c, p, x, x_stride, n);
        if (way == WAY_STREAM) together[w->type][together_count[w->type]++] = *p;
        if (way == WAY_LT) {
            uint32_t stride = (w->cols + 7) / 8 * 8;
            INVARIANT((uint64_t)n * stride <= c->linear->x_elements);
            if (!rounded) linear_round_launch(c->stream, c->linear->x, stride, x, x_stride, w->cols, n);
            rounded = true;
            if (!run_lt(c, p, stride, n)) run_stream(c, p, 1, x, x_stride, n, false);
        }
    }
    for (int type = 0; type < WEIGHT_TYPES; type++)
        if (together_count[type]) run_stream(c, together[type], together_count[type], x, x_stride, n, false);
}

void cuda_gated(backend *b, float *gate, float *up, const weight *g, const weight *u, const float *x, size_t x_stride,
                uint32_t n) {
    cuda_backend *c = cuda_of(b);
    uint32_t rows = g->rows;
    INVARIANT(u->rows == rows && u->cols == g->cols);
    if (n == 0 || rows == 0) return;
    product both[] = {{gate, rows, g}, {up, rows, u}};
    if (g->type == u->type && way_of(c, g, n) == WAY_STREAM && way_of(c, u, n) == WAY_STREAM) {
        run_stream(c, both, 2, x, x_stride, n, true);
        return;
    }
    cuda_linear(b, both, 2, x, x_stride, n);
    cuda_gelu_multiply(b, gate, rows, up, rows, n, rows);
}
