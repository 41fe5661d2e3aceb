/* The operators of a decoder step, behind which a device sits: kernels/cpu, kernels/cuda. Everything
 * above this header is the same code on every device.
 *
 * Memory:  pointers to floats are backend memory (taken with alloc) unless "host" is said. Operators own nothing.
 * Threads: the engine thread only. An operator may return before it is done; `finish` waits. The host reads and writes
 *          backend memory with get and put alone, unless is_host.
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
    uint32_t slot;              /* of the sequence; names its page tables */
    const uint32_t *pages;      /* host; pages[i] holds positions 64·i … 64·i + 63 */
} row_span;

/* Sequences have a table of pages for each kind of layer. */
enum { PAGE_TABLES = 2 };

/* The rows that the following calls are about; host memory that stays as it is until the next rows_begin or the end of
 * the step. */
typedef struct step_rows {
    uint32_t n;                 /* rows that are there */
    const uint32_t *token, *position; /* [n] */
    const row_span *spans[PAGE_TABLES]; /* [span_count]; all rows, in order */
    uint32_t span_count;
} step_rows;

/* Steps of more rows are not recorded (record_begin). */
enum { RECORDED_ROWS_MAX = 64 };

/* Entry `index` of a table of a sequence is now `page`; UINT32_MAX: none. */
typedef struct page_change {
    uint32_t table, slot, index, page;
} page_change;

/* Angles of one rotary embedding: p · base^(-2i / head_dim) for i < pairs. */
typedef struct rope rope;

typedef struct attention_layer {
    kv_view kv;
    rope *angles;
    uint32_t heads;             /* query heads of this rank */
    uint32_t first_head, heads_per_kv, first_kv; /* local head h reads local KV head (first_head+h)/heads_per_kv-first_kv */
    uint32_t window;            /* sliding: p sees p-window+1 … p; 0: all before it */
    uint32_t table;             /* which page table of a sequence */
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

/* Norms of a layer with experts: of the dense MLP's output, of the experts', and of their sum. [hidden] */
typedef struct mixture_norms {
    const float *dense, *experts, *sum;
} mixture_norms;

typedef struct backend backend;

/* What is wanted of one row of logits, and what all ranks know of it before they look (shard/sample/sampler.c). A row's
 * record is a scan_head, then `tops` and `candidates` entries of (float logit, uint32 token), falling, ties by lowest id,
 * and `blocks` floats. */
typedef struct scan_change {
    uint32_t at;                /* index in the share; an index may come more than once: in order */
    float add, times;           /* 0: x + add; else x > 0 ? x / times : x · times, and then x + add */
} scan_change;
typedef struct scan_row {
    uint32_t row;               /* of the logits */
    uint32_t tops, candidates, blocks; /* entries, at most the share; block sums, all or none */
    uint32_t known;             /* index in the share whose logit is wanted; UINT32_MAX: none */
    bool raw, draw;             /* the sum over the logits as they are; everything that adjusted logits are for */
    float factor;               /* 1 / temperature, of the block sums */
    const scan_change *changes; /* host */
    uint32_t change_count;
    const uint32_t *allowed;    /* host, NULL: all; words from that of the share's first id on, bit id % 32 */
    bool allowed_new;           /* differs from what was at this pointer in earlier calls */
} scan_row;
typedef struct scan_head {
    float raw_max, raw_sum;     /* Σ exp(raw - raw_max); -inf and 0 for an empty share */
    float max;                  /* of the adjusted logits; -inf: nothing is allowed here */
    uint32_t argmax;            /* lowest id that has it; UINT32_MAX: none */
    float argmax_raw, known_raw;
} scan_head;

typedef struct backend_ops {
    void (*close)(backend *b);
    /* Zeroed; `what` for the message. */
    status (*alloc)(backend *b, size_t bytes, const char *what, void **out);
    void (*release)(backend *b, void *p, size_t bytes);
    /* Waits for all calls so far. ST_INTERNAL or ST_NO_MEMORY with the device's own word for it once anything has failed
     * there; the back end can then only be closed. */
    status (*finish)(backend *b);
    /* Between host and backend memory, in the order of calls. put: src may be changed as soon as it returns. get: done
     * when it returns; errors as finish. */
    void (*put)(backend *b, void *to, const void *host, size_t bytes);
    status (*get)(backend *b, void *host, const void *from, size_t bytes);
    /* The bytes as they are now, in the order of calls; they are at `host`, which stays the caller's, when the next get
     * or finish has returned ST_OK. */
    void (*get_later)(backend *b, void *host, const void *from, size_t bytes);

    /* context: positions that half-size layers reach, whose queries rotate by pages; 0: no such layer. */
    status (*rope_open)(backend *b, double base, uint32_t head_dim, uint32_t pairs, uint32_t context, uint32_t rows_max,
                        rope **out);
    void (*rope_close)(backend *b, rope *r);

    /* NULL where spans' own pages are enough. */
    void (*pages_change)(backend *b, const page_change *changes, uint32_t count);
    void (*rows_begin)(backend *b, const step_rows *rows);
    /* Angles of the current rows. */
    void (*rope_begin)(backend *b, rope *r);

    /* Calls from record_begin to record_end are kept, and made again by replay, for other rows of the same number and
     * kind: a step that only decodes, of RECORDED_ROWS_MAX at most. replay: false if nothing is kept under the key. NULL:
     * not offered. Calls may have more rows (n) than rows_begin was given: what those hold is finite and means nothing,
     * and they write no cache. */
    bool (*replay)(backend *b, uint64_t key);
    status (*record_begin)(backend *b, uint64_t key);
    status (*record_end)(backend *b, bool whole); /* not whole: what there is of it is thrown away, and not run */
    void (*forget)(backend *b); /* all recordings: before what their calls used is closed */

    /* y[n, cols] = table[token - first_id] · factor of the current rows, zeros where the table does not have the token. */
    void (*embed)(backend *b, float *y, const weight *table, uint32_t first_id, uint32_t n, float factor);
    /* y[n, dim] = x[index[i]]; index is backend memory. */
    void (*gather)(backend *b, float *y, const float *x, const uint32_t *index, uint32_t n, uint32_t dim);
    /* y[count] = x[0][count] + x[1][count] + … over `blocks`, in that order: partial sums of ranks. */
    void (*sum_blocks)(backend *b, float *y, const float *x, uint32_t blocks, size_t count);
    /* y = rms(x) · w, w NULL: without. */
    void (*norm)(backend *b, float *y, const float *x, const float *w, float eps, uint32_t n, uint32_t dim);
    /* h = (h + rms(x) · w) · scale; and where y is not NULL, what the next operator begins with: y = rms(h) · next. */
    void (*add_norm)(backend *b, float *h, const float *x, const float *w, float eps, float scale, float *y,
                     const float *next, uint32_t n, uint32_t dim);
    /* The end of a layer with experts: f = rms(dense) · w->dense + rms(experts) · w->experts, then add_norm of f with w->sum.
     * dense holds f, or anything, afterwards. */
    void (*add_mixture)(backend *b, float *h, float *dense, const float *experts, const mixture_norms *w, float eps,
                        float scale, float *y, const float *next, uint32_t n, uint32_t dim);
    /* Up to PRODUCTS_MAX products of x[n, cols], whose weights agree in cols. */
    void (*linear)(backend *b, const product *products, uint32_t count, const float *x, size_t x_stride, uint32_t n);
    /* gate[n, rows] = gelu(G x) · U x, with up[n, rows] as scratch. */
    void (*gated)(backend *b, float *gate, float *up, const weight *g, const weight *u, const float *x, size_t x_stride,
                  uint32_t n);
    /* gate = gelu(gate) · up, [n, dim] each with its stride. */
    void (*gelu_multiply)(backend *b, float *gate, size_t gate_stride, const float *up, size_t up_stride, uint32_t n,
                          uint32_t dim);
    void (*softcap)(backend *b, float *x, float cap, uint32_t n, uint32_t dim);
    /* Per-layer embeddings: ple[n, layers·width] holds W_ctx h0; becomes
     * (rms_slice(ple · scale) · norm + table[token] · factor) · sqrt(1/2), slices of `width`, of the current rows. */
    void (*ple_mix)(backend *b, float *ple, const weight *table, const float *norm, float eps, float scale, float factor,
                    uint32_t width, uint32_t n);

    /* Normalises q and rotates it (half_size: folds k_norm into the dimensions that do not rotate and leaves the rest to
     * attention), and writes this step's keys and values, rounded to the cache's type. k NULL: the layer owns no cache.
     * q[n, heads·head_dim] in place, k and v [n, kv_heads·head_dim] are scratch afterwards. Of the current rows. */
    void (*attention_prepare)(backend *b, const attention_layer *l, float *q, float *k, float *v);
    /* y[n, heads·head_dim] from prepared q and the cache, of the current rows. */
    void (*attention)(backend *b, const attention_layer *l, const float *q, float *y);

    /* Routing of h[n, hidden]: ids and weights (backend memory, [n, active], falling probability; ties: lowest id). Rows
     * that are not there have ids of UINT32_MAX. */
    void (*route)(backend *b, const moe_layer *m, const float *h, uint32_t n, uint32_t *ids, float *weights);
    /* y[n, hidden] = Σ over own experts in id order of weight · D(gelu(G x) · U x). */
    void (*experts)(backend *b, const moe_layer *m, const float *x, uint32_t n, const uint32_t *ids,
                    const float *weights, float *y);

    /* Records of rows of logits[…, share] into out (host), one behind the other; the logits stay as they are, and those of
     * rows that are drawn, as changed and allowed, are at *adjusted (backend memory, one row of `share` for each of rows[n])
     * until the next call. first_id: of the share. NULL: the sampler looks at logits itself, on the host. */
    status (*scan)(backend *b, const float *logits, uint32_t share, uint32_t first_id, const scan_row *rows, uint32_t n,
                   void *out, const float **adjusted);
} backend_ops;

struct backend {
    const backend_ops *ops;
    const char *name;     /* "cpu avx2", "cuda NVIDIA H200" */
    uint32_t threads;
    bool is_host;         /* backend memory is host memory, and calls are done when they return */
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
