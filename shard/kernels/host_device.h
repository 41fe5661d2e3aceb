/* Functions that the host and kernels on a GPU both call: one source, and so the same bits, wherever it runs.
 * Files of C and of CUDA C++ include them, so they are written in what both have. */
#ifndef SHARD_KERNELS_HOST_DEVICE_H
#define SHARD_KERNELS_HOST_DEVICE_H

#ifdef __CUDACC__
#define HOST_DEVICE_INLINE static __host__ __device__ __forceinline__
#else
#define HOST_DEVICE_INLINE static inline
#endif

/* Those that sizes of arrays and of shared memory are computed with. */
#ifdef __CUDACC__
#define HOST_DEVICE_CONSTANT static __host__ __device__ constexpr
#elif defined __cplusplus
#define HOST_DEVICE_CONSTANT static constexpr
#else
#define HOST_DEVICE_CONSTANT static inline
#endif

#endif
