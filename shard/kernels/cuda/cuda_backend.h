/* Inside of the CUDA back end: what its operator files share.
 *
 * Every operator enqueues kernels on one stream and returns. Nothing it is given by value may differ between two steps that
 * decode the same number of rows: such steps are recorded once and replayed (ops.h), so what changes from step to step
 * (rows, positions, pages, work lists) lies in device memory at a fixed place, and grids follow from n alone.
 *
 * Memory:  all of it is taken at open. Device memory unless "host" is said.
 * Threads: the engine thread. */
#ifndef SHARD_KERNELS_CUDA_CUDA_BACKEND_H
#define SHARD_KERNELS_CUDA_CUDA_BACKEND_H

#include <cuda_runtime_api.h>

#include "shard/kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The current rows as kernels see them; passed to kernels by value. */
typedef struct cuda_rows {
    const uint32_t *count;               /* [1] rows that are there; calls may have more, padded ones */
    const uint32_t *token, *position, *slot; /* [rows_max]; of padded rows 0 */
    const uint32_t *pages[PAGE_TABLES];  /* [slots, pages_per_slot] */
    uint32_t pages_per_slot;
} cuda_rows;

struct rope {
    double base;
    uint32_t head_dim, pairs, context, rows_max;
    float *cosine, *sine;                 /* [rows_max, pairs]: of the current rows; cos and sin of position · base^(-2i/head_dim) */
    float *offset_cosine, *offset_sine;   /* [64, pairs]: of 0 … 63 */
    float *page_cosine, *page_sine;       /* [context / 64 + 1, pairs]: of 64·a; only with context */
};

typedef struct cuda_linear_state cuda_linear_state;
typedef struct cuda_attention_state cuda_attention_state;
typedef struct cuda_moe_state cuda_moe_state;
typedef struct cuda_scan_state cuda_scan_state;
typedef struct cuda_graphs cuda_graphs;

typedef struct cuda_backend {
    backend base;
    cuda_backend_options options;
    char name[96], where[128];            /* where: which of several GPUs, for sentences about failures */
    int device, capability;               /* 90: 9.0 */
    uint32_t multiprocessors;
    size_t shared_bytes_max;              /* dynamic shared memory that a block may ask for */
    cudaStream_t stream;
    status failed;                        /* the first thing that went wrong on the device; kept with its sentence */
    char failure[256];
    step_rows host_rows;                  /* what rows_begin was given; valid until the next rows_begin */
    cuda_rows rows;
    cuda_linear_state *linear;
    cuda_attention_state *attention;
    cuda_moe_state *moe;
    cuda_scan_state *scan;
    cuda_graphs *graphs;
    struct cuda_staging *staging;         /* pinned memory that puts go through */
    uint32_t *pages[PAGE_TABLES];
    uint32_t *row_words, *row_host;       /* [1 + 3 rows_max]: count, tokens, positions, slots; and the host's */
    page_change *changes;                 /* on their way */
    bool recording;                       /* calls are recorded, and run later */
} cuda_backend;

static inline cuda_backend *cuda_of(backend *b) { return (cuda_backend *)b; }

/* ---- cuda_backend.c ---- */

/* Turns an error of CUDA into a status with a sentence ("uploading weights: out of memory"), kept in c->failed. */
status cuda_check(cuda_backend *c, cudaError_t e, const char *what);
/* Zeroed device memory; *out NULL and ST_OK for 0 bytes. */
status cuda_take(cuda_backend *c, size_t bytes, const char *what, void **out);
void cuda_give(void *p);                  /* NULL is fine */
/* Host bytes to device memory in stream order; host may be changed at once. Not inside a recording. */
void cuda_put(cuda_backend *c, void *to, const void *host, size_t bytes);
status cuda_get(cuda_backend *c, void *host, const void *from, size_t bytes);

/* ---- linear.c, linear_*.cu: products ---- */
status cuda_linear_open(cuda_backend *c);
void cuda_linear_close(cuda_backend *c);
void cuda_linear(backend *b, const product *products, uint32_t count, const float *x, size_t x_stride, uint32_t n);
void cuda_gated(backend *b, float *gate, float *up, const weight *g, const weight *u, const float *x, size_t x_stride,
                uint32_t n);

/* ---- attention.c, attention_*.cu ---- */
status cuda_attention_open(cuda_backend *c);
void cuda_attention_close(cuda_backend *c);
/* From rows_begin, outside recordings: makes the work lists of c->host_rows and puts them to the device. */
void cuda_attention_plan(cuda_backend *c);
void cuda_attention_prepare(backend *b, const attention_layer *l, float *q, float *k, float *v);
void cuda_attention(backend *b, const attention_layer *l, const float *q, float *y);

/* ---- moe.c, moe_*.cu ---- */
status cuda_moe_open(cuda_backend *c);
void cuda_moe_close(cuda_backend *c);
void cuda_route(backend *b, const moe_layer *m, const float *h, uint32_t n, uint32_t *ids, float *weights);
void cuda_experts(backend *b, const moe_layer *m, const float *x, uint32_t n, const uint32_t *ids, const float *weights,
                  float *y);

/* ---- scan.c, scan.cu: logits ---- */
status cuda_scan_open(cuda_backend *c);
void cuda_scan_close(cuda_backend *c);
status cuda_scan(backend *b, const float *logits, uint32_t share, uint32_t first_id, const scan_row *rows, uint32_t n,
                 void *out, const float **adjusted);

/* ---- norms.cu, elements.cu: operators whose work item is a row, or an element ---- */
void cuda_rope_angles(cudaStream_t stream, float *cosine, float *sine, const uint32_t *positions, uint32_t n, uint32_t step,
                      double base, uint32_t head_dim, uint32_t pairs); /* positions NULL: 0, step, 2·step … */
void cuda_pages_set(cudaStream_t stream, uint32_t *const pages[PAGE_TABLES], uint32_t pages_per_slot,
                    const page_change *changes, uint32_t n); /* changes: device memory */
void cuda_embed(backend *b, float *y, const weight *table, uint32_t first_id, uint32_t n, float factor);
void cuda_gather(backend *b, float *y, const float *x, const uint32_t *index, uint32_t n, uint32_t dim);
void cuda_sum_blocks(backend *b, float *y, const float *x, uint32_t blocks, size_t count);
void cuda_norm(backend *b, float *y, const float *x, const float *w, float eps, uint32_t n, uint32_t dim);
void cuda_add_norm(backend *b, float *h, const float *x, const float *w, float eps, float scale, float *y,
                   const float *next, uint32_t n, uint32_t dim);
void cuda_add_mixture(backend *b, float *h, float *dense, const float *experts, const mixture_norms *w, float eps,
                      float scale, float *y, const float *next, uint32_t n, uint32_t dim);
void cuda_gelu_multiply(backend *b, float *gate, size_t gate_stride, const float *up, size_t up_stride, uint32_t n,
                        uint32_t dim);
void cuda_softcap(backend *b, float *x, float cap, uint32_t n, uint32_t dim);
void cuda_ple_mix(backend *b, float *ple, const weight *table, const float *norm, float eps, float scale, float factor,
                  uint32_t width, uint32_t n);

#ifdef __cplusplus
}
#endif
#endif
