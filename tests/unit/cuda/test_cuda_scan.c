/* cuda_scan against a plain reading of ops.h: heads, tops, candidates and adjusted logits to the bit, sums to the roundings
 * of their terms; and nothing of a record may depend on the rows beside it. */
#include <float.h>
#include <math.h>
#include <time.h>

#include "tests/unit/cuda/scan_device.h"

enum { ROWS = 32, GUARD = 64 };

typedef struct entry {
    float logit;
    uint32_t token;
} entry;

static uint64_t seed = 1;
static uint32_t draw_u32(void) {
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(seed >> 33);
}
static uint32_t below(uint32_t n) { return draw_u32() % n; }
static float unit(void) { return (float)draw_u32() * 0x1p-31f; }
static float normal(void) {
    float x = -6;
    for (int i = 0; i < 12; i++) x += unit();
    return x;
}
static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* ---- what rows may hold ---- */
enum { L_NORMAL, L_CAPPED, L_FEW_VALUES, L_EQUAL, L_ZEROS, L_ODD, L_NOTHING, L_RISING, L_FALLING, L_KINDS };

static void make_logits(float *x, uint32_t n, uint32_t kind) {
    for (uint32_t i = 0; i < n; i++) {
        float v = normal();
        switch (kind) {
        case L_CAPPED: v = 30 * tanhf(v * 40 / 30); break;
        case L_FEW_VALUES: v = (float)(int)(v * 1.5f); break;
        case L_EQUAL: v = 1.25f; break;
        case L_ZEROS: v = below(2) ? 0.0f : -0.0f; break;
        case L_ODD: v = below(3) ? v * 1e-40f : below(2) ? NAN : below(2) ? -INFINITY : -FLT_MAX; break;
        case L_NOTHING: v = below(9) ? -INFINITY : NAN; break;
        case L_RISING: v = (float)i * 1e-3f; break;
        case L_FALLING: v = -(float)(i / 3) * 1e-3f; break;
        default: v *= 3;
        }
        x[i] = v;
    }
}

/* ---- one row, as the header says ---- */
static int falling(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
    return x->token > y->token ? 1 : x->token < y->token ? -1 : 0;
}

static void best_of(entry *out, uint32_t k, const float *x, uint32_t n, uint32_t first_id) {
    entry *all = memory_alloc_array(n, sizeof *all);
    for (uint32_t i = 0; i < n; i++) all[i] = (entry){isnan(x[i]) ? -INFINITY : x[i], first_id + i};
    qsort(all, n, sizeof *all, falling);
    memcpy(out, all, k * sizeof *out);
    free(all);
}

/* The sum, and how far a float sum of up to 40 roundings may be from it: an exponent of d is off by |d| · 2^-23. */
static double exp_sum(const float *x, uint32_t n, float max, float factor, double *bound) {
    double sum = 0;
    *bound = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (isnan(x[i]) || x[i] == -INFINITY) continue;
        double d = ((double)x[i] - max) * factor, e = exp(d);
        sum += e;
        *bound += e * (2 * fabs(d) + 40) * 0x1p-24 + 0x1p-148;
    }
    return sum;
}

static void check_sum(const char *what, float got, const float *x, uint32_t n, float max, float factor) {
    double bound, want = exp_sum(x, n, max, factor, &bound);
    CHECK_THAT(fabs(got - want) <= bound, "%s of %u is %.9g, not %.9g within %.3g", what, n, got, want, bound);
}

static bool is_allowed(const scan_row *r, uint32_t first_id, uint32_t at) {
    uint32_t id = first_id + at;
    return !r->allowed || (r->allowed[id / 32 - first_id / 32] >> id % 32 & 1);
}

static void adjust(float *x, const float *logits, uint32_t share, uint32_t first_id, const scan_row *r, bool *some) {
    uint32_t first = UINT32_MAX;
    bool reached = false;
    memcpy(x, logits, share * sizeof *x);
    for (uint32_t i = 0; i < r->change_count; i++) {
        const scan_change *c = &r->changes[i];
        float *v = &x[c->at];
        if (c->times != 0) *v = *v > 0 ? *v / c->times : *v * c->times;
        *v = *v + c->add;
    }
    for (uint32_t i = 0; i < share; i++) {
        if (isnan(x[i]) || !is_allowed(r, first_id, i)) x[i] = -INFINITY;
        if (is_allowed(r, first_id, i) && first == UINT32_MAX) first = i;
        reached = reached || x[i] != -INFINITY;
    }
    if (r->allowed && first != UINT32_MAX && !reached) x[first] = -FLT_MAX;
    *some = first != UINT32_MAX;
}

static const char *check_list(const char *what, const char *p, uint32_t k, const float *x, uint32_t share,
                              uint32_t first_id) {
    if (k == 0) return p;
    entry *want = memory_alloc_array(k, sizeof *want), got;
    best_of(want, k, x, share, first_id);
    for (uint32_t i = 0; i < k; i++, p += sizeof got) {
        memcpy(&got, p, sizeof got);
        bool right = got.token == want[i].token && bits_of(got.logit) == bits_of(want[i].logit);
        CHECK_THAT(right, "%s %u of %u, share %u: %u %g, not %u %g", what, i, k, share, got.token, (double)got.logit,
                   want[i].token, (double)want[i].logit);
        if (!right) break;
    }
    free(want);
    return p;
}

static const char *check_record(const char *p, const float *logits, uint32_t share, uint32_t first_id,
                                const scan_row *r, const float *adjusted /* host */) {
    float *x = memory_alloc_array(share + 1, sizeof *x);
    scan_head head;
    bool some = false;
    memcpy(&head, p, sizeof head);
    p += sizeof head;
    float raw_max = -INFINITY;
    for (uint32_t i = 0; i < share; i++) raw_max = fmaxf(raw_max, logits[i]);
    raw_max += 0.0f;
    CHECK(bits_of(head.raw_max) == bits_of(r->raw ? raw_max : -INFINITY));
    if (!r->raw) CHECK(head.raw_sum == 0);
    else if (raw_max > -INFINITY) check_sum("raw sum", head.raw_sum, logits, share, raw_max, 1);
    CHECK(bits_of(head.known_raw) == (r->known == UINT32_MAX ? 0 : bits_of(logits[r->known])));
    p = check_list("top", p, r->tops, logits, share, first_id);
    if (r->draw) adjust(x, logits, share, first_id, r, &some);
    if (some) {
        entry best;
        best_of(&best, 1, x, share, first_id);
        CHECK_THAT(head.argmax == best.token && bits_of(head.max) == bits_of(best.logit),
                   "share %u: best is %u %g, not %u %g", share, head.argmax, (double)head.max, best.token,
                   (double)best.logit);
        CHECK(bits_of(head.argmax_raw) == bits_of(logits[best.token - first_id]));
    } else CHECK(head.argmax == UINT32_MAX && head.max == -INFINITY && head.argmax_raw == 0);
    if (r->draw) CHECK(!memcmp(adjusted, x, share * sizeof *x));
    p = check_list("candidate", p, r->candidates, x, share, first_id);
    for (uint32_t b = 0; b < r->blocks; b++) {
        float sum;
        memcpy(&sum, p, sizeof sum);
        p += sizeof sum;
        if (!some) CHECK(sum == 0);
        else if (head.max > -INFINITY)
            check_sum("block sum", sum, x + b * SCAN_BLOCK, least(SCAN_BLOCK, share - b * SCAN_BLOCK), head.max,
                      r->factor);
    }
    free(x);
    return p;
}

/* ---- runs ---- */
typedef struct trial {
    cuda_backend c;
    uint32_t share, first_id, rows;
    float *logits, *device_logits, *adjusted; /* [rows, share] */
    char *out, *alone;
} trial;

static size_t record_bytes(const scan_row *r) {
    return sizeof(scan_head) + (r->tops + (size_t)r->candidates) * sizeof(entry) + r->blocks * sizeof(float);
}

static void trial_open(trial *t, uint32_t share, uint32_t first_id, uint32_t rows) {
    *t = (trial){.share = share, .first_id = first_id, .rows = rows};
    const size_t bytes = (size_t)rows * share * sizeof(float), records = (size_t)rows * 20000 + share * 8 * rows;
    scan_device_open(&t->c, rows, share + 3); /* shares may be smaller than what was said at open */
    t->logits = memory_alloc(bytes + 4);
    t->adjusted = memory_alloc(bytes + 4);
    t->out = memory_alloc(records);
    t->alone = memory_alloc(records);
    CHECK(cudaMalloc((void **)&t->device_logits, bytes + 4) == cudaSuccess);
}

static void trial_close(trial *t) {
    CHECK(cudaFree(t->device_logits) == cudaSuccess);
    free(t->logits);
    free(t->adjusted);
    free(t->out);
    free(t->alone);
    scan_device_close(&t->c);
}

static size_t scan(trial *t, const scan_row *rows, uint32_t n, char *out) {
    const float *adjusted;
    size_t bytes = 0;
    for (uint32_t i = 0; i < n; i++) bytes += record_bytes(&rows[i]);
    memset(out, 0xEE, bytes + GUARD);
    CHECK_STATUS(cuda_scan(&t->c.base, t->device_logits, t->share, t->first_id, rows, n, out, &adjusted), ST_OK);
    CHECK_STATUS(cuda_get(&t->c, t->adjusted, adjusted, (size_t)n * t->share * sizeof(float)), ST_OK);
    for (uint32_t i = 0; i < GUARD; i++) CHECK((unsigned char)out[bytes + i] == 0xEE);
    return bytes;
}

static void put_logits(trial *t) {
    cuda_put(&t->c, t->device_logits, t->logits, (size_t)t->rows * t->share * sizeof(float));
}

static void check_trial(trial *t, const scan_row *rows, uint32_t n, bool each_alone) {
    const size_t bytes = (size_t)t->rows * t->share * sizeof(float);
    scan(t, rows, n, t->out);
    const char *p = t->out;
    for (uint32_t i = 0; i < n; i++)
        p = check_record(p, t->logits + (size_t)rows[i].row * t->share, t->share, t->first_id, &rows[i],
                         t->adjusted + (size_t)i * t->share);
    p = t->out;
    for (uint32_t i = 0; each_alone && i < n; i++) {
        size_t one = scan(t, &rows[i], 1, t->alone);
        CHECK_THAT(!memcmp(p, t->alone, one), "row %u differs when it is alone", i);
        p += one;
    }
    char *now = memory_alloc(bytes);
    CHECK_STATUS(cuda_get(&t->c, now, t->device_logits, bytes), ST_OK);
    CHECK(!memcmp(now, t->logits, bytes));
    free(now);
}

enum { A_ALL, A_EVERY, A_NONE, A_ONE, A_SPARSE, A_HALF, A_LAST, A_KINDS };

static void make_allowed(uint32_t *words, uint32_t share, uint32_t first_id, uint32_t kind) {
    uint32_t from = first_id / 32, one = below(share);
    /* Bits of ids that are another rank's are anything. */
    for (uint32_t w = from; w <= (first_id + share - 1) / 32; w++) words[w - from] = draw_u32() * 2 + below(2);
    for (uint32_t i = 0; i < share; i++) {
        bool in = kind == A_EVERY || (kind == A_ONE && i == one) || (kind == A_SPARSE && below(97) == 0) ||
                  (kind == A_HALF && below(2)) || (kind == A_LAST && i + 1 == share);
        uint32_t id = first_id + i, *w = &words[id / 32 - from];
        *w = (*w & ~(1u << id % 32)) | (uint32_t)in << id % 32;
    }
}

static void make_changes(scan_change *c, uint32_t n, uint32_t share, bool far) {
    for (uint32_t i = 0; i < n; i++) {
        c[i] = (scan_change){i && below(3) == 0 ? c[below(i)].at : below(share), below(4) ? normal() * 4 : -0.0f,
                             below(2) ? 0 : 0.3f + 2 * unit()};
        if (far && below(2)) c[i].add = below(2) ? -INFINITY : -FLT_MAX;
    }
}

static uint32_t some_entries(uint32_t share) {
    static const uint32_t list[] = {0, 0, 1, 2, 5, 20, 100, 513, 1000, 1023, 1024};
    return least(list[below(sizeof list / sizeof *list)], share);
}

/* Rows of every kind beside each other. */
static void check_mixed(uint32_t share, uint32_t first_id, uint32_t n, uint32_t rounds) {
    enum { CHANGES = 60 };
    const uint32_t words = share / 32 + 2;
    trial t;
    trial_open(&t, share, first_id, n);
    scan_row rows[ROWS];
    uint32_t *sets = memory_alloc_array((size_t)n * words, sizeof *sets);
    scan_change *changes = memory_alloc_array((size_t)n * CHANGES, sizeof *changes);
    for (uint32_t round = 0; round < rounds; round++) {
        uint32_t turn = below(n);
        for (uint32_t i = 0; i < n; i++) {
            scan_row *r = &rows[i];
            uint32_t kind = (i + round) % L_KINDS, set = below(A_KINDS);
            make_logits(t.logits + (size_t)((i + turn) % n) * share, share, kind);
            *r = (scan_row){.row = (i + turn) % n,
                            .tops = some_entries(share),
                            .known = below(2) ? below(share) : UINT32_MAX,
                            .raw = below(2),
                            .draw = below(4) > 0};
            if (!r->draw) continue;
            r->candidates = some_entries(share);
            r->blocks = below(2) ? (share + SCAN_BLOCK - 1) / SCAN_BLOCK : 0;
            r->factor = 1 / (0.3f + 2 * unit());
            make_changes(changes + i * CHANGES, CHANGES, share, below(3) == 0);
            r->changes = changes + i * CHANGES;
            r->change_count = below(3) ? below(CHANGES) : 0;
            if (set == A_ALL) continue;
            make_allowed(sets + i * words, share, first_id, set);
            r->allowed = sets + i * words;
            r->allowed_new = true;
        }
        put_logits(&t);
        check_trial(&t, rows, n, share <= 1025);
    }
    free(sets);
    free(changes);
    trial_close(&t);
}

TEST(rows_of_every_kind) {
    static const uint32_t shares[] = {1, 2, 31, 32, 33, 1000, 1023, 1024, 1025, 4095, 4096, 4097, 5000, 8200};
    for (uint32_t i = 0; i < sizeof shares / sizeof *shares; i += TEST_SANITIZED ? 3 : 1) {
        check_mixed(shares[i], i % 2 ? 0 : 1000 + 13 * i, 9, shares[i] < 100 ? 4 : 1);
        check_mixed(shares[i], i % 2 ? 31 + 77 * i : 64, 7, 1);
    }
}

TEST(a_whole_vocabulary) {
    check_mixed(TEST_SANITIZED ? 26214 : 262144, 0, 2, 1);
#ifndef GEMMAD_CUDA_SIM
    if (getenv("GEMMAD_TEST_SMALL")) return;
    check_mixed(262144, 0, 32, 3);
    check_mixed(262144, 1024, 9, 9);
    check_mixed(131072 + 77, 5, 32, 3);
#endif
}

/* The share's best is what the first allowed token is left with, when all that is allowed is out of reach. */
TEST(what_is_allowed_stays_within_reach) {
    trial t;
    const uint32_t share = 5000, first_id = 45, first = 4321;
    uint32_t *set = memory_alloc_array(share / 32 + 2, sizeof *set);
    trial_open(&t, share, first_id, 1);
    for (uint32_t kind = 0; kind < L_KINDS; kind += TEST_SANITIZED ? 4 : 1) {
        make_logits(t.logits, share, kind);
        memset(set, 0, (share / 32 + 2) * sizeof *set);
        for (uint32_t i = first; i < share; i += 300) {
            uint32_t id = first_id + i;
            set[id / 32 - first_id / 32] |= 1u << id % 32;
            t.logits[i] = i % 2 ? NAN : -INFINITY;
        }
        put_logits(&t);
        scan_row r = {.candidates = 1024,
                      .tops = 1024,
                      .blocks = 5,
                      .known = UINT32_MAX,
                      .draw = true,
                      .raw = kind % 2,
                      .factor = 1.5f,
                      .allowed = set,
                      .allowed_new = true};
        check_trial(&t, &r, 1, true);
        scan_head head;
        memcpy(&head, t.out, sizeof head);
        CHECK(head.max == -FLT_MAX && head.argmax == first_id + first);
    }
    free(set);
    trial_close(&t);
}

/* More changes than go in one launch, again and again of the same few. */
TEST(changes_are_made_in_their_order) {
    enum { COUNT = SCAN_EDITS + 4500, SHARE = 700 };
    trial t;
    trial_open(&t, SHARE, 3, 2);
    scan_change *changes = memory_alloc_array(COUNT, sizeof *changes);
    for (uint32_t i = 0; i < COUNT; i++)
        changes[i] = (scan_change){below(below(2) ? 5 : SHARE), normal(), below(2) ? 0 : 0.5f + unit()};
    make_logits(t.logits, 2 * SHARE, L_NORMAL);
    put_logits(&t);
    scan_row rows[2];
    for (uint32_t i = 0; i < 2; i++)
        rows[i] = (scan_row){.row = 1 - i,
                             .candidates = 20,
                             .known = UINT32_MAX,
                             .draw = true,
                             .changes = changes + i * 77,
                             .change_count = i ? 300 : COUNT};
    check_trial(&t, rows, 2, false);
    free(changes);
    trial_close(&t);
}

/* Sets stay on the device by their place on the host: more of them than it keeps, old ones again, and new ones in old places. */
TEST(sets_are_kept) {
    enum { SETS = SCAN_SETS + 40, SHARE = 90, WORDS = SHARE / 32 + 2, FIRST = 20 };
    static uint32_t sets[SETS][WORDS];
    static bool there[SETS];
    trial t;
    scan_row rows[ROWS];
    trial_open(&t, SHARE, FIRST, ROWS);
    make_logits(t.logits, ROWS * SHARE, L_NORMAL);
    put_logits(&t);
    for (uint32_t round = 0; round < (TEST_SANITIZED ? 16 : 40); round++) {
        uint32_t shared = below(SETS);
        bool shared_new = below(2) || !there[shared];
        if (shared_new) make_allowed(sets[shared], SHARE, FIRST, A_HALF);
        for (uint32_t i = 0; i < ROWS; i++) {
            uint32_t set = round < 20 ? (round * ROWS + i) % SETS : below(SETS);
            bool is_new = !there[set] || (round > 12 && below(5) == 0);
            if (set == shared || i % 8 == 7) {
                set = shared;
                is_new = shared_new;
            } else {
                for (uint32_t j = 0; j < i; j++)
                    if (rows[j].allowed == sets[set]) is_new = rows[j].allowed_new;
                bool again = false;
                for (uint32_t j = 0; j < i; j++) again = again || rows[j].allowed == sets[set];
                if (is_new && !again) make_allowed(sets[set], SHARE, FIRST, A_HALF);
            }
            there[set] = true;
            rows[i] = (scan_row){.row = i,
                                 .known = UINT32_MAX,
                                 .draw = true,
                                 .candidates = 30,
                                 .allowed = sets[set],
                                 .allowed_new = is_new};
        }
        check_trial(&t, rows, ROWS, false);
    }
    trial_close(&t);
}

TEST(nothing_to_look_at) {
    cuda_backend c;
    const float *adjusted;
    scan_head heads[3];
    scan_row rows[2] = {{.known = UINT32_MAX, .draw = true}, {.known = UINT32_MAX, .raw = true, .row = 1}};
    scan_device_open(&c, 4, 0);
    memset(heads, 0xEE, sizeof heads);
    CHECK_STATUS(cuda_scan(&c.base, NULL, 0, 77, rows, 2, heads, &adjusted), ST_OK);
    for (uint32_t i = 0; i < 2; i++)
        CHECK(heads[i].raw_max == -INFINITY && heads[i].raw_sum == 0 && heads[i].max == -INFINITY &&
              heads[i].argmax == UINT32_MAX && heads[i].argmax_raw == 0 && heads[i].known_raw == 0);
    CHECK(heads[2].argmax == 0xEEEEEEEE);
    CHECK_STATUS(cuda_scan(&c.base, NULL, 0, 77, rows, 0, heads, &adjusted), ST_OK);
    scan_device_close(&c);
}

#ifndef GEMMAD_CUDA_SIM
static void time_rows(trial *t, const char *what, scan_row r) {
    scan_row rows[ROWS];
    for (uint32_t n = 1; n <= ROWS; n *= ROWS) {
        struct timespec a, b;
        const float *adjusted;
        for (uint32_t i = 0; i < n; i++) rows[i] = r, rows[i].row = i;
        for (uint32_t i = 0; i < 220; i++) {
            if (i == 20) clock_gettime(CLOCK_MONOTONIC, &a);
            CHECK_STATUS(cuda_scan(&t->c.base, t->device_logits, t->share, 0, rows, n, t->out, &adjusted), ST_OK);
        }
        clock_gettime(CLOCK_MONOTONIC, &b);
        double us = ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / 200e3;
        printf("  %s: %u rows of %u in %.1f us\n", what, n, t->share, us);
    }
}

/* Figures for the eye: what the host waits for, copies included. */
TEST(how_long_a_vocabulary_takes) {
    trial t;
    trial_open(&t, 262144, 0, ROWS);
    for (uint32_t i = 0; i < ROWS; i++) make_logits(t.logits + (size_t)i * t.share, t.share, L_CAPPED);
    put_logits(&t);
    scan_row r = {.known = UINT32_MAX, .draw = true, .factor = 1};
    time_rows(&t, "greedy", r);
    r.blocks = 256;
    time_rows(&t, "unfiltered", r);
    r.candidates = 64;
    time_rows(&t, "top_k 64", r);
    r.candidates = 1024;
    r.tops = 20;
    r.raw = true;
    time_rows(&t, "top_p with log-probabilities", r);
    trial_close(&t);
}
#endif

int main(void) {
    device_needed();
    RUN(rows_of_every_kind);
    RUN(a_whole_vocabulary);
    RUN(what_is_allowed_stays_within_reach);
    RUN(changes_are_made_in_their_order);
    RUN(sets_are_kept);
    RUN(nothing_to_look_at);
#ifndef GEMMAD_CUDA_SIM
    RUN(how_long_a_vocabulary_takes);
#endif
    return test_result();
}
