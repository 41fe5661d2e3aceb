/* The operators of a decoder step, behind which a device sits: kernels/cpu now, kernels/cuda with the GPU. Everything
 * above this header is the same code on every device.
 *
 * Memory:  pointers to floats are backend memory (taken with alloc) unless "host" is said. Operators own nothing.
 * Threads: the engine thread only. An operator may return before it is done; `finish` waits, and every read of backend
 *          memory by the host comes after it. (The CPU back end is always done at return.)
 * Numbers: docs/numerics.md. No operator's result depends on how many rows a call has.
 * Shapes:  n rows of activations, row-major; strides in elements. */
#ifndef SHARD_KERNELS_OPS_H
#define SHARD_KERNELS_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "base/status.h"
#include "shard/kernels/weight.h"

/* KV_Q8: int8, and one float a row to multiply them by. */
typedef enum kv_type { KV_F32, KV_BF16, KV_Q8 } kv_type;
static inline uint32_t kv_element_bytes(kv_type t) { return t == KV_F32 ? 4 : t == KV_BF16 ? 2 : 1; }
static inline const char *kv_type_name(kv_type t) { return t == KV_F32 ? "f32" : t == KV_BF16 ? "bf16" : "q8"; }
/* word is the name of one, or "auto": KV_BF16. */
static inline kv_type kv_type_of(const char *word) {
    return !strcmp(word, kv_type_name(KV_F32)) ? KV_F32 : !strcmp(word, kv_type_name(KV_Q8)) ? KV_Q8 : KV_BF16;
}
static inline uint32_t kv_scale_bytes(kv_type t) { return t == KV_Q8 ? 4 : 0; }
/* The keys, or the values, of one head in one page. */
static inline uint64_t kv_rows_bytes(kv_type t, uint32_t head_dim) {
    return 64 * ((uint64_t)head_dim * kv_element_bytes(t) + kv_scale_bytes(t));
}

/* One layer's cache in the pool of pages. A page holds 64 positions of every layer of its kind; inside it a layer has,
 * for each local KV head, [64, head_dim] keys and then [64, head_dim] values, or, with half_size, [64, head_dim] of
 * u = rms(Wk x) alone, from which both are rebuilt. With KV_Q8 the [64] scales of rows stand right behind them. The order
 * of elements inside a row is the back end's own. */
typedef struct kv_view {
    void *base;                 /* of slab 0 */
    uint64_t slab_bytes, page_bytes, layer_offset;
    uint32_t pages_per_slab;    /* of this kind */
    uint32_t kv_heads, head_dim;
    kv_type type;
    bool half_size;
} kv_view;

static inline void *kv_head_page(const kv_view *v, uint32_t page, uint32_t kv_head) {
    uint64_t head_bytes = kv_rows_bytes(v->type, v->head_dim) * (v->half_size ? 1 : 2);
    return (char *)v->base + page / v->pages_per_slab * v->slab_bytes + page % v->pages_per_slab * v->page_bytes +
           v->layer_offset + kv_head * head_bytes;
}

/* Rows of the step that belong to one sequence and stand at consecutive positions. */
typedef struct row_span {
    uint32_t row, count;
    uint32_t position;          /* of the first row */
    const uint32_t *pages;      /* host; pages[i] holds positions 64·i … 64·i + 63 */
} row_span;

/* Angles of one rotary embedding: p · base^(-2i / head_dim) for i < pairs. */
typedef struct rope rope;

typedef struct attention_layer {
    kv_view kv;
    rope *angles;
    uint32_t heads;             /* query heads of this rank */
    uint32_t first_head, heads_per_kv, first_kv; /* local head h reads local KV head (first_head+h)/heads_per_kv-first_kv */
    uint32_t window;            /* sliding: p sees p-window+1 … p; 0: all before it */
    const float *q_norm, *k_norm; /* [head_dim] */
    float eps;
} attention_layer;

typedef struct moe_layer {
    const float *router_scale;      /* [hidden] */
    const float *per_expert_scale;  /* [experts] */
    weight router;                  /* [experts, hidden] */
    const expert_weights *expert;  /* [own_count] */
    uint32_t experts, active, hidden, own_begin, own_count, width /* of this rank's share of an expert */;
    float eps;
} moe_layer;

/* One of several products of the same input: y[n, w->rows] = x · w->dataᵀ. A weight without rows does nothing, one without
 * columns gives zeros. */
typedef struct product {
    float *y;
    size_t y_stride;
    const weight *w;
} product;
enum { PRODUCTS_MAX = 3 };

typedef struct backend backend;

typedef struct backend_ops {
    void (*close)(backend *b);
    /* Zeroed; `what` for the message. */
    status (*alloc)(backend *b, size_t bytes, const char *what, void **out);
    void (*release)(backend *b, void *p, size_t bytes);
    void (*finish)(backend *b);
    /* context: positions that half-size layers reach, whose queries rotate by pages; 0: no such layer. */
    status (*rope_open)(backend *b, double base, uint32_t head_dim, uint32_t pairs, uint32_t context, uint32_t rows_max,
                        rope **out);
    void (*rope_close)(backend *b, rope *r);
    /* Angles of the rows of the following attention calls; positions host [n]. */
    void (*rope_begin)(backend *b, rope *r, const uint32_t *positions, uint32_t n);

    /* y[n, cols] = table[ids[i] - first_id] · factor; ids host, all in the table. */
    void (*embed)(backend *b, float *y, const weight *table, uint32_t first_id, const uint32_t *ids, uint32_t n,
                  float factor);
    /* y[n, dim] = x[index[i]]; index host. */
    void (*gather)(backend *b, float *y, const float *x, const uint32_t *index, uint32_t n, uint32_t dim);
    /* y[count] = x[0][count] + x[1][count] + … over `blocks`, in that order: partial sums of ranks. */
    void (*sum_blocks)(backend *b, float *y, const float *x, uint32_t blocks, size_t count);
    /* y = rms(x) · w, w NULL: without. */
    void (*norm)(backend *b, float *y, const float *x, const float *w, float eps, uint32_t n, uint32_t dim);
    /* h = (h + rms(x) · w) · scale */
    void (*add_norm)(backend *b, float *h, const float *x, const float *w, float eps, float scale, uint32_t n,
                     uint32_t dim);
    /* Up to PRODUCTS_MAX products of x[n, cols], whose weights agree in cols. */
    void (*linear)(backend *b, const product *products, uint32_t count, const float *x, size_t x_stride, uint32_t n);
    /* gate = gelu(gate) · up, [n, dim] each with its stride. */
    void (*gelu_multiply)(backend *b, float *gate, size_t gate_stride, const float *up, size_t up_stride, uint32_t n,
                          uint32_t dim);
    void (*softcap)(backend *b, float *x, float cap, uint32_t n, uint32_t dim);
    /* Per-layer embeddings: ple[n, layers·width] holds W_ctx h0; becomes
     * (rms_slice(ple · scale) · norm + table[ids] · factor) · sqrt(1/2), slices of `width`. ids host. */
    void (*ple_mix)(backend *b, float *ple, const weight *table, const uint32_t *ids, const float *norm, float eps,
                    float scale, float factor, uint32_t width, uint32_t n);

    /* Normalises q and rotates it (half_size: folds k_norm into the dimensions that do not rotate and leaves the rest to
     * attention), and writes this step's keys and values, rounded to the cache's type. k NULL: the layer owns no cache.
     * q[n, heads·head_dim] in place, k and v [n, kv_heads·head_dim] are scratch afterwards. */
    void (*attention_prepare)(backend *b, const attention_layer *l, const row_span *spans, uint32_t span_count, float *q,
                              float *k, float *v);
    /* y[n, heads·head_dim] from prepared q and the cache. Every row of the spans is written. */
    void (*attention)(backend *b, const attention_layer *l, const row_span *spans, uint32_t span_count, const float *q,
                      float *y);

    /* Routing of h[n, hidden]: ids and weights (host, [n, active], falling probability; ties: lowest id). */
    void (*route)(backend *b, const moe_layer *m, const float *h, uint32_t n, uint32_t *ids, float *weights);
    /* y[n, hidden] = Σ over own experts in id order of weight · D(gelu(G x) · U x). */
    void (*experts)(backend *b, const moe_layer *m, const float *x, uint32_t n, const uint32_t *ids,
                    const float *weights, float *y);
} backend_ops;

struct backend {
    const backend_ops *ops;
    const char *name;     /* "cpu avx2" */
    uint32_t threads;
};

typedef struct cpu_backend_options {
    uint32_t threads;
    uint32_t spin_us;
    bool pin;
    uint32_t rows_max;     /* rows of one step, for scratch */
    uint32_t active_max;   /* experts a token uses */
    uint32_t hidden, width_max, head_dim_max, heads_per_kv_max;
    uint32_t columns_max;  /* the longest row of any quantised weight outside experts; 0: none is quantised */
} cpu_backend_options;
STATUS_CHECKED status cpu_backend_open(backend **out, const cpu_backend_options *options);

#endif
