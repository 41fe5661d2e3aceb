#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "cublasLt.h"
#include "sim.h"

struct cublasLtContext { int device; };
struct cublasLtMatrixLayoutOpaque {
    cudaDataType type;
    uint64_t rows, cols;
    int64_t ld;
};
struct cublasLtMatmulDescOpaque { int32_t turn_a, turn_b; };
struct cublasLtMatmulPreferenceOpaque {
    uint64_t workspace;
    uint32_t alignment[4]; /* of a, b, c, d */
};
/* An algorithm's data: a mark, the workspace it uses, the alignments it counts on. */
enum { ALGORITHM = 0x5107, WORKSPACE = 4096 };

size_t cublasLtGetVersion(void) { return 130000; }
static cublasStatus_t give(void *p) {
    free(p);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
    if (sim_device_failed(sim_device_current()) != cudaSuccess) return CUBLAS_STATUS_NOT_INITIALIZED;
    *handle = memory_alloc(sizeof **handle);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return give(handle); }

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type, uint64_t rows, uint64_t cols,
                                          int64_t ld) {
    *layout = memory_alloc(sizeof **layout);
    **layout = (struct cublasLtMatrixLayoutOpaque){type, rows, cols, ld};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) { return give(layout); }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute, cudaDataType_t scale) {
    if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    *desc = memory_alloc(sizeof **desc);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) { return give(desc); }
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t what,
                                              const void *value, size_t bytes) {
    int32_t turn;
    if (!desc || !value || bytes != sizeof turn) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(&turn, value, sizeof turn);
    if (what == CUBLASLT_MATMUL_DESC_TRANSA) desc->turn_a = turn;
    else if (what == CUBLASLT_MATMUL_DESC_TRANSB) desc->turn_b = turn;
    else return CUBLAS_STATUS_NOT_SUPPORTED;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
    *preference = memory_alloc(sizeof **preference);
    for (int i = 0; i < 4; i++) (*preference)->alignment[i] = 256;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) { return give(preference); }
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t what, const void *value, size_t bytes) {
    if (!preference || !value) return CUBLAS_STATUS_INVALID_VALUE;
    if (what == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) {
        if (bytes != sizeof preference->workspace) return CUBLAS_STATUS_INVALID_VALUE;
        memcpy(&preference->workspace, value, bytes);
    } else if (what >= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES && what <= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES) {
        if (bytes != sizeof(uint32_t)) return CUBLAS_STATUS_INVALID_VALUE;
        memcpy(&preference->alignment[what - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, bytes);
    } else if (what != CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- products ---- */

static size_t element_bytes(cudaDataType t) { return t == CUDA_R_32F ? 4 : 2; }

static cublasStatus_t shapes_check(const struct cublasLtMatmulDescOpaque *desc, cublasLtMatrixLayout_t a,
                                   cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d) {
    uint64_t m = desc->turn_a ? a->cols : a->rows, k = desc->turn_a ? a->rows : a->cols;
    uint64_t k_too = desc->turn_b ? b->cols : b->rows, n = desc->turn_b ? b->rows : b->cols;
    if (k != k_too || d->rows != m || d->cols != n || c->rows != m || c->cols != n || m == 0 || n == 0 || k == 0)
        return CUBLAS_STATUS_INVALID_VALUE;
    cublasLtMatrixLayout_t all[] = {a, b, c, d};
    for (int i = 0; i < 4; i++)
        if (all[i]->ld < (int64_t)all[i]->rows) return CUBLAS_STATUS_INVALID_VALUE;
    bool types = a->type == b->type && (a->type == CUDA_R_16BF || a->type == CUDA_R_32F) && c->type == CUDA_R_32F && d->type == CUDA_R_32F;
    return types ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t *results, int *found) {
    *found = 0;
    if (!handle || !desc || !a || !b || !c || !d || !preference || wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
    cublasStatus_t s = shapes_check(desc, a, b, c, d);
    if (s != CUBLAS_STATUS_SUCCESS) return s;
    memset(results, 0, sizeof *results);
    uint64_t *data = results->algo.data;
    data[0] = ALGORITHM;
    data[1] = results->workspaceSize = preference->workspace >= WORKSPACE ? WORKSPACE : 0;
    for (int i = 0; i < 4; i++) data[2 + i] = preference->alignment[i];
    data[6] = a->rows << 32 ^ a->cols ^ d->cols << 16;
    results->wavesCount = 1;
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

typedef struct product_work {
    sim_work base;
    struct cublasLtMatrixLayoutOpaque a_layout, b_layout, c_layout, d_layout;
    struct cublasLtMatmulDescOpaque desc;
    const char *a, *b;
    const float *c;
    float *d, alpha, beta;
    char *workspace;
    size_t workspace_bytes;
} product_work;

/* Row i of op(x), or column i: the k elements that are summed over, as floats. */
static void line(float *out, const char *x, const struct cublasLtMatrixLayoutOpaque *l, bool along_rows, uint64_t i, uint64_t k) {
    size_t first = along_rows ? (size_t)l->ld * i : i, step = along_rows ? 1 : (size_t)l->ld;
    for (uint64_t j = 0; j < k; j++) {
        const char *e = x + (first + j * step) * element_bytes(l->type);
        uint32_t u = 0;
        if (l->type == CUDA_R_32F) memcpy(&u, e, 4);
        else memcpy((char *)&u + 2, e, 2);
        memcpy(&out[j], &u, 4);
    }
}

static void product_run(sim_work *w) {
    product_work *p = (product_work *)w;
    uint64_t m = p->d_layout.rows, n = p->d_layout.cols, k = p->desc.turn_a ? p->a_layout.rows : p->a_layout.cols;
    float *a = memory_alloc_array(k, sizeof *a), *b = memory_alloc_array(k * n, sizeof *b);
    if (p->workspace_bytes) memset(p->workspace, 0xFF, p->workspace_bytes);
    for (uint64_t j = 0; j < n; j++) line(b + j * k, p->b, &p->b_layout, !p->desc.turn_b, j, k);
    for (uint64_t i = 0; i < m; i++) {
        line(a, p->a, &p->a_layout, p->desc.turn_a, i, k);
        for (uint64_t j = 0; j < n; j++) {
            float part[8] = {0}, sum = 0;
            uint64_t at = 0;
            for (; at + 8 <= k; at += 8)
                for (int l = 0; l < 8; l++) part[l] += a[at + l] * b[j * k + at + l];
            for (; at < k; at++) part[at % 8] += a[at] * b[j * k + at];
            for (int l = 0; l < 8; l++) sum += part[l];
            float before = p->beta != 0 ? p->beta * p->c[i + (size_t)p->c_layout.ld * j] : 0;
            p->d[i + (size_t)p->d_layout.ld * j] = p->alpha * sum + before;
        }
    }
    free(a);
    free(b);
}

static bool lies_well(const void *p, cublasLtMatrixLayout_t l, uint64_t alignment) {
    size_t elements = (size_t)l->ld * (l->cols - 1) + l->rows;
    return (uintptr_t)p % alignment == 0 && sim_memory_place(p, elements * element_bytes(l->type), NULL) == SIM_DEVICE;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout,
                              const void *beta, const void *c, cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo, void *workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
    if (!handle || !desc || !a_layout || !b_layout || !c_layout || !d_layout || !alpha || !beta) return CUBLAS_STATUS_INVALID_VALUE;
    cublasStatus_t s = shapes_check(desc, a_layout, b_layout, c_layout, d_layout);
    if (s != CUBLAS_STATUS_SUCCESS) return s;
    uint64_t alignment[4] = {2, 2, 4, 4};
    if (algo) {
        if (algo->data[0] != ALGORITHM || algo->data[6] != (a_layout->rows << 32 ^ a_layout->cols ^ d_layout->cols << 16))
            return CUBLAS_STATUS_NOT_SUPPORTED; /* of other layouts, or of nobody */
        if (workspace_bytes < algo->data[1]) return CUBLAS_STATUS_INVALID_VALUE;
        memcpy(alignment, algo->data + 2, sizeof alignment);
    }
    if (workspace_bytes && (sim_memory_place(workspace, workspace_bytes, NULL) != SIM_DEVICE || (uintptr_t)workspace % 16 != 0))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!lies_well(a, a_layout, alignment[0]) || !lies_well(b, b_layout, alignment[1]) || !lies_well(d, d_layout, alignment[3]))
        return CUBLAS_STATUS_INVALID_VALUE;
    product_work *p = memory_alloc(sizeof *p);
    *p = (product_work){.base = {product_run, sim_work_free, 1}, .a_layout = *a_layout, .b_layout = *b_layout,
                        .c_layout = *c_layout, .d_layout = *d_layout, .desc = *desc, .a = a, .b = b, .c = c, .d = d,
                        .workspace = workspace, .workspace_bytes = algo ? (size_t)algo->data[1] : 0};
    memcpy(&p->alpha, alpha, sizeof p->alpha);
    memcpy(&p->beta, beta, sizeof p->beta);
    return sim_enqueue(stream, &p->base) == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
