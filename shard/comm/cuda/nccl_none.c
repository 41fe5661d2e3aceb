/* In place of nccl.c where there is no NCCL to build with. */
#ifndef GEMMAD_WITH_NCCL
#include "base/invariant.h"
#include "shard/comm/cuda/cuda_comm_internal.h"

int nccl_part_version(void) {
    (void)fail(ST_UNSUPPORTED, "this build has no NCCL");
    return 0;
}
status nccl_part_open(cuda_state *s) {
    (void)s;
    return fail(ST_UNSUPPORTED, "this build has no NCCL");
}
void nccl_part_abort(cuda_state *s) { (void)s; }
void nccl_part_close(cuda_state *s) { (void)s; }
status nccl_part_look(cuda_state *s) {
    (void)s;
    return ST_OK;
}

/* Nobody comes here without a communicator. */
status nccl_all_reduce(cuda_state *s, float *x, size_t count) {
    (void)x, (void)count;
    INVARIANT(s->nccl);
    return ST_UNSUPPORTED;
}
status nccl_all_gather_v(cuda_state *s, const void *in, const size_t *bytes, void *out) {
    (void)in, (void)bytes, (void)out;
    INVARIANT(s->nccl);
    return ST_UNSUPPORTED;
}
status nccl_all_to_all_v(cuda_state *s, const void *in, const size_t *send_bytes, void *out, const size_t *recv_bytes) {
    (void)in, (void)send_bytes, (void)out, (void)recv_bytes;
    INVARIANT(s->nccl);
    return ST_UNSUPPORTED;
}
status nccl_broadcast(cuda_state *s, void *data, size_t bytes, uint32_t root) {
    (void)data, (void)bytes, (void)root;
    INVARIANT(s->nccl);
    return ST_UNSUPPORTED;
}
status nccl_barrier(cuda_state *s) {
    INVARIANT(s->nccl);
    return ST_UNSUPPORTED;
}
#endif
