/* The CUDA back end of ops.h, for those who open it; no header of CUDA is needed. In builds without CUDA nothing of it is
 * there (GEMMAD_WITH_CUDA tells).
 *
 * Numbers: activations and sums are float32. Products of up to CUDA_STREAM_ROWS rows take activations as two bf16 (2^-17),
 *          larger ones as one bf16 with bf16, q8, q4 and fp8 weights, unless batch_invariant (then every row has the bits it
 *          has alone) or without cuBLASLt. f32 and f16 weights are multiplied in float32. docs/numerics.md, "On a GPU". */
#ifndef SHARD_KERNELS_CUDA_CUDA_H
#define SHARD_KERNELS_CUDA_CUDA_H

#include "shard/kernels/device_load.h"
#include "shard/kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { CUDA_STREAM_ROWS = 16 };

/* What a context, cuBLAS and loaded kernels take of a GPU's memory beside what is asked for. */
#define CUDA_CONTEXT_BYTES (UINT64_C(1) << 30)

typedef struct cuda_backend_options {
    uint32_t device;             /* as CUDA_VISIBLE_DEVICES numbers them */
    uint32_t rows_max;           /* rows of one step */
    uint32_t slots, context;     /* sequences, and positions of one */
    uint32_t hidden;
    uint32_t columns_max;        /* the longest row of any weight outside experts */
    uint64_t matrix_max;         /* elements of the largest weight outside experts and embeddings */
    uint32_t heads_max, head_dim_max, heads_per_kv_max, kv_heads_max; /* of this rank, any layer */
    uint32_t window;             /* of sliding layers; 0: none */
    uint32_t experts, active_max, expert_width; /* experts of the router, all of them; 0: no mixture */
    uint32_t own_experts;
    uint32_t scan_rows_max, share; /* rows of logits at once, and their length on this rank */
    bool batch_invariant;
    bool no_recording;           /* replay is not offered: nodes of a recording cannot be looked into */
} cuda_backend_options;

STATUS_CHECKED status cuda_backend_open(backend **out, const cuda_backend_options *options);
/* What it takes of the device's memory for itself: page tables, angles, scratch. */
uint64_t cuda_backend_bytes(const cuda_backend_options *options);
/* Its cudaStream_t. b is the back end itself, not what is around it. */
void *cuda_backend_stream(backend *b);
/* How weights come into the memory of such a back end. */
const device_load_ops *cuda_load_ops(void);

#ifdef __cplusplus
}
#endif
#endif
