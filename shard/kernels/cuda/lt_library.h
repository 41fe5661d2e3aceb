/* cuBLASLt, loaded when the first back end wants it: a machine without a GPU needs none, and maps none.
 *
 * Threads: any. */
#ifndef SHARD_KERNELS_CUDA_LT_LIBRARY_H
#define SHARD_KERNELS_CUDA_LT_LIBRARY_H

#include <cublasLt.h>
#include <stdbool.h>

#include "base/status.h"

/* Every function that is called; one that is not in here does not link. */
#define LT_FUNCTIONS(X)                                                                                      \
    X(GetVersion)                                                                                            \
    X(Create)                                                                                                \
    X(Destroy)                                                                                               \
    X(MatrixLayoutCreate)                                                                                    \
    X(MatrixLayoutDestroy)                                                                                   \
    X(MatmulDescCreate)                                                                                      \
    X(MatmulDescDestroy)                                                                                     \
    X(MatmulDescSetAttribute)                                                                                \
    X(MatmulPreferenceCreate)                                                                                \
    X(MatmulPreferenceDestroy)                                                                               \
    X(MatmulPreferenceSetAttribute)                                                                          \
    X(MatmulAlgoGetHeuristic)                                                                                \
    X(Matmul)

/* cublasLtX is lt.X; their types are the header's. */
typedef struct lt_functions {
#define LT_FUNCTION(name) __typeof__(&cublasLt##name) name;
    LT_FUNCTIONS(LT_FUNCTION)
#undef LT_FUNCTION
} lt_functions;

/* To be called once lt_library_open has given ST_OK. */
extern lt_functions lt;

/* Loads it, once; the same answer each time. ST_NOT_FOUND, ST_UNSUPPORTED (a function is missing, or it is another major
 * version): with a sentence. */
STATUS_CHECKED status lt_library_open(void);

#ifdef GEMMAD_CUDA_SIM
/* Tests: the next openings find none, or find it again. */
void lt_library_pretend_missing(bool missing);
#endif

#endif
