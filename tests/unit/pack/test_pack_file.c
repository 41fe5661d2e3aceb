/* Packed files: what is written is read, and every field that can be wrong is refused with file, part, value and bound. */
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "shard/pack/pack_manifest.h"
#include "tests/checkpoint_writer.h"
#include "tests/pack_bytes.h"
#include "tests/test.h"

enum { PARTS = 5, SCALAR = 1, EMPTY = 2, MATRIX = 3, TABLE = 4 };

static uint8_t *whole; /* the file as it is written, 64-byte aligned */
static size_t whole_bytes;

static float norm[40];
static const float scalar = 0.5f;
static uint8_t strips[2 * 576], table[4 * 2 * 18];

static void fill_parts(pack_part part[PARTS]) {
    part[0] = (pack_part){"norm.weight", PACK_VECTOR, .matrix = {.data = norm, .rows = 1, .cols = 40}};
    part[1] =
        (pack_part){"layers.0.layer_scalar", PACK_NUMBER, .matrix = {.data = &scalar, .rows = 1, .cols = 1}};
    part[2] =
        (pack_part){"layers.0.empty", PACK_MATRIX, .matrix = {.rows = 0, .cols = 64, .type = WEIGHT_BF16}};
    part[3] = (pack_part){"layers.0.q", PACK_MATRIX,
                          .matrix = {.data = strips, .rows = 20, .cols = 32, .type = WEIGHT_Q8}};
    part[4] = (pack_part){
        "table", PACK_TABLE,
        .matrix = {.data = table, .rows = 4, .cols = 64, .type = WEIGHT_BLOCKS, .blocks = BLOCK_Q4_0}};
}

static void write_file(void) {
    writer_folder folder = writer_open();
    pack_part part[PARTS];
    uint8_t head[32];
    pack_info info = {
        .rank = 1, .ranks = 2, .layout = "tp 2 group 32", .config_hash = {1}, .checkpoint_hash = {2}};
    for (size_t i = 0; i < sizeof strips; i++) strips[i] = (uint8_t)(i * 7);
    for (size_t i = 0; i < sizeof table; i++) table[i] = (uint8_t)(i * 5 + 1);
    for (int i = 0; i < 40; i++) norm[i] = (float)i;
    fill_parts(part);
    char *path = file_join(folder.path, "a.pack"), *bytes;
    CHECK_STATUS(pack_file_write(path, &info, part, PARTS, 2, NULL, head), ST_OK);
    pack_file *f = NULL;
    CHECK_STATUS(pack_file_open(&f, path), ST_OK);
    if (!f) exit(1);
    CHECK(!memcmp(f->head_hash, head, 32) && f->parts == PARTS && f->info.rank == 1 && f->info.ranks == 2);
    CHECK(!strcmp(f->info.layout, "tp 2 group 32") && f->info.config_hash[0] == 1 &&
          f->info.checkpoint_hash[0] == 2);
    CHECK_STATUS(pack_file_load(f, 2, NULL), ST_OK);
    CHECK_STATUS(pack_file_verify(f, 2, NULL), ST_OK);
    for (int i = 0; i < PARTS; i++) {
        const pack_part *a = &part[i], *b = &f->part[i];
        CHECK(!strcmp(a->name, b->name) && a->form == b->form && a->matrix.rows == b->matrix.rows);
        CHECK(a->matrix.cols == b->matrix.cols && a->matrix.type == b->matrix.type && a->bytes == b->bytes);
        CHECK(b->offset % PACK_ALIGN == 0 && !a->matrix.data == !b->matrix.data);
        CHECK(!a->bytes || !memcmp(a->matrix.data, b->matrix.data, a->bytes));
    }
    CHECK(f->part[MATRIX].bytes == 2 * 576 && f->part[TABLE].bytes == sizeof table && !f->part[EMPTY].bytes);
    CHECK(f->part[TABLE].matrix.blocks == BLOCK_Q4_0);
    pack_file_close(f);
    CHECK_STATUS(file_read_all(path, 1 << 20, &bytes, &whole_bytes), ST_OK);
    CHECK(posix_memalign((void **)&whole, 64, whole_bytes) == 0 && bytes);
    memcpy(whole, bytes, whole_bytes);
    free(bytes);
    CHECK(truncate(path, 100) == 0);
    CHECK_STATUS(pack_file_open(&f, path), ST_FORMAT);
    CHECK_SENTENCE("a.pack is no packed model");
    CHECK(unlink(path) == 0);
    CHECK_STATUS(pack_file_open(&f, path), ST_NOT_FOUND);
    CHECK_STATUS(pack_file_open(&f, folder.path), ST_FORMAT);
    free(path);
    writer_close(&folder);
}

TEST(what_is_written_is_read) { write_file(); }

/* ---- changes ---- */

static status parse(const uint8_t *bytes, size_t n) {
    pack_file *f;
    status st = pack_file_parse(&f, bytes, n, "x.pack");
    CHECK((st == ST_OK) == (f != NULL));
    pack_file_close(f);
    return st;
}

/* The file with some bytes written over, with hashes that are right. */
static status changed(size_t at, const void *with, size_t n) {
    uint8_t *copy = memory_alloc(whole_bytes);
    memcpy(copy, whole, whole_bytes);
    memcpy(copy + at, with, n);
    pack_bytes_seal(copy, whole_bytes);
    status st = parse(copy, whole_bytes);
    free(copy);
    return st;
}

static status number(size_t at, uint32_t value) {
    const uint8_t bytes[4] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16),
                              (uint8_t)(value >> 24)};
    return changed(at, bytes, 4);
}

static size_t field(int part, size_t at) { return PACK_HEADER_BYTES + (size_t)part * PACK_PART_BYTES + at; }

TEST(headers_that_are_wrong) {
    CHECK_STATUS(changed(0, "", 0), ST_OK);
    CHECK_STATUS(changed(AT_MAGIC, "GGUF", 4), ST_FORMAT);
    CHECK_SENTENCE("x.pack is no packed model");
    CHECK_STATUS(number(AT_VERSION, 2), ST_UNSUPPORTED);
    CHECK_SENTENCE("version 2 of the packed format, this build reads 1");
    CHECK_STATUS(changed(AT_STORAGE, "strips32-le", 11), ST_MISMATCH);
    CHECK_SENTENCE("stored as strips32-le, this build's kernels read strips16-le");
    CHECK_STATUS(changed(AT_LAYOUT, "\n", 1), ST_FORMAT);
    CHECK_STATUS(changed(AT_LAYOUT, "", 1), ST_FORMAT);
    CHECK_STATUS(number(AT_RANK, 2), ST_FORMAT);
    CHECK_SENTENCE("rank 2 of 2");
    CHECK_STATUS(number(AT_RANK, PACK_SHARED_RANK), ST_OK);
    CHECK_STATUS(number(AT_RANKS, 0), ST_FORMAT);
    CHECK_STATUS(number(AT_RANKS, 1025), ST_FORMAT);
    CHECK_STATUS(number(AT_FILE_BYTES, 4096), ST_FORMAT);
    CHECK_SENTENCE("its header says 4096");
    CHECK_STATUS(number(AT_PARTS, 4000000), ST_FORMAT);
    CHECK_SENTENCE("4000000 parts, allowed are at most 2097152");
    CHECK_STATUS(number(AT_PARTS, 1000000), ST_FORMAT);
    CHECK_STATUS(number(AT_PARTS, PARTS - 1),
                 ST_FORMAT); /* data begins elsewhere, and does not end the file */
    CHECK_STATUS(parse(whole, whole_bytes - 64), ST_FORMAT);
    CHECK_STATUS(parse(whole, PACK_HEADER_BYTES), ST_FORMAT);
    CHECK_STATUS(parse(whole, PACK_HEADER_BYTES - 1), ST_FORMAT);
    CHECK_STATUS(parse(whole, 0), ST_FORMAT);
}

TEST(hashes_that_are_wrong) {
    uint8_t *copy = memory_alloc(whole_bytes);
    memcpy(copy, whole, whole_bytes);
    copy[AT_CONFIG_HASH] ^= 1;
    CHECK_STATUS(parse(copy, whole_bytes), ST_FORMAT);
    CHECK_SENTENCE("the header does not have the SHA-256");
    memcpy(copy, whole, whole_bytes);
    copy[field(MATRIX, AT_PART_HASH)] ^= 1;
    CHECK_STATUS(parse(copy, whole_bytes), ST_FORMAT);
    CHECK_SENTENCE("the table of parts does not have the SHA-256");
    memcpy(copy, whole, whole_bytes);
    pack_file *f;
    CHECK_STATUS(pack_file_parse(&f, copy, whole_bytes, "x.pack"), ST_OK);
    copy[f->part[MATRIX].offset + 3] ^= 1;
    CHECK_STATUS(pack_file_verify(f, 1, NULL), ST_FORMAT);
    CHECK_SENTENCE("x.pack: the data of part layers.0.q, 1152 bytes");
    pack_file_close(f);
    free(copy);
}

TEST(parts_that_are_wrong) {
    static const char long_name[PACK_NAME_BYTES] = "a\0b";
    char full[PACK_NAME_BYTES];
    memset(full, 'a', sizeof full);
    CHECK_STATUS(changed(field(MATRIX, 0), "", 1), ST_FORMAT);
    CHECK_SENTENCE("part 3 has no name");
    CHECK_STATUS(changed(field(MATRIX, 0), long_name, sizeof long_name), ST_FORMAT);
    CHECK_STATUS(changed(field(MATRIX, 0), full, sizeof full), ST_FORMAT);
    CHECK_STATUS(number(field(MATRIX, AT_PART_FORM), PACK_FORMS), ST_FORMAT);
    CHECK_SENTENCE("part layers.0.q has form 4");
    CHECK_STATUS(number(field(MATRIX, AT_PART_FORM), PACK_TABLE), ST_FORMAT); /* strips are no table */
    CHECK_STATUS(number(field(TABLE, AT_PART_FORM), PACK_MATRIX), ST_FORMAT); /* blocks are no matrix */
    CHECK_STATUS(number(field(MATRIX, AT_PART_TYPE), PACK_TYPE_FP8), ST_OK); /* 32 columns take as much as of q8 */
    for (uint32_t type = PACK_TYPE_FP8 + 1; type < PACK_TYPE_BLOCKS; type++)
        CHECK_STATUS(number(field(MATRIX, AT_PART_TYPE), type), ST_FORMAT);
    CHECK_STATUS(number(field(TABLE, AT_PART_TYPE), PACK_TYPES), ST_FORMAT);
    CHECK_STATUS(number(field(TABLE, AT_PART_TYPE), PACK_TYPE_BLOCKS + BLOCK_Q6_K),
                 ST_FORMAT); /* 64 columns */
    CHECK_STATUS(number(field(TABLE, AT_PART_TYPE), PACK_TYPE_BLOCKS + BLOCK_Q8_0), ST_FORMAT);
    CHECK_SENTENCE("part table of 4 x 64 has 144 bytes");
    CHECK_SENTENCE("272 at");
    CHECK_STATUS(number(field(0, AT_PART_TYPE), PACK_TYPE_BF16), ST_FORMAT); /* vectors are float32 */
    CHECK_STATUS(number(field(0, AT_PART_ROWS), 2), ST_FORMAT);
    CHECK_STATUS(number(field(0, AT_PART_COLS), 0), ST_FORMAT);
    CHECK_STATUS(number(field(SCALAR, AT_PART_COLS), 2), ST_FORMAT);
    CHECK_STATUS(number(field(MATRIX, AT_PART_ROWS), 0xFFFFFFFF), ST_FORMAT);
    CHECK_SENTENCE("part layers.0.q has 4294967295 x 32 elements, the file");
    CHECK_STATUS(number(field(MATRIX, AT_PART_COLS), 0xFFFFFFFF), ST_FORMAT);
    CHECK_STATUS(number(field(MATRIX, AT_PART_ROWS), 33), ST_FORMAT); /* a strip more */
    CHECK_STATUS(number(field(MATRIX, AT_PART_ROWS), 21), ST_OK);     /* the same strips */
    CHECK_STATUS(number(field(MATRIX, AT_PART_OFFSET), 64), ST_FORMAT);
    CHECK_STATUS(number(field(MATRIX, AT_PART_OFFSET) + 4, 1), ST_FORMAT);
    CHECK_STATUS(number(field(MATRIX, AT_PART_BYTES), 1151), ST_FORMAT);
    CHECK_STATUS(number(field(MATRIX, AT_PART_BYTES) + 4, 1), ST_FORMAT);
    CHECK_STATUS(number(field(EMPTY, AT_PART_ROWS), 1), ST_FORMAT);
    CHECK_STATUS(number(field(EMPTY, AT_PART_OFFSET), 64), ST_FORMAT);
}

/* ---- the manifest ---- */

static const char manifest[] =
    "{\"version\": 1, \"storage\": \"strips16-le\", \"ranks\": 2, \"layout\": \"tp 2\", \"group\": 1, "
    "\"expert_degree\": 2, \"width_degree\": 1, \"weights\": \"auto\", \"stored\": \"bf16\", \"source\": "
    "\"/a\", "
    "\"config_sha256\": \"0000000000000000000000000000000000000000000000000000000000000000\", "
    "\"checkpoint_sha256\": \"1111111111111111111111111111111111111111111111111111111111111111\", \"files\": "
    "["
    "{\"name\": \"rank-0-of-2.pack\", \"bytes\": 512, "
    "\"head_sha256\": \"2222222222222222222222222222222222222222222222222222222222222222\"}, "
    "{\"name\": \"rank-1-of-2.pack\", \"bytes\": 576, "
    "\"head_sha256\": \"33333333333333333333333333333333333333333333333333333333333333ff\"}]}";

static pack_manifest parsed;

/* The manifest with `was`, which is in it, replaced. */
static status with(const char *was, const char *is) {
    strbuf text = {0};
    const char *at = strstr(manifest, was);
    CHECK_THAT(at != NULL, "%s", was);
    if (!at) exit(1);
    strbuf_add(&text, manifest, (size_t)(at - manifest));
    strbuf_add_string(&text, is);
    strbuf_add_string(&text, at + strlen(was));
    status st = pack_manifest_parse(&parsed, text.data, text.size, "pack.json");
    strbuf_close(&text);
    return st;
}

TEST(manifests) {
    CHECK_STATUS(with("/a", "/a"), ST_OK);
    CHECK(parsed.ranks == 2 && parsed.rank[1].bytes == 576 && parsed.rank[1].head_hash[31] == 0xff &&
          !parsed.tables.bytes);
    CHECK_STATUS(with("rank-1-of-2", "rank-0-of-2"), ST_FORMAT);
    CHECK_SENTENCE("files has rank-0-of-2.pack twice");
    CHECK_STATUS(with("rank-1-of-2", "rank-2-of-2"), ST_FORMAT);
    CHECK_SENTENCE("files has rank-2-of-2.pack, which is none of a pack for 2 ranks");
    CHECK_STATUS(with("rank-1-of-2", "../../x"), ST_FORMAT);
    CHECK_STATUS(with("rank-1-of-2", "rank-01-of-2"), ST_FORMAT);
    CHECK_STATUS(with("rank-1-of-2", "tables"), ST_FORMAT);
    CHECK_SENTENCE("files lacks the one of rank 1 of 2");
    CHECK_STATUS(with("\"ranks\": 2", "\"ranks\": 0"), ST_FORMAT);
    CHECK_STATUS(with("\"ranks\": 2", "\"ranks\": 1025"), ST_FORMAT);
    CHECK_STATUS(with("\"group\": 1", "\"group\": 16"), ST_FORMAT);
    CHECK_SENTENCE("group is 16, allowed are 1 and 32");
    CHECK_STATUS(with("\"version\": 1", "\"version\": 2"), ST_UNSUPPORTED);
    CHECK_STATUS(with("strips16-le", "strips16-be"), ST_MISMATCH);
    CHECK_STATUS(with("576", "-1"), ST_FORMAT);
    CHECK_STATUS(with("576", "\"576\""), ST_FORMAT);
    CHECK_STATUS(with("ff\"}", "fg\"}"), ST_FORMAT);
    CHECK_SENTENCE("head_sha256 is not 64 hexadecimal digits");
    CHECK_STATUS(with("ff\"}", "f\"}"), ST_FORMAT);
    CHECK_STATUS(with("\"auto\"", "\"automatic\""), ST_FORMAT);
    CHECK_SENTENCE("weights is missing, empty or longer than 7 bytes");
    CHECK_STATUS(with("\"files\"", "\"file\""), ST_FORMAT);
}

int main(void) {
    RUN(what_is_written_is_read);
    RUN(headers_that_are_wrong);
    RUN(hashes_that_are_wrong);
    RUN(parts_that_are_wrong);
    RUN(manifests);
    free(whole);
    return test_result();
}
