#include "ctl/answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "ctl/json_write.h"
#include "ctl/terminal.h"
#include "proto/limits.h"

#define AT(field) offsetof(answer_options, field)

const arg_option answer_option_table[] = {
    {"model", ARG_TEXT, "NAME", AT(model), 0, 0, "served model; default: the daemon's first"},
    {"n", ARG_U32, "N", AT(n), 1, LIMIT_SAMPLES, "samples of the same prompt; default 1"},
    {"max-tokens", ARG_U32, "N", AT(max_tokens), 1, LIMIT_CONTEXT_TOKENS,
     "longest answer; default: what is left of the context"},
    {"temperature", ARG_FLOAT, "T", AT(temperature), 0, 2, "0 is greedy; default: the checkpoint's"},
    {"top-p", ARG_FLOAT, "P", AT(top_p), 0, 1, "nucleus; default: the checkpoint's"},
    {"top-k", ARG_U32, "K", AT(top_k), 0, 0, "best candidates, 0 for all; default: the checkpoint's"},
    {"min-p", ARG_FLOAT, "P", AT(min_p), 0, 1, "least probability, as a share of the best one's"},
    {"seed", ARG_U64, "N", AT(seed), 0, 0, "same seed, same tokens; default: drawn by the daemon"},
    {"stop", ARG_TEXTS, "TEXT", AT(stop), 0, 0, "end before this text; may repeat"},
    {"stop-token-ids", ARG_IDS, "IDS", AT(stop_token_ids), 0, 0, "end after any of these tokens"},
    {"ignore-eos", ARG_FLAG, NULL, AT(ignore_eos), 0, 0, "go on after the model's end tokens"},
    {"repetition-penalty", ARG_FLOAT, "X", AT(repetition_penalty), 0, 10, "over prompt and answer; 1 is off"},
    {"presence-penalty", ARG_FLOAT, "X", AT(presence_penalty), -2, 2, "over the answer; 0 is off"},
    {"frequency-penalty", ARG_FLOAT, "X", AT(frequency_penalty), -2, 2, "over the answer; 0 is off"},
    {"logit-bias", ARG_BIAS, "ID=BIAS", AT(logit_bias), 0, 0, "added to a token's logit; may repeat"},
    {"logprobs", ARG_U32, "N", AT(logprobs), 0, LIMIT_LOGPROBS,
     "log-probability of each new token and the N best (with --json)"},
    {"prompt-logprobs", ARG_U32, "N", AT(prompt_logprobs), 0, LIMIT_LOGPROBS,
     "the same of each prompt token (with --json)"},
    {"priority", ARG_I32, "N", AT(priority), 0, 0, "higher runs first; default 0"},
    {"request-id", ARG_TEXT, "ID", AT(request_id), 0, 0,
     "name of this request; default: given by the daemon"},
    {"timeout", ARG_U32, "SECONDS", AT(timeout_s), 1, 86400, "give up after so long; default: never"},
};
const size_t answer_option_count = sizeof answer_option_table / sizeof *answer_option_table;
_Static_assert(sizeof answer_option_table / sizeof *answer_option_table <= ANSWER_OPTIONS_MAX,
               "room in the tables");

/* What has arrived of one sample. */
typedef struct answer_sample {
    strbuf text; /* unless it was printed at once */
    arg_ids ids;
    json_writer logprobs;                 /* a list without its brackets */
    ProtobufCMessage *event;              /* of `finished` */
    const Gemmad__V1__Finished *finished; /* in it */
} answer_sample;

typedef struct answer {
    ctl *ctl;
    const answer_style *style;
    char last;             /* byte printed */
    answer_sample *sample; /* [count] */
    uint32_t count, printed;
    json_writer prompt_logprobs;
    ProtobufCMessage *started; /* the event */
    const Gemmad__V1__Usage *usage;
} answer;

static void fill_sampling(Gemmad__V1__Sampling *s, const answer_options *o) {
#define FILL(field) s->has_##field = o->field.set, s->field = o->field.value
    FILL(n);
    FILL(max_tokens);
    FILL(temperature);
    FILL(top_p);
    FILL(top_k);
    FILL(min_p);
    FILL(seed);
    FILL(repetition_penalty);
    FILL(presence_penalty);
    FILL(frequency_penalty);
    FILL(logprobs);
    FILL(prompt_logprobs);
#undef FILL
    s->has_want_prompt_logprobs = s->want_prompt_logprobs = o->prompt_logprobs.set;
    s->has_ignore_eos = s->ignore_eos = o->ignore_eos;
    s->n_stop_token_ids = o->stop_token_ids.count;
    s->stop_token_ids = o->stop_token_ids.at;
    if (o->stop.count) s->stop = memory_alloc_array(o->stop.count, sizeof *s->stop);
    for (s->n_stop = 0; s->n_stop < o->stop.count; s->n_stop++) {
        const char *text = o->stop.at[s->n_stop];
        s->stop[s->n_stop] = (ProtobufCBinaryData){strlen(text), (uint8_t *)(uintptr_t)text};
    }
    if (o->logit_bias.count) s->logit_bias = memory_alloc_array(o->logit_bias.count, sizeof *s->logit_bias);
    for (s->n_logit_bias = 0; s->n_logit_bias < o->logit_bias.count; s->n_logit_bias++) {
        Gemmad__V1__LogitBias *b = memory_alloc(sizeof *b);
        gemmad__v1__logit_bias__init(b);
        b->has_token_id = b->has_bias = true;
        b->token_id = o->logit_bias.at[s->n_logit_bias].token_id;
        b->bias = o->logit_bias.at[s->n_logit_bias].bias;
        s->logit_bias[s->n_logit_bias] = b;
    }
}

static void free_sampling(Gemmad__V1__Sampling *s) {
    for (size_t i = 0; i < s->n_logit_bias; i++) free(s->logit_bias[i]);
    free(s->logit_bias);
    free(s->stop);
}

static status take_delta(answer *a, const Gemmad__V1__GenerateDelta *d) {
    if (d->index >= a->count)
        return fail(ST_INTERNAL, "sample %u answered, %u were asked for", d->index, a->count);
    answer_sample *s = &a->sample[d->index];
    if (d->n_token_ids) {
        s->ids.at = memory_grow(s->ids.at, (s->ids.count + d->n_token_ids) * sizeof *s->ids.at);
        memcpy(s->ids.at + s->ids.count, d->token_ids, d->n_token_ids * sizeof *s->ids.at);
        s->ids.count += d->n_token_ids;
    }
    for (size_t i = 0; i < d->n_logprobs; i++) json_message(&s->logprobs, &d->logprobs[i]->base);
    if (d->text.len == 0) return ST_OK;
    if (a->ctl->json || a->count > 1) {
        strbuf_add(&s->text, d->text.data, d->text.len);
        return ST_OK;
    }
    terminal_progress(NULL);
    a->last = (char)d->text.data[d->text.len - 1];
    TRY(terminal_write_text(d->text.data, d->text.len));
    return terminal_flush();
}

/* Of several samples each is printed whole, in order, when those before it are. */
static status print_samples(answer *a) {
    if (a->ctl->json || a->count == 1) return ST_OK;
    for (; a->printed < a->count && a->sample[a->printed].finished; a->printed++) {
        const answer_sample *s = &a->sample[a->printed];
        strbuf line = {0};
        terminal_progress(NULL);
        strbuf_add_format(&line, "%s--- sample %u of %u, ended by %s", a->printed ? "\n" : "", a->printed + 1,
                          a->count, s->finished->finish_reason ? s->finished->finish_reason : "?");
        status st = terminal_write_line(&line);
        strbuf_close(&line);
        TRY(st);
        TRY(terminal_write_text(strbuf_text(&s->text), s->text.size));
        a->last = '\n';
        if (s->text.size == 0 || s->text.data[s->text.size - 1] != '\n')
            TRY(terminal_write_line(&(strbuf){0}));
    }
    return terminal_flush();
}

static status take_finished(answer *a, ProtobufCMessage **message) {
    const Gemmad__V1__Finished *f = ((Gemmad__V1__GenerateEvent *)(void *)*message)->finished;
    if (f->index >= a->count)
        return fail(ST_INTERNAL, "sample %u ended, %u were asked for", f->index, a->count);
    answer_sample *s = &a->sample[f->index];
    if (s->finished) return fail(ST_INTERNAL, "the daemon sent `finished` twice");
    s->finished = f;
    if (f->usage) a->usage = f->usage;
    s->event = *message;
    *message = NULL;
    return print_samples(a);
}

/* Events that are kept own their message; *message is NULL then. */
static status take_event(answer *a, ProtobufCMessage **message) {
    Gemmad__V1__GenerateEvent *event = (void *)*message;
    char line[96];
    switch (event->event_case) {
    case GEMMAD__V1__GENERATE_EVENT__EVENT_STARTED:
        if (a->started) return fail(ST_INTERNAL, "the daemon sent `started` twice");
        a->started = *message;
        *message = NULL;
        return ST_OK;
    case GEMMAD__V1__GENERATE_EVENT__EVENT_PROGRESS:
        snprintf(line, sizeof line, "reading the prompt: %u of %u tokens", event->progress->prefilled_tokens,
                 event->progress->prompt_tokens);
        terminal_progress(line);
        return ST_OK;
    case GEMMAD__V1__GENERATE_EVENT__EVENT_DELTA: return take_delta(a, event->delta);
    case GEMMAD__V1__GENERATE_EVENT__EVENT_PROMPT_LOGPROBS:
        for (size_t i = 0; i < event->prompt_logprobs->n_logprobs; i++)
            json_message(&a->prompt_logprobs, &event->prompt_logprobs->logprobs[i]->base);
        return ST_OK;
    case GEMMAD__V1__GENERATE_EVENT__EVENT_FINISHED: return take_finished(a, message);
    default: return ST_OK; /* an event of a newer daemon */
    }
}

static void add_list(json_writer *w, const char *key, const json_writer *items) {
    json_key(w, key);
    json_begin(w, '[');
    strbuf_add(&w->out, items->out.data, items->out.size);
    json_end(w, ']');
}

static void add_sample(json_writer *w, const answer *a, const answer_sample *s, const answer_options *o) {
    json_key(w, a->style->text_key);
    json_text(w, strbuf_text(&s->text), s->text.size);
    json_key(w, "finish_reason");
    json_string(w, s->finished->finish_reason ? s->finished->finish_reason : "");
    json_key(w, "token_ids");
    json_u32_array(w, s->ids.at, s->ids.count);
    json_key(w, "timings");
    if (s->finished->timings) json_message(w, &s->finished->timings->base);
    else json_null(w);
    if (o->logprobs.set) add_list(w, "logprobs", &s->logprobs);
}

/* The first sample stands at the top, as if it were the only one; several are also a list. */
static status print_json(const answer *a, const answer_options *o) {
    const Gemmad__V1__Started *start =
        a->started ? ((Gemmad__V1__GenerateEvent *)(void *)a->started)->started : NULL;
    json_writer w = {0};
    json_begin(&w, '{');
    add_sample(&w, a, &a->sample[0], o);
    json_key(&w, "usage");
    if (a->usage) json_message(&w, &a->usage->base);
    else json_null(&w);
    if (start && start->request_id) json_key(&w, "request_id"), json_string(&w, start->request_id);
    if (start && start->has_seed) json_key(&w, "seed"), json_u64(&w, start->seed);
    if (o->prompt_logprobs.set) add_list(&w, "prompt_logprobs", &a->prompt_logprobs);
    if (a->count > 1) {
        json_key(&w, "samples");
        json_begin(&w, '[');
        for (uint32_t i = 0; i < a->count; i++) {
            json_begin(&w, '{');
            json_key(&w, "index");
            json_u64(&w, i);
            add_sample(&w, a, &a->sample[i], o);
            json_end(&w, '}');
        }
        json_end(&w, ']');
    }
    json_end(&w, '}');
    status st = terminal_write_line(&w.out);
    strbuf_close(&w.out);
    return st;
}

static void add_rate(strbuf *line, uint32_t tokens, double ms) {
    if (tokens > 0 && ms > 0) strbuf_add_format(line, " (%.1f tokens/s)", tokens * 1000.0 / ms);
}

static void print_speed(const answer *a) {
    const Gemmad__V1__Finished *end = a->sample[0].finished;
    const Gemmad__V1__Usage *u = a->usage;
    const Gemmad__V1__Timings *t = end->timings;
    if (!u || !t || a->count > 1) return;
    strbuf line = {0};
    strbuf_add_format(&line, "prompt: %u tokens", u->prompt_tokens);
    if (u->cached_tokens) strbuf_add_format(&line, ", %u of them from the cache,", u->cached_tokens);
    strbuf_add_format(&line, " in %.3f s", t->prefill_ms / 1000);
    add_rate(&line, u->prompt_tokens - u->cached_tokens, t->prefill_ms);
    strbuf_add_format(&line, "; answer: %u tokens in %.3f s", u->completion_tokens, t->decode_ms / 1000);
    /* The first token falls out of the prefill; the others are what decoding gave. */
    add_rate(&line, u->completion_tokens ? u->completion_tokens - 1 : 0, t->decode_ms);
    strbuf_add_format(&line, "; first token after %.3f s; ended by %s", t->first_token_ms / 1000,
                      end->finish_reason ? end->finish_reason : "?");
    fprintf(stderr, "%s\n", strbuf_text(&line));
    strbuf_close(&line);
}

static status print_end(const answer *a, const answer_options *o) {
    const Gemmad__V1__Finished *end = a->sample[0].finished;
    if (a->ctl->json) return print_json(a, o);
    if (a->last != '\n') TRY(terminal_write_line(&(strbuf){0}));
    if (a->ctl->verbose || isatty(STDERR_FILENO)) print_speed(a);
    if (a->style->say_when_cut && a->count == 1 && end->finish_reason &&
        !strcmp(end->finish_reason, "length"))
        fprintf(stderr,
                "gemmactl: the token limit ended the answer (see --max-tokens and the model's context)\n");
    return ST_OK;
}

static status receive_all(answer *a, client_stream *stream) {
    for (;;) {
        ProtobufCMessage *message;
        TRY(client_stream_next(stream, &message));
        if (!message) break;
        status st = take_event(a, &message);
        if (message) protobuf_c_message_free_unpacked(message, NULL);
        TRY(st);
    }
    for (uint32_t i = 0; i < a->count; i++)
        if (!a->sample[i].finished)
            return fail(ST_INTERNAL, "the daemon ended the stream without `finished`");
    return ST_OK;
}

static void answer_close(answer *a) {
    for (uint32_t i = 0; i < a->count; i++) {
        answer_sample *s = &a->sample[i];
        if (s->event) protobuf_c_message_free_unpacked(s->event, NULL);
        free(s->ids.at);
        strbuf_close(&s->text);
        strbuf_close(&s->logprobs.out);
    }
    free(a->sample);
    if (a->started) protobuf_c_message_free_unpacked(a->started, NULL);
    strbuf_close(&a->prompt_logprobs.out);
}

status answer_run(ctl *c, client *server, const answer_options *o, Gemmad__V1__GenerateRequest *request,
                  const answer_style *style) {
    if ((o->logprobs.set || o->prompt_logprobs.set) && !c->json)
        return ctl_usage(c, "--logprobs and --prompt-logprobs are printed with --json only");
    answer a = {.ctl = c, .style = style, .last = '\n', .count = o->n.set ? o->n.value : 1};
    a.sample = memory_alloc_array(a.count, sizeof *a.sample);
    client_stream *stream = NULL;
    Gemmad__V1__Sampling sampling = GEMMAD__V1__SAMPLING__INIT;
    fill_sampling(&sampling, o);
    request->model = ctl_model(o->model);
    request->request_id = ctl_model(o->request_id);
    request->sampling = &sampling;
    request->has_priority = o->priority.set;
    request->priority = o->priority.value;
    status st = client_stream_open(&stream, server, "/gemmad.v1.Inference/Generate", &request->base,
                                   &gemmad__v1__generate_event__descriptor, o->timeout_s.value * 1000);
    if (st == ST_OK) st = receive_all(&a, stream);
    terminal_progress(NULL);
    if (st == ST_OK) st = print_end(&a, o);
    else if (a.last != '\n') (void)!putchar('\n'); /* the message begins on a line of its own */
    client_stream_close(stream);
    free_sampling(&sampling);
    answer_close(&a);
    return st;
}
