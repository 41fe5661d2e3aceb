/* A written checkpoint is one like any other, and holds what random weights hold. */
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "shard/bench/write_checkpoint.h"
#include "shard/model/weights_random.h"
#include "tests/checkpoint_writer.h"
#include "tests/test.h"
#include "tests/weight_slots.h"

static void check_slot(const weight_slot *a, const weight_slot *b, const void *table) {
    if (a->number) {
        CHECK(*a->number == 1 && *b->number == 1);
    } else if (a->vector) {
        CHECK(!memcmp(*a->vector, *b->vector, a->cols * sizeof(float)));
    } else if (a->mapped) {
        char name[160];
        snprintf(name, sizeof name, "model.language_model.%s", a->name);
        const tensor *t = checkpoint_find(table, name);
        uint16_t *row = memory_alloc_array(a->cols, sizeof *row);
        for (uint32_t r = 0; b->matrix->data && r < a->rows; r++) {
            weights_random_row(t, 0, r, row);
            CHECK(!memcmp(row, (const uint16_t *)b->matrix->data + (size_t)r * a->cols, 2 * (size_t)a->cols));
        }
        free(row);
    } else {
        const weight *x = a->matrix, *y = b->matrix;
        CHECK(x->type == y->type && x->rows == y->rows && x->cols == y->cols && !x->data == !y->data);
        CHECK_THAT(!x->data || !memcmp(x->data, y->data, weight_rows_bytes(x->type, x->rows, x->cols)), "%s", a->name);
    }
}

/* Every rank of the checkpoint against the same rank filled in. */
static void check_rank(checkpoint *files, checkpoint *table, const model_config *config, layout_options split,
                       weights_choice choice) {
    layout *l;
    model_weights *filled = NULL, *read = NULL;
    CHECK_STATUS(layout_open(&l, config, &split), ST_OK);
    model_weights_options o = {.choice = choice, .threads = 2};
    CHECK_STATUS(model_weights_open(&read, files, config, l, &o), ST_OK);
    o.random = true;
    CHECK_STATUS(model_weights_open(&filled, table, config, l, &o), ST_OK);
    if (!filled || !read) exit(1);
    slots_compare(filled, read, config, l, check_slot, table);
    model_weights_close(filled);
    model_weights_close(read);
    layout_close(l);
}

static void check_model(const char *model, uint64_t file_bytes, uint64_t piece_bytes, uint32_t threads) {
    char path[512], *text = NULL;
    size_t n;
    uint64_t bytes = 0, seen = 0;
    model_config *config = NULL;
    checkpoint *files = NULL, *table = NULL;
    writer_folder folder = writer_open();
    snprintf(path, sizeof path, "%s/%s/config.json", TEST_DATA, model);
    CHECK_STATUS(file_read_all(path, 1 << 20, &text, &n), ST_OK);
    CHECK_STATUS(bench_write_config(folder.path, text, file_bytes, piece_bytes, threads, &bytes), ST_OK);
    CHECK_STATUS(model_config_open(&config, folder.path, NULL), ST_OK);
    CHECK_STATUS(checkpoint_open(&files, folder.path), ST_OK);
    if (!config || !files) exit(1);
    CHECK_STATUS(weights_random_checkpoint(&table, config), ST_OK);
    CHECK(checkpoint_tensor_count(files) == checkpoint_tensor_count(table));
    uint64_t largest = 0;
    for (uint32_t i = 0; i < checkpoint_tensor_count(files); i++) {
        const tensor *t = checkpoint_tensor(files, i);
        seen += t->bytes;
        if (t->bytes > largest) largest = t->bytes;
    }
    CHECK(bytes > seen && bytes < seen + 200 * (uint64_t)checkpoint_tensor_count(files) + 4096);
    CHECK(file_bytes > seen || checkpoint_tensor(files, 0)->bytes <= largest);
    static const layout_options splits[] = {{1, 0, 1, 0, 0}, {2, 0, 1, 0, 0}, {2, 1, 1, 0, 0}};
    for (size_t i = 0; i < sizeof splits / sizeof *splits; i++) {
        check_rank(files, table, config, splits[i], WEIGHTS_AUTO);
        check_rank(files, table, config, splits[i], WEIGHTS_F32);
    }
    /* What is there is not written over. */
    CHECK_STATUS(bench_write_config(folder.path, text, file_bytes, piece_bytes, threads, &bytes), ST_EXISTS);
    CHECK_SENTENCE("has a checkpoint already: there is a config.json");
    checkpoint_close(table);
    checkpoint_close(files);
    model_config_close(config);
    free(text);
    writer_close(&folder);
}

TEST(what_is_written_is_what_is_filled_in) {
    check_model("golden/moe", 1 << 30, 1 << 20, 2);
    check_model("golden/e2b", 50000, 1000, 3);
    check_model("models/tiny-dense", 1, 1, 70);
}

TEST(places_that_are_none) {
    uint64_t bytes;
    CHECK_STATUS(bench_write_config("/nowhere/at/all", "{}", 1, 1, 1, &bytes), ST_IO);
    CHECK_SENTENCE("/nowhere/at/all");
    writer_folder folder = writer_open();
    CHECK_STATUS(bench_write_config(folder.path, "{}", 1, 1, 1, &bytes), ST_FORMAT);
    CHECK_STATUS(bench_write_checkpoint(folder.path, "27b", 0, 1), ST_NOT_FOUND);
    writer_file(&folder, "model.safetensors", "", 0);
    CHECK_STATUS(bench_write_config(folder.path, "{}", 1, 1, 1, &bytes), ST_EXISTS);
    writer_close(&folder);
}

int main(void) {
    log_open("test", LOG_ERROR);
    RUN(what_is_written_is_what_is_filled_in);
    RUN(places_that_are_none);
    return test_result();
}
