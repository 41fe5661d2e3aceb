#include "ctl/bench_serve.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "ctl/ctl.h"
#include "proto/gemmad.pb-c.h"

enum { FIRST_ORDINARY_TOKEN = 600, POLL_NS = 50000000 };

/* ---- sending ---- */

/* What the streams share: each takes the next request that nobody has. */
typedef struct queue {
    const serve_load *load;
    pthread_barrier_t begin;
    atomic_uint next;
    uint64_t begin_ns;      /* written before the second barrier */
    serve_request *request; /* [load->count] */
} queue;

typedef struct stream {
    queue *queue;
    pthread_t thread;
    bool first; /* says when all begins */
    client *server;
    uint32_t *ids; /* scratch */
    uint64_t last_ns;
    char *failure;
} stream;

static void draw_prompt(const serve_load *load, uint32_t number, uint32_t *ids) {
    uint32_t vocab = load->vocab, first = vocab > 2 * FIRST_ORDINARY_TOKEN ? FIRST_ORDINARY_TOKEN : 0;
    uint64_t random = (load->seed + number + 1) * 0x9E3779B97F4A7C15u;
    for (uint32_t i = 0; i < load->plan[number].prompt; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        ids[i] = first + (uint32_t)((random >> 33) % (vocab - first));
    }
}

static double seconds_between(uint64_t a, uint64_t b) { return b > a ? (double)(b - a) / 1e9 : 0; }

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

static status one_request(stream *s, uint32_t number) {
    const serve_load *load = s->queue->load;
    serve_request *r = &s->queue->request[number];
    Gemmad__V1__TokenIds ids = GEMMAD__V1__TOKEN_IDS__INIT;
    Gemmad__V1__Sampling sampling = GEMMAD__V1__SAMPLING__INIT;
    Gemmad__V1__GenerateRequest request = GEMMAD__V1__GENERATE_REQUEST__INIT;
    draw_prompt(load, number, s->ids);
    ids.ids = s->ids;
    ids.n_ids = load->plan[number].prompt;
    sampling.has_max_tokens = sampling.has_ignore_eos = sampling.has_temperature = 1;
    sampling.max_tokens = load->plan[number].generate;
    sampling.ignore_eos = 1; /* every request gets its whole number of tokens */
    request.model = ctl_model(load->model);
    request.prompt_case = GEMMAD__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS;
    request.token_ids = &ids;
    request.sampling = &sampling;
    client_stream *in = NULL;
    uint64_t sent_ns = clock_now_ns();
    r->sent_s = seconds_between(s->queue->begin_ns, sent_ns);
    TRY(client_stream_open(&in, s->server, "/gemmad.v1.Inference/Generate", &request.base,
                           &gemmad__v1__generate_event__descriptor, 0));
    status st = read_answer(in, r, sent_ns, sampling.max_tokens);
    client_stream_close(in);
    r->input_tokens = load->plan[number].prompt;
    r->completed = st == ST_OK;
    return st;
}

static void wait_until(const queue *q, double at_s) {
    uint64_t due_ns = q->begin_ns + (uint64_t)(at_s * 1e9);
    for (uint64_t now; (now = clock_now_ns()) < due_ns && !client_interrupt();) {
        uint64_t left = due_ns - now < POLL_NS ? due_ns - now : POLL_NS;
        nanosleep(&(struct timespec){.tv_nsec = (long)left}, NULL);
    }
}

static void *run_stream(void *context) {
    stream *s = context;
    queue *q = s->queue;
    status st = client_open(&s->server, q->load->address, CTL_CONNECT_MS);
    pthread_barrier_wait(&q->begin);
    if (s->first) q->begin_ns = clock_now_ns();
    pthread_barrier_wait(&q->begin);
    if (st != ST_OK) s->failure = memory_copy_string(status_text());
    /* A request that fails leaves the stream to the next one, as the others are not its fault. */
    for (uint32_t i;
         st == ST_OK && !client_interrupt() && (i = atomic_fetch_add(&q->next, 1)) < q->load->count;) {
        wait_until(q, q->load->plan[i].at_s);
        if (client_interrupt() || one_request(s, i) == ST_OK) continue;
        if (!s->failure) s->failure = memory_copy_string(status_text());
    }
    s->last_ns = clock_now_ns();
    client_close(s->server);
    return NULL;
}

static status start_streams(stream *all, queue *q) {
    uint32_t longest = 1;
    for (uint32_t i = 0; i < q->load->count; i++)
        if (q->load->plan[i].prompt > longest) longest = q->load->plan[i].prompt;
    for (uint32_t i = 0; i < q->load->streams; i++) {
        stream *s = &all[i];
        *s = (stream){.queue = q, .first = i == 0, .ids = memory_alloc_array(longest, sizeof *s->ids)};
        int code = pthread_create(&s->thread, NULL, run_stream, s);
        /* Those that wait at the barrier wait for one that will not come. */
        if (code != 0)
            return fail(ST_NO_MEMORY, "stream %u of %u: %s", i + 1, q->load->streams, strerror(code));
    }
    return ST_OK;
}

status serve_run(const serve_load *load, serve_request **out, double *seconds, char **failure) {
    stream *all = memory_alloc_array(load->streams, sizeof *all);
    queue q = {.load = load, .request = memory_alloc_array(load->count, sizeof *q.request)};
    if (pthread_barrier_init(&q.begin, NULL, load->streams) != 0)
        return fail(ST_NO_MEMORY, "a barrier for %u streams", load->streams);
    TRY(start_streams(all, &q));
    uint64_t last_ns = 0;
    *failure = NULL;
    for (uint32_t i = 0; i < load->streams; i++) {
        stream *s = &all[i];
        pthread_join(s->thread, NULL);
        if (s->last_ns > last_ns) last_ns = s->last_ns;
        if (!*failure) *failure = s->failure;
        else free(s->failure);
        free(s->ids);
    }
    pthread_barrier_destroy(&q.begin);
    free(all);
    *seconds = seconds_between(q.begin_ns, last_ns);
    *out = q.request;
    return client_interrupt() ? fail(ST_CANCELLED, "interrupted") : ST_OK;
}

void serve_requests_free(serve_request *r, uint32_t n) {
    for (uint32_t i = 0; r && i < n; i++) free(r[i].gap_s);
    free(r);
}
