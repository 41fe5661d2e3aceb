/* bench serve: what is planned, and what the answers come to. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/statistics.h"
#include "ctl/bench_serve.h"

/* ---- the plan ---- */

/* SplitMix64: even over all 64 bits, whatever the seed. */
static uint64_t draw(uint64_t *state) {
    uint64_t x = *state += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

/* In (0, 1]. */
static double draw_unit(uint64_t *state) { return (double)((draw(state) >> 11) + 1) * 0x1p-53; }

uint32_t serve_longest(uint32_t tokens, double range) { return (uint32_t)floor(tokens * (1 + range)); }

static uint32_t draw_length(uint64_t *state, uint32_t tokens, double range) {
    uint32_t least = (uint32_t)ceil(tokens * (1 - range)), most = serve_longest(tokens, range);
    if (least < 1) least = 1;
    return most <= least ? least : least + (uint32_t)(draw(state) % (most - least + 1));
}

void serve_make_plan(serve_plan *plan, uint32_t n, const serve_shape *shape) {
    uint64_t lengths = shape->seed, times = ~shape->seed;
    double at_s = 0;
    for (uint32_t i = 0; i < n; i++) {
        plan[i].at_s = at_s;
        plan[i].prompt = draw_length(&lengths, shape->prompt, shape->range);
        plan[i].generate = draw_length(&lengths, shape->generate, shape->range);
        /* Between arrivals of a Poisson process lie exponential times. */
        if (shape->rate > 0) at_s += -log(draw_unit(&times)) / shape->rate;
    }
}

status serve_read_percentiles(const char *text, double *out, uint32_t *count) {
    const char *at = text;
    *count = 0;
    do {
        char *end = NULL;
        at += strspn(at, " ");
        double value = *at >= '0' && *at <= '9' ? strtod(at, &end) : -1;
        if (!end || (*end && *end != ',') || !(value >= 0 && value <= 100))
            return fail(ST_INVALID, "\"%s\" is no list of numbers from 0 to 100", text);
        if (*count == SERVE_PERCENTILES_MAX)
            return fail(ST_INVALID, "\"%s\" has more than %d numbers", text, SERVE_PERCENTILES_MAX);
        out[(*count)++] = value;
        at = *end ? end + 1 : NULL;
    } while (at);
    return ST_OK;
}

/* ---- figures ---- */

static serve_spread spread_of(const serve_figures *f, double *x, size_t n) {
    serve_spread s = {.mean = statistics_mean(x, n), .std = statistics_deviation(x, n)};
    statistics_sort(x, n);
    s.median = statistics_median(x, n);
    for (uint32_t i = 0; i < f->percent_count; i++)
        s.percentile[i] = statistics_percentile(x, n, f->percent[i]);
    return s;
}

/* The most intervals [sent, done) that overlap: ends first where both are at one time. */
static uint32_t count_peak(const serve_request *r, uint32_t n) {
    double *begin = memory_alloc_array(n + 1, sizeof *begin), *end = memory_alloc_array(n + 1, sizeof *end);
    uint32_t count = 0, peak = 0;
    for (uint32_t i = 0; i < n; i++)
        if (r[i].completed) begin[count] = r[i].sent_s, end[count++] = r[i].sent_s + r[i].latency_s;
    statistics_sort(begin, count);
    statistics_sort(end, count);
    for (uint32_t i = 0, done = 0; i < count; i++) {
        while (end[done] <= begin[i] && done < i) done++;
        if (i + 1 - done > peak) peak = i + 1 - done;
    }
    free(begin);
    free(end);
    return peak;
}

/* Tokens in the best of the seconds since the first request. */
static double count_peak_tokens(const serve_request *r, uint32_t n, double duration_s) {
    size_t seconds = duration_s > 0 && duration_s < 1e8 ? (size_t)duration_s + 2 : 2;
    uint32_t *in = memory_alloc_array(seconds, sizeof *in), peak = 0;
    for (uint32_t i = 0; i < n; i++) {
        double at_s = r[i].sent_s + r[i].first_token_s;
        if (!r[i].completed || r[i].output_tokens == 0) continue;
        for (uint32_t k = 0;; k++) {
            size_t second = at_s < (double)seconds ? (size_t)at_s : seconds - 1;
            if (++in[second] > peak) peak = in[second];
            if (k == r[i].gap_count) break;
            at_s += r[i].gap_s[k];
        }
    }
    free(in);
    return peak;
}

void serve_summarise(serve_figures *out, const serve_request *r, uint32_t n, double duration_s) {
    size_t gaps = 0, firsts = 0, rests = 0, between = 0;
    for (uint32_t i = 0; i < n; i++) gaps += r[i].gap_count;
    double *ttft = memory_alloc_array(n + 1, sizeof *ttft), *tpot = memory_alloc_array(n + 1, sizeof *tpot),
           *e2el = memory_alloc_array(n + 1, sizeof *e2el), *itl = memory_alloc_array(gaps + 1, sizeof *itl);
    out->completed = out->failed = 0;
    out->input_tokens = out->output_tokens = 0;
    out->duration_s = duration_s;
    for (uint32_t i = 0; i < n; i++) {
        const serve_request *q = &r[i];
        if (!q->completed) {
            out->failed++;
            continue;
        }
        out->completed++;
        out->input_tokens += q->input_tokens;
        out->output_tokens += q->output_tokens;
        e2el[firsts] = q->latency_s * 1e3;
        ttft[firsts++] = q->first_token_s * 1e3;
        if (q->output_tokens > 1)
            tpot[rests++] = (q->latency_s - q->first_token_s) / (q->output_tokens - 1) * 1e3;
        for (uint32_t k = 0; k < q->gap_count; k++) itl[between++] = q->gap_s[k] * 1e3;
    }
    out->ttft = spread_of(out, ttft, firsts);
    out->tpot = spread_of(out, tpot, rests);
    out->itl = spread_of(out, itl, between);
    out->e2el = spread_of(out, e2el, firsts);
    out->peak_requests = count_peak(r, n);
    out->peak_tokens_per_s = count_peak_tokens(r, n, duration_s);
    free(ttft);
    free(tpot);
    free(e2el);
    free(itl);
}

/* ---- saying them ---- */

static double per_second(const serve_figures *f, double n) {
    return f->duration_s > 0 ? n / f->duration_s : 0;
}

static void write_number(json_writer *w, const char *key, double value) {
    json_key(w, key);
    json_double(w, value);
}

static void write_count(json_writer *w, const char *key, uint64_t value) {
    json_key(w, key);
    json_u64(w, value);
}

static void write_spread(json_writer *w, const serve_figures *f, const char *what, const serve_spread *s) {
    const struct {
        const char *name;
        double value;
    } rows[] = {{"mean", s->mean}, {"median", s->median}, {"std", s->std}};
    char key[48];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        snprintf(key, sizeof key, "%s_%s_ms", rows[i].name, what);
        write_number(w, key, rows[i].value);
    }
    for (uint32_t i = 0; i < f->percent_count; i++) {
        snprintf(key, sizeof key, "p%.6g_%s_ms", f->percent[i], what);
        write_number(w, key, s->percentile[i]);
    }
}

void serve_write_json(json_writer *w, const serve_figures *f) {
    write_number(w, "duration", f->duration_s);
    write_count(w, "completed", f->completed);
    write_count(w, "failed", f->failed);
    write_count(w, "total_input_tokens", f->input_tokens);
    write_count(w, "total_output_tokens", f->output_tokens);
    write_number(w, "request_throughput", per_second(f, f->completed));
    write_number(w, "output_throughput", per_second(f, (double)f->output_tokens));
    write_number(w, "total_token_throughput", per_second(f, (double)(f->input_tokens + f->output_tokens)));
    write_number(w, "max_output_tokens_per_s", f->peak_tokens_per_s);
    write_count(w, "max_concurrent_requests", f->peak_requests);
    write_spread(w, f, "ttft", &f->ttft);
    write_spread(w, f, "tpot", &f->tpot);
    write_spread(w, f, "itl", &f->itl);
    write_spread(w, f, "e2el", &f->e2el);
}

static void text_count(strbuf *out, const char *what, uint64_t n) {
    strbuf_add_format(out, "%-40s %-10llu\n", what, (unsigned long long)n);
}

static void text_number(strbuf *out, const char *what, double value) {
    strbuf_add_format(out, "%-40s %-10.2f\n", what, value);
}

enum { TEXT_WIDTH = 50 };

static void text_title(strbuf *out, char rule, const char *title) {
    size_t n = strlen(title), left = (TEXT_WIDTH - n) / 2;
    for (size_t i = 0; i < TEXT_WIDTH - n; i++) {
        if (i == left) strbuf_add(out, title, n);
        strbuf_add(out, &rule, 1);
    }
    strbuf_add_string(out, "\n");
}

static void text_spread(strbuf *out, const serve_figures *f, const char *title, const char *name,
                        const serve_spread *s) {
    char what[48];
    text_title(out, '-', title);
    snprintf(what, sizeof what, "Mean %s (ms):", name), text_number(out, what, s->mean);
    snprintf(what, sizeof what, "Median %s (ms):", name), text_number(out, what, s->median);
    snprintf(what, sizeof what, "Std %s (ms):", name), text_number(out, what, s->std);
    for (uint32_t i = 0; i < f->percent_count; i++) {
        snprintf(what, sizeof what, "P%.6g %s (ms):", f->percent[i], name);
        text_number(out, what, s->percentile[i]);
    }
}

void serve_write_text(strbuf *out, const serve_figures *f) {
    text_title(out, '=', " Serving Benchmark Result ");
    text_count(out, "Successful requests:", f->completed);
    text_count(out, "Failed requests:", f->failed);
    if (f->max_concurrency) text_count(out, "Maximum request concurrency:", f->max_concurrency);
    if (f->rate > 0) text_number(out, "Request rate configured (RPS):", f->rate);
    text_number(out, "Benchmark duration (s):", f->duration_s);
    text_count(out, "Total input tokens:", f->input_tokens);
    text_count(out, "Total generated tokens:", f->output_tokens);
    text_number(out, "Request throughput (req/s):", per_second(f, f->completed));
    text_number(out, "Output token throughput (tok/s):", per_second(f, (double)f->output_tokens));
    text_number(out, "Peak output token throughput (tok/s):", f->peak_tokens_per_s);
    text_count(out, "Peak concurrent requests:", f->peak_requests);
    text_number(
        out, "Total token throughput (tok/s):", per_second(f, (double)(f->input_tokens + f->output_tokens)));
    text_spread(out, f, "Time to First Token", "TTFT", &f->ttft);
    text_spread(out, f, "Time per Output Token (excl. 1st token)", "TPOT", &f->tpot);
    text_spread(out, f, "Inter-token Latency", "ITL", &f->itl);
    text_spread(out, f, "End-to-end Latency", "E2EL", &f->e2el);
    text_title(out, '=', "==");
}
