#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/statistics.h"
#include "shard/bench/bench.h"

enum { LABEL_WIDTH = 26, CACHED_BYTES_MAX = 1 << 30 };

/* What is printed, in both forms. */
typedef struct summary {
    double tokens_per_s, step_ms, weight_bytes_per_token, weight_gb_per_s, share;
    double collective_ms, load_s, experts_hit, experts_expected;
    double compute_imbalance, row_imbalance;
    uint64_t weight_bytes;
    timed_totals mean; /* of all ranks: ns summed, named as rank 0 has them */
} summary;

double bench_experts_expected(uint32_t experts, uint32_t active, double rows) {
    double missed = 1, stays = 1 - (double)active / (double)experts;
    /* stays^rows, by squares: rows are few enough, and fractions are means of steps of different size */
    for (double i = 0; i + 1 <= rows; i++) missed *= stays;
    return experts * (1 - missed);
}

/* The greatest of x[0 … n) over their mean; 1 when all are zero. */
static double imbalance(const double *x, uint32_t n) {
    double most = 0;
    for (uint32_t i = 0; i < n; i++)
        if (x[i] > most) most = x[i];
    double mean = statistics_mean(x, n);
    return mean > 0 ? most / mean : 1;
}

static void add_operators(timed_totals *sum, const timed_totals *one) {
    for (uint32_t i = 0; i < one->op_count; i++) {
        uint32_t k = 0;
        while (k < sum->op_count && strcmp(sum->op[k].name, one->op[i].name) != 0) k++;
        if (k == TIMED_NAMES_MAX) continue;
        if (k == sum->op_count) sum->op[sum->op_count++] = (timed_operator){0};
        memcpy(sum->op[k].name, one->op[i].name, sizeof sum->op[k].name);
        sum->op[k].ns += one->op[i].ns;
        sum->op[k].calls += one->op[i].calls;
    }
    sum->weight_bytes += one->weight_bytes;
}

static int slowest_first(const void *a, const void *b) {
    uint64_t x = ((const timed_operator *)a)->ns, y = ((const timed_operator *)b)->ns;
    return x < y ? 1 : x == y ? 0 : -1;
}

static void summarise_ranks(const bench_result *r, summary *s) {
    double compute[LIMIT_RANKS], rows[LIMIT_RANKS], steps = r->rank[0].steps ? (double)r->rank[0].steps : 1;
    for (uint32_t i = 0; i < r->ranks; i++) {
        const bench_figures *f = &r->rank[i];
        add_operators(&s->mean, &f->operators);
        s->weight_bytes += f->weight_bytes;
        compute[i] = (double)(f->runner_ns - f->comm_ns);
        rows[i] = (double)f->operators.expert_rows;
        s->collective_ms += (double)f->comm_ns / 1e6 / steps / r->ranks;
        if ((double)f->load_ns / 1e9 > s->load_s) s->load_s = (double)f->load_ns / 1e9;
    }
    qsort(s->mean.op, s->mean.op_count, sizeof *s->mean.op, slowest_first);
    s->compute_imbalance = imbalance(compute, r->ranks);
    s->row_imbalance = imbalance(rows, r->ranks);
}

static summary summarise(const bench_result *r) {
    const bench_options *o = r->options;
    summary s = {0};
    double rate[64], all_tokens = (double)r->run_tokens * o->repeat;
    for (uint32_t i = 0; i < o->repeat; i++) rate[i] = (double)r->run_tokens / r->run_s[i];
    statistics_sort(rate, o->repeat);
    s.tokens_per_s = statistics_median(rate, o->repeat);
    statistics_sort(r->step_ms, r->steps);
    s.step_ms = statistics_median(r->step_ms, r->steps);
    summarise_ranks(r, &s);
    s.weight_bytes_per_token = (double)s.mean.weight_bytes / all_tokens;
    s.weight_gb_per_s = s.weight_bytes_per_token * s.tokens_per_s / 1e9;
    s.share = r->read.gb_per_s > 0 ? s.weight_gb_per_s / r->read.gb_per_s : 0;
    const timed_totals *first = &r->rank[0].operators;
    if (first->expert_calls) {
        s.experts_hit = (double)first->experts_hit / (double)first->expert_calls;
        double rows = all_tokens / (double)r->steps;
        s.experts_expected = bench_experts_expected(r->experts, r->experts_active, rows);
    }
    return s;
}

/* Milliseconds of one rank's mean step. */
static double operator_ms(const bench_result *r, const timed_operator *op) {
    const bench_figures *f = &r->rank[0];
    double steps = f->looked_steps ? (double)f->looked_steps : f->steps ? (double)f->steps : 1;
    return (double)op->ns / 1e6 / steps / r->ranks;
}

/* ---- JSON ---- */

static json_t *real_or_null(bool there, double x) { return there ? json_real(x) : json_null(); }

static json_t *operators_json(const bench_result *r, const summary *s) {
    json_t *o = json_object();
    for (uint32_t i = 0; i < s->mean.op_count; i++)
        if (s->mean.op[i].calls)
            json_object_set_new(o, s->mean.op[i].name, json_real(operator_ms(r, &s->mean.op[i])));
    json_object_set_new(o, "collectives", json_real(s->collective_ms));
    return o;
}

/* Of products of matrices alone. */
static double tflops(const bench_result *r, const summary *s) { return 2 * r->token_gmac * s->tokens_per_s / 1e3; }

static void add_settings(const bench_result *r, const summary *s, json_t *root) {
    const bench_options *o = r->options;
    json_object_set_new(root, "bench", json_string(o->decode ? "decode" : "prefill"));
    json_object_set_new(root, o->model ? "model" : "shape", json_string(o->model ? o->model : o->shape));
    json_object_set_new(root, "layers", json_integer(r->layers));
    json_object_set_new(root, "layout", json_string(r->layout));
    json_object_set_new(root, "device", json_string(r->device));
    json_object_set_new(root, "operators_waited_for", json_boolean(r->on_gpu));
    json_object_set_new(root, "matrix_tflop_per_s", real_or_null(!r->options->decode, tflops(r, s)));
    json_object_set_new(root, "ranks", json_integer(r->ranks));
    json_object_set_new(root, "threads", json_integer(r->threads));
    json_object_set_new(root, "weights", json_string(o->weights));
    json_object_set_new(root, "kv", json_string(o->kv));
    json_object_set_new(root, "batch", json_integer(o->batch));
    json_object_set_new(root, o->decode ? "generate" : "prompt",
                        json_integer(o->decode ? o->generate : o->prompt));
    if (o->decode) json_object_set_new(root, "depth", json_integer(o->depth));
    json_object_set_new(root, "depth_filled",
                        o->decode && o->depth ? json_string("random keys and values") : json_null());
    json_object_set_new(root, "repeat", json_integer(o->repeat));
}

static status print_json(const bench_result *r, const summary *s) {
    json_t *root = json_object(), *uneven = json_object();
    add_settings(r, s, root);
    bool decode = r->options->decode, mixture = s->experts_expected > 0;
    json_object_set_new(root, "prefill_tokens_per_s", real_or_null(!decode, s->tokens_per_s));
    json_object_set_new(root, "decode_tokens_per_s", real_or_null(decode, s->tokens_per_s));
    json_object_set_new(root, "step_ms", json_real(s->step_ms));
    json_object_set_new(root, "steps", json_integer(r->steps));
    json_object_set_new(root, "weight_bytes", json_integer((json_int_t)s->weight_bytes));
    json_object_set_new(root, "weight_bytes_per_token", json_real(s->weight_bytes_per_token));
    json_object_set_new(root, "weight_gb_per_s", json_real(s->weight_gb_per_s));
    json_object_set_new(root, "read_bandwidth_gb_per_s", json_real(r->read.gb_per_s));
    json_object_set_new(root, "read_bandwidth_bytes", json_integer((json_int_t)r->read.bytes));
    json_object_set_new(root, "read_bandwidth_kernel", json_string(r->read.kernel));
    json_object_set_new(root, "read_bandwidth_of_weights", json_boolean(r->read.of_weights));
    json_object_set_new(root, "bandwidth_share", json_real(s->share));
    json_object_set_new(root, "experts_hit", real_or_null(mixture, s->experts_hit));
    json_object_set_new(root, "experts_expected", real_or_null(mixture, s->experts_expected));
    json_object_set_new(root, "collective_ms", json_real(s->collective_ms));
    json_object_set_new(root, "load_s", json_real(s->load_s));
    json_object_set_new(root, "first_token_s", json_real(r->first_token_s));
    json_object_set_new(root, "operators", operators_json(r, s));
    json_object_set_new(uneven, "compute", json_real(s->compute_imbalance));
    json_object_set_new(uneven, "expert_rows", real_or_null(mixture, s->row_imbalance));
    json_object_set_new(root, "imbalance", uneven);
    bool good =
        json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(8)) == 0 && putchar('\n') != EOF;
    json_decref(root);
    return good && fflush(stdout) == 0 ? ST_OK : fail(ST_IO, "cannot write to standard output");
}

/* ---- for people ---- */

static void line(const char *label, double value, const char *unit) {
    printf("%-*s%12.3f %s\n", LABEL_WIDTH, label, value, unit);
}

static void print_operators(const bench_result *r, const summary *s) {
    double known = s->collective_ms, whole = 0;
    for (uint32_t i = 0; i < r->ranks; i++)
        whole +=
            (double)r->rank[i].runner_ns / 1e6 / (double)(r->rank[0].steps ? r->rank[0].steps : 1) / r->ranks;
    printf("\nper step, mean of ranks%s\n",
           r->on_gpu ? ", each operator waited for (recorded steps take less than their sum)" : "");
    for (uint32_t i = 0; i < s->mean.op_count; i++) {
        const timed_operator *op = &s->mean.op[i];
        double ms = operator_ms(r, op);
        known += ms;
        if (op->calls)
            printf("  %-*s%12.3f ms %6.1f %%\n", LABEL_WIDTH - 2, op->name, ms,
                   whole > 0 ? 100 * ms / whole : 0);
    }
    printf("  %-*s%12.3f ms %6.1f %%\n", LABEL_WIDTH - 2, "collectives", s->collective_ms,
           whole > 0 ? 100 * s->collective_ms / whole : 0);
    printf("  %-*s%12.3f ms\n", LABEL_WIDTH - 2, "the rest", whole > known ? whole - known : 0);
}

static status print_text(const bench_result *r, const summary *s) {
    const bench_options *o = r->options;
    printf("%s of %s, %u layers, %s on %s, %u rank%s of %u thread%s\n", o->decode ? "decode" : "prefill",
           o->model ? o->model : o->shape, r->layers, r->layout, r->device, r->ranks, r->ranks > 1 ? "s" : "",
           r->threads, r->threads > 1 ? "s" : "");
    if (o->decode)
        printf("%u stream%s at depth %u%s, %u tokens each, %u runs\n\n", o->batch, o->batch > 1 ? "s" : "",
               o->depth, o->depth ? " (random keys and values)" : "", o->generate, o->repeat);
    else
        printf("%u prompt%s of %u tokens, %u runs\n\n", o->batch, o->batch > 1 ? "s" : "", o->prompt,
               o->repeat);
    line(o->decode ? "decode" : "prefill", s->tokens_per_s, "tokens/s");
    line("step", s->step_ms, "ms (median)");
    if (!o->decode) line("products of matrices", tflops(r, s), "TFLOP/s");
    line("weights per token", s->weight_bytes_per_token / 1e6, "MB");
    line("weights", s->weight_gb_per_s, "GB/s");
    printf("%-*s%12.3f GB/s (%s, %.1f GiB%s)\n", LABEL_WIDTH, "read bandwidth", r->read.gb_per_s,
           r->read.kernel, (double)r->read.bytes / 0x1p30, r->read.of_weights ? " of weights" : "");
    line("share of it", 100 * s->share,
         s->weight_bytes < CACHED_BYTES_MAX ? "% (weights as few as these may stay in caches)" : "%");
    if (s->experts_expected > 0)
        printf("%-*s%12.3f of %u a layer and step; evenly spread: %.1f\n", LABEL_WIDTH, "experts hit",
               s->experts_hit, r->experts, s->experts_expected);
    line("in collectives", s->collective_ms, "ms a step");
    line("imbalance of computing", s->compute_imbalance, "(greatest / mean)");
    if (s->experts_expected > 0) line("imbalance of expert rows", s->row_imbalance, "(greatest / mean)");
    line("loading", s->load_s, "s");
    line("first token after", r->first_token_s, "s");
    print_operators(r, s);
    return fflush(stdout) == 0 ? ST_OK : fail(ST_IO, "cannot write to standard output");
}

/* Less may stay in the caches of a large processor, and is then no matter of memory at all. */
static bool outran(const summary *s) { return s->share > 1 && s->weight_bytes >= CACHED_BYTES_MAX; }

bool bench_outran(const bench_result *r) {
    summary s = summarise(r);
    return outran(&s);
}

status bench_report(const bench_result *r) {
    summary s = summarise(r);
    TRY(r->options->json ? print_json(r, &s) : print_text(r, &s));
    if (outran(&s))
        return fail(ST_INTERNAL,
                    "weights were read at %.2f GB/s, more than the %.2f GB/s that memory gives: a count is "
                    "wrong, or the machine was busy while its bandwidth was measured",
                    s.weight_gb_per_s, r->read.gb_per_s);
    if (r->options->shape && s.experts_hit < 0.9 * s.experts_expected)
        return fail(ST_INTERNAL,
                    "the router does not spread: %.1f experts a layer and step, %.1f is what even choices "
                    "come to and 90 %% of it is asked for",
                    s.experts_hit, s.experts_expected);
    return ST_OK;
}
