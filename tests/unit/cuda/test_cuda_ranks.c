/* Several ranks, each on a device of its own: golden tokens at 2 and 4 ranks by each way that exchanges can take, with steps
 * that are recorded and run again. On one machine the ranks are threads. */
#include "base/invariant.h"
#include "base/log.h"
#include "shard/comm/cuda/cuda_comm_internal.h"
#include "shard/gpu/cuda_provider.h"
#include "shard/kernels/cuda/cuda.h"
#include "tests/engine_driver.h"
#include "tests/golden_reader.h"
#include "tests/test.h"

typedef enum way { WAY_MEASURED, WAY_NCCL, WAY_PEER, WAY_STAGED } way;
static const char *const way_names[] = {"measured", "nccl", "peer", "staged"};

typedef struct run {
    const char *model;
    way way;
    uint32_t ranks, tokens;
} run;

static way asked; /* what open_way does: set while no engine runs */

/* The provider's own, but that the way is chosen, not measured. */
static status open_way(comm **out, backend *b, const gpu_comm_options *o) {
    TRY(cuda_comm_open(out, &(cuda_comm_options){.ranks = o->ranks,
                                                 .stream = cuda_backend_stream(b),
                                                 .device = (int)o->place->device,
                                                 .no_peer = asked == WAY_NCCL,
                                                 .staged = asked == WAY_STAGED}));
    if (asked == WAY_PEER && state_of(*out)->peer) state_of(*out)->short_by_peer = true;
    return ST_OK;
}

static status body(comm *ranks, void *context) {
    const run *c = context;
    char path[512], file[600];
    uint64_t shape[4], count[4];
    gpu_provider chosen = *gpu_cuda();
    instance in;
    if (c->way != WAY_MEASURED) chosen.open_comm = open_way;
    snprintf(path, sizeof path, "%s/golden/%s", TEST_DATA, c->model);
    snprintf(file, sizeof file, "%s/expected.safetensors", path);
    TRY(instance_open(&in, &(instance_options){.model_path = path,
                                               .ranks = ranks,
                                               .gpu = &chosen,
                                               .device = DEVICE_CUDA,
                                               .weights = WEIGHTS_F32,
                                               .threads = 1,
                                               .context = 128,
                                               .slots = 2,
                                               .rows_max = 128}));
    const cuda_state *s = state_of(in.activations);
    CHECK_THAT(in.gpu_place.device == comm_rank(ranks) && !in.gpu_place.shared, "rank %u is on device %u", comm_rank(ranks),
               in.gpu_place.device);
    CHECK(comm_is_ordered(in.activations) == (c->way != WAY_STAGED));
#ifdef GEMMAD_CUDA_SIM /* not every machine's GPUs reach each other */
    CHECK(c->way != WAY_PEER || s->peer);
#endif
    CHECK(c->way != WAY_NCCL || (s->nccl && !s->peer && !s->short_by_peer));
    CHECK(c->way != WAY_STAGED || (s->staged && !s->nccl));
    golden *g = golden_open(file);
    const int32_t *ids = golden_i32(g, "case2.input_ids", shape), *greedy = golden_i32(g, "case2.greedy", count);
    INVARIANT(ids && greedy && c->tokens <= count[0]);
    driver_request r = driver_prompt((const uint32_t *)ids, (uint32_t)shape[0], c->tokens);
    status st = driver_run(&in, ranks, &r, 1);
    if (st == ST_OK && comm_rank(ranks) == 0) {
        bool same = r.out_count == c->tokens;
        for (uint32_t i = 0; same && i < c->tokens; i++) same = (int64_t)r.out[i] == greedy[i];
        CHECK_THAT(same, "%s at %u ranks, %s: not the golden tokens", c->model, c->ranks, way_names[c->way]);
        driver_free(&r, 1);
    }
    instance_close(&in);
    golden_close(g);
    return st;
}

static void check(const char *model, uint32_t ranks, way by, uint32_t tokens) {
    run c = {model, by, ranks, tokens};
    if (gpu_cuda()->count() < ranks) {
        printf("  %s at %u ranks is left out: there are fewer GPUs\n", model, ranks);
        return;
    }
    asked = by;
    CHECK_STATUS(comm_fork_run(&(comm_fork_options){.ranks = ranks, .threads = true}, body, &c), ST_OK);
}

TEST(two) {
    check("dense", 2, WAY_MEASURED, TEST_SANITIZED ? 3 : 5);
    if (TEST_SANITIZED) return;
    check("moe", 2, WAY_PEER, 4);
    check("dense", 2, WAY_NCCL, 4);
    check("moe", 2, WAY_STAGED, 3);
}
TEST(four) {
    check("dense", 4, WAY_PEER, 4);
    check("moe", 4, WAY_NCCL, 4);
}

int main(void) {
    log_open("test", LOG_WARN);
    setenv("CUDA_SIM_DEVICES", "4", 1);
    if (gpu_cuda()->count() < 2) test_skip("there are no two GPUs that CUDA can use");
    RUN(two);
    if (!TEST_SANITIZED) RUN(four);
    return test_result();
}
