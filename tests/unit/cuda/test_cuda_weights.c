/* Weights into the memory of a GPU by its own loader: the same bytes as in the host's memory, from checkpoints, packs and GGUF
 * files, whatever the number of threads and the size of pieces. */
#include "base/log.h"
#include "shard/kernels/cuda/cuda_backend.h"
#include "tests/device_weights.h"
#include "tests/unit/cuda/cuda_test.h"

/* Of the back end the loader needs device and stream alone, and weights its memory. */
static status take(backend *b, size_t bytes, const char *what, void **out) {
    *out = NULL;
    if (cudaMalloc(out, bytes) != cudaSuccess) return fail(ST_NO_MEMORY, "%s: %zu bytes", what, bytes);
    /* On its way while loading begins, which must wait for it. */
    if (cudaMemsetAsync(*out, 0, bytes, cuda_of(b)->stream) != cudaSuccess) return fail(ST_INTERNAL, "%s", what);
    return ST_OK;
}

static void give(backend *b, void *p, size_t bytes) {
    (void)b;
    (void)bytes;
    CHECK(cudaFree(p) == cudaSuccess);
}

static void read_back(void *host, const void *device, size_t bytes) {
    CHECK(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost) == cudaSuccess);
}

static const backend_ops ops = {.alloc = take, .release = give};
static cuda_backend c = {.base = {.ops = &ops, .name = "cuda"}};

TEST(every_kind_of_weights) {
    const weights_device d = {&c.base, cuda_load_ops(), read_back};
    device_check_all(&d, true);
}

/* Stages of one thread in turn, each used again at once: what was sent is what was in it then. */
TEST(stages_are_not_overwritten_before_they_are_sent) {
    enum { BYTES = 300 * 1024, ROUNDS = 9, THREADS = 3 };
    const device_load_ops *load = cuda_load_ops();
    device_loader *l = NULL;
    void *there;
    char *got = memory_alloc(BYTES);
    CHECK_STATUS(take(&c.base, (size_t)BYTES * ROUNDS * THREADS, "room", &there), ST_OK);
    CHECK_STATUS(load->open(&l, &c.base, THREADS, BYTES), ST_OK);
    if (!l) exit(1);
    for (int i = 0; i < ROUNDS * THREADS; i++) {
        uint32_t thread = (uint32_t)i % THREADS;
        char *stage = load->stage(l, thread);
        CHECK((uintptr_t)stage % 64 == 0);
        memset(stage, i + 1, BYTES);
        CHECK_STATUS(load->send(l, thread, (char *)there + (size_t)i * BYTES, BYTES - (size_t)i), ST_OK);
    }
    CHECK_STATUS(load->finish(l), ST_OK);
    for (int i = 0; i < ROUNDS * THREADS; i++) {
        uint64_t wrong = 0;
        read_back(got, (char *)there + (size_t)i * BYTES, BYTES);
        for (int k = 0; k < BYTES; k++) wrong += got[k] != (k < BYTES - i ? i + 1 : 0);
        CHECK_THAT(wrong == 0, "%llu bytes of round %d", (unsigned long long)wrong, i);
    }
    /* A second use, after all was waited for. */
    memset(load->stage(l, 2), 99, BYTES);
    CHECK_STATUS(load->send(l, 2, there, 17), ST_OK);
    CHECK_STATUS(load->finish(l), ST_OK);
    read_back(got, there, 18);
    CHECK(got[0] == 99 && got[16] == 99 && got[17] == 1);
    load->close(l);
    load->close(NULL);
    give(&c.base, there, 0);
    free(got);
}

int main(void) {
    device_needed();
    log_open("test", LOG_ERROR);
    if (cudaStreamCreateWithFlags(&c.stream, cudaStreamNonBlocking) != cudaSuccess) return 1;
    RUN(every_kind_of_weights);
    RUN(stages_are_not_overwritten_before_they_are_sent);
    CHECK(cudaStreamDestroy(c.stream) == cudaSuccess);
    return test_result();
}
