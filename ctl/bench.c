/* gemmactl bench serve. (prefill and decode are gemmad-shard's: ctl/beside.c.) */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "ctl/bench_serve.h"
#include "ctl/ctl.h"
#include "ctl/own_daemon.h"
#include "ctl/terminal.h"
#include "proto/gemmad.pb-c.h"
#include "proto/limits.h"

enum {
    STREAMS = 8,
    PROMPT = 512,
    GENERATE = 128,
    STREAMS_MAX = 512,
    REPEAT_MAX = 1000,
    PROMPTS_MAX = 1000000,
    WAIT_S = 600
};

typedef struct bench_options {
    const char *model, *shape, *weights, *kv, *expert_layout, *rate, *percentiles;
    arg_u32 layers, ranks, threads, prompt, batch, generate, repeat, prompts, concurrency;
    arg_float range;
    arg_u64 seed;
} bench_options;

#define AT(field) offsetof(bench_options, field)

static const arg_option own_option[] = {
    {"model", ARG_TEXT, "PATH", AT(model), 0, 0,
     "start a gemmad with this model; with --server: the served model's name"},
    {"shape", ARG_WORD, "31b|26b-a4b|e4b|e2b", AT(shape), 0, 0, "the same with random weights of this size"},
    {"layers", ARG_U32, "N", AT(layers), 1, LIMIT_LAYERS, "only the first so many layers of the shape"},
    {"ranks", ARG_U32, "N", AT(ranks), 1, LIMIT_RANKS, "ranks of that engine"},
    {"threads", ARG_U32, "N", AT(threads), 1, 512, "threads of a rank"},
    {"weights", ARG_WORD, "auto|bf16|q8|q4|f32|fp8", AT(weights), 0, 0, "type of the weights; fp8 on a GPU"},
    {"kv", ARG_WORD, "auto|bf16|q8|f32", AT(kv), 0, 0, "type of the KV cache"},
    {"expert-layout", ARG_TEXT, "ExW", AT(expert_layout), 0, 0, "EP degree and width degree"},
    {"prompt", ARG_U32, "N", AT(prompt), 1, LIMIT_CONTEXT_TOKENS / 2, "tokens of a prompt; default 512"},
    {"generate", ARG_U32, "N", AT(generate), 1, LIMIT_CONTEXT_TOKENS / 2, "tokens of an answer; default 128"},
    {"random-range-ratio", ARG_FLOAT, "R", AT(range), 0, 1,
     "lengths are even between 1 - R and 1 + R of those; default 0"},
    {"batch", ARG_U32, "N", AT(batch), 1, STREAMS_MAX, "streams at once; default 8"},
    {"repeat", ARG_U32, "N", AT(repeat), 1, REPEAT_MAX,
     "requests of each stream, one after another; default 1"},
    {"num-prompts", ARG_U32, "N", AT(prompts), 1, PROMPTS_MAX,
     "requests in all; default: batch times repeat"},
    {"max-concurrency", ARG_U32, "N", AT(concurrency), 1, STREAMS_MAX,
     "at once, at most; default --batch, with --request-rate 512"},
    {"request-rate", ARG_TEXT, "RATE", AT(rate), 0, 0,
     "requests a second on average, as a Poisson process; default inf: as soon as there is room"},
    {"seed", ARG_U64, "N", AT(seed), 0, 0,
     "of arrivals, lengths and prompts; default: other prompts each time, which no cache has"},
    {"metric-percentiles", ARG_TEXT, "LIST", AT(percentiles), 0, 0, "as 50,90,99.9; default 99"},
};

static uint32_t or_default(arg_u32 n, uint32_t preset) { return n.set ? n.value : preset; }

static status find_model(serve_load *load) {
    Gemmad__V1__ListModelsRequest request = GEMMAD__V1__LIST_MODELS_REQUEST__INIT;
    ProtobufCMessage *m = NULL;
    client *server = NULL;
    TRY(client_open(&server, load->address, CTL_CONNECT_MS));
    status st = client_call(server, "/gemmad.v1.Inference/ListModels", &request.base,
                            &gemmad__v1__list_models_response__descriptor, CTL_CALL_MS, &m);
    client_close(server);
    if (st != ST_OK) return st;
    const Gemmad__V1__ListModelsResponse *list = (void *)m;
    for (size_t i = 0; i < list->n_models && !load->vocab; i++)
        if (!load->model || (list->models[i]->name && !strcmp(list->models[i]->name, load->model)))
            load->vocab = list->models[i]->vocab_size;
    protobuf_c_message_free_unpacked(m, NULL);
    if (!load->vocab)
        return fail(ST_NOT_FOUND, "%s serves no model %s", load->address, load->model ? load->model : "yet");
    return ST_OK;
}

/* The command line, understood. */
typedef struct serving {
    ctl *ctl;
    const bench_options *options;
    serve_shape shape;
    serve_load load;
    serve_figures figures; /* percentiles at first */
    serve_plan *plan;      /* [load.count] */
} serving;

static void write_json(json_writer *w, const serving *s, const own_daemon *d) {
    json_begin(w, '{');
    json_key(w, "bench"), json_string(w, "serve");
    json_key(w, "backend"), json_string(w, "gemmad");
    if (s->options->model) json_key(w, "model"), json_string(w, s->options->model);
    if (s->options->model) json_key(w, "model_id"), json_string(w, s->options->model);
    if (s->options->shape) json_key(w, "shape"), json_string(w, s->options->shape);
    json_key(w, "num_prompts"), json_u64(w, s->load.count);
    json_key(w, "request_rate");
    if (s->shape.rate > 0) json_double(w, s->shape.rate);
    else json_string(w, "inf");
    json_key(w, "burstiness"), json_double(w, 1);
    json_key(w, "max_concurrency"), json_u64(w, s->load.streams);
    if (d) json_key(w, "load_s"), json_double(w, own_daemon_start_seconds(d));
    serve_write_json(w, &s->figures);
    json_end(w, '}');
}

static status print(const serving *s, const own_daemon *d) {
    json_writer w = {0};
    if (s->ctl->json) {
        write_json(&w, s, d);
    } else {
        serve_write_text(&w.out, &s->figures);
        w.out.data[--w.out.size] = 0; /* terminal_write_line adds the last line end */
    }
    status st = terminal_write_line(&w.out);
    strbuf_close(&w.out);
    return st;
}

/* Whatever is made at first use (pages, connections) is made by a request that does not count. */
static status warm_up(const serving *s) {
    const serve_plan one = {0, s->shape.prompt, s->shape.generate < 2 ? s->shape.generate : 2};
    serve_load first = s->load;
    serve_request *request = NULL;
    char *failure = NULL;
    double seconds;
    first.plan = &one;
    first.count = first.streams = 1;
    first.seed = ~first.seed;
    status st = serve_run(&first, &request, &seconds, &failure);
    serve_requests_free(request, 1);
    if (st == ST_OK && failure) st = fail(ST_INTERNAL, "%s", failure);
    free(failure);
    return st;
}

static status measure(serving *s, const own_daemon *d) {
    serve_request *requests = NULL;
    char *failure = NULL;
    double seconds;
    TRY(find_model(&s->load));
    TRY(warm_up(s));
    char line[96];
    snprintf(line, sizeof line, "%u requests, at most %u at once", s->load.count, s->load.streams);
    terminal_progress(line);
    status st = serve_run(&s->load, &requests, &seconds, &failure);
    terminal_progress(NULL);
    if (st == ST_OK) {
        serve_summarise(&s->figures, requests, s->load.count, seconds);
        st = print(s, d);
    }
    if (st == ST_OK && s->figures.failed)
        st = fail(ST_INTERNAL, "%u of %u requests failed: %s", s->figures.failed, s->load.count,
                  failure ? failure : "no connection");
    free(failure);
    serve_requests_free(requests, s->load.count);
    return st;
}

static status read_rate(ctl *c, const char *text, double *out) {
    char *end = NULL;
    *out = 0;
    if (!text || !strcmp(text, "inf")) return ST_OK;
    if (*text >= '0' && *text <= '9') *out = strtod(text, &end);
    if (end && !*end && *out >= 1e-6 && *out <= 1e6) return ST_OK;
    return ctl_usage(c, "--request-rate is %s, allowed are 0.000001 to 1000000 a second, and inf", text);
}

static status check(ctl *c, const bench_options *o) {
    if (o->shape && o->model) return ctl_usage(c, "give --model or --shape, not both");
    if (o->layers.set && !o->shape) return ctl_usage(c, "--layers belongs to --shape");
    if (o->shape && c->server_given)
        return ctl_usage(c, "--shape starts a gemmad; --server names one that runs");
    if (o->batch.set && o->concurrency.set)
        return ctl_usage(c, "--batch and --max-concurrency are the same; give one");
    if (o->repeat.set && o->prompts.set)
        return ctl_usage(c, "--repeat and --num-prompts both say how many; give one");
    return ST_OK;
}

static status understand(serving *s) {
    const bench_options *o = s->options;
    ctl *c = s->ctl;
    TRY(check(c, o));
    TRY(read_rate(c, o->rate, &s->shape.rate));
    if (serve_read_percentiles(o->percentiles ? o->percentiles : "99", s->figures.percent,
                               &s->figures.percent_count) != ST_OK)
        return ctl_usage(c, "--metric-percentiles: %s", status_text());
    s->shape.prompt = or_default(o->prompt, PROMPT);
    s->shape.generate = or_default(o->generate, GENERATE);
    s->shape.range = o->range.set ? (double)o->range.value : 0;
    s->shape.seed = o->seed.value;
    uint32_t streams =
        or_default(o->concurrency, or_default(o->batch, s->shape.rate > 0 ? STREAMS_MAX : STREAMS));
    uint32_t count = or_default(o->prompts, or_default(o->batch, STREAMS) * or_default(o->repeat, 1));
    s->load.count = count;
    s->load.streams = streams < count ? streams : count;
    s->load.seed = o->seed.set ? o->seed.value : clock_now_ns() << 8;
    s->figures.max_concurrency = s->load.streams;
    s->figures.rate = s->shape.rate;
    s->plan = memory_alloc_array(count, sizeof *s->plan);
    serve_make_plan(s->plan, count, &s->shape);
    s->load.plan = s->plan;
    return ST_OK;
}

static status open_daemon(serving *s, own_daemon **d) {
    const bench_options *o = s->options;
    s->load.address = s->ctl->server;
    if (s->ctl->server_given || !(o->model || o->shape)) {
        s->load.model = o->model;
        return ST_OK;
    }
    TRY(own_daemon_open(d, &(own_daemon_options){.model = o->model,
                                                 .shape = o->shape,
                                                 .layers = o->layers.value,
                                                 .ranks = o->ranks.value,
                                                 .threads = o->threads.value,
                                                 .weights = o->weights,
                                                 .kv = o->kv,
                                                 .expert_layout = o->expert_layout,
                                                 .context = serve_longest(s->shape.prompt, s->shape.range) +
                                                            serve_longest(s->shape.generate, s->shape.range),
                                                 .wait_s = WAIT_S}));
    s->load.address = own_daemon_address(*d);
    return ST_OK;
}

static status run(ctl *c, const void *values, const arg_words *words) {
    if (words->count != 1 || strcmp(words->at[0], "serve") != 0)
        return ctl_usage(c, "bench measures one of prefill, decode and serve: gemmactl bench prefill --help");
    serving s = {.ctl = c, .options = values};
    own_daemon *d = NULL;
    status st = understand(&s);
    if (st == ST_OK) st = open_daemon(&s, &d);
    if (st == ST_OK) st = measure(&s, d);
    own_daemon_close(d);
    free(s.plan);
    return st;
}

const command command_bench = {
    "bench",
    "prefill|decode|serve",
    "measure speed: of the engine alone, or of a server",
    own_option,
    sizeof own_option / sizeof *own_option,
    sizeof(bench_options),
    false,
    run,
};
