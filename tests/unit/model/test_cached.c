/* A prefix that was found gives the same tokens and log-probabilities as one that was computed, to the last bit: found in
 * memory, after preemptions, behind an answer, read back from disk after a start, and with files that rotted there. */
#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/file.h"
#include "base/invariant.h"
#include "base/log.h"
#include "tests/engine_driver.h"
#include "tests/test.h"

enum { REQUESTS = 7, NEW_TOKENS = 90, DOCUMENT = 300, CONTEXT = 512 };

typedef enum disk { NO_DISK, DISK_NEW, DISK_READ, DISK_ROTTEN, DISK_AGAIN } disk;

typedef struct setting {
    const char *what;
    uint32_t chunk;
    bool scarce; /* memory for one request and a little */
    disk disk;
} setting;

typedef struct study {
    char path[512];
    weights_choice weights;
    uint32_t ranks;
    uint32_t tokens[REQUESTS][CONTEXT], count[REQUESTS];
    driver_request reference[REQUESTS];
    bool has_reference, all; /* all settings at 1 and 2 ranks; else some at 2 */
    setting now;
    driver_options run; /* of rank 0 */
} study;

static uint64_t preemptions;
static char folder[] = "/tmp/test_cached-XXXXXX";

static uint32_t token_of(uint32_t text, uint32_t i) { return 10 + (text * 7919 + i * 31 + i * i * 17) % 200; }

/* 0 a document, 1 the same, 2 and 3 part from it inside, 4 goes on behind the answer, 5 wants the log-probabilities of its
 * prompt, 6 is another document. */
static void make_tokens(study *c) {
    for (uint32_t r = 0; r < REQUESTS; r++) {
        c->count[r] = DOCUMENT + (r == 3 ? 7 : 0);
        for (uint32_t i = 0; i < c->count[r]; i++)
            c->tokens[r][i] = token_of(r == 6 ? 6 : (r == 2 || r == 3) && i >= 200 ? r : 0, i);
    }
}

static driver_request request_of(const study *c, uint32_t i) {
    static const uint32_t after[REQUESTS] = {0, 1, 1, 3, 1, 1, 0};
    driver_request r = {.tokens = c->tokens[i],
                        .token_count = c->count[i],
                        .prompt_count = c->count[i],
                        .params = driver_greedy(NEW_TOKENS),
                        .after = after[i]};
    r.params.logprobs = 0;
    r.params.temperature = i % 2 ? 0 : 0.7f;
    r.params.seed = 100 + (i == 1 ? 0 : i);
    if (i == 1) r.params.temperature = 0.7f; /* as 0 */
    if (i == 2) r.params.repetition_penalty = 1.2f;
    if (i == 5) r.params.prompt_logprobs = 0;
    return r;
}

/* The others follow rank 0, who alone writes what ranks that are threads share. */
static status follow(comm *ranks, instance *in, uint32_t runs) {
    status st = ST_OK;
    for (uint32_t i = 0; i < runs && st == ST_OK; i++) st = driver_run(in, ranks, NULL, 0);
    return st;
}

static status take_reference(study *c, comm *ranks, instance *in) {
    for (uint32_t i = 0; i < REQUESTS; i++) {
        if (i == 4) { /* its prompt is the first one with its answer */
            memcpy(c->tokens[4] + DOCUMENT, c->reference[0].out, NEW_TOKENS * sizeof **c->tokens);
            c->count[4] = DOCUMENT + NEW_TOKENS;
        }
        c->reference[i] = request_of(c, i);
        c->reference[i].after = 0;
        TRY(driver_run(in, ranks, &c->reference[i], 1));
    }
    return ST_OK;
}

static void compare(const study *c, uint32_t i, const driver_request *got) {
    const driver_request *want = &c->reference[i];
    bool same = got->out_count == want->out_count &&
                !memcmp(got->out, want->out, want->out_count * sizeof *got->out) &&
                !memcmp(got->logprob, want->logprob, want->out_count * sizeof *got->logprob);
    if (same && want->prompt_logprob)
        same = got->prompt_logprob_count == want->prompt_logprob_count &&
               !memcmp(got->prompt_logprob + 1, want->prompt_logprob + 1, (c->count[i] - 1) * sizeof(float));
    CHECK_THAT(same, "%s at %u ranks, %s: request %u differs, %u tokens from the cache", c->path, c->ranks,
               c->now.what, i, got->cached_tokens);
}

static void check_hits(const study *c, const driver_request *r) {
    const setting *s = &c->now;
    CHECK(r[5].cached_tokens == 0);
    if (s->scarce || s->disk == DISK_ROTTEN) return;
    bool read = s->disk == DISK_READ || s->disk == DISK_AGAIN;
    bool dense_points = s->chunk < 64; /* of a long prompt, at every page */
    const uint32_t want[REQUESTS] = {
        read ? 256 : 0, 256, read ? 256 : dense_points ? 192 : 0, read ? 256 : 192, 384, 0, read ? 256 : 0};
    for (uint32_t i = 0; i < REQUESTS; i++)
        CHECK_THAT(r[i].cached_tokens == want[i],
                   "%s at %u ranks, %s: request %u has %u tokens from the cache, not %u", c->path, c->ranks,
                   s->what, i, r[i].cached_tokens, want[i]);
    CHECK(c->run.counts.hit_tokens > 0 && c->run.counts.queried_tokens > c->run.counts.hit_tokens);
    CHECK((c->run.counts.spilled_bytes > 0) == (s->disk != NO_DISK));
}

static uint32_t slabs_for_one(const instance *in) {
    uint32_t slabs = 1;
    for (int kind = 0; kind < KV_KINDS; kind++) {
        uint32_t per_slab = in->plan.geometry.pages_per_slab[kind];
        if (in->plan.geometry.page_bytes[kind])
            slabs += (kv_pages_needed(kind, DOCUMENT + 2 * NEW_TOKENS, budget_window(in->config),
                                      in->plan.chunk_max) +
                      per_slab - 1) /
                     per_slab;
    }
    return slabs;
}

static status body(comm *ranks, void *context) {
    study *c = context;
    instance in;
    driver_request r[REQUESTS];
    bool leads = comm_rank(ranks) == 0;
    TRY(instance_open(&in, &(instance_options){.model_path = c->path,
                                               .ranks = ranks,
                                               .weights = c->weights,
                                               .threads = 1,
                                               .context = CONTEXT,
                                               .slots = 8,
                                               .rows_max = 512,
                                               .chunk_max = c->now.chunk,
                                               .spill_dir = c->now.disk ? folder : NULL}));
    status st = ST_OK;
    if (!leads) {
        st = follow(ranks, &in, c->has_reference ? 1 : REQUESTS);
    } else if (!c->has_reference) {
        st = take_reference(c, ranks, &in);
    } else {
        for (uint32_t i = 0; i < REQUESTS; i++) r[i] = request_of(c, i);
        c->run = (driver_options){.cached = true, .slabs = c->now.scarce ? slabs_for_one(&in) : 0};
        if (c->now.scarce) r[1].after = r[2].after = r[4].after = 0; /* all at once */
        st = driver_run_with(&in, ranks, r, REQUESTS, &c->run);
        if (st == ST_OK) {
            preemptions += c->run.preemptions;
            for (uint32_t i = 0; i < REQUESTS; i++) compare(c, i, &r[i]);
            check_hits(c, r);
            driver_free(r, REQUESTS);
        }
    }
    instance_close(&in);
    return st;
}

static void visit(const char *path, bool rot, bool remove_all) {
    DIR *dir = opendir(path);
    uint32_t n = 0;
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (e->d_name[0] == '.') continue;
        char *child = file_join(path, e->d_name);
        if (e->d_type == DT_DIR) {
            visit(child, rot, remove_all);
            if (remove_all) rmdir(child);
        } else if (remove_all) {
            unlink(child);
        } else if (rot && n++ % 2 == 0) { /* one byte of a page */
            int fd = open(child, O_RDWR);
            uint8_t byte = 0;
            CHECK(pread(fd, &byte, 1, 5000) == 1);
            byte ^= 0x10;
            CHECK(pwrite(fd, &byte, 1, 5000) == 1);
            close(fd);
        }
        free(child);
    }
    if (dir) closedir(dir);
}

static const setting settings[] = {
    {"together", 512, false, NO_DISK},        {"chunks of 7", 7, false, NO_DISK},
    {"scarce memory", 64, true, NO_DISK},     {"a new folder", 512, false, DISK_NEW},
    {"from disk", 512, false, DISK_READ},     {"rotten files", 512, false, DISK_ROTTEN},
    {"written again", 64, false, DISK_AGAIN}, {"scarce memory and disk", 64, true, DISK_READ},
};

static void check(study *c) {
    make_tokens(c);
    for (c->ranks = 1; c->ranks <= 2; c->ranks++) {
        const comm_fork_options options = {.ranks = c->ranks, .threads = TEST_RANKS_AS_THREADS};
        if (c->ranks != 2 && (TEST_SANITIZED || !c->all)) continue;
        c->has_reference = false;
        c->now = (setting){"alone", 512, false, NO_DISK};
        CHECK_STATUS(comm_fork_run(&options, body, c), ST_OK);
        c->has_reference = true;
        for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
            c->now = settings[i];
            if (!c->all && (c->now.chunk == 7 || c->now.disk == DISK_ROTTEN || c->now.disk == DISK_AGAIN))
                continue;
            if (c->now.disk == DISK_ROTTEN) visit(folder, true, false);
            CHECK_STATUS(comm_fork_run(&options, body, c), ST_OK);
        }
        driver_free(c->reference, REQUESTS);
        visit(folder, false, true);
    }
}

static void check_golden(const char *model, weights_choice weights, bool all) {
    static study c;
    c = (study){.weights = weights, .all = all};
    snprintf(c.path, sizeof c.path, "%s/golden/%s", TEST_DATA, model);
    check(&c);
}

TEST(dense_q8) { check_golden("dense", WEIGHTS_Q8, true); }
TEST(moe) { check_golden("moe", WEIGHTS_AUTO, false); }
TEST(e2b) { check_golden("e2b", WEIGHTS_AUTO, false); }

/* Golden windows are shorter than a page; this one is as long as three. */
TEST(long_window) {
    static study c;
    char *config, *at, path[600];
    size_t n;
    c = (study){.weights = WEIGHTS_Q4, .path = "/tmp/test_cached_model-XXXXXX"};
    CHECK_STATUS(file_read_all(TEST_DATA "/golden/dense/config.json", 1 << 20, &config, &n), ST_OK);
    at = strstr(config, "\"sliding_window\": 8,");
    INVARIANT(at && mkdtemp(c.path));
    DIR *dir = opendir(TEST_DATA "/golden/dense");
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (strncmp(e->d_name, "model", 5)) continue;
        char *from = file_join(TEST_DATA "/golden/dense", e->d_name), *to = file_join(c.path, e->d_name);
        CHECK(symlink(from, to) == 0);
        free(from);
        free(to);
    }
    if (dir) closedir(dir);
    snprintf(path, sizeof path, "%s/config.json", c.path);
    FILE *f = fopen(path, "w");
    CHECK(f && fprintf(f, "%.*s\"sliding_window\": 130,%s", (int)(at - config), config, at + 20) > 0 &&
          !fclose(f));
    free(config);
    check(&c);
    visit(c.path, false, true);
    rmdir(c.path);
}

int main(void) {
    if (!mkdtemp(folder)) test_skip("no folder for temporary files");
    log_open("test", LOG_ERROR);
    RUN(dense_q8);
    RUN(long_window);
    if (!TEST_SANITIZED) {
        RUN(e2b);
        RUN(moe);
    }
    CHECK(preemptions > 0);
    rmdir(folder);
    return test_result();
}
