#include "shard/pack_command.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/gguf.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/options.h"
#include "base/utf8.h"
#include "shard/kernels/placement.h"
#include "shard/model/model_pack.h"
#include "shard/model/weights_pack.h"
#include "shard/model/weights_random.h"

enum { EXIT_USAGE = 2, EXIT_REFUSED = 3, COPIED_BYTES_MAX = 256 << 20 };

typedef struct pack_options {
    const char *model, *out, *weights, *expert_layout, *verify;
    uint32_t ranks, threads;
    bool help;
} pack_options;

#define AT(member) offsetof(pack_options, member)
static const option rows[] = {
    {"model", OPTION_TEXT, 0, AT(model), "PATH", NULL, NULL, 0, 0, NULL, NULL, "the checkpoint to pack"},
    {"out", OPTION_TEXT, 0, AT(out), "DIR", NULL, NULL, 0, 0, NULL, NULL,
     "where to: a new or empty directory"},
    {"ranks", OPTION_U32, 0, AT(ranks), "N", NULL, "1", 1, LIMIT_RANKS, NULL, NULL,
     "ranks of the engine that serves it"},
    {"weights", OPTION_WORD, 0, AT(weights), "TYPE", NULL, "auto", 0, 0, "auto f32 bf16 q8 q4 fp8", NULL,
     "type of the matrices; auto: as stored"},
    {"expert-layout", OPTION_TEXT, 0, AT(expert_layout), "ExW", NULL, NULL, 0, 0, NULL, NULL,
     "EP degree and width degree, such as 2x1; default: the fastest with all ranks on one host"},
    {"threads", OPTION_U32, 0, AT(threads), "N", NULL, NULL, 1, 512, NULL, NULL,
     "default: the CPUs this process may use"},
    {"verify", OPTION_TEXT, OPTION_ARGUMENT_ONLY, AT(verify), "DIR", NULL, NULL, 0, 0, NULL, NULL,
     "instead: read all of a packed directory and hold it against its SHA-256s"},
    {"help", OPTION_FLAG, OPTION_ARGUMENT_ONLY, AT(help), NULL, NULL, NULL, 0, 0, NULL, NULL, "this text"},
};
enum { ROWS = sizeof rows / sizeof *rows };

/* What gemmad and the ranks read beside weights. config.json is the only one that has to be there. */
static const char *const copied[] = {"generation_config.json", "tokenizer.json",     "tokenizer_config.json",
                                     "chat_template.jinja",    "chat_template.json", "config.json"};

/* ---- packing ---- */

typedef struct packing {
    const pack_options *o;
    weights_choice choice;
    uint32_t expert_degree, width_degree;
    model_config *config;
    checkpoint *files;
    bool random;
    pack_manifest *manifest;
    pack_info info;
} packing;

static status copy_file(const char *from, const char *to, const char *name) {
    char *source = file_join(from, name), *target = file_join(to, name), *bytes = NULL;
    size_t n;
    status st = file_read_all(source, COPIED_BYTES_MAX, &bytes, &n);
    if (st == ST_NOT_FOUND && strcmp(name, "config.json") != 0) st = ST_OK;
    else if (st == ST_OK) st = file_write_all(target, bytes, n);
    free(bytes);
    free(target);
    free(source);
    return st;
}

/* The GGUF file without the data of its tensors, which is a hole, but for the one that tells the rotation: config and tokenizer
 * are read from it as from the whole file, and its header and size give the same hash. */
static status copy_metadata(const char *from, const char *to) {
    gguf *g = NULL;
    TRY(gguf_open(&g, from));
    char *path = file_join(to, GGUF_METADATA_NAME);
    const gguf_tensor *rotation = gguf_find_tensor(g, "rope_freqs.weight");
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    status st = fd < 0 ? fail_errno(ST_IO, "%s", path) : file_write_at(fd, path, 0, g->bytes, g->header_bytes);
    if (st == ST_OK && rotation)
        st = file_write_at(fd, path, rotation->offset, g->bytes + rotation->offset, rotation->bytes);
    if (st == ST_OK && (ftruncate(fd, (off_t)g->file_bytes) != 0 || fsync(fd) != 0))
        st = fail_errno(ST_IO, "%s", path);
    if (fd >= 0) close(fd);
    free(path);
    gguf_close(g);
    return st;
}

static status copy_texts(const char *from, const char *to) {
    if (gguf_is_path(from)) return copy_metadata(from, to);
    for (size_t i = 0; i < sizeof copied / sizeof *copied; i++) TRY(copy_file(from, to, copied[i]));
    return ST_OK;
}

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

/* Leftovers of an interrupted pack go; what else is there may be somebody's. */
static status clear_entry(const char *directory, const char *name) {
    if (!strcmp(name, ".") || !strcmp(name, "..")) return ST_OK;
    for (size_t i = 0; i < sizeof copied / sizeof *copied; i++)
        if (!strcmp(name, copied[i])) return ST_OK; /* written over */
    bool leftover = ends_with(name, ".pack") || ends_with(name, ".pack.new") ||
                    !strcmp(name, GGUF_METADATA_NAME) || !strcmp(name, PACK_MANIFEST_NAME ".new");
    if (!leftover)
        return fail(ST_EXISTS, "%s holds %s: give --out a new or empty directory", directory, name);
    char *path = file_join(directory, name);
    status st = unlink(path) == 0 ? ST_OK : fail_errno(ST_IO, "%s", path);
    free(path);
    return st;
}

static status make_directory(const char *path) {
    if (mkdir(path, 0755) == 0) return ST_OK;
    if (errno != EEXIST) return fail_errno(ST_IO, "%s", path);
    if (pack_manifest_exists(path))
        return fail(ST_EXISTS, "%s holds a packed model: remove it or give --out another directory", path);
    DIR *d = opendir(path);
    if (!d) return fail_errno(ST_IO, "%s", path);
    status st = ST_OK;
    for (struct dirent *e; st == ST_OK && (e = readdir(d));) st = clear_entry(path, e->d_name);
    closedir(d);
    return st;
}

/* The tables go with rank 0's weights, which have them as every other's do. */
static status write_rank(packing *p, model_weights *w, const layout *l) {
    char name[PACK_FILE_NAME_BYTES], said[64];
    pack_rank_name(l->rank, l->ranks, name);
    snprintf(said, sizeof said, "writing %s", name);
    const weights_pack_options o = {.threads = p->o->threads, .say = said};
    pack_entry *e = &p->manifest->rank[l->rank];
    char *path = file_join(p->o->out, name);
    status st = weights_pack_write(path, w, p->config, l, &p->info, &o, e->head_hash, &e->bytes);
    free(path);
    if (st != ST_OK || l->rank != 0) return st;
    e = &p->manifest->tables;
    path = file_join(p->o->out, PACK_TABLES_NAME);
    st = weights_pack_write_tables(path, w, p->config, l, &p->info, &o, e->head_hash, &e->bytes);
    free(path);
    return st;
}

static status pack_rank(packing *p, uint32_t rank) {
    layout *l = NULL;
    model_weights *w = NULL;
    pack_manifest *m = p->manifest;
    uint64_t begin = clock_now_ns(), loaded;
    layout_options split = {.ranks = p->o->ranks,
                            .rank = rank,
                            .group = m->group,
                            .expert_degree = p->expert_degree,
                            .width_degree = p->width_degree};
    TRY(layout_open(&l, p->config, &split));
    const model_weights_options load = {.choice = p->choice, .random = p->random, .threads = p->o->threads};
    status st = model_weights_open(&w, p->files, p->config, l, &load);
    if (st != ST_OK) goto fail;
    loaded = clock_now_ns();
    m->expert_degree = l->expert_degree;
    m->width_degree = l->width_degree;
    layout_describe(p->config, l, m->layout, sizeof m->layout);
    TRY_OR_FAIL(write_rank(p, w, l));
    uint64_t written = clock_now_ns(), bytes = m->rank[rank].bytes + (rank == 0 ? m->tables.bytes : 0);
    log_info("rank %u of %u: %.2f GiB read in %.1f s (%.2f GB/s), %.2f GiB written in %.1f s (%.2f GB/s)",
             rank, p->o->ranks, (double)w->bytes_read / 0x1p30, (double)(loaded - begin) / 1e9,
             progress_rate(w->bytes_read, loaded - begin), (double)bytes / 0x1p30,
             (double)(written - loaded) / 1e9, progress_rate(bytes, written - loaded));
fail:
    model_weights_close(w);
    layout_close(l);
    return st;
}

static status describe_source(packing *p) {
    const pack_options *o = p->o;
    pack_manifest *m = p->manifest;
    weight_type stored = weights_stored_type(p->files);
    if (p->choice == WEIGHTS_BF16 && stored != WEIGHT_BF16)
        return fail(ST_UNSUPPORTED, "--weights bf16: the checkpoint's matrices are not stored as bf16");
    m->ranks = o->ranks;
    m->group = weights_group(p->choice, stored);
    snprintf(m->weights, sizeof m->weights, "%s", o->weights);
    snprintf(m->stored, sizeof m->stored, "%s", model_pack_type_name(stored));
    char *source = realpath(o->model, NULL);
    if (!source) return fail_errno(ST_IO, "%s", o->model);
    /* For people to read; JSON holds no other text. */
    bool fits = strlen(source) < sizeof m->source && utf8_check(source, strlen(source)) == strlen(source);
    snprintf(m->source, sizeof m->source, "%s", fits ? source : "PATH");
    free(source);
    memcpy(m->config_hash, p->config->hash, 32);
    checkpoint_hash(p->files, m->checkpoint_hash);
    memcpy(p->info.config_hash, m->config_hash, 32);
    memcpy(p->info.checkpoint_hash, m->checkpoint_hash, 32);
    return ST_OK;
}

static status pack_all(packing *p) {
    const pack_options *o = p->o;
    if (pack_manifest_exists(o->model))
        return fail(ST_UNSUPPORTED,
                    "%s is packed already: pack again from the checkpoint that it was made of", o->model);
    TRY(model_config_open(&p->config, o->model, NULL));
    p->random = weights_random_marked(o->model);
    if (p->random) TRY(weights_random_checkpoint(&p->files, p->config));
    else TRY(checkpoint_open(&p->files, o->model));
    TRY(describe_source(p));
    if (p->expert_degree == 0) /* as an engine on one host would choose */
        layout_choose_experts(p->config, o->ranks, o->ranks, p->manifest->group, &p->expert_degree,
                              &p->width_degree);
    layout *l = NULL; /* what cannot be split is refused before anything is made */
    TRY(layout_open(&l, p->config,
                    &(layout_options){.ranks = o->ranks,
                                      .group = p->manifest->group,
                                      .expert_degree = p->expert_degree,
                                      .width_degree = p->width_degree}));
    layout_close(l);
    TRY(make_directory(o->out));
    for (uint32_t r = 0; r < o->ranks; r++) TRY(pack_rank(p, r));
    TRY(copy_texts(o->model, o->out));
    return pack_manifest_write(p->manifest, o->out);
}

static status run_pack(const pack_options *o) {
    packing p = {.o = o, .choice = weights_choice_of(o->weights)};
    char rest;
    if (o->expert_layout &&
        (sscanf(o->expert_layout, "%ux%u%c", &p.expert_degree, &p.width_degree, &rest) != 2 ||
         p.expert_degree == 0 || p.width_degree == 0))
        return fail(ST_INVALID, "--expert-layout is '%s'; give EP degree x width degree, such as 2x1",
                    o->expert_layout);
    p.manifest = memory_alloc(sizeof *p.manifest);
    status st = pack_all(&p);
    if (st == ST_OK)
        log_info("%s: layout %s, weights %s; serve it with --model %s --ranks %u", o->out, p.manifest->layout,
                 p.manifest->weights, o->out, o->ranks);
    checkpoint_close(p.files);
    model_config_close(p.config);
    free(p.manifest);
    return st;
}

/* ---- verifying ---- */

static status verify_file(const pack_manifest *m, const pack_options *o, uint32_t rank, progress *said) {
    pack_file *f;
    TRY(pack_manifest_open(m, o->verify, rank, &f));
    status st = pack_file_verify(f, o->threads, said);
    pack_file_close(f);
    return st;
}

static status verify_all(const pack_manifest *m, const pack_options *o) {
    progress said;
    uint64_t total = m->tables.bytes;
    for (uint32_t r = 0; r < m->ranks; r++) total += m->rank[r].bytes;
    progress_begin(&said, "verifying", total);
    for (uint32_t r = 0; r < m->ranks; r++) TRY(verify_file(m, o, r, &said));
    if (m->tables.bytes) TRY(verify_file(m, o, PACK_SHARED_RANK, &said));
    uint64_t ns = clock_now_ns() - said.begin_ns;
    log_info("%s: %.2f GiB are as they were written, %.1f s, %.2f GB/s", o->verify, (double)total / 0x1p30,
             (double)ns / 1e9, progress_rate(total, ns));
    return ST_OK;
}

static status run_verify(const pack_options *o) {
    model_config *config = NULL;
    model_pack *p = NULL;
    TRY(model_config_open(&config, o->verify, NULL));
    status st = model_pack_open(&p, o->verify, config);
    if (st == ST_OK && !p) st = fail(ST_NOT_FOUND, "%s holds no %s", o->verify, PACK_MANIFEST_NAME);
    if (st == ST_OK) st = verify_all(&p->manifest, o);
    model_pack_close(p);
    model_config_close(config);
    return st;
}

/* ---- command line ---- */

static void print_help(void) {
    printf("usage: pack --model PATH --out DIR [options]\n"
           "       pack --verify DIR\n\n"
           "Writes a model's weights sliced for the ranks of one engine, quantised, and laid out as the "
           "kernels read\n"
           "them, so that a start maps them in place of reading and converting. A pack is for one number of "
           "ranks, one\n"
           "expert layout and one type of weights. Needs memory for one rank's share.\n\n");
    options_print_help(stdout, rows, ROWS);
    printf("\nExit codes: 0 done, 1 failure, 2 usage, 3 model or layout refused.\n");
}

static int exit_code(status st) {
    switch (st) {
    case ST_OK: return 0;
    case ST_INVALID: return EXIT_USAGE;
    case ST_NOT_FOUND:
    case ST_FORMAT:
    case ST_UNSUPPORTED:
    case ST_LAYOUT:
    case ST_MISMATCH:
    case ST_EXISTS:
    case ST_NO_MEMORY: return EXIT_REFUSED;
    default: return 1;
    }
}

static status check(pack_options *o) {
    if (!o->threads) o->threads = placement_cpus();
    if (o->verify && (o->model || o->out)) return fail(ST_INVALID, "--verify goes without --model and --out");
    if (!o->verify && (!o->model || !o->out))
        return fail(ST_INVALID, "give --model PATH and --out DIR, or --verify DIR");
    return ST_OK;
}

int pack_command(int argc, char **argv) {
    pack_options o = {0};
    options reader;
    log_open("pack", LOG_INFO);
    options_open(&reader, rows, ROWS, "GEMMAD", &o);
    status st = options_read_arguments(&reader, argc, argv);
    options_close(&reader);
    if (st == ST_OK && o.help) {
        print_help();
        return 0;
    }
    if (st == ST_OK) st = check(&o);
    if (st != ST_OK) {
        fprintf(stderr, "pack: %s\n", status_text());
        return EXIT_USAGE;
    }
    st = o.verify ? run_verify(&o) : run_pack(&o);
    if (st != ST_OK) fprintf(stderr, "pack: %s\n", status_text());
    return exit_code(st);
}
