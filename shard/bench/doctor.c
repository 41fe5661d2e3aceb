#include "shard/bench/doctor.h"

#include <jansson.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/options.h"
#include "base/shape.h"
#include "base/statistics.h"
#include "shard/bench/bandwidth.h"
#include "shard/bench/bench_command.h"
#include "shard/kernels/placement.h"

enum { EXIT_USAGE = 2, ROUNDS = 7, ROWS = 1024, COLS = 2816, TOKENS = 256, HAND_OUTS = 2000, SUMS = 500 };

typedef struct doctor_options {
    const char *model, *shape, *weights, *comm;
    uint32_t ranks, threads;
    uint64_t read_bytes;
    bool hello, json, help;
} doctor_options;

static const weight_type types[DOCTOR_TYPES] = {WEIGHT_F32, WEIGHT_BF16, WEIGHT_Q8, WEIGHT_Q4};
static const char *const type_names[DOCTOR_TYPES] = {"f32", "bf16", "q8", "q4"};
static const uint32_t sum_floats[DOCTOR_SUMS] = {2816, 5376};
static const char *const shapes[] = {"31b", "26b-a4b", "e4b", "e2b"};
enum { SHAPES = sizeof shapes / sizeof *shapes };

#define AT(member) offsetof(doctor_options, member)
static const option rows[] = {
    {"model", OPTION_TEXT, 0, AT(model), "PATH", NULL, NULL, 0, 0, NULL, NULL,
     "also say what to expect of this model; reads its config.json only"},
    {"shape", OPTION_WORD, 0, AT(shape), "NAME", NULL, NULL, 0, 0, "31b 26b-a4b e4b e2b", NULL,
     "of this published size alone; default: of all"},
    {"weights", OPTION_WORD, 0, AT(weights), "TYPE", NULL, "q4", 0, 0, "bf16 q8 q4 f32", NULL,
     "type of the matrices that the outlook is for"},
    {"ranks", OPTION_U32, 0, AT(ranks), "N", NULL, NULL, 1, LIMIT_RANKS, NULL, NULL,
     "ranks on this machine; default: 2, or 1 on a single CPU; with --comm mpi as many as are launched"},
    {"threads", OPTION_U32, 0, AT(threads), "N", NULL, NULL, 1, 512, NULL, NULL,
     "threads of a rank; default: the CPUs this process may use / ranks"},
    {"read", OPTION_BYTES, 0, AT(read_bytes), "BYTES", NULL, NULL, 1 << 20, (uint64_t)1 << 40, NULL, NULL,
     "memory that the read bandwidth is measured on; default: 4GiB, more than caches hold"},
    {"comm", OPTION_WORD, 0, AT(comm), "KIND", NULL, "fork", 0, 0, "fork mpi", NULL,
     "fork starts the ranks itself; mpi: under mpirun, over all its hosts"},
    {"hello", OPTION_FLAG, 0, AT(hello), NULL, NULL, NULL, 0, 0, NULL, NULL,
     "only have the ranks meet, and print how many came"},
    {"json", OPTION_FLAG, 0, AT(json), NULL, NULL, NULL, 0, 0, NULL, NULL, "one JSON object"},
    {"help", OPTION_FLAG, OPTION_ARGUMENT_ONLY, AT(help), NULL, NULL, NULL, 0, 0, NULL, NULL, "this text"},
};
enum { OPTION_ROWS = sizeof rows / sizeof *rows };

/* ---- measuring; every rank does the same ---- */

/* The slowest rank's figure is everybody's. */
static status slowest(comm *ranks, double mine, double *out) {
    double *all = memory_alloc_array(comm_size(ranks), sizeof *all);
    status st = comm_all_gather(ranks, &mine, sizeof mine, all);
    *out = 0;
    for (uint32_t i = 0; i < comm_size(ranks); i++)
        if (all[i] > *out) *out = all[i];
    free(all);
    return st;
}

static uint32_t next_step(uint32_t threads, uint32_t most) {
    uint32_t next = most <= DOCTOR_STEPS ? threads + 1 : threads * 2;
    return threads < most && next > most ? most : next;
}

static status measure_reading(doctor_findings *f, comm *ranks, uint64_t bytes) {
    for (uint32_t t = 1; t <= f->threads && f->step_count < DOCTOR_STEPS; t = next_step(t, f->threads)) {
        pool *threads;
        bandwidth read;
        TRY(pool_open(&threads, &(pool_options){.threads = t, .spin_us = 50}));
        status st = bandwidth_measure(&read, ranks, threads, NULL, 0, bytes, NULL);
        pool_close(threads);
        TRY(st);
        f->read[f->step_count].threads = t;
        f->read[f->step_count++].gb_per_s = read.gb_per_s;
    }
    return ST_OK;
}

static status measure_type(comm *ranks, backend *b, weight_type type, double *gmac) {
    void *data, *x, *y;
    double seconds[ROUNDS], worst;
    size_t bytes = weight_rows_bytes(type, ROWS, COLS);
    TRY(memory_map(&data, bytes));
    memset(data, type == WEIGHT_F32 || type == WEIGHT_BF16 ? 0 : 0x37, bytes);
    TRY(b->ops->alloc(b, (size_t)TOKENS * COLS * sizeof(float), "inputs", &x));
    TRY(b->ops->alloc(b, (size_t)TOKENS * ROWS * sizeof(float), "outputs", &y));
    for (size_t i = 0; i < (size_t)TOKENS * COLS; i++) ((float *)x)[i] = (float)(i % 17) - 8;
    weight w = {.data = data, .rows = ROWS, .cols = COLS, .type = type};
    product p = {y, ROWS, &w};
    for (int i = 0; i < ROUNDS; i++) {
        TRY(comm_barrier(ranks));
        uint64_t begin = clock_now_ns();
        b->ops->linear(b, &p, 1, x, COLS, TOKENS);
        TRY(b->ops->finish(b));
        seconds[i] = (double)(clock_now_ns() - begin) / 1e9;
    }
    statistics_sort(seconds, ROUNDS);
    TRY(slowest(ranks, statistics_median(seconds, ROUNDS), &worst));
    *gmac = (double)ROWS * COLS * TOKENS / worst / 1e9 * comm_size(ranks);
    b->ops->release(b, x, (size_t)TOKENS * COLS * sizeof(float));
    b->ops->release(b, y, (size_t)TOKENS * ROWS * sizeof(float));
    memory_unmap(data, bytes);
    return ST_OK;
}

/* Ends once every thread has taken one item: nobody can do it all alone. */
static void meet(void *context, uint32_t item, uint32_t thread) {
    (void)item, (void)thread;
    atomic_uint *left = context;
    atomic_fetch_sub(left, 1);
    while (atomic_load(left) > 0) sched_yield();
}

static status measure_hand_out(doctor_findings *f, comm *ranks) {
    pool *threads;
    TRY(pool_open(&threads, &(pool_options){.threads = f->threads, .spin_us = 50}));
    double us[HAND_OUTS];
    for (uint32_t i = 0; i < HAND_OUTS; i++) {
        atomic_uint left = f->threads;
        uint64_t begin = clock_now_ns();
        pool_run(threads, f->threads, meet, &left);
        us[i] = (double)(clock_now_ns() - begin) / 1e3;
    }
    pool_close(threads);
    statistics_sort(us, HAND_OUTS);
    return slowest(ranks, statistics_median(us, HAND_OUTS), &f->hand_out_us);
}

static status measure_sums(doctor_findings *f, comm *ranks) {
    for (int k = 0; comm_size(ranks) > 1 && k < DOCTOR_SUMS; k++) {
        float x[8192] = {0};
        double us[SUMS];
        for (int i = 0; i < SUMS; i++) {
            uint64_t begin = clock_now_ns();
            TRY(comm_all_reduce(ranks, x, sum_floats[k]));
            us[i] = (double)(clock_now_ns() - begin) / 1e3;
        }
        statistics_sort(us, SUMS);
        TRY(slowest(ranks, statistics_median(us, SUMS), &f->sum_us[k]));
    }
    return ST_OK;
}

static void name_processor(doctor_findings *f) {
    char line[256];
    FILE *info = fopen("/proc/cpuinfo", "re");
    snprintf(f->processor, sizeof f->processor, "unknown processor");
    while (info && fgets(line, sizeof line, info)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        colon[1 + strcspn(colon + 1, "\n")] = 0;
        snprintf(f->processor, sizeof f->processor, "%s", colon + 2);
        break;
    }
    if (info) fclose(info);
}

static status measure(doctor_findings *f, comm *ranks, uint64_t read_bytes) {
    backend *b = NULL;
    cpu_backend_options cpu = {.threads = f->threads,
                               .spin_us = 50,
                               .rows_max = TOKENS,
                               .active_max = 1,
                               .hidden = COLS,
                               .width_max = COLS,
                               .head_dim_max = 256,
                               .heads_per_kv_max = 1,
                               .columns_max = COLS};
    TRY(measure_reading(f, ranks, read_bytes));
    TRY(cpu_backend_open(&b, &cpu));
    snprintf(f->device, sizeof f->device, "%s", b->name);
    status st = ST_OK;
    for (int i = 0; st == ST_OK && i < DOCTOR_TYPES; i++)
        st = measure_type(ranks, b, types[i], &f->gmac_per_s[i]);
    b->ops->close(b);
    TRY(st);
    TRY(measure_hand_out(f, ranks));
    return measure_sums(f, ranks);
}

/* ---- saying it ---- */

static weight_type type_of(const char *name) {
    for (int i = 0; i < DOCTOR_TYPES; i++)
        if (!strcmp(type_names[i], name)) return types[i];
    return WEIGHT_Q4;
}

typedef struct saying {
    const doctor_options *o;
    const doctor_findings *f;
    json_t *list; /* NULL: for people */
} saying;

static void say_outlook(const saying *s, const char *name, const model_config *c) {
    doctor_outlook w;
    doctor_expect(&w, c, type_of(s->o->weights), s->f);
    if (!s->list) {
        printf("  %-24s%8.1f GB, %7.2f GB and %6.2f GMAC a token: decode %7.1f, prefill %8.1f tokens/s%s\n",
               name, (double)w.weight_bytes / 1e9, (double)w.token_bytes / 1e9, w.token_gmac,
               w.decode_tokens_per_s, w.prefill_tokens_per_s,
               w.weight_bytes > s->f->memory_free_bytes ? " (does not fit)" : "");
        return;
    }
    json_t *o = json_object();
    json_object_set_new(o, "model", json_string(name));
    json_object_set_new(o, "layers", json_integer(c->layers));
    json_object_set_new(o, "weights", json_string(s->o->weights));
    json_object_set_new(o, "weight_bytes", json_integer((json_int_t)w.weight_bytes));
    json_object_set_new(o, "fits", json_boolean(w.weight_bytes <= s->f->memory_free_bytes));
    json_object_set_new(o, "weight_bytes_per_token", json_integer((json_int_t)w.token_bytes));
    json_object_set_new(o, "gmac_per_token", json_real(w.token_gmac));
    json_object_set_new(o, "decode_tokens_per_s", json_real(w.decode_tokens_per_s));
    json_object_set_new(o, "prefill_tokens_per_s", json_real(w.prefill_tokens_per_s));
    json_array_append_new(s->list, o);
}

static status say_outlooks(const saying *s) {
    model_config *c = NULL;
    if (s->o->model) {
        TRY(model_config_open(&c, s->o->model, NULL));
        say_outlook(s, s->o->model, c);
        model_config_close(c);
    }
    for (int i = 0; i < SHAPES; i++) {
        strbuf text = {0};
        if (s->o->shape ? strcmp(s->o->shape, shapes[i]) != 0 : s->o->model != NULL) continue;
        TRY(shape_write_config(shapes[i], 0, &text));
        status st = model_config_parse(&c, strbuf_text(&text), text.size, NULL, 0);
        strbuf_close(&text);
        TRY(st);
        say_outlook(s, shapes[i], c);
        model_config_close(c);
    }
    return ST_OK;
}

static status print_text(const doctor_options *o, const doctor_findings *f) {
    printf("%s, %u CPUs, %.1f GiB free; %u rank%s of %u thread%s on %s\n\nreading memory, all ranks\n",
           f->processor, f->cpus, (double)f->memory_free_bytes / 0x1p30, f->ranks, f->ranks > 1 ? "s" : "",
           f->threads, f->threads > 1 ? "s" : "", f->device);
    for (uint32_t i = 0; i < f->step_count; i++)
        printf("  %3u thread%-17s%10.2f GB/s\n", f->read[i].threads,
               f->read[i].threads > 1 ? "s a rank" : " a rank", f->read[i].gb_per_s);
    printf("multiplying, %d tokens at once, all ranks\n", TOKENS);
    for (int i = 0; i < DOCTOR_TYPES; i++) printf("  %-24s%10.1f GMAC/s\n", type_names[i], f->gmac_per_s[i]);
    printf("handing out work          %10.2f us\n", f->hand_out_us);
    for (int i = 0; i < DOCTOR_SUMS && f->ranks > 1; i++)
        printf("sum of %u floats        %10.2f us\n", sum_floats[i], f->sum_us[i]);
    printf("\nat most, with %s weights, a short context and one stream\n", o->weights);
    TRY(say_outlooks(&(saying){o, f, NULL}));
    return fflush(stdout) == 0 ? ST_OK : fail(ST_IO, "cannot write to standard output");
}

static status print_json(const doctor_options *o, const doctor_findings *f) {
    json_t *root = json_object(), *read = json_array(), *rates = json_object(), *sums = json_object(),
           *list = json_array();
    double best = 0;
    for (uint32_t i = 0; i < f->step_count; i++) {
        json_t *step = json_object();
        json_object_set_new(step, "threads", json_integer(f->read[i].threads));
        json_object_set_new(step, "gb_per_s", json_real(f->read[i].gb_per_s));
        json_array_append_new(read, step);
        if (f->read[i].gb_per_s > best) best = f->read[i].gb_per_s;
    }
    for (int i = 0; i < DOCTOR_TYPES; i++)
        json_object_set_new(rates, type_names[i], json_real(f->gmac_per_s[i]));
    for (int i = 0; i < DOCTOR_SUMS; i++) {
        char key[16];
        snprintf(key, sizeof key, "%u", sum_floats[i]);
        json_object_set_new(sums, key, f->ranks > 1 ? json_real(f->sum_us[i]) : json_null());
    }
    json_object_set_new(root, "processor", json_string(f->processor));
    json_object_set_new(root, "device", json_string(f->device));
    json_object_set_new(root, "cpus", json_integer(f->cpus));
    json_object_set_new(root, "memory_free_bytes", json_integer((json_int_t)f->memory_free_bytes));
    json_object_set_new(root, "ranks", json_integer(f->ranks));
    json_object_set_new(root, "threads", json_integer(f->threads));
    json_object_set_new(root, "read_bandwidth_gb_per_s", json_real(best));
    json_object_set_new(root, "read_bandwidth", read);
    json_object_set_new(root, "gmac_per_s", rates);
    json_object_set_new(root, "hand_out_us", json_real(f->hand_out_us));
    json_object_set_new(root, "all_reduce_us", sums);
    status st = say_outlooks(&(saying){o, f, list});
    json_object_set_new(root, "expected", list);
    bool good =
        json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) == 0 && putchar('\n') != EOF;
    json_decref(root);
    TRY(st);
    return good && fflush(stdout) == 0 ? ST_OK : fail(ST_IO, "cannot write to standard output");
}

/* ---- the command ---- */

typedef struct share {
    uint64_t free_bytes; /* of its host, said by one rank of each */
    uint32_t cpus, threads;
} share;

/* Ranks of other hosts may have other CPUs and memory: all take the threads that every one has. */
static status agree(doctor_findings *f, comm *ranks, uint32_t threads) {
    comm_node node = comm_where(ranks);
    uint32_t each = placement_cpus() / node.local_ranks;
    share mine = {.threads = threads ? threads : each ? each : 1}, *all;
    if (node.local_rank == 0) mine.cpus = placement_cpus(), mine.free_bytes = budget_free_memory();
    all = memory_alloc_array(comm_size(ranks), sizeof *all);
    status st = comm_all_gather(ranks, &mine, sizeof mine, all);
    *f = (doctor_findings){.ranks = comm_size(ranks), .threads = mine.threads};
    for (uint32_t i = 0; st == ST_OK && i < comm_size(ranks); i++) {
        f->cpus += all[i].cpus;
        f->memory_free_bytes += all[i].free_bytes;
        if (all[i].threads < f->threads) f->threads = all[i].threads;
    }
    free(all);
    return st;
}

static status examine(comm *ranks, void *context) {
    const doctor_options *o = context;
    doctor_findings f;
    placement place;
    comm_node node = comm_where(ranks);
    TRY(agree(&f, ranks, o->threads));
    if (o->hello) return comm_rank(ranks) == 0 && printf("%u ranks met\n", f.ranks) < 0 ? ST_IO : ST_OK;
    TRY(placement_bind(&place, node.local_rank, node.local_ranks, f.threads));
    name_processor(&f);
    status st = measure(&f, ranks, o->read_bytes);
    if (st != ST_OK || comm_rank(ranks) != 0) return st;
    return o->json ? print_json(o, &f) : print_text(o, &f);
}

static void print_help(void) {
    printf("usage: doctor [options]\n\nMeasures memory, arithmetic and exchange on this machine, and says "
           "what speed\n"
           "they let a model have. A model's real speed: bench.\n\n");
    options_print_help(stdout, rows, OPTION_ROWS);
}

static status read_options(doctor_options *o, int argc, char **argv) {
    options reader;
    options_open(&reader, rows, OPTION_ROWS, "GEMMAD", o);
    status st = options_read_arguments(&reader, argc, argv);
    options_close(&reader);
    if (!o->ranks) o->ranks = placement_cpus() > 1 ? 2 : 1;
    return st;
}

int doctor_command(int argc, char **argv, bench_launched *launched) {
    doctor_options o = {0};
    log_open("doctor", LOG_WARN);
    status st = read_options(&o, argc, argv);
    if (st != ST_OK) {
        fprintf(stderr, "doctor: %s\n", status_text());
        return EXIT_USAGE;
    }
    if (o.help) {
        print_help();
        return 0;
    }
    st = bench_run_ranks(o.comm, o.ranks, o.threads, examine, &o, argc, argv, launched);
    if (st != ST_OK) fprintf(stderr, "doctor: %s\n", status_text());
    return bench_exit_code(st);
}
