#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "shard/comm/cuda/cuda_comm_internal.h"
#include "tests/log_capture.h"
#include "tests/test.h"
#include "tests/unit/cuda/cuda_comm_checks.h"
#ifdef GEMMAD_CUDA_SIM
#include "tests/cuda_sim/cuda_sim.h"
#endif

enum { SMALL = 3000, LARGE_BYTES = 256 << 10, SECONDS = 20 };

static int devices;

typedef status gpu_body(gpu_rank *g, void *context);
typedef struct gpu_run {
    cuda_comm_options o; /* ranks, stream and device are filled in */
    const char *way;     /* cuda_comm_way begins with it; NULL: any */
    bool one_device;     /* all ranks on device 0 */
    gpu_body *body;
    void *context;
} gpu_run;

static status run_rank(comm *ranks, void *context) {
    gpu_run *run = context;
    gpu_rank g = {.ranks = ranks, .rank = comm_rank(ranks), .size = comm_size(ranks)};
    cuda_comm_options o = run->o;
    o.ranks = ranks;
    o.device = run->one_device ? 0 : (int)g.rank % devices;
    GPU_TRY(cudaSetDevice(o.device));
    GPU_TRY(cudaStreamCreateWithFlags(&g.stream, cudaStreamNonBlocking));
    o.stream = g.stream;
    if (o.small_floats_max == 0) o.small_floats_max = SMALL, o.large_bytes_max = LARGE_BYTES;
    status st = cuda_comm_open(&g.c, &o);
    if (st == ST_OK && run->way && strncmp(cuda_comm_way(g.c), run->way, strlen(run->way)) != 0)
        st = fail(ST_INTERNAL, "way \"%s\", not \"%s\"", cuda_comm_way(g.c), run->way);
    if (st == ST_OK) st = run->body(&g, run->context);
    char text[STATUS_TEXT_MAX];
    snprintf(text, sizeof text, "%s", status_text());
    if (st != ST_OK) comm_abort(g.ranks); /* as a rank does that fails */
    comm_close(g.c);
    if (st == ST_OK) GPU_TRY(cudaStreamSynchronize(g.stream));
    (void)cudaStreamDestroy(g.stream);
    return st == ST_OK ? ST_OK : fail(st, "%s", text);
}

static status run_ranks(uint32_t ranks, gpu_run *run) {
    return comm_fork_run(&(comm_fork_options){.ranks = ranks, .threads = true}, run_rank, run);
}

/* Ranks can have a device each. */
static bool fits(uint32_t ranks) { return ranks <= (uint32_t)devices; }
/* Kernels of ranks that share a device wait for each other, which a real one promises nothing about: two do. */
static bool meets(uint32_t ranks) { return fits(ranks) || ranks <= 2; }
static const uint32_t sizes[] = {1, 2, 3, 4, 8};
enum { SIZES = sizeof sizes / sizeof *sizes };

static cuda_comm_options by_nccl(void) { return (cuda_comm_options){.no_peer = true, .test_shared_device = true}; }
static cuda_comm_options by_either(void) { return (cuda_comm_options){.test_shared_device = true, .test_handles = true}; }
static cuda_comm_options by_peer(void) { return (cuda_comm_options){.test_without_nccl = true, .test_shared_device = true}; }
static cuda_comm_options staged(void) { return (cuda_comm_options){.staged = true}; }

/* ---- every call, bit for bit ---- */

static status exchanges(gpu_rank *g, void *context) {
    (void)context;
    comm_stats before = comm_statistics(g->c);
    TRY(gpu_check_exchanges(g, SMALL, LARGE_BYTES));
    comm_stats after = comm_statistics(g->c);
    if (after.calls - before.calls < 40 || after.bytes - before.bytes < 1000000)
        return fail(ST_INTERNAL, "calls or bytes are not counted");
    if (comm_is_ordered(g->c) != (after.ns == 0)) return fail(ST_INTERNAL, "time of what is ordered is counted");
    return ST_OK;
}

TEST(exchanges_by_nccl) {
    for (size_t i = 0; i < SIZES; i++)
        if (fits(sizes[i])) CHECK_STATUS(run_ranks(sizes[i], &(gpu_run){by_nccl(), "nccl", false, exchanges, NULL}), ST_OK);
}
TEST(exchanges_by_whatever_is_faster) {
    for (size_t i = 0; i < SIZES; i++)
        if (fits(sizes[i])) CHECK_STATUS(run_ranks(sizes[i], &(gpu_run){by_either(), "nccl", false, exchanges, NULL}), ST_OK);
}
TEST(exchanges_through_peer_memory) {
    for (size_t i = 0; i < SIZES; i++)
        if (meets(sizes[i]))
            CHECK_STATUS(run_ranks(sizes[i], &(gpu_run){by_peer(), "staged, short sums through peer memory", !fits(sizes[i]),
                                                        exchanges, NULL}),
                         ST_OK);
}
TEST(exchanges_staged) {
    for (size_t i = 1; i < SIZES; i++)
        CHECK_STATUS(run_ranks(sizes[i], &(gpu_run){staged(), "staged", i % 2, exchanges, NULL}), ST_OK);
}

static status alone(gpu_rank *g, void *context) {
    (void)context;
    if (!comm_is_ordered(g->c)) return fail(ST_INTERNAL, "alone and not ordered");
    TRY(gpu_check_exchanges(g, SMALL, LARGE_BYTES));
    comm_abort(g->c);
    return comm_barrier(g->c);
}
TEST(a_lone_rank_has_nothing_to_exchange) {
    CHECK_STATUS(run_ranks(1, &(gpu_run){{0}, "self", false, alone, NULL}), ST_PEER);
    CHECK_SENTENCE("rank 0 gave up");
}

/* ---- recorded ---- */

static status record_sums(gpu_rank *g, float *x, const size_t *counts, uint32_t n, cudaGraphExec_t *exec) {
    cudaGraph_t graph;
    GPU_TRY(cudaStreamBeginCapture(g->stream, cudaStreamCaptureModeThreadLocal));
    for (uint32_t i = 0; i < n; i++) TRY(comm_all_reduce(g->c, x, counts[i]));
    GPU_TRY(cudaStreamEndCapture(g->stream, &graph));
    GPU_TRY(cudaGraphInstantiate(exec, graph, 0));
    GPU_TRY(cudaGraphDestroy(graph));
    return ST_OK;
}

/* Replays, with calls that are not recorded between them, which share windows and scratch. */
static status replays(gpu_rank *g, void *context) {
    const size_t counts[] = {2816, 5, 700, *(size_t *)context}, most = 3 * (LARGE_BYTES / 4);
    const uint32_t n = counts[3] ? 4 : 3;
    float *x = memory_alloc_array(most, sizeof *x);
    void *device = NULL;
    cudaGraphExec_t exec;
    GPU_TRY(cudaMalloc(&device, most * sizeof *x + 64));
    TRY(record_sums(g, device, counts, n, &exec));
    for (uint64_t round = 0; round < 6; round++) {
        void *copy = device;
        for (size_t i = 0; i < most; i++) x[i] = checks_float(round, g->rank, i);
        GPU_TRY(cudaMemsetAsync(device, 7, most * sizeof *x + 64, g->stream));
        GPU_TRY(cudaMemcpyAsync(device, x, most * sizeof *x, cudaMemcpyHostToDevice, g->stream));
        GPU_TRY(cudaGraphLaunch(exec, g->stream));
        if (round % 2) TRY(comm_all_reduce(g->c, device, 300));
        if (round % 2) GPU_TRY(cudaGraphLaunch(exec, g->stream));
        GPU_TRY(cudaStreamSynchronize(g->stream));
        for (uint32_t k = 0; k < (round % 2 ? 2u : 1u); k++) {
            if (k) TRY(comm_all_reduce(g->ranks, x, 300));
            for (uint32_t i = 0; i < n; i++) TRY(comm_all_reduce(g->ranks, x, counts[i]));
        }
        if (round < 5) {
            GPU_TRY(cudaMalloc(&copy, most * sizeof *x + 64));
            GPU_TRY(cudaMemcpyAsync(copy, device, most * sizeof *x + 64, cudaMemcpyDeviceToDevice, g->stream));
        }
        TRY(gpu_compare(g, "replayed sums", copy, x, most * sizeof *x));
    }
    GPU_TRY(cudaGraphExecDestroy(exec));
    free(x);
    return ST_OK;
}
TEST(recorded_sums_replay) {
    size_t large = 2 * (LARGE_BYTES / 4) + 7, none = 0;
    for (size_t i = 0; i < SIZES; i++) {
        if (fits(sizes[i])) CHECK_STATUS(run_ranks(sizes[i], &(gpu_run){by_nccl(), "nccl", false, replays, &large}), ST_OK);
        if (fits(sizes[i])) CHECK_STATUS(run_ranks(sizes[i], &(gpu_run){by_peer(), NULL, false, replays, &none}), ST_OK);
    }
}

static status nothing(gpu_rank *g, void *context) {
    (void)g, (void)context;
    return ST_OK;
}

/* ---- ends in disorder ---- */

/* As engines are then: with recordings, which NCCL's abort waits for, and which nobody but this thread destroys. */
typedef struct with_recording {
    status (*body)(gpu_rank *g, void *context);
    void *context;
} with_recording;

static status beside_a_recording(gpu_rank *g, void *context) {
    const with_recording *w = context;
    const size_t counts[] = {100, 6000};
    void *x = NULL;
    cudaGraphExec_t exec = NULL;
    GPU_TRY(cudaMalloc(&x, counts[1] * sizeof(float)));
    if (comm_is_ordered(g->c)) TRY(record_sums(g, x, counts, 2, &exec));
    status st = w->body(g, w->context);
    if (exec) GPU_TRY(cudaGraphExecDestroy(exec));
    return st;
}

typedef struct disorder {
    bool by_thread; /* comm_abort from a thread of rank 1's; else rank 1 fails */
    _Atomic uint64_t since_ns;
} disorder;

static void *abort_soon(void *argument) {
    nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    comm_abort(argument);
    return NULL;
}

/* Rank 1 stays away; the others are on the device, or on their way to it, when it gives up. */
static status rank_1_missing(gpu_rank *g, void *context) {
    disorder *d = context;
    float *x = NULL;
    GPU_TRY(cudaMalloc((void **)&x, LARGE_BYTES));
    GPU_TRY(cudaMemsetAsync(x, 0, LARGE_BYTES, g->stream));
    TRY(comm_all_reduce(g->c, x, 100));
    GPU_TRY(cudaStreamSynchronize(g->stream));
    status st = comm_barrier(g->ranks);
    if (g->rank == 1) atomic_store(&d->since_ns, clock_now_ns());
    pthread_t thread;
    if (g->rank == 1 && d->by_thread && pthread_create(&thread, NULL, abort_soon, g->c) != 0) return ST_INTERNAL;
    if (g->rank != 1) {
        for (int i = 0; i < 3 && st == ST_OK; i++) st = comm_all_reduce(g->c, x, 100);
        if (st == ST_OK) GPU_TRY(cudaStreamSynchronize(g->stream));
        if (st == ST_OK) st = comm_all_reduce(g->c, x, 100);
        if (st == ST_OK) st = fail(ST_INTERNAL, "rank %u goes on", g->rank);
    } else if (d->by_thread) {
        pthread_join(thread, NULL);
        st = comm_all_reduce(g->c, x, 100);
    } else {
        nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
        st = fail(ST_IO, "the disk is full");
    }
    double seconds = (double)(clock_now_ns() - atomic_load(&d->since_ns)) / 1e9;
    if (atomic_load(&d->since_ns) && seconds > SECONDS) return fail(ST_INTERNAL, "%.1f seconds", seconds);
    /* The host's comm knows as well. */
    if (st == ST_PEER && comm_barrier(g->ranks) != ST_PEER) return fail(ST_INTERNAL, "the host's comm goes on");
    return st;
}

static void check_disorder(cuda_comm_options o, uint32_t ranks, bool one_device) {
    char said[1 << 14];
    log_capture_begin();
    disorder d = {.by_thread = true};
    with_recording w = {rank_1_missing, &d};
    CHECK_STATUS(run_ranks(ranks, &(gpu_run){o, NULL, one_device, beside_a_recording, &w}), ST_PEER);
    CHECK_SENTENCE("rank 1");
    d = (disorder){.by_thread = false};
    CHECK_STATUS(run_ranks(ranks, &(gpu_run){o, NULL, one_device, beside_a_recording, &w}), ST_IO);
    CHECK_SENTENCE("rank 1: the disk is full");
    log_capture_end(said, sizeof said);
    if (!o.staged) CHECK(strstr(said, "exchanges between GPUs end: rank 1"));
}
TEST(an_abort_ends_all_waits) {
    check_disorder(staged(), 3, true);
    check_disorder(by_peer(), 2, !fits(2));
    if (!fits(3)) return;
    check_disorder(by_nccl(), 3, false);
    check_disorder(by_either(), 3, false);
}

#ifdef GEMMAD_CUDA_SIM
static status ways_agree(gpu_rank *g, void *context) {
    (void)context;
    char all[8][64], mine[64] = "";
    snprintf(mine, sizeof mine, "%s", cuda_comm_way(g->c));
    TRY(comm_all_gather(g->ranks, mine, sizeof mine, all));
    for (uint32_t r = 1; r < g->size; r++)
        if (strcmp(all[0], all[r]) != 0) return fail(ST_INTERNAL, "rank 0 goes by %s, rank %u by %s", all[0], r, all[r]);
    return gpu_check_all_reduce(g, 1, 6000, 0);
}

/* A connection of NCCL's is lost while ranks wait on the device for rank 1, which is busy elsewhere. */
static status connection_lost(gpu_rank *g, void *context) {
    (void)context;
    float *x = NULL;
    uint64_t since = clock_now_ns();
    GPU_TRY(cudaMalloc((void **)&x, LARGE_BYTES));
    GPU_TRY(cudaMemsetAsync(x, 0, LARGE_BYTES, g->stream));
    TRY(comm_barrier(g->ranks));
    status st = ST_OK;
    if (g->rank == 1) {
        nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
        cuda_sim_nccl_break();
        while (st == ST_OK && clock_now_ns() - since < SECONDS * 1000000000ull) {
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
            st = comm_barrier(g->c);
        }
    } else {
        st = comm_all_reduce(g->c, x, LARGE_BYTES / 4);
        if (st == ST_OK) GPU_TRY(cudaStreamSynchronize(g->stream));
        if (st == ST_OK) st = comm_all_reduce(g->c, x, 100);
    }
    if (clock_now_ns() - since > SECONDS * 1000000000ull) return fail(ST_INTERNAL, "it takes too long");
    return st == ST_OK ? fail(ST_INTERNAL, "rank %u goes on", g->rank) : st;
}
TEST(an_error_of_nccl_ends_all_waits) {
    char said[1 << 14];
    log_capture_begin();
    with_recording w = {connection_lost, NULL};
    CHECK_STATUS(run_ranks(3, &(gpu_run){by_nccl(), "nccl", false, beside_a_recording, &w}), ST_PEER);
    log_capture_end(said, sizeof said);
    CHECK_THAT(strstr(said, "exchanges between GPUs end: NCCL, ") && strstr(said, ": remote process exited"), "%s", said);
}

/* A device that fails while it is measured: nobody waits for it for ever. */
static status fails_while_opening(comm *ranks, void *context) {
    if (comm_rank(ranks) == 1) cudaSetDevice(1), cuda_sim_fail_next(cudaErrorLaunchFailure);
    status st = run_rank(ranks, context);
    if (comm_rank(ranks) == 1) cudaSetDevice(1), (void)cudaDeviceReset();
    return st;
}
TEST(a_device_that_fails_ends_opening) {
    char said[1 << 14];
    log_capture_begin();
    gpu_run run = {by_nccl(), NULL, false, nothing, NULL};
    status st = comm_fork_run(&(comm_fork_options){.ranks = 3, .threads = true}, fails_while_opening, &run);
    log_capture_end(said, sizeof said);
    CHECK_THAT(st == ST_UNAVAILABLE, "%s: %s", status_name(st), status_text());
}

TEST(the_faster_way_is_taken_and_said) {
    char said[1 << 14];
    log_capture_begin();
    log_open("test", LOG_INFO);
    CHECK_STATUS(run_ranks(3, &(gpu_run){{.small_floats_max = 6000, .test_handles = true}, "nccl", false, ways_agree, NULL}),
                 ST_OK);
    log_open("test", LOG_WARN);
    log_capture_end(said, sizeof said);
    bool peer = strstr(said, "exchanges between GPUs: nccl, short sums through peer memory");
    CHECK_THAT(strstr(said, "a sum of 2816 / 5376 floats takes ") &&
                   strstr(said, peer ? "us through peer memory: peer memory does those of up to 6000"
                                     : "us through peer memory: NCCL does those of up to 6000"),
               "%s", said);
}
#endif

/* ---- who may be together ---- */

TEST(two_ranks_on_one_device_are_refused) {
    CHECK_STATUS(run_ranks(2, &(gpu_run){{0}, NULL, true, nothing, NULL}), ST_LAYOUT);
    CHECK_SENTENCE("ranks 0 and 1 are both on GPU");
    CHECK_SENTENCE("give each another CUDA_VISIBLE_DEVICES");
    CHECK_STATUS(run_ranks(2, &(gpu_run){staged(), "staged", true, nothing, NULL}), ST_OK);
}

static status is_by_nccl_alone(gpu_rank *g, void *context) {
    (void)context;
    return strcmp(cuda_comm_way(g->c), "nccl") == 0 ? ST_OK : fail(ST_INTERNAL, "%s", cuda_comm_way(g->c));
}
TEST(settings_of_nccl_that_matter_here) {
    setenv("NCCL_COMM_BLOCKING", "1", 1);
    CHECK_STATUS(run_ranks(2, &(gpu_run){by_nccl(), NULL, !fits(2), nothing, NULL}), ST_INVALID);
    CHECK_SENTENCE("NCCL_COMM_BLOCKING is \"1\"");
    setenv("NCCL_COMM_BLOCKING", "0", 1);
    setenv("NCCL_P2P_DISABLE", "1", 1);
    if (fits(2)) CHECK_STATUS(run_ranks(2, &(gpu_run){by_either(), NULL, false, is_by_nccl_alone, NULL}), ST_OK);
    unsetenv("NCCL_COMM_BLOCKING"), unsetenv("NCCL_P2P_DISABLE");
}

static status open_with(comm *ranks, void *context) {
    cuda_comm_options o = *(cuda_comm_options *)context;
    comm *c = NULL;
    o.ranks = ranks;
    if (comm_rank(ranks) == 1 && o.device == 0) o.no_peer = true;
    status st = cuda_comm_open(&c, &o);
    comm_close(c);
    return st;
}
TEST(options_are_checked) {
    CHECK_STATUS(comm_fork_run(&(comm_fork_options){.ranks = 2, .threads = true}, open_with,
                               &(cuda_comm_options){.device = 0}),
                 ST_MISMATCH);
    CHECK_SENTENCE("ranks 0 and 1 were started with other options");
    CHECK_STATUS(comm_fork_run(&(comm_fork_options){.ranks = 2, .threads = true}, open_with,
                               &(cuda_comm_options){.device = 1000}),
                 ST_INVALID);
    CHECK_SENTENCE("device 1000");
}

TEST(ranks_must_have_one_version) {
    rank_card cards[3] = {{.nccl = 22809, .driver = 13000, .runtime = 13000, .bus = "0000:01:00.0", .host = "a"}};
    cards[1] = cards[2] = cards[0];
    CHECK_STATUS(cards_compare(cards, 3), ST_OK);
    cards[2].nccl = 22703;
    CHECK_STATUS(cards_compare(cards, 3), ST_MISMATCH);
    CHECK_SENTENCE("rank 0 has NCCL 22809, rank 2 has 22703");
    cards[2].nccl = 0;
    CHECK_STATUS(cards_compare(cards, 3), ST_MISMATCH);
    CHECK_SENTENCE("rank 0 has NCCL 22809, rank 2 has none");
    cards[0].nccl = cards[2].nccl = 0;
    CHECK_STATUS(cards_compare(cards, 3), ST_MISMATCH);
    CHECK_SENTENCE("rank 1 has NCCL 22809, rank 0 has none");
    cards[0].nccl = 22809, cards[2].nccl = 22703;
    cards[1].driver = 12080;
    CHECK_STATUS(cards_compare(cards, 3), ST_MISMATCH);
    CHECK_SENTENCE("rank 0 has a driver for CUDA 13000, rank 1 has 12080");
    cards[0].staged = cards[1].staged = cards[2].staged = true;
    CHECK_STATUS(cards_compare(cards, 3), ST_OK);
    cards[1].status = ST_NO_MEMORY;
    strcpy(cards[1].text, "nothing left");
    CHECK_STATUS(cards_compare(cards, 3), ST_NO_MEMORY);
    CHECK_SENTENCE("rank 1: nothing left");
}

TEST(a_device_is_known_by_its_id_or_its_place) {
    rank_card cards[2] = {{.bus = "0000:01:00.0", .host = "a", .uuid = "0123"}, {.bus = "0000:01:00.0", .host = "b", .uuid = "4567"}};
    CHECK_STATUS(cards_check_devices(cards, 2), ST_OK);
    CHECK(!cards_one_host(cards, 2));
    strcpy(cards[1].host, "a");
    CHECK_STATUS(cards_check_devices(cards, 2), ST_LAYOUT);
    strcpy(cards[1].bus, "0000:02:00.0");
    CHECK_STATUS(cards_check_devices(cards, 2), ST_OK);
    memcpy(cards[1].uuid, cards[0].uuid, sizeof cards[1].uuid);
    CHECK_STATUS(cards_check_devices(cards, 2), ST_LAYOUT);
}

TEST(settings_of_nccl_are_compared_by_name) {
    CHECK_STATUS(cards_compare_settings("NCCL_ALGO=Ring\n", "NCCL_ALGO=Ring\n", 1), ST_OK);
    CHECK_STATUS(cards_compare_settings("NCCL_ALGO=Ring\nNCCL_PROTO=LL\n", "NCCL_ALGO=Tree\nNCCL_NTHREADS=64\nNCCL_PROTO=LL\n", 2),
                 ST_MISMATCH);
    CHECK_SENTENCE("; NCCL_ALGO: rank 0 has \"Ring\", rank 2 has \"Tree\"; NCCL_NTHREADS: rank 0 has none, rank 2 has \"64\"");
    CHECK_STATUS(cards_compare_settings("NCCL_PROTO=LL\n", "", 1), ST_MISMATCH);
    CHECK_SENTENCE("NCCL_PROTO: rank 0 has \"LL\", rank 1 has none");
    char text[CUDA_COMM_SETTINGS_MAX];
    setenv("NCCL_PROTO", "Simple", 1);
    setenv("NCCL_ALGO", "", 1);
    setenv("NCCL_DEBUG", "INFO", 1);
    setenv("NCCL_IB_HCA", "mlx5_0", 1);
    CHECK(cards_settings(text) == strlen(text) + 1);
    CHECK_THAT(strcmp(text, "NCCL_ALGO=\nNCCL_PROTO=Simple\n") == 0, "%s", text);
    unsetenv("NCCL_PROTO"), unsetenv("NCCL_ALGO"), unsetenv("NCCL_DEBUG"), unsetenv("NCCL_IB_HCA");
}

#ifdef GEMMAD_CUDA_SIM
static status with_own_settings(comm *ranks, void *context) {
    if (comm_rank(ranks) == 2) setenv("NCCL_ALGO", "Tree", 1);
    return run_rank(ranks, context);
}
/* Ranks are processes, so that each has an environment. */
TEST(ranks_must_have_the_same_settings) {
    gpu_run run = {{0}, NULL, false, nothing, NULL};
    CHECK_STATUS(comm_fork_run(&(comm_fork_options){.ranks = 3}, with_own_settings, &run), ST_MISMATCH);
    CHECK_SENTENCE("NCCL_ALGO: rank 0 has none, rank 2 has \"Tree\"");
}
#endif

int main(void) {
    log_open("test", LOG_WARN);
    setenv("CUDA_SIM_DEVICES", "8", 0);
    setenv("CUDA_SIM_LATE_MS", "1", 0);
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0); /* streams of ranks that share a device do not queue behind each other */
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) test_skip("no GPU here");
    RUN(ranks_must_have_one_version);
    RUN(a_device_is_known_by_its_id_or_its_place);
    RUN(settings_of_nccl_are_compared_by_name);
    RUN(settings_of_nccl_that_matter_here);
#ifdef GEMMAD_CUDA_SIM
    RUN(ranks_must_have_the_same_settings);
#endif
    RUN(a_lone_rank_has_nothing_to_exchange);
    RUN(exchanges_staged);
    RUN(exchanges_through_peer_memory);
    RUN(exchanges_by_nccl);
    RUN(exchanges_by_whatever_is_faster);
    RUN(recorded_sums_replay);
    RUN(an_abort_ends_all_waits);
#ifdef GEMMAD_CUDA_SIM
    RUN(an_error_of_nccl_ends_all_waits);
    RUN(a_device_that_fails_ends_opening);
    RUN(the_faster_way_is_taken_and_said);
#endif
    RUN(two_ranks_on_one_device_are_refused);
    RUN(options_are_checked);
    return test_result();
}
