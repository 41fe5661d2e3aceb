/* One turn of a chat: the question, the answer as it streams, tools and their results. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "ctl/chat.h"
#include "ctl/terminal.h"

enum { SHOWN_BYTES_MAX = 400 }; /* of a tool's result */

/* ---- showing ---- */

static status show_text(void *context, uint32_t sample, reply_part part, const void *utf8, size_t n) {
    chat *h = context;
    (void)sample;
    if (h->ctl->json) return ST_OK;
    terminal_progress(NULL);
    TRY(terminal_write_part(&h->inside_thought, part == REPLY_REASONING, utf8, n));
    if (part == REPLY_CONTENT) h->last = ((const char *)utf8)[n - 1];
    return terminal_flush();
}

static void show_progress(void *context, uint32_t read, uint32_t prompt) {
    char line[96];
    (void)context;
    snprintf(line, sizeof line, "reading: %u of %u tokens", read, prompt);
    terminal_progress(line);
}

/* What follows begins on a line of its own. */
static status end_line(chat *h) {
    terminal_progress(NULL);
    TRY(terminal_write_part(&h->inside_thought, false, NULL, 0));
    if (h->last == '\n') return ST_OK;
    h->last = '\n';
    return terminal_write_line(&(strbuf){0});
}

static void say_call(const chat *h, const reply_tool_call *c) {
    chat_say(h, "[call %s %s]", c->name ? c->name : "?", strbuf_text(&c->arguments));
}

static void say_result(const chat *h, const reply_tool_call *c, const strbuf *result) {
    size_t n = result->size;
    /* Never cut inside a character. */
    if (n > SHOWN_BYTES_MAX)
        for (n = SHOWN_BYTES_MAX; n && ((unsigned char)result->data[n] & 0xC0) == 0x80;) n--;
    chat_say(h, "[result of %s: %.*s%s]", c->name ? c->name : "?", (int)n, strbuf_text(result),
             n < result->size ? "…" : "");
}

static void say_faults(const chat *h, const reply_sample *s) {
    for (size_t i = 0; i < s->finished->n_malformed; i++)
        chat_say(h, "[a call that cannot be read: %.*s]", (int)s->finished->malformed[i].len,
                 (const char *)s->finished->malformed[i].data);
    if (s->finished->has_truncated_call)
        chat_say(h, "[a call that the token limit cut: %.*s]", (int)s->finished->truncated_call.len,
                 (const char *)s->finished->truncated_call.data);
    if (!strcmp(reply_ended_by(s), "length")) chat_say(h, "[the token limit ended the answer]");
}

static status print_json(const reply *r) {
    const reply_sample *s = &r->sample[0];
    json_writer w = {0};
    json_begin(&w, '{');
    json_key(&w, "content"), json_text(&w, strbuf_text(&s->content), s->content.size);
    reply_write_chat_json(&w, s);
    json_key(&w, "finish_reason"), json_string(&w, reply_ended_by(s));
    json_key(&w, "token_ids"), json_u32_array(&w, s->ids.at, s->ids.count);
    json_key(&w, "usage");
    if (r->usage) json_message(&w, &r->usage->base);
    else json_null(&w);
    json_key(&w, "timings");
    if (s->finished->timings) json_message(&w, &s->finished->timings->base);
    else json_null(&w);
    if (r->started && r->started->request_id)
        json_key(&w, "request_id"), json_string(&w, r->started->request_id);
    if (r->started && r->started->has_seed) json_key(&w, "seed"), json_u64(&w, r->started->seed);
    json_end(&w, '}');
    status st = terminal_write_line(&w.out);
    strbuf_close(&w.out);
    return st;
}

static void count_usage(chat_usage *all, const reply *r) {
    all->answers++;
    if (!r->usage) return;
    all->last = *r->usage;
    all->prompt += r->usage->prompt_tokens;
    all->cached += r->usage->cached_tokens;
    all->completion += r->usage->completion_tokens;
    all->reasoning += r->usage->reasoning_tokens;
}

/* ---- one answer ---- */

static status ask_once(chat *h, reply *r) {
    const answer_options *o = &h->options->answer;
    Gemmad__V1__ChatRequest request = GEMMAD__V1__CHAT_REQUEST__INIT;
    Gemmad__V1__Sampling sampling = GEMMAD__V1__SAMPLING__INIT;
    request.model = h->model;
    request.messages = h->talk.message, request.n_messages = h->talk.count;
    request.tools = h->tools.tool, request.n_tools = h->tools.count;
    request.has_enable_thinking = true;
    request.enable_thinking = h->think;
    request.sampling = &sampling;
    request.has_priority = o->priority.set;
    request.priority = o->priority.value;
    answer_fill_sampling(&sampling, o);
    status st = reply_receive(r, h->server, &request.base, o->timeout_s.value * 1000,
                              &(reply_listener){show_text, show_progress, NULL, h});
    answer_free_sampling(&sampling);
    status ended = h->ctl->json ? ST_OK : end_line(h);
    return st == ST_OK ? ended : st;
}

/* Ctrl-C at a terminal is for the answer, not for the program. */
static bool was_stopped(const chat *h, status st) {
    return st == ST_CANCELLED && line_is_edited(h->input) && client_forget_interrupt();
}

static status take_answer(chat *h, const reply *r) {
    const reply_sample *s = &r->sample[0];
    count_usage(&h->usage, r);
    talk_add_answer(&h->talk, s);
    if (h->ctl->json) return print_json(r);
    say_faults(h, s);
    if (!h->ctl->verbose) return ST_OK;
    strbuf line = {0};
    reply_write_speed(&line, r);
    if (line.size) terminal_say(strbuf_text(&line));
    strbuf_close(&line);
    return ST_OK;
}

/* ---- tools ---- */

static status ask_result(chat *h, const reply_tool_call *c, strbuf *result) {
    strbuf name = {0}, prompt = {0};
    line_end how;
    terminal_make_safe(&name, c->name ? c->name : "?", strlen(c->name ? c->name : "?"));
    strbuf_add_format(&prompt, "result of %s> ", strbuf_text(&name));
    status st = line_read(h->input, strbuf_text(&prompt), &how, result);
    strbuf_close(&name);
    strbuf_close(&prompt);
    TRY(st);
    if (how == LINE_TEXT) return ST_OK;
    if (how == LINE_INTERRUPTED) return fail(ST_CANCELLED, "interrupted");
    return fail(ST_CANCELLED, "there is no result of %s", c->name ? c->name : "the call");
}

static status add_results(chat *h, const reply_sample *s) {
    for (uint32_t i = 0; i < s->call_count; i++) {
        strbuf result = {0};
        const char *program = h->options->tool_command;
        if (!h->ctl->json) say_call(h, &s->call[i]);
        status st = program ? tools_run(program, &s->call[i], &result) : ask_result(h, &s->call[i], &result);
        if (st == ST_OK && program && !h->ctl->json) say_result(h, &s->call[i], &result);
        if (st == ST_OK) talk_add_result(&h->talk, &s->call[i], &result);
        strbuf_close(&result);
        TRY(st);
    }
    return ST_OK;
}

/* *more: the results of calls wait for an answer. */
static status one_round(chat *h, bool *more) {
    reply r;
    reply_open(&r, 1);
    *more = false;
    status st = ask_once(h, &r);
    if (st == ST_OK) st = take_answer(h, &r);
    if (st == ST_OK && r.sample[0].call_count) {
        st = add_results(h, &r.sample[0]);
        *more = true;
    } else if (was_stopped(h, st) && r.sample[0].content.size) {
        /* Without half a call, which cannot be answered. */
        talk_add(&h->talk, "assistant", r.sample[0].content.data, r.sample[0].content.size);
        chat_say(h, "[stopped; the answer is kept as far as it came]");
        st = ST_OK;
    }
    reply_close(&r);
    return st;
}

static status make_question(chat *h, const strbuf *question) {
    if (h->pending.count == 0) {
        talk_add(&h->talk, "user", question->data, question->size);
        return ST_OK;
    }
    strbuf all = {0};
    status st = documents_join(&h->pending, strbuf_text(question), question->size, &all);
    if (st == ST_OK) talk_add(&h->talk, "user", all.data, all.size);
    strbuf_close(&all);
    return st;
}

status chat_turn(chat *h, const strbuf *question) {
    size_t before = h->talk.count;
    bool more = true;
    h->last = '\n';
    h->inside_thought = false;
    TRY(make_question(h, question));
    status st = ST_OK;
    for (int round = 0; st == ST_OK && more; round++) {
        if (round == CHAT_ROUNDS_MAX)
            st = fail(ST_INVALID, "the model has called tools %d times in a row", CHAT_ROUNDS_MAX);
        else st = one_round(h, &more);
    }
    if (st == ST_OK) {
        documents_close(&h->pending);
        return ST_OK;
    }
    /* A question without its answer, or calls without results, would spoil the next prompt. */
    talk_cut(&h->talk, before);
    if (line_is_edited(h->input) && st == ST_CANCELLED && client_forget_interrupt()) {
        chat_say(h, "[stopped; the question is forgotten]");
        return ST_OK;
    }
    return st;
}
