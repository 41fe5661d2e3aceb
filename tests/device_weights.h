/* Weights in a device's memory against the same weights in the host's, byte by byte: for any device that can be read back.
 * Tests include it once.
 *
 * Memory:  of the functions' own. */
#ifndef TESTS_DEVICE_WEIGHTS_H
#define TESTS_DEVICE_WEIGHTS_H

#include "base/memory.h"
#include "shard/model/weights_pack.h"
#include "shard/model/weights_random.h"
#include "tests/checkpoint_writer.h"
#include "tests/test.h"
#include "tests/weight_slots.h"

typedef struct weights_device {
    backend *b;
    const device_load_ops *load;
    void (*read)(void *host, const void *device, size_t bytes);
} weights_device;

/* What the host's data of a slot has to be there: tables become floats, and those of random weights, of which the host
 * has zeros alone, have what a checkpoint would. */
static inline void *device_wanted(const weight_slot *s, const checkpoint *random, uint64_t *bytes) {
    const weight *m = s->matrix;
    char name[160];
    snprintf(name, sizeof name, "model.language_model.%s", s->name);
    const tensor *t = random && s->mapped ? checkpoint_find(random, name) : NULL;
    uint64_t elements = (uint64_t)s->rows * s->cols;
    if (!m) *bytes = elements * sizeof(float);
    else *bytes = m->type == WEIGHT_BLOCKS ? elements * sizeof(float) : weight_rows_bytes(m->type, m->rows, m->cols);
    void *want = memory_alloc(*bytes);
    if (!m) memcpy(want, *s->vector, *bytes);
    else if (m->type == WEIGHT_BLOCKS) block_dequantise(m->blocks, m->data, want, elements);
    else memcpy(want, m->data, *bytes);
    for (uint32_t r = 0; t && r < s->rows; r++) weights_random_row(t, 0, r, (uint16_t *)want + (size_t)r * s->cols);
    return want;
}

typedef struct device_comparison {
    const weights_device *d;
    const checkpoint *random;
} device_comparison;

static inline void device_check_slot(const weight_slot *host, const weight_slot *there, const void *context) {
    const device_comparison *c = context;
    if (host->number) {
        CHECK_THAT(!memcmp(host->number, there->number, sizeof(float)), "%s", host->name);
        return;
    }
    const void *at = there->vector ? *there->vector : there->matrix->data;
    if (host->matrix) {
        const weight *a = host->matrix, *b = there->matrix;
        CHECK_THAT(b->type == (a->type == WEIGHT_BLOCKS ? WEIGHT_F32 : a->type) && a->rows == b->rows &&
                       a->cols == b->cols && !a->data == !b->data,
                   "%s", host->name);
        if (!a->data || !b->data) return;
    }
    uint64_t bytes;
    char *want = device_wanted(host, c->random, &bytes), *got = memory_alloc(bytes);
    c->d->read(got, at, bytes);
    CHECK_THAT(!memcmp(want, got, bytes), "%s, %llu bytes", host->name, (unsigned long long)bytes);
    CHECK_THAT((uintptr_t)at % 64 == 0, "%s", host->name);
    free(want);
    free(got);
}

/* random: the table of the checkpoint that nobody stored; NULL: a stored one. */
static inline void device_compare(const weights_device *d, model_weights *host, model_weights *there,
                                  const model_config *config, const layout *l, const checkpoint *random) {
    slots_compare(host, there, config, l, device_check_slot, &(device_comparison){d, random});
    CHECK(there->device == d->b && !host->device && there->tables_mapping == NULL);
    CHECK(model_weights_columns(host) == model_weights_columns(there));
}

typedef struct device_case {
    const char *model; /* below TEST_DATA */
    uint32_t ranks, rank, expert_degree;
    weights_choice choice;
    uint32_t threads;
    uint64_t piece_bytes;
    bool random;
} device_case;

typedef struct device_model {
    model_config *config;
    checkpoint *files;
    layout *l;
    weight_type stored;
} device_model;

static inline device_model device_open_model(const device_case *k) {
    device_model m = {0};
    char path[512];
    snprintf(path, sizeof path, "%s/%s", TEST_DATA, k->model);
    CHECK_STATUS(model_config_open(&m.config, path, NULL), ST_OK);
    if (k->random) CHECK_STATUS(weights_random_checkpoint(&m.files, m.config), ST_OK);
    else CHECK_STATUS(checkpoint_open(&m.files, path), ST_OK);
    if (!m.config || !m.files) exit(1);
    m.stored = weights_stored_type(m.files);
    layout_options split = {k->ranks, k->rank, weights_group(k->choice, m.stored), k->expert_degree,
                            k->expert_degree ? k->ranks / k->expert_degree : 0};
    CHECK_STATUS(layout_open(&m.l, m.config, &split), ST_OK);
    if (!m.l) exit(1);
    return m;
}

static inline void device_close_model(device_model m) {
    layout_close(m.l);
    checkpoint_close(m.files);
    model_config_close(m.config);
}

static inline model_weights_options device_options(const weights_device *d, const device_case *k) {
    return (model_weights_options){.choice = k->choice,
                                   .random = k->random,
                                   .threads = k->threads,
                                   .device = d ? d->b : NULL,
                                   .load = d ? d->load : NULL,
                                   .piece_bytes = k->piece_bytes};
}

static inline void device_check_case(const weights_device *d, const device_case *k) {
    model_weights *host = NULL, *there = NULL;
    device_model m = device_open_model(k);
    model_weights_options on_host = device_options(NULL, k), on_device = device_options(d, k);
    CHECK_STATUS(model_weights_open(&host, m.files, m.config, m.l, &on_host), ST_OK);
    CHECK_STATUS(model_weights_open(&there, m.files, m.config, m.l, &on_device), ST_OK);
    if (host && there) {
        device_compare(d, host, there, m.config, m.l, k->random ? m.files : NULL);
        CHECK(there->bytes == model_weights_plan_bytes(m.config, m.l, m.files, m.stored, k->choice, true));
        CHECK(host->bytes == model_weights_plan_bytes(m.config, m.l, m.files, m.stored, k->choice, false));
        CHECK(there->bytes >= host->bytes && there->bytes_read >= host->bytes_read);
        if (!k->random) CHECK(there->bytes_read == there->bytes_expected && there->bytes_read > 0);
    }
    if (test_checks_failed)
        printf("%s, rank %u of %u, weights %s\n", k->model, k->rank, k->ranks, weights_choice_name(k->choice));
    model_weights_close(there);
    model_weights_close(host);
    device_close_model(m);
}

/* From a checkpoint to a packed file on the host, and from there to the device. */
static inline void device_check_pack(const weights_device *d, const device_case *k) {
    model_weights *host = NULL, *there = NULL;
    device_model m = device_open_model(k);
    model_weights_options on_host = device_options(NULL, k);
    const weights_pack_options pack = {.threads = k->threads, .device = d->b, .load = d->load, .piece_bytes = k->piece_bytes};
    const pack_info info = {0};
    pack_file *file = NULL, *tables = NULL;
    uint8_t hash[32];
    uint64_t bytes, table_bytes;
    writer_folder folder = writer_open();
    char *path = file_join(folder.path, "rank.pack"), *tables_path = file_join(folder.path, "tables.pack");
    CHECK_STATUS(model_weights_open(&host, m.files, m.config, m.l, &on_host), ST_OK);
    if (!host) exit(1);
    CHECK_STATUS(weights_pack_write(path, host, m.config, m.l, &info, &pack, hash, &bytes), ST_OK);
    CHECK_STATUS(weights_pack_write_tables(tables_path, host, m.config, m.l, &info, &pack, hash, &table_bytes), ST_OK);
    CHECK_STATUS(pack_file_open(&file, path), ST_OK);
    if (table_bytes) CHECK_STATUS(pack_file_open(&tables, tables_path), ST_OK);
    if (!file || (table_bytes && !tables)) exit(1);
    uint64_t planned = weights_pack_device_bytes(bytes, tables);
    CHECK_STATUS(weights_pack_open(&there, file, tables, m.config, m.l, &pack), ST_OK);
    if (there) {
        device_compare(d, host, there, m.config, m.l, NULL);
        CHECK(there->bytes == planned && there->bytes_read == there->bytes_expected && there->bytes_read >= bytes);
    }
    if (test_checks_failed) printf("packed: %s, weights %s\n", k->model, weights_choice_name(k->choice));
    model_weights_close(there);
    model_weights_close(host);
    free(path);
    free(tables_path);
    writer_close(&folder);
    device_close_model(m);
}

/* All kinds of models, splits and types. small: fewer. */
static inline void device_check_all(const weights_device *d, bool small) {
    static const weights_choice choices[] = {WEIGHTS_AUTO, WEIGHTS_F32, WEIGHTS_Q8, WEIGHTS_Q4, WEIGHTS_FP8};
    static const char *const models[] = {"golden/moe", "golden/e2b", "models/gguf/tiny-dense-q4_0.gguf",
                                         "golden/dense-realheads", "models/tiny-dense"};
    for (size_t m = 0; m < (small ? 3 : sizeof models / sizeof *models); m++)
        for (size_t c = 0; c < sizeof choices / sizeof *choices; c++) {
            bool moe = !strcmp(models[m], "golden/moe");
            device_case k = {.model = models[m], .ranks = 1, .choice = choices[c], .threads = 3, .piece_bytes = 5000};
            device_check_case(d, &k);
            device_check_pack(d, &k);
            k.threads = 1, k.piece_bytes = 0;
            device_check_case(d, &k);
            k.ranks = 2, k.rank = 1, k.threads = 70; /* more than there are numbers for */
            device_check_case(d, &k);
            device_check_pack(d, &k);
            k.ranks = moe ? 4 : 2, k.rank = 0, k.threads = 4, k.piece_bytes = 1, k.expert_degree = moe ? 2 : 0;
            device_check_case(d, &k);
            k.random = !strstr(models[m], "gguf");
            if (k.random) device_check_case(d, &k);
        }
}

#endif
