/* Draws against the distribution they must follow (chi-square; 20,000 draws of the golden softmax), at 1, 2 and 3 ranks;
 * penalties, bias and log-probabilities against their definitions. */
#include <float.h>
#include <math.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "shard/sample/sampler.h"
#include "tests/golden_reader.h"
#include "tests/test.h"

enum {
    DRAWS = TEST_SANITIZED ? 320 : 20000,      /* of the golden softmax as it is; … */
    FEWER_DRAWS = TEST_SANITIZED ? 160 : 1600, /* … everything else */
    ROWS = 32,
    VOCAB_MAX = 2600,
    PLACE = 3 /* of the set of allowed tokens */
};

typedef struct trial {
    uint32_t vocab, ranks;
    const float *logits; /* [vocab] */
    sampling params;
    const uint32_t *allowed; /* words by id; NULL: all */
    bool as_list, mixed;     /* the set comes as ids; every second row draws among all tokens */
    uint32_t drawn[ROWS];    /* of the first run */
    const uint32_t *history;
    uint32_t history_count, prompt_count;
    uint32_t count[VOCAB_MAX], draws;
    token_logprob last; /* of the last draw; top copied */
    top_entry top[64];
} trial;

static sampling plain(float temperature) {
    return (sampling){.temperature = temperature,
                      .top_p = 1,
                      .repetition_penalty = 1,
                      .logprobs = -1,
                      .prompt_logprobs = -1,
                      .max_tokens = 1,
                      .seed = 77};
}

static void allow(sampler *s, const trial *t) {
    static const uint32_t none[1] = {0};
    uint32_t *ids = memory_alloc_array(t->vocab, sizeof *ids), n = 0;
    for (uint32_t i = 0; i < t->vocab; i++)
        if (t->allowed[i / 32] >> i % 32 & 1) ids[n++] = i;
    sampler_allow_list(s, PLACE, none, 1); /* what was there before does not stay */
    if (t->as_list) sampler_allow_list(s, PLACE, ids, n);
    else sampler_allow_bits(s, PLACE, t->allowed);
    free(ids);
}

static status draw(comm *ranks, void *context) {
    trial *t = context;
    const cpu_kernels *k;
    sampler *s;
    uint32_t begin[8], n = comm_size(ranks), me = comm_rank(ranks);
    for (uint32_t r = 0; r <= n; r++) begin[r] = (uint32_t)((uint64_t)t->vocab * r / n);
    uint32_t share = begin[me + 1] - begin[me];
    TRY(cpu_kernels_pick(&k));
    TRY(sampler_open(&s, &(sampler_options){.ranks = ranks,
                                            .kernels = k,
                                            .vocab = t->vocab,
                                            .share_begin = begin,
                                            .slots = 1,
                                            .rows_max = ROWS}));
    float *logits = memory_alloc_array((size_t)ROWS * share + 1, sizeof *logits);
    sample_row rows[ROWS];
    sample_result results[ROWS];
    status st = ST_OK;
    if (t->allowed) allow(s, t);
    for (uint32_t done = 0; st == ST_OK && done < t->draws; done += ROWS) {
        sampler_begin(s, 0, &t->params, t->history, t->history_count, t->prompt_count);
        for (uint32_t i = 0; i < ROWS; i++) {
            memcpy(logits + (size_t)i * share, t->logits + begin[me], share * sizeof *logits);
            rows[i] = (sample_row){.position = done + i, .draw = true, .known = SAMPLE_NO_TOKEN, .logits_row = i};
            if (t->allowed && !(t->mixed && i % 2)) rows[i].allowed = PLACE + 1;
        }
        bool one =
            t->history_count > 0 || t->draws == 1; /* a draw counts for later penalties: one row at a time */
        st = sampler_run(s, logits, one ? 1 : ROWS, rows, results);
        for (uint32_t i = 0; st == ST_OK && me == 0 && i < (one ? 1 : ROWS); i++)
            t->count[results[i].token]++;
        for (uint32_t i = 0; st == ST_OK && me == 0 && done == 0 && !one && i < ROWS; i++)
            t->drawn[i] = results[i].token;
        if (st == ST_OK && me == 0 && results[0].has_logprob) {
            t->last = results[0].logprob;
            INVARIANT(t->last.top_count <= 64);
            memcpy(t->top, t->last.top, t->last.top_count * sizeof *t->top);
        }
    }
    free(logits);
    sampler_close(s);
    return st;
}

static void run(trial *t) {
    memset(t->count, 0, sizeof t->count);
    CHECK_STATUS(
        comm_fork_run(&(comm_fork_options){.ranks = t->ranks, .threads = TEST_RANKS_AS_THREADS}, draw, t),
        ST_OK);
}

typedef struct chi_square {
    double statistic, expected, seen; /* the last two of a cell that is being filled */
    uint32_t cells;
} chi_square;

static void add_cell(chi_square *c) {
    c->statistic += (c->seen - c->expected) * (c->seen - c->expected) / c->expected;
    c->expected = c->seen = 0;
    c->cells++;
}

/* Chi-square against p; neighbours share a cell until 5 are expected in it. The statistic of a right sampler exceeds
 * df + 4·sqrt(2·df) once in some ten thousand seeds; seeds are fixed, so the test does not flicker. */
static void check_distribution(const char *what, trial *t, const double *p) {
    chi_square c = {0};
    double total = 0;
    for (uint32_t i = 0; i < t->vocab; i++) total += t->count[i];
    CHECK(total == t->draws);
    for (uint32_t i = 0; i < t->vocab; i++) {
        if (p[i] == 0)
            CHECK_THAT(t->count[i] == 0, "%s: token %u drawn %u times, its probability is 0", what, i,
                       t->count[i]);
        c.expected += p[i] * total;
        c.seen += t->count[i];
        if (c.expected >= 5) add_cell(&c);
    }
    if (c.expected >= 1) add_cell(&c);
    uint32_t cells = c.cells;
    double statistic = c.statistic;
    double df = cells > 1 ? cells - 1 : 1;
    printf("  %s at %u ranks: chi-square %.1f, %u cells\n", what, t->ranks, statistic, cells);
    CHECK_THAT(statistic < df + 4 * sqrt(2 * df), "%s at %u ranks: %g over %g degrees", what, t->ranks,
               statistic, df);
}

/* The definition, in double, by sorting everything. */
static void filtered(const float *logits, uint32_t vocab, const sampling *p, double *out) {
    static uint32_t order[VOCAB_MAX];
    double max = -INFINITY, total = 0;
    for (uint32_t i = 0; i < vocab; i++) max = fmax(max, logits[i]);
    for (uint32_t i = 0; i < vocab; i++) {
        out[i] = exp((logits[i] - max) / p->temperature);
        order[i] = i;
    }
    for (uint32_t i = 1; i < vocab; i++) { /* insertion sort by falling logit, stable in id */
        uint32_t x = order[i], at = i;
        while (at > 0 && logits[order[at - 1]] < logits[x]) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = x;
    }
    uint32_t keep = p->top_k && p->top_k < vocab ? p->top_k : vocab;
    for (uint32_t i = 0; i < keep; i++) total += out[order[i]];
    double sum = 0;
    uint32_t kept = 0;
    while (kept < keep && (p->top_p >= 1 || sum < p->top_p * total) &&
           !(p->min_p > 0 && out[order[kept]] < p->min_p * out[order[0]]))
        sum += out[order[kept++]];
    for (uint32_t i = kept; i < vocab; i++) out[order[i]] = 0;
    for (uint32_t i = 0; i < vocab; i++) out[i] /= sum;
}

/* plain_draws are those of temperature 1 alone. */
static void check_filters(const float *logits, uint32_t vocab, uint32_t plain_draws, uint32_t ranks) {
    static const struct {
        const char *what;
        float temperature, top_p, min_p;
        uint32_t top_k;
    } list[] = {
        {"temperature 1", 1, 1, 0, 0},   {"temperature 0.6", 0.6f, 1, 0, 0},
        {"top_k 20", 1, 1, 0, 20},       {"top_p 0.9", 1, 0.9f, 0, 0},
        {"min_p 0.1", 1.3f, 1, 0.1f, 0}, {"all three", 1.2f, 0.8f, 0.02f, 50},
        {"wide top_p", 2, 0.999f, 0, 0}, {"wide top_k", 1, 1, 0, 2000},
    };
    static double p[VOCAB_MAX];
    static trial t;
    for (size_t i = 0; i < sizeof list / sizeof *list; i += TEST_SANITIZED ? 3 : 1) {
        t = (trial){.vocab = vocab,
                    .ranks = ranks,
                    .logits = logits,
                    .params = plain(list[i].temperature),
                    .draws = i == 0 ? plain_draws : FEWER_DRAWS};
        t.params.top_p = list[i].top_p;
        t.params.min_p = list[i].min_p;
        t.params.top_k = list[i].top_k;
        filtered(logits, vocab, &t.params, p);
        run(&t);
        check_distribution(list[i].what, &t, p);
    }
}

TEST(draws_follow_the_golden_softmax) {
    golden *g = golden_open(TEST_DATA "/golden/dense/expected.safetensors");
    uint64_t shape[4];
    const float *logits = golden_f32(g, "case0.logits", shape);
    INVARIANT(logits && shape[1] <= VOCAB_MAX);
    for (uint32_t ranks = 1; ranks <= 2; ranks++)
        check_filters(logits + 5 * shape[1], (uint32_t)shape[1], DRAWS, ranks);
    golden_close(g);
}

/* Flat logits over more than two blocks: most of the mass lies outside any top 1024. */
TEST(draws_follow_a_wide_distribution) {
    static float logits[VOCAB_MAX];
    for (uint32_t i = 0; i < VOCAB_MAX - 77; i++) logits[i] = (float)(i * 2654435761u % 1000) / 500;
    check_filters(logits, VOCAB_MAX - 77, 4 * FEWER_DRAWS, 1);
    check_filters(logits, VOCAB_MAX - 77, 4 * FEWER_DRAWS, 3);
}

TEST(greedy_takes_the_lowest_of_equals) {
    static float logits[3000];
    static trial t;
    logits[999] = logits[1000] = logits[2500] = 3;
    for (uint32_t ranks = 1; ranks <= 3; ranks++) {
        t = (trial){.vocab = 3000, .ranks = ranks, .logits = logits, .params = plain(0), .draws = 32};
        run(&t);
        CHECK(t.count[999] == 32);
    }
}

TEST(bias_and_penalties) {
    static float logits[300];
    static trial t;
    const uint32_t history[] = {7, 7, 8, 9, 9, 9}; /* prompt 7 7 8, answer 9 9 9 */
    for (uint32_t ranks = 1; ranks <= 2; ranks++) {
        memset(logits, 0, sizeof logits);
        logits[7] = 4;
        logits[8] = 3;
        logits[9] = 5;
        logits[200] = 1.5f;
        t = (trial){.vocab = 300,
                    .ranks = ranks,
                    .logits = logits,
                    .params = plain(0),
                    .draws = 1,
                    .history = history,
                    .history_count = 6,
                    .prompt_count = 3};
        t.params.logprobs = 3;
        t.params.repetition_penalty = 2; /* 9: 2.5, 7: 2, 8: 1.5; then frequency takes 9 below 7 */
        t.params.frequency_penalty = 0.25f;
        run(&t);
        CHECK(t.count[7] == 1);
        /* Log-probabilities are of the model's own logits, not of the penalised ones. */
        double total = 296 + exp(4) + exp(3) + exp(5) + exp(1.5);
        CHECK_THAT(fabs(t.last.logprob - (4 - log(total))) < 1e-5, "%g", t.last.logprob);
        CHECK(t.last.top_count == 3 && t.top[0].token == 9 && t.top[1].token == 7 && t.top[2].token == 8);
        CHECK(fabs(t.top[0].logprob - (5 - log(total))) < 1e-5);
        t.params.presence_penalty = 2;
        t.params.bias_count = 2;
        t.params.bias[0] = (logit_bias){7, -10};
        t.params.bias[1] = (logit_bias){200, 1};
        run(&t);
        CHECK(t.count[200] == 1); /* 1.5 + 1 against 8's 3 / 2 */
        CHECK_THAT(fabs(t.last.logprob - (1.5 - log(total))) < 1e-5, "%g", t.last.logprob);
    }
}

enum { SET_THIRD, SET_ONE, SET_LAST_SHARE, SET_FEW, SETS };

static void make_set(uint32_t kind, uint32_t vocab, uint32_t *words) {
    memset(words, 0, (vocab + 31) / 32 * sizeof *words);
    for (uint32_t i = 0; i < vocab; i++) {
        bool in = kind == SET_THIRD        ? i * 2654435761u >> 16 & 1 && i % 3
                  : kind == SET_ONE        ? i == vocab / 2 + 1
                  : kind == SET_LAST_SHARE ? i >= vocab - 40
                                           : i % 700 == 13;
        if (in) words[i / 32] |= 1u << i % 32;
    }
}

/* What is not allowed is never drawn, and the rest as if nothing else were there; at 1, 2 and 4 ranks, where whole shares are
 * forbidden too. */
TEST(draws_are_among_what_is_allowed) {
    static float logits[VOCAB_MAX], masked[VOCAB_MAX];
    static double p[VOCAB_MAX];
    static trial t;
    static uint32_t words[VOCAB_MAX / 32 + 1];
    const uint32_t vocab = VOCAB_MAX - 77;
    for (uint32_t i = 0; i < vocab; i++) logits[i] = (float)(i * 2654435761u % 1000) / 200;
    for (uint32_t kind = 0; kind < SETS; kind++)
        for (uint32_t filter = 0; filter < 5; filter++)
            for (uint32_t ranks = 1; ranks <= 4; ranks *= 2) {
                if (TEST_SANITIZED && (kind + filter) % 3) continue;
                make_set(kind, vocab, words);
                for (uint32_t i = 0; i < vocab; i++)
                    masked[i] = words[i / 32] >> i % 32 & 1 ? logits[i] : -INFINITY;
                t = (trial){.vocab = vocab,
                            .ranks = ranks,
                            .logits = logits,
                            .params = plain(filter ? 0.8f : 1),
                            .allowed = words,
                            .as_list = kind % 2,
                            .draws = TEST_SANITIZED ? 160 : 320};
                if (filter == 1) t.params.top_k = 5;
                if (filter == 2) t.params.top_p = 0.9f;
                if (filter == 3) t.params.min_p = 0.2f;
                if (filter == 4) t.params = plain(0);
                if (filter == 4) {
                    uint32_t best = 0;
                    for (uint32_t i = 1; i < vocab; i++)
                        if (masked[i] > masked[best]) best = i;
                    run(&t);
                    CHECK_THAT(t.count[best] == t.draws, "set %u at %u ranks", kind, ranks);
                    continue;
                }
                filtered(masked, vocab, &t.params, p);
                run(&t);
                check_distribution("allowed", &t, p);
            }
}

/* The rows beside keep their bits, the log-probability is the model's, and a bias cannot lead out of the set. */
TEST(allowed_sets_touch_nothing_else) {
    static float logits[VOCAB_MAX];
    static trial t;
    static uint32_t words[VOCAB_MAX / 32 + 1], alone[ROWS];
    const uint32_t vocab = 2000;
    double total = 0;
    for (uint32_t i = 0; i < vocab; i++) logits[i] = (float)(i * 2654435761u % 1000) / 200;
    for (uint32_t i = 0; i < vocab; i++) total += exp(logits[i]);
    make_set(SET_ONE, vocab, words);
    for (uint32_t ranks = 1; ranks <= 4; ranks *= 2) {
        t = (trial){.vocab = vocab, .ranks = ranks, .logits = logits, .params = plain(1), .draws = ROWS};
        run(&t);
        memcpy(alone, t.drawn, sizeof alone);
        t.allowed = words;
        t.mixed = true;
        run(&t);
        for (uint32_t i = 0; i < ROWS; i++) CHECK(t.drawn[i] == (i % 2 ? alone[i] : vocab / 2 + 1));
        for (uint32_t greedy = 0; greedy < 2; greedy++) {
            t = (trial){.vocab = vocab,
                        .ranks = ranks,
                        .logits = logits,
                        .params = plain(greedy ? 0 : 1),
                        .draws = 1,
                        .allowed = words};
            t.params.logprobs = 2;
            t.params.bias_count = 2;
            t.params.bias[0] = (logit_bias){vocab / 2 + 1, -FLT_MAX};
            t.params.bias[1] = (logit_bias){vocab / 2 + 2, 100};
            t.params.repetition_penalty = 5; /* sends it to minus infinity */
            t.history = &(uint32_t){vocab / 2 + 1};
            t.history_count = t.prompt_count = 1;
            run(&t);
            CHECK(t.count[vocab / 2 + 1] == 1);
            CHECK_THAT(fabs(t.last.logprob - (logits[vocab / 2 + 1] - log(total))) < 1e-5, "%g",
                       t.last.logprob);
            CHECK(t.last.top_count == 2 && t.top[0].logprob > t.last.logprob);
        }
    }
}

TEST(uniform_and_log) {
    double sum = 0, squares = 0;
    for (uint32_t i = 0; i < 100000; i++) {
        double u = sampler_uniform(5, 0, i);
        CHECK(u >= 0 && u < 1);
        sum += u;
        squares += u * u;
    }
    CHECK(fabs(sum / 1e5 - 0.5) < 0.005 && fabs(squares / 1e5 - 1.0 / 3) < 0.005);
    CHECK(sampler_uniform(5, 0, 1) == sampler_uniform(5, 0, 1));
    CHECK(sampler_uniform(5, 0, 1) != sampler_uniform(5, 1, 1) &&
          sampler_uniform(5, 0, 1) != sampler_uniform(6, 0, 1));
    CHECK(sampler_uniform(5, 0, 1) != sampler_uniform(5, 0, (uint64_t)1 << 32 | 1));
    for (double x = 1e-300; x < 1e300; x *= 1.37) {
        double want = log(x);
        CHECK_THAT(fabs(sampler_log(x) - want) <= 1e-15 * (fabs(want) + 1), "log %g", x);
    }
    CHECK(sampler_log(1) == 0);
    CHECK(fabs(sampler_log(0x1p-1070) - log(0x1p-1070)) < 1e-12);
}

int main(void) {
    RUN(draws_follow_the_golden_softmax);
    RUN(draws_follow_a_wide_distribution);
    RUN(greedy_takes_the_lowest_of_equals);
    RUN(bias_and_penalties);
    RUN(draws_are_among_what_is_allowed);
    RUN(allowed_sets_touch_nothing_else);
    RUN(uniform_and_log);
    return test_result();
}
