/* What comes out of a packed directory is bit for bit what went in, and whatever is wrong with one is refused by name. */
#include <sys/stat.h>

#include "base/log.h"
#include "shard/model/model_pack.h"
#include "shard/model/weights_pack.h"
#include "tests/checkpoint_writer.h"
#include "tests/test.h"
#include "tests/weight_slots.h"

enum { RANKS_MAX = 4 };

typedef struct source {
    model_config *config;
    checkpoint *files;
    writer_folder folder;
    pack_manifest *manifest;
} source;

static char *in_folder(const source *s, uint32_t rank) {
    char name[PACK_FILE_NAME_BYTES];
    pack_rank_name(rank, s->manifest->ranks, name);
    return file_join(s->folder.path, name);
}

/* What the command does, with one rank's weights in memory at a time. */
static source pack(const char *model, uint32_t ranks, uint32_t expert_degree, weights_choice choice) {
    source s = {.folder = writer_open(), .manifest = memory_alloc(sizeof *s.manifest)};
    pack_manifest *m = s.manifest;
    CHECK_STATUS(model_config_open(&s.config, model, NULL), ST_OK);
    CHECK_STATUS(checkpoint_open(&s.files, model), ST_OK);
    if (!s.config || !s.files) exit(1);
    weight_type stored = weights_stored_type(s.files);
    *m = (pack_manifest){.ranks = ranks, .group = weights_group(choice, stored), .source = "somewhere"};
    snprintf(m->weights, sizeof m->weights, "%s", weights_choice_name(choice));
    snprintf(m->stored, sizeof m->stored, "%s", model_pack_type_name(stored));
    memcpy(m->config_hash, s.config->hash, 32);
    checkpoint_hash(s.files, m->checkpoint_hash);
    pack_info info = {0};
    memcpy(info.config_hash, m->config_hash, 32);
    memcpy(info.checkpoint_hash, m->checkpoint_hash, 32);
    for (uint32_t r = 0; r < ranks; r++) {
        layout *l;
        model_weights *w;
        layout_options split = {ranks, r, m->group, expert_degree, expert_degree ? ranks / expert_degree : 0};
        CHECK_STATUS(layout_open(&l, s.config, &split), ST_OK);
        CHECK_STATUS(model_weights_open(&w, s.files, s.config, l,
                                        &(model_weights_options){.choice = choice, .threads = 2}),
                     ST_OK);
        m->expert_degree = l->expert_degree;
        m->width_degree = l->width_degree;
        layout_describe(s.config, l, m->layout, sizeof m->layout);
        char *path = in_folder(&s, r), *tables = in_folder(&s, PACK_SHARED_RANK);
        const weights_pack_options o = {.threads = 3};
        CHECK_STATUS(
            weights_pack_write(path, w, s.config, l, &info, &o, m->rank[r].head_hash, &m->rank[r].bytes),
            ST_OK);
        if (r == 0)
            CHECK_STATUS(weights_pack_write_tables(tables, w, s.config, l, &info, &o, m->tables.head_hash,
                                                   &m->tables.bytes),
                         ST_OK);
        free(tables);
        free(path);
        model_weights_close(w);
        layout_close(l);
    }
    CHECK_STATUS(pack_manifest_write(m, s.folder.path), ST_OK);
    return s;
}

static void done(source *s) {
    writer_close(&s->folder);
    checkpoint_close(s->files);
    model_config_close(s->config);
    free(s->manifest);
}

/* ---- round trip ---- */

static uint64_t bytes_of(const weight *m) {
    if (!m->data) return 0;
    if (m->type != WEIGHT_BLOCKS) return weight_rows_bytes(m->type, m->rows, m->cols);
    return (uint64_t)m->rows * m->cols / block_elements(m->blocks) * block_bytes(m->blocks);
}

static void check_same(const weight_slot *a, const weight_slot *b, const void *context) {
    (void)context;
    if (a->matrix) {
        const weight *x = a->matrix, *y = b->matrix;
        CHECK_THAT(x->type == y->type && x->rows == y->rows && x->cols == y->cols && !x->data == !y->data &&
                       x->blocks == y->blocks,
                   "%s", a->name);
        CHECK_THAT(!x->data || !memcmp(x->data, y->data, bytes_of(x)), "%s", a->name);
        CHECK_THAT((uintptr_t)y->data % PACK_ALIGN == 0, "%s", a->name);
    } else if (a->vector) {
        CHECK_THAT(!memcmp(*a->vector, *b->vector, a->cols * sizeof(float)), "%s", a->name);
    } else {
        CHECK_THAT(!memcmp(a->number, b->number, sizeof(float)), "%s", a->name);
    }
}

/* The rank's share from the pack against the same from the checkpoint. */
static void check_rank(const source *s, const model_pack *p, uint32_t rank) {
    layout_options split = {0};
    layout *l;
    model_weights *from_pack = NULL, *from_files = NULL;
    const pack_manifest *m = s->manifest;
    CHECK_STATUS(model_pack_fit(p, s->folder.path, s->config, m->ranks, 0, 0, WEIGHTS_AUTO, &split), ST_OK);
    split.rank = rank;
    CHECK_STATUS(layout_open(&l, s->config, &split), ST_OK);
    CHECK_STATUS(model_pack_weights(p, s->folder.path, s->config, l, &(model_weights_options){.threads = 2}, &from_pack), ST_OK);
    CHECK_STATUS(model_weights_open(&from_files, s->files, s->config, l,
                                    &(model_weights_options){.choice = p->choice, .threads = 1}),
                 ST_OK);
    if (!from_pack || !from_files) exit(1);
    slots_compare(from_files, from_pack, s->config, l, check_same, NULL);
    uint64_t here = 0, there = 0;
    CHECK_STATUS(model_pack_bytes(p, s->folder.path, rank, false, &here), ST_OK);
    CHECK_STATUS(model_pack_bytes(p, s->folder.path, rank, true, &there), ST_OK);
    CHECK(here == from_pack->bytes && there >= here && (there > here) == (m->tables.bytes > 0));
    CHECK(from_pack->bytes == m->rank[rank].bytes && from_pack->bytes_read == from_pack->bytes_expected);
    CHECK(model_weights_columns(from_pack) == model_weights_columns(from_files));
    model_weights_close(from_files);
    model_weights_close(from_pack);
    layout_close(l);
}

static void round_trip(const char *model, uint32_t ranks, uint32_t expert_degree, weights_choice choice,
                       bool tables) {
    char path[512];
    model_pack *p;
    snprintf(path, sizeof path, "%s/%s", TEST_DATA, model);
    source s = pack(path, ranks, expert_degree, choice);
    CHECK_STATUS(model_pack_open(&p, s.folder.path, s.config), ST_OK);
    if (!p) exit(1);
    CHECK(p->choice == choice && !memcmp(p->manifest.checkpoint_hash, s.manifest->checkpoint_hash, 32));
    CHECK((p->manifest.tables.bytes > 0) == tables);
    for (uint32_t r = 0; r < ranks; r++) {
        pack_file *f;
        check_rank(&s, p, r);
        CHECK_STATUS(pack_manifest_open(&p->manifest, s.folder.path, r, &f), ST_OK);
        CHECK_STATUS(pack_file_verify(f, 2, NULL), ST_OK);
        pack_file_close(f);
    }
    model_pack_close(p);
    done(&s);
}

TEST(what_comes_out_is_what_went_in) {
    static const weights_choice choices[] = {WEIGHTS_AUTO, WEIGHTS_F32, WEIGHTS_Q8, WEIGHTS_Q4, WEIGHTS_FP8};
    for (size_t c = 0; c < sizeof choices / sizeof *choices; c++) {
        for (uint32_t ranks = TEST_SANITIZED ? 2 : 1; ranks <= 2; ranks++) {
            round_trip("golden/dense", ranks, 0, choices[c], false);
            round_trip("golden/moe", ranks, 0, choices[c], false);
            round_trip("golden/e2b", ranks, 0, choices[c], true);
        }
        round_trip("golden/moe", 4, 2, choices[c], false);
        round_trip("golden/moe-128x8", 2, 1, choices[c], false);
        /* Embeddings of type Q6_K are looked up as they are where the head has them as q8. */
        round_trip("models/gguf/tiny-dense-q4_0.gguf", 2, 0, choices[c], choices[c] == WEIGHTS_AUTO);
    }
}

/* ---- what is refused ---- */

#define MOE TEST_DATA "/golden/moe"

TEST(what_a_pack_is_not_for) {
    model_pack *p;
    layout_options l;
    source s = pack(MOE, 2, 0, WEIGHTS_Q4);
    const char *path = s.folder.path;
    CHECK_STATUS(model_pack_open(&p, path, s.config), ST_OK);
    if (!p) exit(1);
    CHECK_STATUS(model_pack_fit(p, path, s.config, 2, 0, 0, WEIGHTS_Q4, &l), ST_OK);
    CHECK_STATUS(model_pack_fit(p, path, s.config, 2, 2, 1, WEIGHTS_AUTO, &l), ST_OK);
    CHECK_STATUS(model_pack_fit(p, path, s.config, 4, 0, 0, WEIGHTS_AUTO, &l), ST_LAYOUT);
    CHECK_SENTENCE("is packed for 2 ranks, layout tp 2 ep 2x1 group 32, weights q4");
    CHECK_SENTENCE("asked are 4 ranks and weights auto");
    CHECK_SENTENCE("gemmactl pack --model somewhere --ranks 4 --weights q4 --out DIR");
    CHECK_STATUS(model_pack_fit(p, path, s.config, 2, 1, 2, WEIGHTS_AUTO, &l), ST_LAYOUT);
    CHECK_SENTENCE("--ranks 2 --expert-layout 1x2 --weights q4");
    CHECK_STATUS(model_pack_fit(p, path, s.config, 2, 0, 0, WEIGHTS_Q8, &l), ST_MISMATCH);
    CHECK_SENTENCE("--ranks 2 --weights q8");
    CHECK_STATUS(model_pack_fit(p, path, s.config, 2, 0, 0, WEIGHTS_BF16, &l), ST_MISMATCH);
    model_pack_close(p);
    s.config->hash[0] ^= 1;
    CHECK_STATUS(model_pack_open(&p, path, s.config), ST_MISMATCH);
    CHECK_SENTENCE("config.json is not the one that the model was packed with");
    CHECK_STATUS(model_pack_open(&p, MOE, s.config), ST_OK);
    CHECK(p == NULL);
    done(&s);
}

TEST(a_pack_of_what_is_stored_answers_to_its_type) {
    model_pack *p;
    layout_options l;
    source s = pack(MOE, 1, 0, WEIGHTS_AUTO);
    CHECK_STATUS(model_pack_open(&p, s.folder.path, s.config), ST_OK);
    if (!p) exit(1);
    CHECK_STATUS(model_pack_fit(p, s.folder.path, s.config, 1, 0, 0, WEIGHTS_BF16, &l), ST_OK);
    CHECK_STATUS(model_pack_fit(p, s.folder.path, s.config, 1, 0, 0, WEIGHTS_F32, &l), ST_MISMATCH);
    model_pack_close(p);
    done(&s);
}

static status open_rank(const source *s, uint32_t rank, uint32_t of_layout) {
    model_pack *p;
    layout *l;
    layout_options split;
    model_weights *w = NULL;
    TRY(model_pack_open(&p, s->folder.path, s->config));
    status st = model_pack_fit(p, s->folder.path, s->config, s->manifest->ranks, 0, 0, WEIGHTS_AUTO, &split);
    split.rank = rank;
    if (of_layout) split.expert_degree = 1, split.width_degree = of_layout;
    if (st == ST_OK) st = layout_open(&l, s->config, &split);
    if (st == ST_OK) {
        st = model_pack_weights(p, s->folder.path, s->config, l, &(model_weights_options){.threads = 1}, &w);
        layout_close(l);
    }
    model_weights_close(w);
    model_pack_close(p);
    return st;
}

static void exchange(const source *s, uint32_t a, uint32_t b) {
    char *x = in_folder(s, a), *y = in_folder(s, b), *z = file_join(s->folder.path, "aside");
    CHECK(rename(x, z) == 0 && rename(y, x) == 0 && rename(z, y) == 0);
    free(x);
    free(y);
    free(z);
}

TEST(files_that_do_not_belong) {
    source s = pack(MOE, 2, 0, WEIGHTS_Q8);
    CHECK_STATUS(open_rank(&s, 1, 0), ST_OK);
    CHECK_STATUS(open_rank(&s, 1, 2), ST_MISMATCH);
    CHECK_SENTENCE("this engine has tp 2 ep 1x2 group 32");
    exchange(&s, 0, 1);
    CHECK_STATUS(open_rank(&s, 0, 0), ST_MISMATCH);
    CHECK_SENTENCE("is not the file that");
    exchange(&s, 0, 1);
    char *path = in_folder(&s, 1);
    CHECK(truncate(path, (off_t)s.manifest->rank[1].bytes - 64) == 0);
    CHECK_STATUS(open_rank(&s, 1, 0), ST_FORMAT);
    CHECK_SENTENCE("rank-1-of-2.pack has");
    CHECK_STATUS(open_rank(&s, 0, 0), ST_OK);
    CHECK(unlink(path) == 0);
    CHECK_STATUS(open_rank(&s, 1, 0), ST_NOT_FOUND);
    CHECK_SENTENCE("rank-1-of-2.pack");
    free(path);
    done(&s);
}

/* Parts of another model, of the right format: refused by what config.json wants. */
TEST(parts_of_another_shape) {
    source s = pack(MOE, 1, 0, WEIGHTS_Q8);
    s.config->hidden += 32; /* the hash stays: only what is in the file tells */
    CHECK_STATUS(open_rank(&s, 0, 0), ST_FORMAT);
    CHECK_SENTENCE("part 0 is embed_tokens.weight, a matrix of");
    CHECK_SENTENCE("config and layout want embed_tokens.weight");
    s.config->hidden -= 32;
    s.config->layers--;
    CHECK_STATUS(open_rank(&s, 0, 0), ST_FORMAT);
    CHECK_SENTENCE("are none of this model's");
    s.config->layers++;
    done(&s);
}

TEST(changed_data_is_found_by_verifying) {
    source s = pack(TEST_DATA "/golden/e2b", 1, 0, WEIGHTS_AUTO);
    pack_file *f;
    char *path = in_folder(&s, PACK_SHARED_RANK);
    FILE *file = fopen(path, "r+b");
    CHECK(file && fseek(file, -200, SEEK_END) == 0 && fputc(0x55, file) != EOF && fputc(0xAA, file) != EOF);
    if (file) fclose(file);
    CHECK_STATUS(pack_manifest_open(s.manifest, s.folder.path, PACK_SHARED_RANK, &f), ST_OK);
    CHECK_STATUS(pack_file_verify(f, 2, NULL), ST_FORMAT);
    CHECK_SENTENCE("tables.pack: the data of part embed_tokens_per_layer.weight");
    pack_file_close(f);
    free(path);
    done(&s);
}

int main(void) {
    log_open("test", LOG_ERROR);
    RUN(what_comes_out_is_what_went_in);
    RUN(what_a_pack_is_not_for);
    RUN(a_pack_of_what_is_stored_answers_to_its_type);
    RUN(files_that_do_not_belong);
    RUN(parts_of_another_shape);
    RUN(changed_data_is_found_by_verifying);
    return test_result();
}
