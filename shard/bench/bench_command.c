#include "shard/bench/bench_command.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/options.h"
#include "shard/bench/bench.h"
#include "shard/bench/write_checkpoint.h"
#include "shard/kernels/placement.h"

enum { EXIT_USAGE = 2, EXIT_REFUSED = 3, REPEAT_MAX = 64 };

#define AT(member) offsetof(bench_options, member)
static const option rows[] = {
    {"model", OPTION_TEXT, 0, AT(model), "PATH", NULL, NULL, 0, 0, NULL, NULL, "the model to measure"},
    {"shape", OPTION_WORD, 0, AT(shape), "NAME", NULL, NULL, 0, 0, "31b 26b-a4b e4b e2b", NULL,
     "random weights of a published size instead"},
    {"layers", OPTION_U32, 0, AT(layers), "N", NULL, NULL, 1, LIMIT_LAYERS, NULL, NULL,
     "only the first so many layers of the shape"},
    {"write", OPTION_TEXT, 0, AT(write), "DIR", NULL, NULL, 0, 0, NULL, NULL,
     "writes the shape's random weights as a checkpoint, without a tokenizer, and measures nothing"},
    {"ranks", OPTION_U32, 0, AT(ranks), "N", NULL, "1", 1, LIMIT_RANKS, NULL, NULL, "ranks of the engine"},
    {"threads", OPTION_U32, 0, AT(threads), "N", NULL, NULL, 1, 512, NULL, NULL,
     "threads of a rank; default: the CPUs this process may use / ranks"},
    {"device", OPTION_WORD, 0, AT(device), "NAME", NULL, "auto", 0, 0, "auto cpu cuda", NULL,
     "what computes; auto: a GPU for each rank where there are some"},
    {"batch-invariant", OPTION_FLAG, 0, AT(batch_invariant), NULL, NULL, NULL, 0, 0, NULL, NULL,
     "on a GPU: prompts too give every token the bits it has alone"},
    {"no-graphs", OPTION_FLAG, 0, AT(no_graphs), NULL, NULL, NULL, 0, 0, NULL, NULL,
     "on a GPU: start every kernel of a step, instead of replaying a recorded one"},
    {"weights", OPTION_WORD, 0, AT(weights), "TYPE", NULL, "auto", 0, 0, "auto bf16 q8 q4 f32 fp8", NULL,
     "type of the matrices"},
    {"kv", OPTION_WORD, 0, AT(kv), "TYPE", NULL, "auto", 0, 0, "auto bf16 q8 f32", NULL,
     "type of the KV cache"},
    {"prompt", OPTION_U32, 0, AT(prompt), "N", "tokens", "512", 1, LIMIT_CONTEXT_TOKENS, NULL, NULL,
     "length of a prompt (prefill)"},
    {"depth", OPTION_U32, 0, AT(depth), "N", "tokens", "0", 0, LIMIT_CONTEXT_TOKENS / 2, NULL, NULL,
     "tokens in the cache before the first one; filled with random keys and values (decode)"},
    {"batch", OPTION_U32, 0, AT(batch), "N", NULL, "1", 1, BUDGET_ROWS, NULL, NULL,
     "prompts, or streams that decode together"},
    {"generate", OPTION_U32, 0, AT(generate), "N", "tokens", "32", 1, LIMIT_CONTEXT_TOKENS / 2, NULL, NULL,
     "tokens of each stream (decode)"},
    {"repeat", OPTION_U32, 0, AT(repeat), "N", NULL, "3", 1, REPEAT_MAX, NULL, NULL,
     "runs; the median counts"},
    {"expert-layout", OPTION_TEXT, 0, AT(expert_layout), "ExW", NULL, NULL, 0, 0, NULL, NULL,
     "EP degree and width degree, such as 2x1"},
    {"prefill-chunk", OPTION_U32, 0, AT(chunk), "N", "rows", NULL, 1, BUDGET_ROWS_MAX, NULL, NULL,
     "rows of one prompt in one step; default: 512, on a GPU 2048"},
    {"memory", OPTION_BYTES, 0, AT(memory_bytes), "BYTES", NULL, NULL, 0, 0, NULL, NULL,
     "budget of a rank; default: 80 % of what is free"},
    {"read", OPTION_BYTES, 0, AT(read_bytes), "BYTES", NULL, NULL, 1 << 20, (uint64_t)1 << 40, NULL, NULL,
     "memory that the read bandwidth is measured on; default: 4GiB, more than caches hold; on a GPU 8GiB"},
    {"comm", OPTION_WORD, 0, AT(comm), "KIND", NULL, "fork", 0, 0, "fork mpi", NULL,
     "fork starts the ranks itself; mpi: under mpirun"},
    {"json", OPTION_FLAG, 0, AT(json), NULL, NULL, NULL, 0, 0, NULL, NULL, "figures as one JSON object"},
    {"help", OPTION_FLAG, OPTION_ARGUMENT_ONLY, AT(help), NULL, NULL, NULL, 0, 0, NULL, NULL, "this text"},
};
enum { ROWS = sizeof rows / sizeof *rows };

int bench_exit_code(status st) {
    switch (st) {
    case ST_OK: return 0;
    case ST_INVALID: return EXIT_USAGE;
    case ST_NOT_FOUND:
    case ST_FORMAT:
    case ST_UNSUPPORTED:
    case ST_LAYOUT:
    case ST_MISMATCH:
    case ST_KV_FULL:
    case ST_NO_MEMORY: return EXIT_REFUSED;
    default: return 1;
    }
}

static int say(status st) {
    fprintf(stderr, "bench: %s\n", status_text());
    return bench_exit_code(st);
}

static void print_help(void) {
    printf("usage: bench prefill|decode (--model PATH | --shape NAME [--layers N]) [options]\n"
           "       bench --write DIR --shape NAME [--layers N] [--threads N]\n\n"
           "Measures the engine alone: tokens a second, what share of the memory's bandwidth that is, and "
           "where\n"
           "the time goes.\n\n");
    options_print_help(stdout, rows, ROWS);
    printf("\nExit codes: 0 done, 1 a figure cannot be right, or failure, 2 usage, 3 model or layout "
           "refused.\n");
}

static status check(const bench_options *o) {
    if (!o->model == !o->shape) return fail(ST_INVALID, "give --model PATH or --shape NAME, one of them");
    if (o->write && !o->shape) return fail(ST_INVALID, "--write belongs to --shape");
    if (o->layers && !o->shape) return fail(ST_INVALID, "--layers belongs to --shape");
    return ST_OK;
}

status bench_run_ranks(const char *comm_name, uint32_t ranks, uint32_t threads, comm_body *body, void *context,
                       int argc, char **argv, bench_launched *launched) {
    if (!strcmp(comm_name, "mpi")) {
        if (!launched) return fail(ST_UNSUPPORTED, "this gemmad-shard was built without MPI");
        return launched(body, context, &argc, &argv);
    }
    uint64_t wanted = (uint64_t)(threads ? threads : 1) * ranks;
    /* Asked before this process is bound to less. */
    bool fits = wanted <= placement_cpus();
    return comm_fork_run(&(comm_fork_options){.ranks = ranks, .spin_us = fits ? 50 : 0}, body, context);
}

int bench_command(int argc, char **argv, bench_launched *launched, const gpu_provider *gpu) {
    bench_options o = {.gpu = gpu, .began_ns = clock_now_ns()};
    options reader;
    if (argc < 2 || !strcmp(argv[1], "--help")) {
        print_help();
        return argc < 2 ? EXIT_USAGE : 0;
    }
    bool only_options = !strncmp(argv[1], "--", 2); /* which have to be those of --write */
    if (!only_options && strcmp(argv[1], "prefill") != 0 && strcmp(argv[1], "decode") != 0) {
        fprintf(stderr, "bench: unknown measurement '%s'; prefill or decode\n", argv[1]);
        return EXIT_USAGE;
    }
    log_open("bench", LOG_WARN); /* standard output is for figures, standard error for what goes wrong */
    options_open(&reader, rows, ROWS, "GEMMAD", &o);
    o.decode = !strcmp(argv[1], "decode");
    status st = options_read_arguments(&reader, argc - !only_options, argv + !only_options);
    options_close(&reader);
    if (st == ST_OK && o.help) {
        print_help();
        return 0;
    }
    if (st == ST_OK) st = check(&o);
    if (st == ST_OK && only_options && !o.write)
        st = fail(ST_INVALID, "say what to measure: prefill or decode");
    if (st != ST_OK) {
        (void)say(st);
        return EXIT_USAGE;
    }
    if (o.write) {
        st = bench_write_checkpoint(o.write, o.shape, o.layers, o.threads ? o.threads : placement_cpus());
        return st == ST_OK ? 0 : say(st);
    }
    st = bench_run_ranks(o.comm, o.ranks, o.threads, bench_rank, &o, argc, argv, launched);
    return st == ST_OK ? 0 : say(st);
}
