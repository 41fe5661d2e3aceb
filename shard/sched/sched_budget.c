/* How many prompt rows a step beside streams may have, from the time that steps take. */
#include <math.h>

#include "shard/sched/sched_internal.h"

enum {
    PROBE_EVERY = 32,   /* mixed steps until decoding alone is measured again, … */
    PROBES_MAX = 3,     /* … so many times at most while measurements differ */
    FIRST_ROWS = 8,     /* of a prompt beside streams, while nothing is known */
    DECODE_OUTLIER = 2, /* a stopped process must not count as a step of a minute, … */
    MIXED_OUTLIER = 4   /* … in times what was expected, or a step that only decodes */
};
/* Samples weigh this much less with each newer one; steps aim this far below their bound, for they vary; measurements that
 * differ by more than this do not agree. */
static const double fading = 0.6, caution = 0.875, agreement = 1.25;

/* Noise must not become a slope: the line has no negative part at either end. */
static void line_of(const estimate *e, double *at_zero, double *slope) {
    double spread = e->n * e->xx - e->x * e->x;
    *slope = spread > 1e-9 * e->n * e->xx ? (e->n * e->xy - e->x * e->y) / spread : 0;
    if (*slope < 0) *slope = 0;
    *at_zero = (e->y - *slope * e->x) / e->n;
    if (*at_zero >= 0) return;
    *at_zero = 0;
    *slope = e->xy / e->xx;
}

static double value_at(const estimate *e, double x) {
    double at_zero, slope;
    line_of(e, &at_zero, &slope);
    return at_zero + slope * x;
}

static void sample(estimate *e, double x, double y) {
    e->n = e->n * fading + 1;
    e->x = e->x * fading + x;
    e->y = e->y * fading + y;
    e->xx = e->xx * fading + x * x;
    e->xy = e->xy * fading + x * y;
}

double budget_for_prompts(step_budget *b, uint32_t decode_rows, uint32_t min_share) {
    b->given = 0;
    b->limited = false;
    if (decode_rows == 0) return INFINITY;
    if (b->decode.n <= 0 || b->mixed_steps >= PROBE_EVERY) return 0;
    double share = (double)min_share / 100, times = share / (1 - share);
    if (times < caution) times = caution;
    return value_at(&b->decode, decode_rows) * times;
}

/* The n for which n rows from this depth on cost ns: row i costs at_zero + slope · (depth + i). */
static double rows_for(const estimate *row, double depth, double ns) {
    double at_zero, slope;
    line_of(row, &at_zero, &slope);
    double first = at_zero + slope * depth;
    double both = first + sqrt(first * first + 2 * slope * ns);
    return both > 0 ? 2 * ns / both : INFINITY;
}

uint32_t budget_rows(step_budget *b, uint32_t depth, uint32_t most, double *ns) {
    if (isinf(*ns)) return most;
    if (*ns <= 0) return 0;
    /* The first rows cost more than those beside them, since they hit experts of their own; and a guess may be wrong. So
     * chunks grow by doubling. */
    uint32_t growth = 2 * b->mixed_rows > FIRST_ROWS ? 2 * b->mixed_rows : FIRST_ROWS;
    growth = growth > b->given ? growth - b->given : 0;
    if (most > growth) most = growth;
    double n = b->row.n > 0 ? rows_for(&b->row, depth, *ns) : most;
    uint32_t rows = n < most ? (uint32_t)n : most;
    b->limited |= n < most;
    if (rows == 0 && b->given == 0 && growth > 0) rows = 1;
    b->given += rows;
    if (b->row.n > 0) *ns -= rows * value_at(&b->row, depth + rows / 2.0);
    return rows;
}

void budget_step_begin(step_budget *b, uint64_t now_ns) {
    b->begin_ns = now_ns;
    b->decode_rows = b->prompt_rows = 0;
    b->depth = 0;
}

void budget_count_rows(step_budget *b, uint32_t depth, uint32_t rows, bool decode) {
    if (decode) {
        b->decode_rows += rows;
        return;
    }
    b->prompt_rows += rows;
    b->depth += rows * (depth + rows / 2.0);
}

static void decoded_alone(step_budget *b, double ns) {
    double before = b->decode.n > 0 ? value_at(&b->decode, b->decode_rows) : ns;
    bool agree = ns < agreement * before && before < agreement * ns;
    sample(&b->decode, b->decode_rows, ns < DECODE_OUTLIER * before ? ns : DECODE_OUTLIER * before);
    b->probes = agree ? PROBES_MAX : b->probes + 1;
    if (b->probes < PROBES_MAX) return;
    b->mixed_steps = b->probes = 0;
}

static void read_beside_streams(step_budget *b, double ns) {
    double alone = value_at(&b->decode, b->decode_rows), rows = b->prompt_rows, depth = b->depth / rows;
    double took = ns - alone, most = alone, expected = b->row.n > 0 ? rows * value_at(&b->row, depth) : 0;
    if (expected > most) most = expected;
    if (took > MIXED_OUTLIER * most) took = MIXED_OUTLIER * most;
    /* Rows that cost nothing that could be seen still cost something. */
    if (took < alone / 1000) took = alone / 1000;
    sample(&b->row, depth, took / rows);
}

void budget_step_done(step_budget *b, uint64_t now_ns) {
    double ns = (double)(now_ns - b->begin_ns);
    if (b->decode_rows == 0 || now_ns <= b->begin_ns) return;
    b->step_ns = now_ns - b->begin_ns;
    if (b->prompt_rows == 0) {
        decoded_alone(b, ns);
        return;
    }
    b->mixed_steps++;
    /* The end of a prompt says nothing about how many rows there may be. */
    if (b->limited || b->prompt_rows > b->mixed_rows) b->mixed_rows = b->prompt_rows;
    if (b->decode.n > 0) read_beside_streams(b, ns);
}
