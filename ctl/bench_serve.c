#include "ctl/bench_serve.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/statistics.h"
#include "ctl/ctl.h"
#include "proto/gemmad.pb-c.h"

enum { FIRST_ORDINARY_TOKEN = 600 };

/* ---- sending ---- */

typedef struct stream {
    const serve_load *load;
    pthread_barrier_t *begin;
    pthread_t thread;
    client *server;
    uint32_t *ids; /* [prompt] scratch */
    uint64_t random;
    serve_request *requests; /* [each], its own */
    uint64_t first_ns, last_ns;
    char *failure;
} stream;

static void draw_prompt(stream *s) {
    uint32_t vocab = s->load->vocab, first = vocab > 2 * FIRST_ORDINARY_TOKEN ? FIRST_ORDINARY_TOKEN : 0;
    for (uint32_t i = 0; i < s->load->prompt; i++) {
        s->random = s->random * 6364136223846793005u + 1442695040888963407u;
        s->ids[i] = first + (uint32_t)((s->random >> 33) % (vocab - first));
    }
}

static double seconds_between(uint64_t a, uint64_t b) { return (double)(b - a) / 1e9; }

static status read_answer(client_stream *in, serve_request *r, uint64_t sent_ns, uint32_t most) {
    uint64_t last_ns = sent_ns;
    r->gap_s = memory_alloc_array(most, sizeof *r->gap_s);
    for (;;) {
        ProtobufCMessage *m;
        TRY(client_stream_next(in, &m));
        if (!m) return ST_OK;
        const Gemmad__V1__GenerateEvent *e = (void *)m;
        uint64_t now = clock_now_ns();
        if (e->event_case == GEMMAD__V1__GENERATE_EVENT__EVENT_DELTA && e->delta->n_token_ids) {
            if (r->output_tokens == 0) r->first_token_s = seconds_between(sent_ns, now);
            else if (r->gap_count < most) r->gap_s[r->gap_count++] = seconds_between(last_ns, now);
            r->output_tokens += (uint32_t)e->delta->n_token_ids;
            last_ns = now;
            r->latency_s = seconds_between(sent_ns, now);
        }
        protobuf_c_message_free_unpacked(m, NULL);
    }
}

static status one_request(stream *s, serve_request *r) {
    Gemmad__V1__TokenIds ids = GEMMAD__V1__TOKEN_IDS__INIT;
    Gemmad__V1__Sampling sampling = GEMMAD__V1__SAMPLING__INIT;
    Gemmad__V1__GenerateRequest request = GEMMAD__V1__GENERATE_REQUEST__INIT;
    draw_prompt(s);
    ids.ids = s->ids;
    ids.n_ids = s->load->prompt;
    sampling.has_max_tokens = sampling.has_ignore_eos = sampling.has_temperature = 1;
    sampling.max_tokens = s->load->generate;
    sampling.ignore_eos = 1; /* every request gets its whole number of tokens */
    request.model = ctl_model(s->load->model);
    request.prompt_case = GEMMAD__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS;
    request.token_ids = &ids;
    request.sampling = &sampling;
    client_stream *in = NULL;
    uint64_t sent_ns = clock_now_ns();
    TRY(client_stream_open(&in, s->server, "/gemmad.v1.Inference/Generate", &request.base,
                           &gemmad__v1__generate_event__descriptor, 0));
    status st = read_answer(in, r, sent_ns, s->load->generate);
    client_stream_close(in);
    r->input_tokens = s->load->prompt;
    r->completed = st == ST_OK;
    return st;
}

static void *run_stream(void *context) {
    stream *s = context;
    status st = client_open(&s->server, s->load->address, CTL_CONNECT_MS);
    pthread_barrier_wait(s->begin);
    s->first_ns = clock_now_ns();
    for (uint32_t i = 0; st == ST_OK && i < s->load->each; i++) st = one_request(s, &s->requests[i]);
    s->last_ns = clock_now_ns();
    if (st != ST_OK) s->failure = memory_copy_string(status_text());
    client_close(s->server);
    return NULL;
}

static status start_streams(stream *all, const serve_load *load, pthread_barrier_t *begin,
                            serve_request *out) {
    for (uint32_t i = 0; i < load->streams; i++) {
        stream *s = &all[i];
        *s = (stream){.load = load, .begin = begin, .requests = out + (size_t)i * load->each};
        /* Other prompts than in any run before: a prefix cache would have those. */
        s->random = (clock_now_ns() << 8) + i;
        s->ids = memory_alloc_array(load->prompt, sizeof *s->ids);
        int code = pthread_create(&s->thread, NULL, run_stream, s);
        /* Those that wait at the barrier wait for one that will not come. */
        if (code != 0) return fail(ST_NO_MEMORY, "stream %u of %u: %s", i + 1, load->streams, strerror(code));
    }
    return ST_OK;
}

status serve_run(const serve_load *load, serve_request **out, double *seconds, char **failure) {
    pthread_barrier_t begin;
    stream *all = memory_alloc_array(load->streams, sizeof *all);
    serve_request *requests = memory_alloc_array((size_t)load->streams * load->each, sizeof *requests);
    if (pthread_barrier_init(&begin, NULL, load->streams) != 0)
        return fail(ST_NO_MEMORY, "a barrier for %u streams", load->streams);
    TRY(start_streams(all, load, &begin, requests));
    uint64_t first_ns = UINT64_MAX, last_ns = 0;
    *failure = NULL;
    for (uint32_t i = 0; i < load->streams; i++) {
        stream *s = &all[i];
        pthread_join(s->thread, NULL);
        if (s->first_ns < first_ns) first_ns = s->first_ns;
        if (s->last_ns > last_ns) last_ns = s->last_ns;
        if (!*failure) *failure = s->failure;
        else free(s->failure);
        free(s->ids);
    }
    pthread_barrier_destroy(&begin);
    free(all);
    *seconds = seconds_between(first_ns, last_ns);
    *out = requests;
    return client_interrupt() ? fail(ST_CANCELLED, "interrupted") : ST_OK;
}

void serve_requests_free(serve_request *r, uint32_t n) {
    for (uint32_t i = 0; r && i < n; i++) free(r[i].gap_s);
    free(r);
}

/* ---- figures ---- */

static serve_spread spread_of(double *ms, size_t n) {
    statistics_sort(ms, n);
    return (serve_spread){.mean = statistics_mean(ms, n),
                          .median = statistics_median(ms, n),
                          .std = statistics_deviation(ms, n),
                          .p99 = statistics_percentile(ms, n, 99)};
}

void serve_summarise(serve_figures *out, const serve_request *r, uint32_t n, double duration_s) {
    size_t gaps = 0, firsts = 0, rests = 0, between = 0;
    for (uint32_t i = 0; i < n; i++) gaps += r[i].gap_count;
    double *ttft = memory_alloc_array(n, sizeof *ttft), *tpot = memory_alloc_array(n, sizeof *tpot),
           *itl = memory_alloc_array(gaps, sizeof *itl);
    *out = (serve_figures){.duration_s = duration_s};
    for (uint32_t i = 0; i < n; i++) {
        const serve_request *q = &r[i];
        if (!q->completed) {
            out->failed++;
            continue;
        }
        out->completed++;
        out->input_tokens += q->input_tokens;
        out->output_tokens += q->output_tokens;
        ttft[firsts++] = q->first_token_s * 1e3;
        if (q->output_tokens > 1)
            tpot[rests++] = (q->latency_s - q->first_token_s) / (q->output_tokens - 1) * 1e3;
        for (uint32_t k = 0; k < q->gap_count; k++) itl[between++] = q->gap_s[k] * 1e3;
    }
    out->ttft = spread_of(ttft, firsts);
    out->tpot = spread_of(tpot, rests);
    out->itl = spread_of(itl, between);
    free(ttft);
    free(tpot);
    free(itl);
}

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

static void write_spread(json_writer *w, const char *what, const serve_spread *s) {
    const struct {
        const char *name;
        double value;
    } rows[] = {{"mean", s->mean}, {"median", s->median}, {"std", s->std}, {"p99", s->p99}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char key[32];
        snprintf(key, sizeof key, "%s_%s_ms", rows[i].name, what);
        write_number(w, key, rows[i].value);
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
    write_spread(w, "ttft", &f->ttft);
    write_spread(w, "tpot", &f->tpot);
    write_spread(w, "itl", &f->itl);
}

static void text_spread(strbuf *out, const char *what, const serve_spread *s) {
    strbuf_add_format(out, "%-28s%10.2f ms mean, %.2f median, %.2f std, %.2f p99\n", what, s->mean, s->median,
                      s->std, s->p99);
}

void serve_write_text(strbuf *out, const serve_figures *f) {
    strbuf_add_format(out, "%-28s%10u completed, %u failed, in %.2f s\n", "requests", f->completed, f->failed,
                      f->duration_s);
    strbuf_add_format(out, "%-28s%10llu in, %llu out\n", "tokens", (unsigned long long)f->input_tokens,
                      (unsigned long long)f->output_tokens);
    strbuf_add_format(out, "%-28s%10.2f requests/s, %.2f output tokens/s, %.2f tokens/s in all\n",
                      "throughput", per_second(f, f->completed), per_second(f, (double)f->output_tokens),
                      per_second(f, (double)(f->input_tokens + f->output_tokens)));
    text_spread(out, "time to first token", &f->ttft);
    text_spread(out, "time per output token", &f->tpot);
    text_spread(out, "between tokens", &f->itl);
}
