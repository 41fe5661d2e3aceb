#include "shard/kernels/cpu/tables.h"

#if defined(__x86_64__)

#include "shard/kernels/cpu/lanes_avx512.h"

#include "shard/kernels/cpu/attention_tile_avx512.h"
#include "shard/kernels/cpu/lanes_math.h"
#include "shard/kernels/cpu/matmul_tile_avx512.h"

#include "shard/kernels/cpu/attention_lanes.h"
#include "shard/kernels/cpu/convert_lanes.h"
#include "shard/kernels/cpu/elementwise_lanes.h"
#include "shard/kernels/cpu/matmul_lanes.h"
#include "shard/kernels/cpu/rmsnorm_lanes.h"
#include "shard/kernels/cpu/rope_lanes.h"
#include "shard/kernels/cpu/softmax_lanes.h"
#include "shard/kernels/cpu/table_lanes.h"

const cpu_kernels cpu_kernels_table_avx512 = LANES_TABLE("avx512");

#endif
