#include "ctl/answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "ctl/reply.h"
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

typedef struct answer {
    ctl *ctl;
    const answer_style *style;
    char last;      /* byte printed */
    bool reasoning; /* what was printed last is */
    uint32_t printed;
    reply reply;
} answer;

void answer_fill_sampling(Gemmad__V1__Sampling *s, const answer_options *o) {
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

void answer_free_sampling(Gemmad__V1__Sampling *s) {
    for (size_t i = 0; i < s->n_logit_bias; i++) free(s->logit_bias[i]);
    free(s->logit_bias);
    free(s->stop);
}

static status show_text(void *context, uint32_t sample, reply_part part, const void *utf8, size_t n) {
    answer *a = context;
    (void)sample;
    if (a->ctl->json || a->reply.count > 1) return ST_OK;
    terminal_progress(NULL);
    TRY(terminal_write_part(&a->reasoning, part == REPLY_REASONING, utf8, n));
    if (part == REPLY_CONTENT) a->last = ((const char *)utf8)[n - 1];
    return terminal_flush();
}

static void show_progress(void *context, uint32_t read, uint32_t prompt) {
    char line[96];
    (void)context;
    snprintf(line, sizeof line, "reading the prompt: %u of %u tokens", read, prompt);
    terminal_progress(line);
}

/* Of several samples each is printed whole, in order, when those before it are. */
static status show_samples(void *context, uint32_t sample) {
    answer *a = context;
    const reply *r = &a->reply;
    (void)sample;
    if (a->ctl->json || r->count == 1) return ST_OK;
    for (; a->printed < r->count && r->sample[a->printed].finished; a->printed++) {
        const reply_sample *s = &r->sample[a->printed];
        strbuf line = {0};
        terminal_progress(NULL);
        strbuf_add_format(&line, "%s--- sample %u of %u, ended by %s", a->printed ? "\n" : "", a->printed + 1,
                          r->count, reply_ended_by(s));
        status st = terminal_write_line(&line);
        strbuf_close(&line);
        TRY(st);
        TRY(terminal_write_text(strbuf_text(&s->content), s->content.size));
        a->last = '\n';
        if (s->content.size == 0 || s->content.data[s->content.size - 1] != '\n')
            TRY(terminal_write_line(&(strbuf){0}));
    }
    return terminal_flush();
}

static void add_list(json_writer *w, const char *key, const json_writer *items) {
    json_key(w, key);
    json_begin(w, '[');
    strbuf_add(&w->out, items->out.data, items->out.size);
    json_end(w, ']');
}

static void add_sample(json_writer *w, const answer *a, const reply_sample *s, const answer_options *o) {
    json_key(w, a->style->text_key);
    json_text(w, strbuf_text(&s->content), s->content.size);
    if (a->reply.chat) reply_write_chat_json(w, s);
    json_key(w, "finish_reason");
    json_string(w, reply_ended_by(s));
    json_key(w, "token_ids");
    json_u32_array(w, s->ids.at, s->ids.count);
    json_key(w, "timings");
    if (s->finished->timings) json_message(w, &s->finished->timings->base);
    else json_null(w);
    if (o->logprobs.set) add_list(w, "logprobs", &s->logprobs);
}

/* The first sample stands at the top, as if it were the only one; several are also a list. */
static status print_json(const answer *a, const answer_options *o) {
    const reply *r = &a->reply;
    json_writer w = {0};
    json_begin(&w, '{');
    add_sample(&w, a, &r->sample[0], o);
    json_key(&w, "usage");
    if (r->usage) json_message(&w, &r->usage->base);
    else json_null(&w);
    if (r->started && r->started->request_id)
        json_key(&w, "request_id"), json_string(&w, r->started->request_id);
    if (r->started && r->started->has_seed) json_key(&w, "seed"), json_u64(&w, r->started->seed);
    if (o->prompt_logprobs.set) add_list(&w, "prompt_logprobs", &r->prompt_logprobs);
    if (a->style->more_json) a->style->more_json(&w, a->style->context);
    if (r->count > 1) {
        json_key(&w, "samples");
        json_begin(&w, '[');
        for (uint32_t i = 0; i < r->count; i++) {
            json_begin(&w, '{');
            json_key(&w, "index");
            json_u64(&w, i);
            add_sample(&w, a, &r->sample[i], o);
            json_end(&w, '}');
        }
        json_end(&w, ']');
    }
    json_end(&w, '}');
    status st = terminal_write_line(&w.out);
    strbuf_close(&w.out);
    return st;
}

static void print_speed(const reply *r) {
    strbuf line = {0};
    if (r->count == 1) reply_write_speed(&line, r);
    if (line.size) terminal_say(strbuf_text(&line));
    strbuf_close(&line);
}

static status print_end(const answer *a, const answer_options *o) {
    if (a->ctl->json) return print_json(a, o);
    if (a->last != '\n') TRY(terminal_write_line(&(strbuf){0}));
    if (a->ctl->verbose || isatty(STDERR_FILENO)) print_speed(&a->reply);
    if (a->style->say_when_cut && a->reply.count == 1 &&
        !strcmp(reply_ended_by(&a->reply.sample[0]), "length"))
        fprintf(stderr,
                "gemmactl: the token limit ended the answer (see --max-tokens and the model's context)\n");
    return ST_OK;
}

/* sampling: of the request, to be filled. */
static status run(ctl *c, client *server, const answer_options *o, const ProtobufCMessage *request,
                  Gemmad__V1__Sampling *sampling, const answer_style *style) {
    if ((o->logprobs.set || o->prompt_logprobs.set) && !c->json)
        return ctl_usage(c, "--logprobs and --prompt-logprobs are printed with --json only");
    answer a = {.ctl = c, .style = style, .last = '\n'};
    reply_open(&a.reply, o->n.set ? o->n.value : 1);
    answer_fill_sampling(sampling, o);
    status st = reply_receive(&a.reply, server, request, o->timeout_s.value * 1000,
                              &(reply_listener){show_text, show_progress, show_samples, &a});
    terminal_progress(NULL);
    status ended = terminal_write_part(&a.reasoning, false, NULL, 0);
    if (st == ST_OK) st = ended;
    if (st == ST_OK) st = print_end(&a, o);
    else if (a.last != '\n') (void)!putchar('\n'); /* the message begins on a line of its own */
    answer_free_sampling(sampling);
    reply_close(&a.reply);
    return st;
}

status answer_run(ctl *c, client *server, const answer_options *o, Gemmad__V1__GenerateRequest *request,
                  const answer_style *style) {
    Gemmad__V1__Sampling sampling = GEMMAD__V1__SAMPLING__INIT;
    request->model = ctl_model(o->model);
    request->request_id = ctl_model(o->request_id);
    request->sampling = &sampling;
    request->has_priority = o->priority.set;
    request->priority = o->priority.value;
    return run(c, server, o, &request->base, &sampling, style);
}

status answer_run_chat(ctl *c, client *server, const answer_options *o, Gemmad__V1__ChatRequest *request,
                       const answer_style *style) {
    Gemmad__V1__Sampling sampling = GEMMAD__V1__SAMPLING__INIT;
    request->model = ctl_model(o->model);
    request->request_id = ctl_model(o->request_id);
    request->sampling = &sampling;
    request->has_priority = o->priority.set;
    request->priority = o->priority.value;
    return run(c, server, o, &request->base, &sampling, style);
}
