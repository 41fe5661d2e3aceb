/* The exchanges over MPI, as a program for mpirun. Modes:
 *   check           every exchange, at several slot sizes, on one node and with the ranks split into several
 *   check-hosts     the same without splitting: the ranks are on different hosts
 *   abort PLACE     the last rank gives up: every other rank must hear it within a second
 *   idle            a second in comm_wait costs next to no processor time
 *   bench           the all-reduce beside MPI_Allreduce
 * Each rank prints a line "rank R ok …" or "rank R FAILED …"; the end code is 0 when its part passed. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "tests/unit/comm/comm_checks.h"

static const uint8_t secret[32] = "the secret of this one test run";

static status open_comm(comm **c, uint32_t ranks_per_node, size_t slot, uint32_t spin_us) {
    return comm_mpi_open(c, &(comm_mpi_options){.spin_us = spin_us,
                                                .slot_bytes = slot,
                                                .ranks_per_node_max = ranks_per_node,
                                                .secret = secret,
                                                .secret_bytes = sizeof secret});
}

static void sleep_ms(long ms) {
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static status check_where(const comm *c, uint32_t ranks_per_node) {
    comm_node w = comm_where(c);
    uint32_t n = comm_size(c), me = comm_rank(c);
    if (ranks_per_node == 0) ranks_per_node = n;
    if (w.node == me / ranks_per_node && w.nodes == (n + ranks_per_node - 1) / ranks_per_node &&
        w.local_rank == me % ranks_per_node)
        return ST_OK;
    return fail(ST_INTERNAL, "rank %u is rank %u on node %u of %u", me, w.local_rank, w.node, w.nodes);
}

static status check_all(bool split) {
    static const size_t slots[] = {256, 4096, 0};
    for (uint32_t per_node = 0; per_node <= (split ? 3 : 0); per_node++)
        for (size_t i = 0; i < sizeof slots / sizeof *slots; i++) {
            comm *c = NULL;
            TRY(open_comm(&c, per_node, slots[i], i == 1 ? 20 : 0));
            status st = split ? check_where(c, per_node) : comm_where(c).nodes > 1 ? ST_OK : ST_MISMATCH;
            if (st == ST_OK)
                st = check_exchanges(c, slots[i] ? slots[i] : 256 << 10, slots[i] == 256 ? 3 : 8);
            if (st != ST_OK) comm_abort(c);
            comm_close(c);
            if (st != ST_OK)
                return fail_within(st, "%u ranks a node, slots of %zu bytes", per_node, slots[i]);
        }
    return ST_OK;
}

/* The last rank gives up while the others are in `place`. */
static status check_abort(const char *place, uint32_t per_node) {
    comm *c = NULL;
    enum { COUNT = 20000 };
    static float x[COUNT];
    TRY(open_comm(&c, per_node, 0, 0));
    TRY(comm_barrier(c));
    uint64_t start = clock_now_ns();
    if (comm_rank(c) == comm_size(c) - 1) {
        sleep_ms(200);
        comm_abort(c);
        if (comm_barrier(c) != ST_PEER) return fail(ST_INTERNAL, "an exchange after comm_abort went through");
    } else {
        status st = ST_OK;
        /* Rank 0 of an idle engine finds out when it exchanges next, here at once. */
        if (!strcmp(place, "wait") && comm_rank(c) != 0) st = comm_wait(c, -1);
        else if (!strcmp(place, "gather")) st = comm_barrier(c);
        else st = comm_all_reduce(c, x, COUNT);
        uint64_t ms = (clock_now_ns() - start) / 1000000;
        if (st != ST_PEER) return fail(ST_INTERNAL, "%s, not PEER", status_name(st));
        if (ms > 1200) return fail(ST_INTERNAL, "heard of it after %llu ms", (unsigned long long)ms);
    }
    comm_close(c);
    return ST_OK;
}

static uint64_t cpu_us(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 +
           (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static status check_idle(uint32_t per_node) {
    comm *c = NULL;
    TRY(open_comm(&c, per_node, 0, 50));
    TRY(comm_barrier(c));
    uint64_t before = cpu_us();
    if (comm_rank(c) == 0) {
        sleep_ms(2000);
        TRY(comm_wake(c));
    } else {
        TRY(comm_wait(c, -1));
    }
    uint64_t used = cpu_us() - before;
    TRY(comm_barrier(c));
    comm_close(c);
    /* 1 % of two seconds */
    return used < 20000 ? ST_OK
                        : fail(ST_INTERNAL, "%llu us of processor time in 2 s", (unsigned long long)used);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static status bench(uint32_t per_node, size_t count) {
    enum { TIMES_MOST = 400 };
    static double us[TIMES_MOST];
    const int times = count > 100000 ? 40 : TIMES_MOST;
    comm *c = NULL;
    TRY(open_comm(&c, per_node, 0, 1000));
    float *x = memory_alloc_array(count, sizeof *x);
    for (int own = 1; own >= 0; own--) {
        for (int i = -times / 8; i < times; i++) {
            uint64_t start = clock_now_ns();
            if (own) TRY(comm_all_reduce(c, x, count));
            else MPI_Allreduce(MPI_IN_PLACE, x, (int)count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
            if (i >= 0) us[i] = (double)(clock_now_ns() - start) / 1000;
        }
        qsort(us, (size_t)times, sizeof *us, by_value);
        if (comm_rank(c) == 0)
            printf("%s: %zu floats, %u ranks on %u nodes: median %.1f us, best %.1f us\n",
                   own ? "comm_all_reduce" : "MPI_Allreduce  ", count, comm_size(c), comm_where(c).nodes,
                   us[times / 2], us[0]);
    }
    TRY(comm_barrier(c));
    free(x);
    comm_close(c);
    return ST_OK;
}

static status run(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "check";
    uint32_t per_node = argc > 3 ? (uint32_t)atoi(argv[3]) : 0;
    if (!strcmp(mode, "check")) return check_all(true);
    if (!strcmp(mode, "check-hosts")) return check_all(false);
    if (!strcmp(mode, "abort") && argc > 2) return check_abort(argv[2], per_node);
    if (!strcmp(mode, "idle")) {
        TRY(check_idle(0));
        return check_idle(1);
    }
    if (!strcmp(mode, "bench")) {
        static const size_t counts[] = {16, 2816, 5376, 32 * 5376, 512 * 5376};
        for (uint32_t n = 0; n <= 1; n++)
            for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) TRY(bench(n, counts[i]));
        return ST_OK;
    }
    return fail(ST_INVALID, "unknown mode %s", mode);
}

int main(int argc, char **argv) {
    log_open("comm_mpi_test", LOG_INFO);
    int rank = 0;
    status st = comm_mpi_start(&argc, &argv);
    if (st == ST_OK) {
        MPI_Comm_rank(MPI_COMM_WORLD, &rank);
        st = run(argc, argv);
    }
    char text[STATUS_TEXT_MAX];
    snprintf(text, sizeof text, "%s", status_text());
    bool aborted = argc > 1 && !strcmp(argv[1], "abort");
    if (st == ST_OK) printf("rank %d ok\n", rank);
    else printf("rank %d FAILED: %s: %s\n", rank, status_name(st), text);
    fflush(stdout);
    /* Whoever ends first without MPI_Finalize makes mpirun end the others: their lines shall be out by
     * then. */
    if (aborted) sleep_ms(1500);
    if (st != ST_OK && !aborted) MPI_Abort(MPI_COMM_WORLD, 1);
    comm_mpi_stop();
    return st == ST_OK ? 0 : 1;
}
