#include "shard/kernels/cpu/read_kernels.h"

#if defined(__x86_64__)
#define READ_VECTOR 64
#include "shard/kernels/cpu/read_lanes.h"

const read_kernel read_kernels_avx512[3] = {{"avx512 forward", read_forward},
                                            {"avx512 4 streams", read_four_streams},
                                            {"avx512 prefetching", read_prefetching}};
#endif
