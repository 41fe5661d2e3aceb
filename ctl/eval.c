/* gemmactl eval --text FILE [--against SERVER] */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/statistics.h"
#include "base/utf8.h"
#include "ctl/ctl.h"
#include "ctl/eval_math.h"
#include "ctl/json_write.h"
#include "ctl/terminal.h"
#include "proto/gemmad.pb-c.h"
#include "proto/limits.h"

enum { CONTEXT = 2048, TOP = 256, TOP_LEAST = 64 };

typedef struct eval_options {
    const char *text, *against, *model, *against_model;
    arg_u32 context, stride, top;
} eval_options;

#define AT(field) offsetof(eval_options, field)

static const arg_option own_option[] = {
    {"text", ARG_TEXT, "FILE", AT(text), 0, 0, "the text (\"-\": standard input)"},
    {"against", ARG_TEXT, "ADDR", AT(against), 0, 0,
     "the server whose model is the measure, such as the same one unquantised"},
    {"model", ARG_TEXT, "NAME", AT(model), 0, 0, "served model; default: the daemon's first"},
    {"against-model", ARG_TEXT, "NAME", AT(against_model), 0, 0, "the same of the other server"},
    {"context", ARG_U32, "N", AT(context), 2, LIMIT_CONTEXT_TOKENS,
     "tokens of a window; default 2048, or what the server takes"},
    {"stride", ARG_U32, "N", AT(stride), 1, LIMIT_CONTEXT_TOKENS, "from window to window; default: a window"},
    {"top", ARG_U32, "N", AT(top), TOP_LEAST, LIMIT_LOGPROBS,
     "most likely tokens that are compared with --against; default 256"},
};

/* One server and what it said of the window at hand. */
typedef struct side {
    client *server;
    const char *model;
    uint32_t top_max;
    eval_position *position; /* [capacity] by token of the window */
    eval_entry *top;         /* [capacity · top_max] */
    size_t capacity, known;  /* known: positions 1 … known have been told */
} side;

typedef struct evaluation {
    side own, other;
    uint32_t *ids; /* the text's, beginning-of-sequence first */
    size_t id_count, size, stride, windows, counted, agreed;
    bool compares;
    double *own_nll, *other_nll, *divergence; /* [counted] */
} evaluation;

/* ---- asking ---- */

static status context_of(client *server, const char *address, const char *model, uint32_t *out) {
    Gemmad__V1__ListModelsRequest request = GEMMAD__V1__LIST_MODELS_REQUEST__INIT;
    ProtobufCMessage *m = NULL;
    TRY(client_call(server, "/gemmad.v1.Inference/ListModels", &request.base,
                    &gemmad__v1__list_models_response__descriptor, CTL_CALL_MS, &m));
    const Gemmad__V1__ListModelsResponse *list = (void *)m;
    *out = 0;
    for (size_t i = 0; i < list->n_models && !*out; i++)
        if (!model || (list->models[i]->name && !strcmp(list->models[i]->name, model)))
            *out = list->models[i]->context_tokens;
    protobuf_c_message_free_unpacked(m, NULL);
    return *out ? ST_OK : fail(ST_NOT_FOUND, "%s serves no model %s", address, model ? model : "yet");
}

static status tokenize(evaluation *e, const char *text, size_t n) {
    Gemmad__V1__TokenizeRequest request = GEMMAD__V1__TOKENIZE_REQUEST__INIT;
    ProtobufCMessage *m = NULL;
    request.model = ctl_model(e->own.model);
    request.has_text = request.has_add_bos = true;
    request.text = (ProtobufCBinaryData){n, (uint8_t *)(uintptr_t)text};
    request.add_bos = true;
    TRY(client_call(e->own.server, "/gemmad.v1.Inference/Tokenize", &request.base,
                    &gemmad__v1__tokenize_response__descriptor, CTL_CALL_MS, &m));
    const Gemmad__V1__TokenizeResponse *reply = (void *)m;
    e->id_count = reply->n_token_ids;
    e->ids = memory_alloc_array(e->id_count, sizeof *e->ids);
    if (e->id_count) memcpy(e->ids, reply->token_ids, e->id_count * sizeof *e->ids);
    protobuf_c_message_free_unpacked(m, NULL);
    return e->id_count > 1 ? ST_OK : fail(ST_INVALID, "the text has %zu tokens, needed are 2", e->id_count);
}

static status take_logprobs(side *s, const Gemmad__V1__PromptLogprobs *p, size_t rows) {
    if (p->first_position != s->known + 1 || p->n_logprobs > rows - 1 - s->known)
        return fail(ST_INTERNAL, "log-probabilities of %zu positions from %u on, expected from %zu to %zu",
                    p->n_logprobs, p->first_position, s->known + 1, rows - 1);
    for (size_t i = 0; i < p->n_logprobs; i++) {
        const Gemmad__V1__TokenLogprob *t = p->logprobs[i];
        size_t at = ++s->known;
        eval_entry *top = s->top + at * s->top_max;
        uint32_t n = t->n_top < s->top_max ? (uint32_t)t->n_top : s->top_max;
        for (uint32_t k = 0; k < n; k++) top[k] = (eval_entry){t->top[k]->token_id, t->top[k]->logprob};
        s->position[at] = (eval_position){{t->token_id, t->logprob}, top, n};
    }
    return ST_OK;
}

static status read_events(side *s, client_stream *in, size_t rows) {
    for (;;) {
        ProtobufCMessage *m;
        TRY(client_stream_next(in, &m));
        if (!m) break;
        const Gemmad__V1__GenerateEvent *e = (void *)m;
        status st = ST_OK;
        if (e->event_case == GEMMAD__V1__GENERATE_EVENT__EVENT_PROMPT_LOGPROBS)
            st = take_logprobs(s, e->prompt_logprobs, rows);
        protobuf_c_message_free_unpacked(m, NULL);
        TRY(st);
    }
    if (s->known != rows - 1)
        return fail(ST_INTERNAL, "log-probabilities of %zu positions came, %zu were asked for", s->known,
                    rows - 1);
    return ST_OK;
}

static status ask(side *s, uint32_t *ids, size_t n) {
    Gemmad__V1__TokenIds tokens = GEMMAD__V1__TOKEN_IDS__INIT;
    Gemmad__V1__Sampling sampling = GEMMAD__V1__SAMPLING__INIT;
    Gemmad__V1__GenerateRequest request = GEMMAD__V1__GENERATE_REQUEST__INIT;
    tokens.ids = ids;
    tokens.n_ids = n;
    sampling.has_max_tokens = sampling.has_temperature = sampling.has_want_prompt_logprobs = 1;
    sampling.max_tokens = sampling.want_prompt_logprobs = 1;
    sampling.has_prompt_logprobs = 1;
    sampling.prompt_logprobs = s->top_max;
    request.model = ctl_model(s->model);
    request.prompt_case = GEMMAD__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS;
    request.token_ids = &tokens;
    request.sampling = &sampling;
    client_stream *in = NULL;
    s->known = 0;
    TRY(client_stream_open(&in, s->server, "/gemmad.v1.Inference/Generate", &request.base,
                           &gemmad__v1__generate_event__descriptor, 0));
    status st = read_events(s, in, n);
    client_stream_close(in);
    return st;
}

/* ---- the windows ---- */

static status take_window(evaluation *e, const eval_window *w, uint32_t *ids) {
    /* Every window begins with the beginning-of-sequence token: models are not made for texts without. */
    size_t lead = w->begin > 0, n = w->end - w->begin + lead;
    ids[0] = e->ids[0];
    memcpy(ids + lead, e->ids + w->begin, (w->end - w->begin) * sizeof *ids);
    TRY(ask(&e->own, ids, n));
    if (e->compares) TRY(ask(&e->other, ids, n));
    for (size_t i = w->score; i < w->end; i++) {
        const eval_position *own = &e->own.position[i - w->begin + lead];
        e->own_nll[e->counted] = -(double)own->actual.logprob;
        if (e->compares) {
            const eval_position *other = &e->other.position[i - w->begin + lead];
            e->other_nll[e->counted] = -(double)other->actual.logprob;
            e->divergence[e->counted] = eval_divergence(other, own);
            e->agreed += eval_agrees(other, own);
        }
        e->counted++;
    }
    e->windows++;
    return ST_OK;
}

static void take_room(side *s, size_t rows, uint32_t top) {
    s->top_max = top;
    s->capacity = rows;
    s->position = memory_alloc_array(rows, sizeof *s->position);
    s->top = memory_alloc_array(rows * (top + 1), sizeof *s->top);
}

static status take_windows(evaluation *e, uint32_t top) {
    eval_window w = {0};
    char line[64];
    uint32_t *ids = memory_alloc_array(e->size + 1, sizeof *ids);
    status st = ST_OK;
    take_room(&e->own, e->size + 1, top);
    if (e->compares) take_room(&e->other, e->size + 1, top);
    e->own_nll = memory_alloc_array(e->id_count, sizeof *e->own_nll);
    e->other_nll = memory_alloc_array(e->id_count, sizeof *e->other_nll);
    e->divergence = memory_alloc_array(e->id_count, sizeof *e->divergence);
    while (st == ST_OK && eval_next_window(&w, e->id_count, e->size, e->stride)) {
        snprintf(line, sizeof line, "token %zu of %zu", w.score, e->id_count);
        terminal_progress(line);
        st = take_window(e, &w, ids);
    }
    terminal_progress(NULL);
    free(ids);
    return st;
}

/* ---- saying it ---- */

static void write_number(json_writer *w, const char *key, double value) {
    json_key(w, key);
    json_double(w, value);
}

static void write_json(json_writer *w, const evaluation *e, double own, double other) {
    json_begin(w, '{');
    json_key(w, "tokens"), json_u64(w, e->counted);
    json_key(w, "windows"), json_u64(w, e->windows);
    json_key(w, "context"), json_u64(w, e->size);
    json_key(w, "stride"), json_u64(w, e->stride);
    write_number(w, "nll", own);
    write_number(w, "perplexity", exp(own));
    write_number(w, "perplexity_error",
                 exp(own) * statistics_deviation(e->own_nll, e->counted) / sqrt((double)e->counted));
    if (e->compares) {
        write_number(w, "against_nll", other);
        write_number(w, "against_perplexity", exp(other));
        json_key(w, "top"), json_u64(w, e->own.top_max);
        write_number(w, "kl_mean", statistics_mean(e->divergence, e->counted));
        write_number(w, "kl_median", statistics_median(e->divergence, e->counted));
        write_number(w, "kl_p99", statistics_percentile(e->divergence, e->counted, 99));
        write_number(w, "kl_max", statistics_percentile(e->divergence, e->counted, 100));
        write_number(w, "top1_agreement", (double)e->agreed / (double)e->counted);
    }
    json_end(w, '}');
}

static void write_text(strbuf *out, const evaluation *e, double own, double other) {
    strbuf_add_format(out, "%zu tokens in %zu windows of %zu, %zu apart\nperplexity     %12.5f ± %.5f",
                      e->counted, e->windows, e->size, e->stride, exp(own),
                      exp(own) * statistics_deviation(e->own_nll, e->counted) / sqrt((double)e->counted));
    if (!e->compares) return;
    strbuf_add_format(
        out,
        "\nthe other's    %12.5f\nKL divergence  %12.6f nats mean, %.6f median, %.6f p99, %.6f greatest"
        "\nsame best token%11.3f %%",
        exp(other), statistics_mean(e->divergence, e->counted), statistics_median(e->divergence, e->counted),
        statistics_percentile(e->divergence, e->counted, 99),
        statistics_percentile(e->divergence, e->counted, 100),
        100.0 * (double)e->agreed / (double)e->counted);
}

static status print(const ctl *c, evaluation *e) {
    json_writer w = {0};
    double own = statistics_mean(e->own_nll, e->counted), other = statistics_mean(e->other_nll, e->counted);
    statistics_sort(e->divergence, e->compares ? e->counted : 0);
    if (c->json) write_json(&w, e, own, other);
    else write_text(&w.out, e, own, other);
    status st = terminal_write_line(&w.out);
    strbuf_close(&w.out);
    return st;
}

/* ---- the command ---- */

static status open_sides(ctl *c, const eval_options *o, evaluation *e) {
    uint32_t context, other;
    e->own.model = o->model;
    e->other.model = o->against_model;
    TRY(ctl_connect(c, &e->own.server));
    TRY(context_of(e->own.server, c->server, o->model, &context));
    if (o->against) {
        e->compares = true;
        TRY(client_open(&e->other.server, o->against, CTL_CONNECT_MS));
        TRY(context_of(e->other.server, o->against, o->against_model, &other));
        if (other < context) context = other;
    }
    uint32_t most =
        context > 2 ? context - 2 : 0; /* beside the window: its first token, and the one that is drawn */
    if (o->context.set && o->context.value > most)
        return fail(ST_INVALID, "--context is %u, a server takes requests of %u tokens: at most %u",
                    o->context.value, context, most);
    e->size = o->context.set ? o->context.value : most < CONTEXT ? most : CONTEXT;
    e->stride = o->stride.set ? o->stride.value : e->size;
    if (e->size < 2) return fail(ST_INVALID, "a server takes requests of %u tokens, needed are 4", context);
    if (e->stride > e->size)
        return fail(ST_INVALID, "--stride is %zu, windows have %zu tokens: some would be in none", e->stride,
                    e->size);
    return ST_OK;
}

static void side_close(side *s) {
    client_close(s->server);
    free(s->position);
    free(s->top);
}

static status run(ctl *c, const void *values, const arg_words *words) {
    const eval_options *o = values;
    if (words->count) return ctl_usage(c, "eval takes no words, and got \"%s\": see --text", words->at[0]);
    if (!o->text) return ctl_usage(c, "eval needs a text: --text FILE");
    if (!o->against && (o->top.set || o->against_model))
        return ctl_usage(c, "--top and --against-model belong to --against");
    if (o->against && client_check_address(o->against) != ST_OK)
        return ctl_usage(c, "--against: %s", status_text());
    evaluation e = {0};
    char *text = NULL;
    size_t n;
    TRY(ctl_read_file(o->text, &text, &n));
    size_t valid = utf8_check(text, n);
    status st = valid == n ? ST_OK : fail(ST_INVALID, "%s is not UTF-8 at byte %zu", o->text, valid);
    if (st == ST_OK) st = open_sides(c, o, &e);
    if (st == ST_OK) st = tokenize(&e, text, n);
    if (st == ST_OK) st = take_windows(&e, o->against ? (o->top.set ? o->top.value : TOP) : 0);
    if (st == ST_OK) st = print(c, &e);
    side_close(&e.own);
    side_close(&e.other);
    free(e.ids);
    free(e.own_nll);
    free(e.other_nll);
    free(e.divergence);
    free(text);
    return st;
}

const command command_eval = {
    "eval",
    "",
    "perplexity of a text, and how far two models are apart on it",
    own_option,
    sizeof own_option / sizeof *own_option,
    sizeof(eval_options),
    false,
    run,
};
