/* gemmactl bench serve. (prefill and decode are gemmad-shard's: ctl/beside.c.) */
#include <stdlib.h>
#include <string.h>

#include "ctl/bench_serve.h"
#include "ctl/ctl.h"
#include "ctl/own_daemon.h"
#include "ctl/terminal.h"
#include "proto/gemmad.pb-c.h"
#include "proto/limits.h"

enum { STREAMS = 8, PROMPT = 512, GENERATE = 128, STREAMS_MAX = 512, REPEAT_MAX = 1000, WAIT_S = 600 };

typedef struct bench_options {
    const char *model, *shape, *weights, *kv, *expert_layout;
    arg_u32 layers, ranks, threads, prompt, batch, generate, repeat;
} bench_options;

#define AT(field) offsetof(bench_options, field)

static const arg_option own_option[] = {
    {"model", ARG_TEXT, "PATH", AT(model), 0, 0,
     "start a gemmad with this model; with --server: the served model's name"},
    {"shape", ARG_TEXT, "NAME", AT(shape), 0, 0, "the same with random weights: 31b, 26b-a4b, e4b or e2b"},
    {"layers", ARG_U32, "N", AT(layers), 1, LIMIT_LAYERS, "only the first so many layers of the shape"},
    {"ranks", ARG_U32, "N", AT(ranks), 1, LIMIT_RANKS, "ranks of that engine"},
    {"threads", ARG_U32, "N", AT(threads), 1, 512, "threads of a rank"},
    {"weights", ARG_TEXT, "TYPE", AT(weights), 0, 0, "auto, bf16, q8, q4 or f32"},
    {"kv", ARG_TEXT, "TYPE", AT(kv), 0, 0, "auto, bf16, q8 or f32"},
    {"expert-layout", ARG_TEXT, "ExW", AT(expert_layout), 0, 0, "EP degree and width degree"},
    {"prompt", ARG_U32, "N", AT(prompt), 1, LIMIT_CONTEXT_TOKENS / 2, "tokens of a prompt; default 512"},
    {"batch", ARG_U32, "N", AT(batch), 1, STREAMS_MAX, "streams at once; default 8"},
    {"generate", ARG_U32, "N", AT(generate), 1, LIMIT_CONTEXT_TOKENS / 2, "tokens of an answer; default 128"},
    {"repeat", ARG_U32, "N", AT(repeat), 1, REPEAT_MAX,
     "requests of each stream, one after another; default 1"},
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

static status print(const ctl *c, const bench_options *o, const serve_load *load, const serve_figures *f,
                    const own_daemon *d) {
    json_writer w = {0};
    if (c->json) {
        json_begin(&w, '{');
        json_key(&w, "bench"), json_string(&w, "serve");
        if (o->model) json_key(&w, "model"), json_string(&w, o->model);
        if (o->shape) json_key(&w, "shape"), json_string(&w, o->shape);
        json_key(&w, "max_concurrency"), json_u64(&w, load->streams);
        json_key(&w, "num_prompts"), json_u64(&w, (uint64_t)load->streams * load->each);
        if (d) json_key(&w, "load_s"), json_double(&w, own_daemon_start_seconds(d));
        serve_write_json(&w, f);
        json_end(&w, '}');
    } else {
        strbuf_add_format(&w.out, "%u streams of %u requests: prompts of %u random tokens, answers of %u\n\n",
                          load->streams, load->each, load->prompt, load->generate);
        serve_write_text(&w.out, f);
        w.out.data[--w.out.size] = 0; /* terminal_write_line adds the last line end */
    }
    status st = terminal_write_line(&w.out);
    strbuf_close(&w.out);
    return st;
}

static status measure(ctl *c, const bench_options *o, serve_load *load, const own_daemon *d) {
    serve_request *requests = NULL;
    serve_figures figures;
    char *failure = NULL;
    double seconds;
    uint32_t n = load->streams * load->each;
    TRY(find_model(load));
    /* Whatever is made at first use (pages, connections) is made by a request that does not count. */
    serve_load first = *load;
    first.streams = first.each = 1;
    first.generate = 2;
    status st = serve_run(&first, &requests, &seconds, &failure);
    serve_requests_free(requests, 1);
    requests = NULL;
    if (st == ST_OK && failure) st = fail(ST_INTERNAL, "%s", failure);
    if (st == ST_OK) st = serve_run(load, &requests, &seconds, &failure);
    if (st == ST_OK) {
        serve_summarise(&figures, requests, n, seconds);
        st = print(c, o, load, &figures, d);
    }
    if (st == ST_OK && failure)
        st = fail(ST_INTERNAL, "%u of %u requests failed: %s", figures.failed, n, failure);
    free(failure);
    serve_requests_free(requests, n);
    return st;
}

static status run(ctl *c, const void *values, const arg_words *words) {
    const bench_options *o = values;
    if (words->count != 1 || strcmp(words->at[0], "serve") != 0)
        return ctl_usage(c, "bench measures one of prefill, decode and serve: gemmactl bench prefill --help");
    if (o->shape && o->model) return ctl_usage(c, "give --model or --shape, not both");
    if (o->layers.set && !o->shape) return ctl_usage(c, "--layers belongs to --shape");
    if (o->shape && c->server_given)
        return ctl_usage(c, "--shape starts a gemmad; --server names one that runs");
    serve_load load = {.address = c->server,
                       .streams = or_default(o->batch, STREAMS),
                       .each = or_default(o->repeat, 1),
                       .prompt = or_default(o->prompt, PROMPT),
                       .generate = or_default(o->generate, GENERATE)};
    own_daemon *d = NULL;
    if (!c->server_given && (o->model || o->shape)) {
        TRY(own_daemon_open(&d, &(own_daemon_options){.model = o->model,
                                                      .shape = o->shape,
                                                      .layers = o->layers.value,
                                                      .ranks = o->ranks.value,
                                                      .threads = o->threads.value,
                                                      .weights = o->weights,
                                                      .kv = o->kv,
                                                      .expert_layout = o->expert_layout,
                                                      .context = load.prompt + load.generate,
                                                      .wait_s = WAIT_S}));
        load.address = own_daemon_address(d);
    } else {
        load.model = o->model;
    }
    status st = measure(c, o, &load, d);
    own_daemon_close(d);
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
