/* The kernels of test_cuda_sim.c are those of test_cuda_sim_order.c. */
#include "tests/unit/cuda/test_cuda_sim.cu"
