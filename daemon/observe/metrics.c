#include "daemon/observe/metrics.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "build_id.h"

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

enum {
    BUCKETS_MAX = 24,
    REFUSED_MAX = 256,
    HTTP_CODES = 600,
    LABELS_BYTES = 2 * LIMIT_MODEL_NAME_BYTES + 64
};

/* ---- what is counted: one row a metric ---- */

typedef struct histogram_row {
    const char *name, *help;
    const double *bound; /* rising */
    uint32_t bounds;
    bool of_tokens; /* bounds above the context are left out */
} histogram_row;

static const double first_token_bounds[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                                            1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
static const double token_gap_bounds[] = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
                                          0.75, 1,     2.5,  5,     7.5, 10,   20,  40,  80};
static const double latency_bounds[] = {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                        30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
static const double token_bounds[] = {1,    2,    5,     10,    20,    50,     100,    200,    500,    1000,
                                      2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1000000};
static const double n_bounds[] = {1, 2, 5, 10, 20};
_Static_assert(COUNT_OF(first_token_bounds) < BUCKETS_MAX && COUNT_OF(latency_bounds) < BUCKETS_MAX,
               "one more bucket for +Inf");

#define BOUNDS(array) array, COUNT_OF(array)
static const histogram_row histogram_table[METRICS_HISTOGRAMS] = {
    [METRICS_FIRST_TOKEN_SECONDS] = {"time_to_first_token_seconds",
                                     "From a request's arrival to its first token.",
                                     BOUNDS(first_token_bounds), false},
    [METRICS_INTER_TOKEN_SECONDS] = {"inter_token_latency_seconds", "Between two tokens of a request.",
                                     BOUNDS(token_gap_bounds), false},
    [METRICS_OUTPUT_TOKEN_SECONDS] = {"request_time_per_output_token_seconds",
                                      "A request's mean time per token after the first.",
                                      BOUNDS(token_gap_bounds), false},
    [METRICS_E2E_SECONDS] = {"e2e_request_latency_seconds", "From a request's arrival to its end.",
                             BOUNDS(latency_bounds), false},
    [METRICS_QUEUE_SECONDS] = {"request_queue_time_seconds", "A request's time before the engine began it.",
                               BOUNDS(latency_bounds), false},
    [METRICS_INFERENCE_SECONDS] = {"request_inference_time_seconds",
                                   "A request's time in the engine after it began.", BOUNDS(latency_bounds),
                                   false},
    [METRICS_PREFILL_SECONDS] = {"request_prefill_time_seconds", "A request's time for its prompt.",
                                 BOUNDS(latency_bounds), false},
    [METRICS_DECODE_SECONDS] = {"request_decode_time_seconds",
                                "A request's time from its first token to its last.", BOUNDS(latency_bounds),
                                false},
    [METRICS_REQUEST_PROMPT_TOKENS] = {"request_prompt_tokens", "Tokens of a request's prompt.",
                                       BOUNDS(token_bounds), true},
    [METRICS_REQUEST_GENERATION_TOKENS] = {"request_generation_tokens", "Tokens of a request's answer.",
                                           BOUNDS(token_bounds), true},
    [METRICS_PARAM_MAX_TOKENS] = {"request_params_max_tokens", "The max_tokens of a request that gave one.",
                                  BOUNDS(token_bounds), true},
    [METRICS_PARAM_N] = {"request_params_n", "The n of a request: its samples.", BOUNDS(n_bounds), false},
};

typedef struct histogram {
    uint64_t bucket[BUCKETS_MAX]; /* each alone; they are added up when written */
    double sum;
} histogram;

/* A total that goes on when the engine begins a new run at 0. */
typedef struct running_total {
    uint64_t of_earlier_runs, seen;
} running_total;

enum {
    TOTAL_QUERIES,
    TOTAL_HITS,
    TOTAL_PREEMPTIONS,
    TOTAL_STEPS,
    TOTAL_COLLECTIVE_NS,
    TOTAL_STEP_NS,
    TOTAL_WEIGHT_BYTES,
    TOTALS
};

struct metrics_engine {
    char labels[LABELS_BYTES]; /* model_name="…",engine="0", escaped */
    uint32_t context_tokens;
    uint64_t counter[METRICS_COUNTERS];
    histogram histogram[METRICS_HISTOGRAMS];
    metrics_engine_now now;
    running_total total[TOTALS], collective_steps[LIMIT_COLLECTIVE_BUCKETS];
    metrics_engine *next;
};

typedef struct refused_row {
    char model[LIMIT_MODEL_NAME_BYTES + 1];
    status why;
    uint64_t count;
} refused_row;

struct metrics {
    metrics_engine *first, **last;
    refused_row refused[REFUSED_MAX];
    uint32_t refused_count;
    uint64_t auth_failures, http[HTTP_CODES];
};

/* ---- counting ---- */

/* A label's value: backslash, quote and newline are escaped. */
static void add_escaped(strbuf *out, const char *text) {
    for (; *text; text++) {
        if (*text == '\n') strbuf_add_string(out, "\\n");
        else if (*text == '\\' || *text == '"') strbuf_add_format(out, "\\%c", *text);
        else strbuf_add(out, text, 1);
    }
}

metrics *metrics_open(void) {
    metrics *m = memory_alloc(sizeof *m);
    m->last = &m->first;
    return m;
}

void metrics_close(metrics *m) {
    if (!m) return;
    for (metrics_engine *e = m->first, *next; e; e = next) {
        next = e->next;
        free(e);
    }
    free(m);
}

metrics_engine *metrics_add_engine(metrics *m, const char *model, uint32_t number, uint32_t context_tokens) {
    if (!m) return NULL;
    metrics_engine *e = memory_alloc(sizeof *e);
    strbuf labels = {0};
    strbuf_add_format(&labels, "engine=\"%u\",model_name=\"", number);
    add_escaped(&labels, model);
    strbuf_add_string(&labels, "\"");
    INVARIANT(labels.size < sizeof e->labels);
    memcpy(e->labels, labels.data, labels.size + 1);
    strbuf_close(&labels);
    e->context_tokens = context_tokens;
    *m->last = e;
    m->last = &e->next;
    return e;
}

void metrics_count(metrics_engine *e, metrics_counter which, uint64_t n) {
    if (e) e->counter[which] += n;
}

static uint32_t bounds_of(const metrics_engine *e, const histogram_row *row) {
    uint32_t n = row->bounds;
    while (row->of_tokens && n > 1 && row->bound[n - 1] > e->context_tokens) n--;
    return n;
}

void metrics_observe(metrics_engine *e, metrics_histogram which, double value) {
    if (!e || !isfinite(value)) return;
    const histogram_row *row = &histogram_table[which];
    uint32_t i = 0;
    while (i < row->bounds && value > row->bound[i]) i++;
    e->histogram[which].bucket[i]++;
    e->histogram[which].sum += value;
}

void metrics_count_refused(metrics *m, const char *model, status why) {
    if (!m) return;
    uint32_t i = 0;
    while (i < m->refused_count && (m->refused[i].why != why || strcmp(m->refused[i].model, model) != 0)) i++;
    if (i == m->refused_count) {
        /* Models are those that are served, and statuses few: there is room for all. */
        if (i == REFUSED_MAX) return;
        m->refused_count++;
        snprintf(m->refused[i].model, sizeof m->refused[i].model, "%s", model);
        m->refused[i].why = why;
    }
    m->refused[i].count++;
}

void metrics_set_auth_failures(metrics *m, uint64_t so_far) {
    if (m) m->auth_failures = so_far;
}

void metrics_count_http(metrics *m, unsigned code) {
    if (m && code >= 100 && code < HTTP_CODES) m->http[code]++;
}

static void follow(running_total *t, uint64_t now, bool new_run) {
    if (new_run || now < t->seen) t->of_earlier_runs += t->seen;
    t->seen = now;
}

void metrics_set_engine(metrics_engine *e, const metrics_engine_now *now) {
    if (!e) return;
    bool new_run = now->restarts != e->now.restarts || now->steps < e->now.steps;
    const uint64_t totals[TOTALS] = {
        [TOTAL_QUERIES] = now->prefix_query_tokens,
        [TOTAL_HITS] = now->prefix_hit_tokens,
        [TOTAL_PREEMPTIONS] = now->preemptions,
        [TOTAL_STEPS] = now->steps,
        [TOTAL_STEP_NS] = now->step_ns,
        [TOTAL_WEIGHT_BYTES] = now->weight_bytes,
        [TOTAL_COLLECTIVE_NS] = now->collective_ns,
    };
    for (int i = 0; i < TOTALS; i++) follow(&e->total[i], totals[i], new_run);
    for (int i = 0; i < LIMIT_COLLECTIVE_BUCKETS; i++)
        follow(&e->collective_steps[i], now->collective_steps[i], new_run);
    e->now = *now;
}

static uint64_t sum_of(const running_total *t) { return t->of_earlier_runs + t->seen; }

/* ---- writing ---- */

/* The shortest of two forms that reads back as the same value; a bound that is whole ends in ".0", as vLLM's do, since
 * le="1" and le="1.0" are different labels. */
static void add_value(strbuf *out, double value, bool as_bound) {
    char text[40];
    snprintf(text, sizeof text, "%.15g", value);
    if (strtod(text, NULL) != value) snprintf(text, sizeof text, "%.17g", value);
    strbuf_add_string(out, text);
    if (as_bound && !strpbrk(text, ".en")) strbuf_add_string(out, ".0");
}

static void add_head(strbuf *out, const char *name, const char *type, const char *help) {
    strbuf_add_format(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void add_count(strbuf *out, uint64_t value) {
    strbuf_add_format(out, "%llu\n", (unsigned long long)value);
}

static void add_histogram(const metrics_engine *e, const histogram_row *row, const histogram *h,
                          strbuf *out) {
    uint64_t below = 0;
    uint32_t bounds = bounds_of(e, row);
    for (uint32_t i = 0; i < bounds; i++) {
        below += h->bucket[i];
        strbuf_add_format(out, "gemmad:%s_bucket{%s,le=\"", row->name, e->labels);
        add_value(out, row->bound[i], true);
        strbuf_add_string(out, "\"} ");
        add_count(out, below);
    }
    for (uint32_t i = bounds; i <= row->bounds; i++) below += h->bucket[i];
    strbuf_add_format(out, "gemmad:%s_bucket{%s,le=\"+Inf\"} ", row->name, e->labels);
    add_count(out, below);
    strbuf_add_format(out, "gemmad:%s_count{%s} ", row->name, e->labels);
    add_count(out, below);
    strbuf_add_format(out, "gemmad:%s_sum{%s} ", row->name, e->labels);
    add_value(out, h->sum, false);
    strbuf_add_string(out, "\n");
}

static void write_histograms(const metrics *m, strbuf *out) {
    for (int i = 0; i < METRICS_HISTOGRAMS; i++) {
        const histogram_row *row = &histogram_table[i];
        strbuf_add_format(out, "# HELP gemmad:%s %s\n# TYPE gemmad:%s histogram\n", row->name, row->help,
                          row->name);
        for (const metrics_engine *e = m->first; e; e = e->next) add_histogram(e, row, &e->histogram[i], out);
    }
    double bound[LIMIT_COLLECTIVE_BUCKETS - 1], ns = LIMIT_COLLECTIVE_FIRST_NS;
    for (size_t i = 0; i < COUNT_OF(bound); i++, ns *= 4) bound[i] = ns / 1e9;
    const histogram_row row = {"collective_seconds",
                               "Of a step, what rank 0 spent in exchanges between ranks, waiting included.",
                               BOUNDS(bound), false};
    strbuf_add_format(out, "# HELP gemmad:%s %s\n# TYPE gemmad:%s histogram\n", row.name, row.help, row.name);
    for (const metrics_engine *e = m->first; e; e = e->next) {
        histogram h = {.sum = (double)sum_of(&e->total[TOTAL_COLLECTIVE_NS]) / 1e9};
        for (size_t i = 0; i < LIMIT_COLLECTIVE_BUCKETS; i++) h.bucket[i] = sum_of(&e->collective_steps[i]);
        add_histogram(e, &row, &h, out);
    }
}

/* Rows of engines: a gauge or counter, and where its value comes from. */
typedef struct engine_row {
    const char *name, *type, *help;
    double (*value)(const metrics_engine *e);
} engine_row;

#define VALUE(function, expression)                                                                          \
    static double function(const metrics_engine *e) { return (double)(expression); }
VALUE(running, e->now.running)
VALUE(waiting, e->now.waiting)
VALUE(paused, e->now.paused)
VALUE(ready, e->now.ready)
VALUE(kv_usage, e->now.kv_usage)
VALUE(kv_cached, e->now.kv_cached)
VALUE(spilled, e->now.spilled_bytes)
VALUE(weight_rate, e->now.weight_bytes_per_second)
VALUE(imbalance, e->now.imbalance)
VALUE(restarts, e->now.restarts)
VALUE(prompt_tokens, e->counter[METRICS_PROMPT_TOKENS])
VALUE(generation_tokens, e->counter[METRICS_GENERATION_TOKENS])
VALUE(malformed_calls, e->counter[METRICS_MALFORMED_CALLS])
VALUE(queries, sum_of(&e->total[TOTAL_QUERIES]))
VALUE(hits, sum_of(&e->total[TOTAL_HITS]))
VALUE(preemptions, sum_of(&e->total[TOTAL_PREEMPTIONS]))
VALUE(steps, sum_of(&e->total[TOTAL_STEPS]))
VALUE(step_seconds, (double)sum_of(&e->total[TOTAL_STEP_NS]) / 1e9)
VALUE(weight_bytes, sum_of(&e->total[TOTAL_WEIGHT_BYTES]))

static const engine_row engine_rows[] = {
    {"num_requests_running", "gauge", "Requests that the engine has begun.", running},
    {"num_requests_waiting", "gauge", "Requests that wait for the engine to begin them.", waiting},
    {"num_requests_paused", "gauge", "Requests, of both, that wait for their reader.", paused},
    {"engine_ready", "gauge", "1 while the engine takes requests.", ready},
    {"kv_cache_usage_perc", "gauge", "Part of the KV cache that requests use; 1 is all of it.", kv_usage},
    {"kv_cache_cached_perc", "gauge",
     "Part of the KV cache that only the prefix cache keeps, and gives up when needed.", kv_cached},
    {"prefix_spill_bytes", "gauge", "Bytes of the prefix cache on disk.", spilled},
    {"weight_bytes_per_second", "gauge",
     "Bytes of weights that all ranks read, per second of recent steps; 0 without any.", weight_rate},
    {"expert_imbalance", "gauge",
     "Recent expert rows of the busiest group of ranks by those of the mean; 1 is even.", imbalance},
    {"engine_restarts_total", "counter", "Times that the engine was started again.", restarts},
    {"engine_steps_total", "counter", "Steps that the engine has taken.", steps},
    {"step_seconds_total", "counter", "Time in steps.", step_seconds},
    {"weight_bytes_total", "counter",
     "Bytes of weights that all ranks have read in steps, each matrix once a step.", weight_bytes},
    {"prompt_tokens_total", "counter", "Prompt tokens processed, those found in the prefix cache included.",
     prompt_tokens},
    {"generation_tokens_total", "counter", "Tokens generated.", generation_tokens},
    {"malformed_tool_calls_total", "counter", "Tool calls that could not be read or were cut by the limit.",
     malformed_calls},
    {"prefix_cache_queries_total", "counter", "Prompt tokens looked up in the prefix cache.", queries},
    {"prefix_cache_hits_total", "counter", "Prompt tokens found in the prefix cache.", hits},
    {"num_preemptions_total", "counter",
     "Times that a request gave up its KV pages to be computed again later.", preemptions},
};

static void write_engines(const metrics *m, strbuf *out) {
    for (size_t i = 0; i < COUNT_OF(engine_rows); i++) {
        const engine_row *row = &engine_rows[i];
        strbuf_add_format(out, "# HELP gemmad:%s %s\n# TYPE gemmad:%s %s\n", row->name, row->help, row->name,
                          row->type);
        for (const metrics_engine *e = m->first; e; e = e->next) {
            strbuf_add_format(out, "gemmad:%s{%s} ", row->name, e->labels);
            add_value(out, row->value(e), false);
            strbuf_add_string(out, "\n");
        }
    }
    static const char *const reasons[] = {"stop", "length", "abort", "error"};
    add_head(out, "gemmad:request_success_total", "counter", "Requests that ended, by how.");
    for (const metrics_engine *e = m->first; e; e = e->next)
        for (size_t i = 0; i < COUNT_OF(reasons); i++) {
            strbuf_add_format(out, "gemmad:request_success_total{%s,finished_reason=\"%s\"} ", e->labels,
                              reasons[i]);
            add_count(out, e->counter[METRICS_STOP + i]);
        }
}

static void write_refusals(const metrics *m, strbuf *out) {
    add_head(out, "gemmad:requests_refused_total", "counter",
             "Requests that reached no engine, by the status they got.");
    for (uint32_t i = 0; i < m->refused_count; i++) {
        strbuf_add_string(out, "gemmad:requests_refused_total{model_name=\"");
        add_escaped(out, m->refused[i].model);
        strbuf_add_format(out, "\",status=\"%s\"} ", status_name(m->refused[i].why));
        add_count(out, m->refused[i].count);
    }
    add_head(out, "gemmad:auth_failures_total", "counter",
             "Calls and connections without a key or certificate that counts.");
    strbuf_add_string(out, "gemmad:auth_failures_total ");
    add_count(out, m->auth_failures);
    add_head(out, "gemmad:http_responses_total", "counter", "HTTP answers, by code.");
    for (unsigned code = 0; code < HTTP_CODES; code++) {
        if (!m->http[code]) continue;
        strbuf_add_format(out, "gemmad:http_responses_total{code=\"%u\"} ", code);
        add_count(out, m->http[code]);
    }
}

/* The fields of /proc/self/stat behind the command's name, which may hold anything; false: not there. */
static bool read_own_stat(double *start_ticks, double *resident_pages) {
    char text[1024];
    FILE *f = fopen("/proc/self/stat", "re");
    if (!f) return false;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    const char *after = strrchr(text, ')');
    return after &&
           sscanf(after + 1,
                  " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %lf %*u %lf",
                  start_ticks, resident_pages) == 2;
}

static double boot_time(void) {
    char line[256];
    unsigned long long seconds = 0;
    FILE *f = fopen("/proc/stat", "re");
    if (!f) return 0;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "btime %llu", &seconds) == 1) break;
    fclose(f);
    return (double)seconds;
}

static void add_single(strbuf *out, const char *name, const char *type, const char *help, double value) {
    add_head(out, name, type, help);
    strbuf_add_format(out, "%s ", name);
    add_value(out, value, false);
    strbuf_add_string(out, "\n");
}

/* Of the coordinator alone; what ranks use stands in GetStatus. The names that Prometheus' own clients use. */
static void write_process(strbuf *out) {
    struct rusage used = {0};
    double start_ticks, pages;
    getrusage(RUSAGE_SELF, &used);
    add_single(out, "process_cpu_seconds_total", "counter", "CPU time of gemmad itself.",
               (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                   (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
    if (!read_own_stat(&start_ticks, &pages)) return;
    add_single(out, "process_start_time_seconds", "gauge", "When gemmad was started, in Unix time.",
               boot_time() + start_ticks / (double)sysconf(_SC_CLK_TCK));
    add_single(out, "process_resident_memory_bytes", "gauge", "Memory of gemmad itself.",
               pages * (double)sysconf(_SC_PAGESIZE));
}

void metrics_write(const metrics *m, strbuf *out) {
    write_engines(m, out);
    write_histograms(m, out);
    write_refusals(m, out);
    add_head(out, "gemmad:build_info", "gauge", "Always 1; the labels say what runs.");
    strbuf_add_format(out, "gemmad:build_info{build_id=\"%s\",version=\"%s\"} 1\n", GEMMAD_BUILD_ID,
                      GEMMAD_VERSION);
    write_process(out);
}
