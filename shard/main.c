/* gemmad-shard: one rank of an engine (serve), or the plan of one (plan). */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/byte_size.h"
#include "base/dir_size.h"
#include "base/log.h"
#include "build_id.h"
#include "shard/bench/bench_command.h"
#include "shard/bench/doctor.h"
#include "shard/pack_command.h"
#include "shard/plan_command.h"
#ifdef GEMMAD_WITH_CUDA
#include "shard/gpu/cuda_provider.h"
#endif
#ifdef GEMMAD_WITH_LINK
#include "shard/link/link.h"
#include "shard/link/watchdog.h"
#include "shard/serve.h"
#endif

enum { EXIT_USAGE = 2, EXIT_REFUSED = 3 };

static const char usage[] =
    "usage: gemmad-shard COMMAND [options]\n"
    "\n"
    "  serve   be one rank of an engine; started by gemmad through its launcher\n"
    "  bench   measure prefill or decode without a daemon; bench --help has its options\n"
    "  doctor  measure this machine, and say what speed to expect; doctor --help has its options\n"
    "  plan    print the layout and memory of an engine as JSON; reads config.json, or a GGUF file's header, "
    "only\n"
    "  pack    write a model's weights so that a start maps them; pack --help has its options\n"
    "\n"
    "  --model PATH          directory with config.json and *.safetensors, a packed one, or a GGUF file\n"
    "  --ranks N             ranks of the engine; default 1 (serve --comm mpi: as launched)\n"
    "  --comm self|fork|mpi  how ranks exchange (serve); default self\n"
    "  --link ADDRESS        where gemmad listens: unix:/path or host:port (serve)\n"
    "  --secret-file FILE    32 bytes that prove this engine to gemmad, and its ranks to each other (serve)\n"
    "  --device auto|cpu|cuda  what computes; auto: a GPU for each rank where there are some\n"
    "  --batch-invariant     on a GPU: prompts too give every token the bits it has alone; slower\n"
    "  --weights auto|f32|bf16|q8|q4|fp8  auto keeps matrices as stored; bf16 insists on it; q8 and q4 quantise "
    "in\n"
    "                        groups of 32, fp8 (on a GPU) with a scale a row; f32 computes everything in "
    "float32\n"
    "  --kv auto|bf16|q8|f32 KV cache type; auto: f32 with --weights f32, else bf16\n"
    "  --threads N           threads of this rank; default: CPUs this process may use\n"
    "  --context N           tokens a request may have; default: the model's limit, cut to what fits\n"
    "  --memory BYTES        budget of a rank, e.g. 40GiB\n"
    "  --expert-layout ExW   EP degree x width degree; default: what decodes fastest\n"
    "  --share I/N           this engine is the I-th from 0 of N on its machine, which divide CPUs and "
    "memory\n"
    "  --prefill-chunk N     rows of one prompt in one step; default 512, on a GPU 2048\n"
    "  --prefill-min-share N  percent of the time for prompts at least, beside answers; default 10\n"
    "  --spill DIR[:SIZE]    folder for pages of the prefix cache; SIZE of all ranks together, default "
    "64GiB\n"
    "  --engine-grace S      accepted for the launcher's sake; an engine without gemmad ends at once\n"
    "  --version, --help\n"
    "\n"
    "GEMMAD_ISA=scalar|avx2|avxvnni|avx512|amx caps the instruction set.\n"
    "Exit codes: 0 done, 1 failure, 2 usage, 3 model or layout refused, 86 stuck (watchdog).\n";

typedef struct arguments {
    const char *command, *comm, *link, *secret_file;
    char *spill_dir;
    uint64_t spill_bytes;
    plan_command_options plan;
    uint32_t threads, chunk, min_share, grace;
    bool batch_invariant;
} arguments;

#ifdef GEMMAD_WITH_CUDA
static const gpu_provider *gpu(void) { return gpu_cuda(); }
static const char *gpu_built(void) { return gpu_cuda_built(); }
#else
static const char *gpu_built(void) { return "CPU only"; }
static const gpu_provider *gpu(void) { return NULL; }
#endif

static int usage_error(const char *option, const char *value, const char *want) {
    fprintf(stderr, "gemmad-shard: --%s is '%s'; %s\n", option, value, want);
    return EXIT_USAGE;
}

static int read_number(const char *option, const char *value, uint64_t least, uint64_t most, uint64_t *out) {
    char *end, want[96];
    errno = 0;
    unsigned long long n = strtoull(value, &end, 10);
    snprintf(want, sizeof want, "allowed are %llu to %llu", (unsigned long long)least,
             (unsigned long long)most);
    if (errno || end == value || *end || value[0] == '-' || n < least || n > most)
        return usage_error(option, value, want);
    *out = n;
    return 0;
}

static int read_u32(const char *option, const char *value, uint32_t least, uint32_t most, uint32_t *out) {
    uint64_t n = 0;
    int code = read_number(option, value, least, most, &n);
    if (code == 0) *out = (uint32_t)n;
    return code;
}

static int read_bytes(const char *option, const char *value, uint64_t *out) {
    if (byte_size_read(value, out) == BYTE_SIZE_READ && *out > 0) return 0;
    return usage_error(option, value, "give a number of bytes, KiB, MiB, GiB or TiB");
}

static int read_layout(const char *value, plan_command_options *p) {
    unsigned e, w;
    char rest;
    if (sscanf(value, "%ux%u%c", &e, &w, &rest) != 2 || e == 0 || w == 0 || e > LIMIT_RANKS ||
        w > LIMIT_RANKS)
        return usage_error("expert-layout", value, "give EP degree x width degree, such as 2x1");
    p->expert_degree = e;
    p->width_degree = w;
    return 0;
}

static int read_share(const char *value, plan_command_options *p) {
    unsigned i, n;
    char rest;
    if (sscanf(value, "%u/%u%c", &i, &n, &rest) != 2 || n > LIMIT_REPLICAS || i >= n)
        return usage_error("share", value, "give I/N with I below N, such as 0/2");
    p->share = i;
    p->shares = n;
    return 0;
}

static int read_word(const char *option, const char *value, const char *const *words, int *out) {
    char want[96] = "allowed are";
    for (int i = 0; words[i]; i++) {
        if (!strcmp(value, words[i])) {
            *out = i;
            return 0;
        }
        snprintf(want + strlen(want), sizeof want - strlen(want), " %s", words[i]);
    }
    return usage_error(option, value, want);
}

static int read_spill(const char *value, arguments *a) {
    free(a->spill_dir);
    a->spill_dir = NULL;
    if (dir_size_read("--spill", value, &a->spill_dir, &a->spill_bytes) == ST_OK) return 0;
    fprintf(stderr, "gemmad-shard: %s\n", status_text());
    return EXIT_USAGE;
}

static int take_option(arguments *a, const char *name, const char *value) {
    static const char *const weight_words[] = {"auto", "f32", "bf16", "q8", "q4", "fp8", NULL},
                             *const kv_words[] = {"auto", "f32", "bf16", "q8", NULL},
                             *const comm_words[] = {"self", "fork", "mpi", NULL},
                             *const device_words[] = {"auto", "cpu", "cuda", NULL};
    plan_command_options *p = &a->plan;
    int word, code = 0;
    if (!strcmp(name, "model")) p->model_path = value;
    else if (!strcmp(name, "link")) a->link = value;
    else if (!strcmp(name, "secret-file")) a->secret_file = value;
    else if (!strcmp(name, "ranks")) code = read_u32(name, value, 1, LIMIT_RANKS, &p->ranks);
    else if (!strcmp(name, "threads")) code = read_u32(name, value, 1, 512, &a->threads);
    else if (!strcmp(name, "context")) code = read_u32(name, value, 1, LIMIT_CONTEXT_TOKENS, &p->context);
    else if (!strcmp(name, "prefill-chunk")) code = read_u32(name, value, 1, BUDGET_ROWS_MAX, &a->chunk);
    else if (!strcmp(name, "prefill-min-share"))
        code = read_u32(name, value, 1, LIMIT_PREFILL_SHARE, &a->min_share);
    else if (!strcmp(name, "spill")) code = read_spill(value, a);
    else if (!strcmp(name, "engine-grace")) code = read_u32(name, value, 0, 86400, &a->grace);
    else if (!strcmp(name, "memory")) code = read_bytes(name, value, &p->memory_bytes);
    else if (!strcmp(name, "expert-layout")) code = read_layout(value, p);
    else if (!strcmp(name, "share")) code = read_share(value, p);
    else if (!strcmp(name, "batch-invariant")) a->batch_invariant = true;
    else if (!strcmp(name, "device")) {
        code = read_word(name, value, device_words, &word);
        if (code == 0) p->device = device_choice_of(value);
    } else if (!strcmp(name, "comm")) {
        code = read_word(name, value, comm_words, &word);
        a->comm = value;
    } else if (!strcmp(name, "weights")) {
        code = read_word(name, value, weight_words, &word);
        if (code == 0) p->weights = weights_choice_of(value);
    } else if (!strcmp(name, "kv")) {
        code = read_word(name, value, kv_words, &word);
        p->kv_given = code == 0 && word > 0; /* not "auto" */
        if (p->kv_given) p->kv = kv_type_of(value);
    }
    return code;
}

static int read_arguments(arguments *a, int argc, char **argv) {
    static const struct option options[] = {{"model", required_argument, 0, 0},
                                            {"ranks", required_argument, 0, 0},
                                            {"comm", required_argument, 0, 0},
                                            {"link", required_argument, 0, 0},
                                            {"secret-file", required_argument, 0, 0},
                                            {"weights", required_argument, 0, 0},
                                            {"kv", required_argument, 0, 0},
                                            {"threads", required_argument, 0, 0},
                                            {"context", required_argument, 0, 0},
                                            {"memory", required_argument, 0, 0},
                                            {"expert-layout", required_argument, 0, 0},
                                            {"share", required_argument, 0, 0},
                                            {"prefill-chunk", required_argument, 0, 0},
                                            {"prefill-min-share", required_argument, 0, 0},
                                            {"spill", required_argument, 0, 0},
                                            {"engine-grace", required_argument, 0, 0},
                                            {"device", required_argument, 0, 0},
                                            {"batch-invariant", no_argument, 0, 0},
                                            {0, 0, 0, 0}};
    int index;
    while (1) {
        int c = getopt_long(argc, argv, "", options, &index);
        if (c == -1) break;
        if (c != 0) return EXIT_USAGE; /* getopt said why */
        int code = take_option(a, options[index].name, optarg);
        if (code) return code;
    }
    if (optind < argc) {
        fprintf(stderr, "gemmad-shard: unexpected argument '%s'\n", argv[optind]);
        return EXIT_USAGE;
    }
    if (!a->plan.model_path) {
        fprintf(stderr, "gemmad-shard: --model is missing\n");
        return EXIT_USAGE;
    }
    return 0;
}

static int exit_code(status st) {
    switch (st) {
    case ST_OK: return 0;
    case ST_NOT_FOUND:
    case ST_FORMAT:
    case ST_UNSUPPORTED:
    case ST_LAYOUT:
    case ST_MISMATCH:
    case ST_NO_MEMORY: return EXIT_REFUSED;
    default: return 1;
    }
}

#ifdef GEMMAD_WITH_LINK
static status serve_body(comm *ranks, void *context) {
    char name[32];
    snprintf(name, sizeof name, "shard[%u]", comm_rank(ranks));
    log_open(name, LOG_INFO);
    return serve_rank(ranks, context);
}

static status serve_mpi(arguments *a, serve_options *o, int *argc, char ***argv) {
#ifdef GEMMAD_WITH_MPI
    comm *ranks = NULL;
    uint8_t secret[LIMIT_SECRET_BYTES];
    status st = link_read_secret(a->secret_file, secret);
    if (st == ST_OK) st = comm_mpi_start(argc, argv);
    if (st == ST_OK)
        st = comm_mpi_open(&ranks, &(comm_mpi_options){
                                       .spin_us = o->instance.spin_us, .secret = secret, .secret_bytes = sizeof secret});
    explicit_bzero(secret, sizeof secret);
    if (st == ST_OK) st = serve_body(ranks, o);
    else log_error("%s", status_text());
    comm_close(ranks);
    /* MPI_Finalize waits for everybody: after a failure the others may never come. */
    if (st == ST_OK) comm_mpi_stop();
    return st;
#else
    (void)a, (void)o, (void)argc, (void)argv;
    return fail(ST_UNSUPPORTED, "this gemmad-shard was built without MPI");
#endif
}

static int serve_command(arguments *a, int argc, char **argv) {
    if (!a->link || !a->secret_file) {
        fprintf(stderr, "gemmad-shard: serve needs --link and --secret-file\n");
        return EXIT_USAGE;
    }
    serve_options o = {.link = a->link, .secret_file = a->secret_file, .prefill_min_share = a->min_share};
    instance_options *i = &o.instance;
    *i = (instance_options){.model_path = a->plan.model_path,
                            .weights = a->plan.weights,
                            .kv_given = a->plan.kv_given,
                            .kv = a->plan.kv,
                            .threads = a->threads,
                            .share = a->plan.share,
                            .shares = a->plan.shares,
                            .expert_degree = a->plan.expert_degree,
                            .width_degree = a->plan.width_degree,
                            .context = a->plan.context,
                            .memory_bytes = a->plan.memory_bytes,
                            .chunk_max = a->chunk,
                            .gpu = a->plan.gpu,
                            .device = a->plan.device,
                            .batch_invariant = a->batch_invariant,
                            .spill_dir = a->spill_dir,
                            .spill_bytes = a->spill_bytes};
    uint32_t cpus = placement_cpus();
    if (!i->threads) i->threads = cpus;
    /* Spinning pays only while every rank of the host has a core to itself. */
    i->pin = true;
    uint64_t ranks_beside = (uint64_t)a->plan.ranks * i->shares;
    i->spin_us = i->threads * ranks_beside <= cpus ? 50 : 0;
    status st = watchdog_follow_parent();
    if (st != ST_OK) {
        log_error("%s", status_text());
    } else if (!strcmp(a->comm, "mpi")) {
        st = serve_mpi(a, &o, &argc, &argv);
    } else if (!strcmp(a->comm, "fork")) {
        st = comm_fork_run(&(comm_fork_options){.ranks = a->plan.ranks, .spin_us = i->spin_us}, serve_body,
                           &o);
        if (st != ST_OK) log_error("%s", status_text()); /* of a rank, or of a process that ended */
    } else {
        comm *self = NULL;
        st = comm_self_open(&self);
        if (st == ST_OK) st = serve_body(self, &o);
        else log_error("%s", status_text());
        comm_close(self);
    }
    return exit_code(st);
}
#endif

#ifdef GEMMAD_WITH_MPI
static status run_launched(comm_body *body, void *context, int *argc, char ***argv) {
    static const uint8_t nobody[LIMIT_SECRET_BYTES] = {
        0}; /* a measurement has nothing that others could want */
    comm *ranks = NULL;
    TRY(comm_mpi_start(argc, argv));
    status st = comm_mpi_open(&ranks, &(comm_mpi_options){.secret = nobody, .secret_bytes = sizeof nobody});
    if (st == ST_OK) st = body(ranks, context);
    comm_close(ranks);
    if (st == ST_OK) comm_mpi_stop();
    return st;
}
#else
static bench_launched *const run_launched = NULL;
#endif

int main(int argc, char **argv) {
    arguments a = {.comm = "self", .plan = {.ranks = 1, .shares = 1, .gpu = gpu()}};
    log_open("shard", LOG_INFO);
    if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "help")) {
        fputs(usage, argc < 2 ? stderr : stdout);
        return argc < 2 ? EXIT_USAGE : 0;
    }
    if (!strcmp(argv[1], "--version")) {
        printf("gemmad-shard 0.1.0, build %s, %s\n", GEMMAD_BUILD_ID, gpu_built());
        return 0;
    }
    if (!strcmp(argv[1], "doctor")) return doctor_command(argc - 1, argv + 1, run_launched, gpu());
    if (!strcmp(argv[1], "bench")) return bench_command(argc - 1, argv + 1, run_launched, gpu());
    if (!strcmp(argv[1], "pack")) return pack_command(argc - 1, argv + 1);
    a.command = argv[1];
    int code = read_arguments(&a, argc - 1, argv + 1);
    if (code) return code;
    if (!strcmp(a.command, "plan")) {
        status st = plan_command(&a.plan);
        if (st != ST_OK) fprintf(stderr, "gemmad-shard: %s\n", status_text());
        return exit_code(st);
    }
#ifdef GEMMAD_WITH_LINK
    if (!strcmp(a.command, "serve")) return serve_command(&a, argc, argv);
#else
    if (!strcmp(a.command, "serve")) {
        fprintf(stderr, "gemmad-shard: this build (preset core) cannot serve: it has no engine link\n");
        return EXIT_USAGE;
    }
#endif
    fprintf(stderr, "gemmad-shard: unknown command '%s'; serve, plan, pack, bench or doctor\n", a.command);
    return EXIT_USAGE;
}
