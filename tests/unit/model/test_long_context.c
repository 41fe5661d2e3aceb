/* A prompt of 250,000 tokens through a small model of the 31B's pattern: five sliding layers and a full one whose keys are
 * its values. Three needles lie in it, at the first, a middle and the last position; the full layer's queries at two
 * positions look for them, and what they get is compared with attention in double precision over all positions. Memory
 * must not grow but by the KV; the time of attention is printed by depth.
 *
 * 20,000 tokens, or all of them with GEMMAD_TEST_LONG (tests/run.sh --long): two minutes. */
#include <math.h>
#include <time.h>
#include <unistd.h>

#include "base/invariant.h"
#include "shard/kernels/timed.h"
#include "tests/engine_driver.h"
#include "tests/test.h"

enum {
    HIDDEN = 64,
    DIM = 32,
    HEADS = 2,
    VOCAB = 64,
    FULL_LAYER = 5,
    PAIRS = DIM / 8,
    PROBES = 2,
    PARTS = 10
};
enum { FIRST = 60, MIDDLE, LAST, SEEKER }; /* token ids; smaller ones are hay */
static const double ROPE_BASE = 1e6, EPS = 1e-6;

static const char config_text[] =
    "{\"model_type\":\"gemma4_text\",\"dtype\":\"float32\",\"vocab_size\":64,\"hidden_size\":64,"
    "\"num_hidden_layers\":6,\"num_attention_heads\":2,\"num_key_value_heads\":2,\"num_global_key_value_"
    "heads\":1,"
    "\"head_dim\":32,\"global_head_dim\":32,\"attention_k_eq_v\":true,\"sliding_window\":512,"
    "\"intermediate_size\":64,\"layer_types\":[\"sliding_attention\",\"sliding_attention\",\"sliding_"
    "attention\","
    "\"sliding_attention\",\"sliding_attention\",\"full_attention\"],\"max_position_embeddings\":262144,"
    "\"rms_norm_eps\":1e-06,\"final_logit_softcapping\":30.0,\"hidden_activation\":\"gelu_pytorch_tanh\","
    "\"tie_word_embeddings\":true,\"bos_token_id\":2,\"eos_token_id\":1,\"pad_token_id\":0,\"rope_"
    "parameters\":{"
    "\"full_attention\":{\"rope_type\":\"proportional\",\"rope_theta\":1000000.0,\"partial_rotary_factor\":0."
    "25},"
    "\"sliding_attention\":{\"rope_type\":\"default\",\"rope_theta\":10000.0}}}";

typedef struct probe {
    uint32_t position;
    double hidden[HIDDEN];   /* what the full layer reads */
    float heads[HEADS][DIM]; /* what its attention gives */
} probe;

typedef struct watched {
    instance in;
    uint32_t tokens, begin, rows; /* of the step that runs */
    double (*u)[DIM];             /* [tokens]: rms(Wk x) of the full layer */
    probe probe[PROBES];
    uint64_t resident, resident_at, worst_growth; /* bytes; from the first tenth on */
    uint32_t part_begin;
    uint64_t part_cpu_ns;
    /* Middle of a tenth, the full layer's attention for a token of it, and what all threads spent on the token. */
    double at[PARTS], ns[PARTS], cpu_ns[PARTS];
    uint32_t parts;
} watched;

static float *writable(const void *weights) { return (float *)(uintptr_t)weights; }

/* ---- the model: random weights, but for what makes needles ---- */

static void scale(const float *x, uint32_t n, float factor) {
    for (uint32_t i = 0; i < n; i++) writable(x)[i] *= factor;
}

/* Hidden dimension 0 says "needle", 1 "seeks needles", 2 … 4 which one. Keys of needles have direction a and a part of
 * their own, b; hay has nothing of a, and queries of seekers little else. */
static void hide_needles(const instance *in, uint32_t tokens) {
    const model_weights *w = in->weights;
    const layer_weights *l = &w->layer[FULL_LAYER];
    float *embed = writable(w->embed.data), *k = writable(l->k.data), *q = writable(l->q.data), a[DIM];
    for (uint32_t i = 0; i < in->config->layers; i++) {
        scale(w->layer[i].post_attention_norm, HIDDEN, 0.3f);
        scale(w->layer[i].post_mlp_norm, HIDDEN, 0.3f);
    }
    for (uint32_t t = 0; t < VOCAB; t++)
        for (uint32_t d = 0; d < 5; d++) embed[t * HIDDEN + d] *= 0.1f;
    for (uint32_t t = FIRST; t <= LAST; t++) embed[t * HIDDEN] = embed[t * HIDDEN + 2 + t - FIRST] = 3;
    embed[LAST * HIDDEN + 1] = embed[SEEKER * HIDDEN + 1] = 3;
    /* Mostly of dimensions that do not rotate, so that it is found at any distance. */
    for (uint32_t d = 0; d < DIM; d++) a[d] = (d % 16 < PAIRS ? 0.08f : 0.2f) * (d % 3 ? 1 : -1);
    for (uint32_t c = 0; c < HIDDEN; c++) {
        float along = 0, square = 0;
        for (uint32_t d = 0; d < DIM; d++) along += k[d * HIDDEN + c] * a[d], square += a[d] * a[d];
        for (uint32_t d = 0; d < DIM; d++) {
            k[d * HIDDEN + c] -= along / square * a[d];
            if (c == 0) k[d * HIDDEN + c] = 2 * a[d];
            if (c == 1) k[d * HIDDEN + c] = 0;
            for (uint32_t h = 0; c < 5 && h < HEADS; h++)
                q[(h * DIM + d) * HIDDEN + c] = c == 1 ? (2 - 0.5f * (float)h) * a[d] : 0;
        }
    }
    /* A needle's score is about 26 times this, hay's sum to log(tokens): needles get most of the weight, not all. */
    for (uint32_t d = 0; d < DIM; d++) {
        writable(l->q_norm)[d] = (float)((log(tokens) + 1.5) / 26);
        writable(l->k_norm)[d] = 1 + 0.2f * (float)(d % 4) / 4;
    }
}

static uint32_t *make_prompt(uint32_t n) {
    uint32_t *t = memory_alloc_array(n, sizeof *t);
    uint64_t state = 5;
    for (uint32_t i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        t[i] = (uint32_t)(state >> 40) % FIRST;
    }
    t[0] = FIRST, t[n / 2] = MIDDLE, t[n - 1] = LAST;
    return t;
}

/* ---- double precision ---- */

static void norm_double(double *y, const double *x, const float *w, uint32_t n) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += x[i] * x[i];
    for (uint32_t i = 0; i < n; i++) y[i] = x[i] / sqrt(sum / n + EPS) * (w ? w[i] : 1);
}

/* rms(W x) of one head's rows. */
static void project(const watched *s, double *y, const weight *w, uint32_t head, const double *hidden,
                    const float *norm) {
    double x[HIDDEN], raw[DIM];
    norm_double(x, hidden, s->in.weights->layer[FULL_LAYER].input_norm, HIDDEN);
    for (uint32_t d = 0; d < DIM; d++) {
        const float *row = (const float *)w->data + (size_t)(head * DIM + d) * HIDDEN;
        raw[d] = 0;
        for (uint32_t c = 0; c < HIDDEN; c++) raw[d] += x[c] * row[c];
    }
    norm_double(y, raw, norm, DIM);
}

static void rotate(double *x, uint32_t position) {
    for (uint32_t i = 0; i < PAIRS; i++) {
        double angle = position * pow(ROPE_BASE, -2.0 * i / DIM), a = x[i], b = x[i + DIM / 2];
        x[i] = a * cos(angle) - b * sin(angle);
        x[i + DIM / 2] = b * cos(angle) + a * sin(angle);
    }
}

static double score_of(const watched *s, const double *q, uint32_t position) {
    double k[DIM], score = 0;
    for (uint32_t d = 0; d < DIM; d++) k[d] = s->u[position][d] * s->in.weights->layer[FULL_LAYER].k_norm[d];
    rotate(k, position);
    for (uint32_t d = 0; d < DIM; d++) score += q[d] * k[d];
    return score;
}

/* y and the needles' weights. */
static void exact(const watched *s, const probe *p, uint32_t head, double *y, double needle[3]) {
    const layer_weights *l = &s->in.weights->layer[FULL_LAYER];
    const uint32_t places[3] = {0, s->tokens / 2, s->tokens - 1};
    double q[DIM], total = 0;
    project(s, q, &l->q, head, p->hidden, l->q_norm);
    rotate(q, p->position);
    memset(y, 0, DIM * sizeof *y);
    for (uint32_t i = 0; i <= p->position; i++) {
        double share = exp(score_of(s, q, i));
        total += share;
        for (uint32_t d = 0; d < DIM; d++) y[d] += share * s->u[i][d];
    }
    for (uint32_t d = 0; d < DIM; d++) y[d] /= total;
    for (uint32_t i = 0; i < 3; i++)
        needle[i] = places[i] <= p->position ? exp(score_of(s, q, places[i])) / total : 0;
}

static void check_probe(const watched *s, const probe *p) {
    for (uint32_t h = 0; h < HEADS; h++) {
        double y[DIM], needle[3], worst = 0;
        exact(s, p, h, y, needle);
        for (uint32_t d = 0; d < DIM; d++) worst = fmax(worst, fabs((double)p->heads[h][d] - y[d]));
        printf("  head %u at position %u: needles have %.3f %.3f %.3f of its attention; off by %.1e\n", h,
               p->position, needle[0], needle[1], needle[2], worst);
        CHECK_THAT(needle[0] > 0.04 && needle[1] > 0.04, "%g %g", needle[0], needle[1]);
        CHECK((needle[2] > 0.04) == (p->position == s->tokens - 1));
        CHECK(needle[0] + needle[1] + needle[2] < 0.98); /* hay counts too */
        /* Scores reach 16 and elements 4, with 2^-24 of that in every operation. */
        CHECK_THAT(worst < 1e-5, "head %u at position %u: off by %g", h, p->position, worst);
    }
}

/* ---- what is seen while it runs ---- */

static uint64_t resident_bytes(void) {
    unsigned long long all, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    INVARIANT(f && fscanf(f, "%llu %llu", &all, &resident) == 2);
    fclose(f);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void watch_memory(watched *s) {
    uint64_t now = resident_bytes(), grown;
    if (s->begin < s->tokens / PARTS) return;
    if (!s->resident) s->resident = now, s->resident_at = s->begin;
    /* A token of the full layer's pages, of which slabs hold whole ones. */
    uint64_t kv =
        (s->begin - s->resident_at) * s->in.plan.geometry.page_bytes[KV_FULL] / KV_TOKENS_PER_PAGE * 21 / 20;
    grown = now > s->resident + kv ? now - s->resident - kv : 0;
    if (grown > s->worst_growth) s->worst_growth = grown;
}

static uint64_t cpu_ns(void) {
    struct timespec t;
    INVARIANT(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t) == 0);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void take_time(watched *s) {
    timed_totals t;
    uint64_t ns = 0;
    if (s->begin == 0) s->part_cpu_ns = cpu_ns();
    if (s->begin == s->part_begin || s->begin < (uint64_t)s->tokens * (s->parts + 1) / PARTS) return;
    double tokens = s->begin - s->part_begin;
    uint64_t cpu = cpu_ns();
    timed_take(s->in.device, &t);
    for (uint32_t i = 0; i < t.op_count; i++)
        if (!strcmp(t.op[i].name, "attention_full")) ns = t.op[i].ns;
    s->at[s->parts] = (s->part_begin + s->begin) / 2.0;
    s->ns[s->parts] = (double)ns / tokens;
    s->cpu_ns[s->parts++] = (double)(cpu - s->part_cpu_ns) / tokens;
    s->part_begin = s->begin;
    s->part_cpu_ns = cpu;
}

static void look(void *context, const char *name, uint32_t layer, const float *data, const uint32_t *ids,
                 uint32_t rows, uint32_t cols) {
    (void)ids;
    watched *s = context;
    if (!strcmp(name, "embed")) {
        s->begin += s->rows;
        s->rows = rows;
        watch_memory(s);
        take_time(s);
    }
    bool hidden = !strcmp(name, "hidden") && layer + 1 == FULL_LAYER,
         heads = !strcmp(name, "heads") && layer == FULL_LAYER;
    for (uint32_t r = 0; r < rows && (hidden || heads); r++) {
        double x[HIDDEN];
        for (uint32_t c = 0; c < cols && hidden; c++) x[c] = data[(size_t)r * cols + c];
        if (hidden) project(s, s->u[s->begin + r], &s->in.weights->layer[FULL_LAYER].k, 0, x, NULL);
        for (uint32_t p = 0; p < PROBES; p++) {
            if (s->probe[p].position != s->begin + r) continue;
            if (hidden) memcpy(s->probe[p].hidden, x, sizeof x);
            else memcpy(s->probe[p].heads, data + (size_t)r * cols, sizeof s->probe[p].heads);
        }
    }
}

/* Least squares: ns = constant + slope · depth. */
static void print_times(const watched *s, const char *what, const double *ns) {
    double n = s->parts, x = 0, y = 0, xx = 0, xy = 0, off = 0;
    for (uint32_t i = 0; i < s->parts; i++)
        x += s->at[i], y += ns[i], xx += s->at[i] * s->at[i], xy += s->at[i] * ns[i];
    double slope = (n * xy - x * y) / (n * xx - x * x), constant = (y - slope * x) / n;
    printf("  %s, µs for a token by depth:", what);
    for (uint32_t i = 0; i < s->parts; i++) {
        printf(" %.0f: %.1f%s", s->at[i], ns[i] / 1e3, i + 1 < s->parts ? "," : "\n");
        off = fmax(off, fabs(constant + slope * s->at[i] - ns[i]));
    }
    printf("    linear: %.1f µs + %.3f ns a position, off by %.1f µs at most\n", constant / 1e3, slope,
           off / 1e3);
}

static status run_prompt(watched *s, comm *ranks) {
    uint32_t *tokens = make_prompt(s->tokens);
    driver_request r = driver_prompt(tokens, s->tokens, 1);
    tokens[s->probe[0].position] = SEEKER;
    status st = driver_run(&s->in, ranks, &r, 1);
    CHECK(st != ST_OK || r.out_count == 1);
    driver_free(&r, 1);
    free(tokens);
    return st;
}

static void check_prompt(uint32_t tokens) {
    static watched s;
    comm *ranks;
    s = (watched){.tokens = tokens};
    s.probe[0].position = tokens / 4 * 3;
    s.probe[1].position = tokens - 1;
    s.u = memory_alloc_array(tokens, sizeof *s.u);
    memset(s.u, 0xFF, tokens * sizeof *s.u); /* it is there before memory is watched */
    CHECK_STATUS(comm_self_open(&ranks), ST_OK);
    status st = instance_open(&s.in, &(instance_options){.random_config = config_text,
                                                         .ranks = ranks,
                                                         .weights = WEIGHTS_F32,
                                                         .timed = true,
                                                         .threads = 2,
                                                         .context = tokens + 1,
                                                         .slots = 1,
                                                         .tap = look,
                                                         .tap_context = &s});
    CHECK_STATUS(st, ST_OK);
    if (st != ST_OK) return;
    hide_needles(&s.in, tokens);
    CHECK_STATUS(run_prompt(&s, ranks), ST_OK);
    s.begin += s.rows;
    CHECK(s.begin == tokens);
    take_time(&s);
    for (uint32_t i = 0; i < PROBES; i++) check_probe(&s, &s.probe[i]);
    print_times(&s, "attention of the full layer", s.ns);
    print_times(&s, "CPU time of all threads", s.cpu_ns);
    printf("  memory beyond KV grew by %.1f MiB from token %llu on; KV has %.1f MiB\n",
           (double)s.worst_growth / 0x1p20, (unsigned long long)s.resident_at,
           (double)s.in.plan.kv_bytes / 0x1p20);
    CHECK_THAT(TEST_SANITIZED || s.worst_growth < 4 << 20, "memory grew by %llu bytes",
               (unsigned long long)s.worst_growth);
    instance_close(&s.in);
    comm_close(ranks);
    free(s.u);
}

TEST(needles_in_a_long_prompt) {
    check_prompt(TEST_SANITIZED ? 3000 : getenv("GEMMAD_TEST_LONG") ? 250000 : 20000);
}

int main(void) {
    RUN(needles_in_a_long_prompt);
    return test_result();
}
