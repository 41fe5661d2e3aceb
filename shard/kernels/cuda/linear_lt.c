/* Large products by cuBLASLt. Which of its algorithms is taken is asked once for each shape, and kept. */
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "shard/kernels/cuda/linear.h"
#include "shard/kernels/cuda/lt_library.h"

/* In the library's words, whose matrices are column by column: D[rows, n] = Aᵀ B with A[cols, rows] our weights, B[cols, n]
 * our activations. */
typedef struct lt_shape {
    uint32_t rows, cols, n;
    size_t y_stride;
    uint32_t y_alignment;       /* bytes */
} lt_shape;

typedef struct lt_entry {
    lt_shape shape;
    bool used, refused;         /* the library has no algorithm for it */
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t algorithm;
} lt_entry;

/* A model has about ten shapes for each number of tokens; chunks of prompts are mostly of one size. */
enum { LT_ENTRIES = 512, LT_WAYS = 4 };

struct linear_lt {
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t product;
    void *workspace;
    lt_entry entry[LT_ENTRIES];
    uint32_t turn;              /* which entry of a full set goes next */
};

static status check(cuda_backend *c, cublasStatus_t s, const char *what) {
    if (c->failed != ST_OK) return fail(c->failed, "%s", c->failure);
    if (s == CUBLAS_STATUS_SUCCESS) return ST_OK;
    c->failed = s == CUBLAS_STATUS_ALLOC_FAILED ? ST_NO_MEMORY : ST_INTERNAL;
    snprintf(c->failure, sizeof c->failure, "%s: cuBLASLt: %s: status %d", c->where, what, (int)s);
    return fail(c->failed, "%s", c->failure);
}

/* ---- shapes ---- */

static void forget(lt_entry *e) {
    if (e->a) (void)lt.MatrixLayoutDestroy(e->a);
    if (e->b) (void)lt.MatrixLayoutDestroy(e->b);
    if (e->d) (void)lt.MatrixLayoutDestroy(e->d);
    *e = (lt_entry){.used = false};
}

static status prefer(cuda_backend *c, cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t what, uint32_t value) {
    return check(c, lt.MatmulPreferenceSetAttribute(p, what, &value, sizeof value), "preferences");
}

static status choose(linear_lt *l, cuda_backend *c, lt_entry *e, cublasLtMatmulPreference_t preference) {
    uint64_t workspace = LT_WORKSPACE_BYTES;
    TRY(check(c, lt.MatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                                      sizeof workspace), "preferences"));
    TRY(prefer(c, preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, 16));
    TRY(prefer(c, preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, 16));
    TRY(prefer(c, preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, e->shape.y_alignment));
    TRY(prefer(c, preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, e->shape.y_alignment));
    cublasLtMatmulHeuristicResult_t found;
    int count = 0;
    cublasStatus_t looked = lt.MatmulAlgoGetHeuristic(l->handle, l->product, e->a, e->b, e->d, e->d, preference, 1,
                                                           &found, &count);
    e->refused = looked == CUBLAS_STATUS_NOT_SUPPORTED || (looked == CUBLAS_STATUS_SUCCESS && count == 0);
    if (e->refused) return ST_OK;
    TRY(check(c, looked, "choice of an algorithm"));
    e->algorithm = found.algo;
    return ST_OK;
}

static status learn(linear_lt *l, cuda_backend *c, lt_entry *e, const lt_shape *s) {
    const char *what = "layouts";
    e->used = true;
    e->shape = *s;
    TRY(check(c, lt.MatrixLayoutCreate(&e->a, CUDA_R_16BF, s->cols, s->rows, s->cols), what));
    TRY(check(c, lt.MatrixLayoutCreate(&e->b, CUDA_R_16BF, s->cols, s->n, s->cols), what));
    TRY(check(c, lt.MatrixLayoutCreate(&e->d, CUDA_R_32F, s->rows, s->n, (int64_t)s->y_stride), what));
    cublasLtMatmulPreference_t preference;
    TRY(check(c, lt.MatmulPreferenceCreate(&preference), "preferences"));
    status st = choose(l, c, e, preference);
    (void)lt.MatmulPreferenceDestroy(preference);
    return st;
}

static bool same(const lt_shape *a, const lt_shape *b) {
    return a->rows == b->rows && a->cols == b->cols && a->n == b->n && a->y_stride == b->y_stride &&
           a->y_alignment == b->y_alignment;
}

/* NULL: it failed, and c knows. */
static lt_entry *entry_of(linear_lt *l, cuda_backend *c, const lt_shape *s) {
    uint32_t set = (s->rows * 2654435761u ^ s->cols * 2246822519u ^ s->n * 3266489917u) >> 8;
    lt_entry *first = &l->entry[set % (LT_ENTRIES / LT_WAYS) * LT_WAYS], *e = NULL;
    for (int i = 0; i < LT_WAYS; i++) {
        if (first[i].used && same(&first[i].shape, s)) return &first[i];
        if (!first[i].used && !e) e = &first[i];
    }
    if (!e) e = &first[l->turn++ % LT_WAYS];
    forget(e);
    if (learn(l, c, e, s) == ST_OK) return e;
    forget(e);
    return NULL;
}

bool linear_lt_product(linear_lt *l, cuda_backend *c, float *y, size_t y_stride, const uint16_t *w, const uint16_t *x,
                       uint32_t rows, uint32_t cols, uint32_t n) {
    if (c->failed != ST_OK) return true;
    lt_shape s = {rows, cols, n, y_stride, (uintptr_t)y % 16 == 0 && y_stride % 4 == 0 ? 16 : 4};
    lt_entry *e = entry_of(l, c, &s);
    if (!e) return true;
    if (e->refused) return false;
    const float one = 1, zero = 0;
    (void)!check(c, lt.Matmul(l->handle, l->product, &one, w, e->a, x, e->b, &zero, y, e->d, y, e->d, &e->algorithm,
                                   l->workspace, LT_WORKSPACE_BYTES, c->stream), "a product");
    return true;
}

/* ---- opening ---- */

status linear_lt_open(linear_lt **out, cuda_backend *c) {
    linear_lt *l = *out = memory_alloc(sizeof *l);
    TRY(cuda_take(c, LT_WORKSPACE_BYTES, "cuBLASLt", &l->workspace));
    TRY(check(c, lt.Create(&l->handle), "opening"));
    TRY(check(c, lt.MatmulDescCreate(&l->product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "opening"));
    cublasOperation_t turned = CUBLAS_OP_T;
    return check(c, lt.MatmulDescSetAttribute(l->product, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned), "opening");
}

void linear_lt_close(linear_lt *l) {
    if (!l) return;
    for (int i = 0; i < LT_ENTRIES; i++) forget(&l->entry[i]);
    if (l->product) (void)lt.MatmulDescDestroy(l->product);
    if (l->handle) (void)lt.Destroy(l->handle);
    cuda_give(l->workspace);
    free(l);
}
