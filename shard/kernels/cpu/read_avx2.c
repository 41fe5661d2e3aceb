#include "shard/kernels/cpu/read_kernels.h"

#if defined(__x86_64__)
#define READ_VECTOR 32
#include "shard/kernels/cpu/read_lanes.h"

const read_kernel read_kernels_avx2[3] = {{"avx2 forward", read_forward},
                                          {"avx2 4 streams", read_four_streams},
                                          {"avx2 prefetching", read_prefetching}};
#endif
