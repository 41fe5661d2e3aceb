#include "shard/bench/doctor.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/options.h"
#include "base/shape.h"
#include "shard/bench/bench_command.h"
#include "shard/bench/doctor_gpu.h"
#include "shard/bench/doctor_measure.h"
#include "shard/kernels/placement.h"

enum { EXIT_USAGE = 2 };

typedef struct doctor_options {
    const char *model, *shape, *weights, *comm, *device;
    const gpu_provider *gpu;
    uint32_t ranks, threads;
    uint64_t read_bytes;
    bool hello, json, help;
} doctor_options;

static const char *const type_names[DOCTOR_TYPES] = {"f32", "bf16", "q8", "q4", "fp8"};
static const char *const shapes[] = {"31b", "26b-a4b", "e4b", "e2b"};
enum { SHAPES = sizeof shapes / sizeof *shapes };

#define AT(member) offsetof(doctor_options, member)
static const option rows[] = {
    {"model", OPTION_TEXT, 0, AT(model), "PATH", NULL, NULL, 0, 0, NULL, NULL,
     "also say what to expect of this model; reads its config.json only"},
    {"shape", OPTION_WORD, 0, AT(shape), "NAME", NULL, NULL, 0, 0, "31b 26b-a4b e4b e2b", NULL,
     "of this published size alone; default: of all"},
    {"weights", OPTION_WORD, 0, AT(weights), "TYPE", NULL, "q4", 0, 0, "bf16 q8 q4 f32 fp8", NULL,
     "type of the matrices that the outlook is for; fp8 on a GPU"},
    {"ranks", OPTION_U32, 0, AT(ranks), "N", NULL, NULL, 1, LIMIT_RANKS, NULL, NULL,
     "ranks on this machine; default: one for each GPU; else 2, or 1 on a single CPU; with --comm mpi as many as are "
     "launched"},
    {"threads", OPTION_U32, 0, AT(threads), "N", NULL, NULL, 1, 512, NULL, NULL,
     "threads of a rank; default: the CPUs this process may use / ranks"},
    {"device", OPTION_WORD, 0, AT(device), "NAME", NULL, "auto", 0, 0, "auto cpu cuda", NULL,
     "what is measured; auto: GPUs where there are some"},
    {"read", OPTION_BYTES, 0, AT(read_bytes), "BYTES", NULL, NULL, 1 << 20, (uint64_t)1 << 40, NULL, NULL,
     "memory that the read bandwidth is measured on; default: 4GiB, more than caches hold; on a GPU 8GiB"},
    {"comm", OPTION_WORD, 0, AT(comm), "KIND", NULL, "fork", 0, 0, "fork mpi", NULL,
     "fork starts the ranks itself; mpi: under mpirun, over all its hosts"},
    {"hello", OPTION_FLAG, 0, AT(hello), NULL, NULL, NULL, 0, 0, NULL, NULL,
     "only have the ranks meet, and print how many came"},
    {"json", OPTION_FLAG, 0, AT(json), NULL, NULL, NULL, 0, 0, NULL, NULL, "one JSON object"},
    {"help", OPTION_FLAG, OPTION_ARGUMENT_ONLY, AT(help), NULL, NULL, NULL, 0, 0, NULL, NULL, "this text"},
};
enum { OPTION_ROWS = sizeof rows / sizeof *rows };

/* ---- saying it ---- */

static weight_type type_of(const char *name) {
    for (int i = 0; i < DOCTOR_TYPES; i++)
        if (!strcmp(type_names[i], name)) return doctor_type[i];
    return WEIGHT_Q4;
}

static uint64_t room(const doctor_findings *f) { return f->device_free_bytes ? f->device_free_bytes : f->memory_free_bytes; }

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
               w.weight_bytes > room(s->f) ? " (does not fit)" : "");
        return;
    }
    json_t *o = json_object();
    json_object_set_new(o, "model", json_string(name));
    json_object_set_new(o, "layers", json_integer(c->layers));
    json_object_set_new(o, "weights", json_string(s->o->weights));
    json_object_set_new(o, "weight_bytes", json_integer((json_int_t)w.weight_bytes));
    json_object_set_new(o, "fits", json_boolean(w.weight_bytes <= room(s->f)));
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
    printf("%s, %u CPUs, %.1f GiB free; %u rank%s ", f->processor, f->cpus, (double)f->memory_free_bytes / 0x1p30,
           f->ranks, f->ranks > 1 ? "s" : "");
    if (f->device_free_bytes) printf("on %s, %.1f GiB free", f->device, (double)f->device_free_bytes / 0x1p30);
    else printf("of %u thread%s on %s", f->threads, f->threads > 1 ? "s" : "", f->device);
    printf("\n\nreading memory, all ranks\n");
    for (uint32_t i = 0; i < f->step_count; i++)
        if (f->read[i].threads)
            printf("  %3u thread%-17s%10.2f GB/s\n", f->read[i].threads,
                   f->read[i].threads > 1 ? "s a rank" : " a rank", f->read[i].gb_per_s);
        else printf("  %-24s%10.2f GB/s\n", "of the GPUs", f->read[i].gb_per_s);
    printf("multiplying many tokens at once, all ranks\n");
    for (int i = 0; i < DOCTOR_TYPES; i++)
        if (f->gmac_per_s[i] > 0) printf("  %-24s%10.1f GMAC/s\n", type_names[i], f->gmac_per_s[i]);
    if (f->hand_out_us > 0) printf("handing out work          %10.2f us\n", f->hand_out_us);
    for (int i = 0; i < DOCTOR_SUMS && f->ranks > 1; i++)
        printf("sum of %u floats        %10.2f us\n", doctor_sum_floats[i], f->sum_us[i]);
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
        json_object_set_new(step, "threads", f->read[i].threads ? json_integer(f->read[i].threads) : json_null());
        json_object_set_new(step, "gb_per_s", json_real(f->read[i].gb_per_s));
        json_array_append_new(read, step);
        if (f->read[i].gb_per_s > best) best = f->read[i].gb_per_s;
    }
    for (int i = 0; i < DOCTOR_TYPES; i++)
        if (f->gmac_per_s[i] > 0) json_object_set_new(rates, type_names[i], json_real(f->gmac_per_s[i]));
    for (int i = 0; i < DOCTOR_SUMS; i++) {
        char key[16];
        snprintf(key, sizeof key, "%u", doctor_sum_floats[i]);
        json_object_set_new(sums, key, f->ranks > 1 ? json_real(f->sum_us[i]) : json_null());
    }
    json_object_set_new(root, "processor", json_string(f->processor));
    json_object_set_new(root, "device", json_string(f->device));
    json_object_set_new(root, "cpus", json_integer(f->cpus));
    json_object_set_new(root, "memory_free_bytes", json_integer((json_int_t)f->memory_free_bytes));
    json_object_set_new(root, "device_memory_free_bytes",
                        f->device_free_bytes ? json_integer((json_int_t)f->device_free_bytes) : json_null());
    json_object_set_new(root, "ranks", json_integer(f->ranks));
    json_object_set_new(root, "threads", json_integer(f->threads));
    json_object_set_new(root, "read_bandwidth_gb_per_s", json_real(best));
    json_object_set_new(root, "read_bandwidth", read);
    json_object_set_new(root, "gmac_per_s", rates);
    json_object_set_new(root, "hand_out_us", f->hand_out_us > 0 ? json_real(f->hand_out_us) : json_null());
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

/* Ranks of other hosts may find no GPU where this one does. */
static status choose_device(comm *ranks, const doctor_options *o, bool *on_gpu) {
    TRY(gpu_wanted(o->gpu, device_choice_of(o->device), on_gpu));
    uint32_t n = comm_size(ranks), mine = *on_gpu, *all = memory_alloc_array(n, sizeof *all);
    status st = comm_all_gather(ranks, &mine, sizeof mine, all);
    for (uint32_t i = 1; st == ST_OK && i < n; i++)
        if (all[i] != all[0])
            st = fail(ST_MISMATCH, "rank 0 has %s GPU, rank %u has %s; --device cpu measures CPUs", all[0] ? "a" : "no", i,
                      all[i] ? "one" : "none");
    free(all);
    if (st == ST_OK && !*on_gpu && type_of(o->weights) == WEIGHT_FP8)
        st = fail(ST_UNSUPPORTED, "--weights fp8 is for GPUs, and CPUs are measured");
    return st;
}

static status examine(comm *ranks, void *context) {
    const doctor_options *o = context;
    doctor_findings f;
    placement place;
    bool on_gpu;
    comm_node node = comm_where(ranks);
    TRY(agree(&f, ranks, o->threads));
    if (o->hello) return comm_rank(ranks) == 0 && printf("%u ranks met\n", f.ranks) < 0 ? ST_IO : ST_OK;
    TRY(choose_device(ranks, o, &on_gpu));
    TRY(placement_bind(&place, node.local_rank, node.local_ranks, f.threads));
    name_processor(&f);
    status st = on_gpu ? doctor_measure_gpu(&f, ranks, o->gpu, o->read_bytes) : doctor_measure_cpu(&f, ranks, o->read_bytes);
    if (st != ST_OK || comm_rank(ranks) != 0) return st;
    return o->json ? print_json(o, &f) : print_text(o, &f);
}

static void print_help(void) {
    printf("usage: doctor [options]\n\nMeasures memory, arithmetic and exchange of this machine or its GPUs, and "
           "says what speed\n"
           "they let a model have. A model's real speed: bench.\n\n");
    options_print_help(stdout, rows, OPTION_ROWS);
}

static status read_options(doctor_options *o, int argc, char **argv) {
    options reader;
    options_open(&reader, rows, OPTION_ROWS, "GEMMAD", o);
    status st = options_read_arguments(&reader, argc, argv);
    options_close(&reader);
    if (st != ST_OK || o->ranks || o->help) return st;
    bool forked = !strcmp(o->comm, "fork") && !o->hello;
    if (forked && device_choice_of(o->device) != DEVICE_CPU) o->ranks = doctor_count_gpus(o->gpu);
    if (!o->ranks) o->ranks = placement_cpus() > 1 ? 2 : 1;
    return ST_OK;
}

int doctor_command(int argc, char **argv, bench_launched *launched, const gpu_provider *gpu) {
    doctor_options o = {.gpu = gpu};
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
