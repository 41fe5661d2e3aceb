/* `gemmad-shard doctor`: what this machine or its GPUs can do (reading memory, multiplying, handing out work, summing over
 * ranks), and what speed that lets a model have.
 *
 * Memory:  borrows argv.
 * Threads: the engine thread of each rank.
 * Errors:  as bench_command.h. */
#ifndef SHARD_BENCH_DOCTOR_H
#define SHARD_BENCH_DOCTOR_H

#include "shard/bench/bench_command.h"
#include "shard/model/instance.h"

enum { DOCTOR_STEPS = 16, DOCTOR_TYPES = 5, DOCTOR_SUMS = 2 };

typedef struct doctor_findings {
    char processor[96], device[40];
    uint32_t cpus, ranks, threads;
    uint64_t memory_free_bytes, device_free_bytes; /* of the hosts; of all ranks' GPUs, 0: CPUs compute */
    uint32_t step_count;
    struct doctor_step {
        uint32_t threads; /* of each rank; 0: a GPU's */
        double gb_per_s;  /* of all ranks */
    } read[DOCTOR_STEPS];
    double gmac_per_s[DOCTOR_TYPES]; /* of all ranks: f32, bf16, q8, q4, fp8 as prefill multiplies them; 0: not there */
    double hand_out_us;              /* of one operator's work to the threads; 0 on a GPU, which replays whole steps */
    double sum_us[DOCTOR_SUMS];      /* all-reduce of 2816 and 5376 floats; 0: one rank */
} doctor_findings;

/* What a token costs and what speed comes of it. */
typedef struct doctor_outlook {
    uint64_t weight_bytes;          /* that the model takes */
    uint64_t token_bytes;           /* read for one token */
    double token_gmac;              /* multiplied for one prompt token */
    double decode_tokens_per_s, prefill_tokens_per_s;
} doctor_outlook;

/* Multiplications and additions of one prompt token, in 10^9, attention left out. */
double doctor_token_gmac(const model_config *config);
/* config's matrices in memory as `type`. */
void doctor_expect(doctor_outlook *out, const model_config *config, weight_type type, const doctor_findings *found);

/* argv[0] is "doctor"; launched and gpu as bench_command.h. Returns the process's exit code. */
int doctor_command(int argc, char **argv, bench_launched *launched, const gpu_provider *gpu);

#endif
