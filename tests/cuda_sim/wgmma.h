/* Products of warpgroups, as the PTX manual has them: 128 lanes meet in each, descriptors are decoded, and what they point to is
 * read by shared-memory addresses with the swizzling applied to those.
 *
 * Sums hold NaN until they are waited for. What a product reads is looked at when the first of its lanes comes, when the last
 * one does, and when the last one has waited: it must be the same bits, or somebody wrote while a GPU may have read; and those it
 * was when threads last met in a barrier with one of them having called fence_proxy_async since the barrier before. Lanes that
 * waited for copies and did not call it, and sums that no wgmma_fence stands before, end the process too. */
#ifndef TESTS_CUDA_SIM_WGMMA_H
#define TESTS_CUDA_SIM_WGMMA_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sim_wgmma_call {
    uint32_t columns;          /* of b and d */
    bool along_n;              /* of b */
    bool registers;            /* a is there, and not in shared memory */
    uint64_t a, b;
} sim_wgmma_call;

/* a: 4 words, or NULL. d: columns / 2 floats, which stay where they are until they have been waited for. */
void sim_wgmma(const sim_wgmma_call *call, float *d, const uint32_t *a);
void sim_wgmma_hold(void *registers, int count);
void sim_wgmma_fence(void);
void sim_wgmma_commit(void);
void sim_wgmma_wait(int left);
void sim_wgmma_fence_proxy(void);
/* Of 18 bits. Dynamic shared memory begins at a multiple of 128 that is none of 1024. */
uint32_t sim_shared_address(const void *p);

/* ---- for block.c ---- */
void sim_wgmma_begin(unsigned threads);  /* a block */
void sim_wgmma_barrier(void);            /* threads have met */
void sim_wgmma_copied(void);             /* copies of the current lane have arrived */
void sim_wgmma_end(void);                /* the current lane returns */

#ifdef __cplusplus
}
#endif
#endif
