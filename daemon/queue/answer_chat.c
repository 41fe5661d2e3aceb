/* A chat's answer: what its parser says becomes stretches of text of one kind each. */
#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "daemon/queue/answer_internal.h"
#include "proto/limits.h"

static answer_run *last_run(const answer *a) {
    return a->run_first < a->run_count ? &a->run[a->run_count - 1] : NULL;
}

static void free_run(answer_run *r) {
    if (r->call) free(r->call->name);
    free(r->call);
}

static answer_run *add_run(answer *a, chat_kind kind) {
    if (a->run_count == a->run_capacity) {
        a->run_capacity = a->run_capacity ? a->run_capacity * 2 : 4;
        a->run = memory_grow(a->run, a->run_capacity * sizeof *a->run);
    }
    /* What is undecided of the content before it will not become a stop string any more. */
    stop_restart(&a->stop);
    uint64_t at = answer_text_end(a);
    a->decided = at;
    a->run[a->run_count] = (answer_run){.kind = kind, .begin = at, .end = at};
    return &a->run[a->run_count++];
}

static void on_text(void *context, chat_kind kind, const char *text, size_t n) {
    answer *a = context;
    if (a->stopped) return;
    answer_run *r = last_run(a);
    if (!r || r->kind != kind) r = add_run(a, kind);
    size_t before = a->text.size;
    strbuf_add(&a->text, text, n);
    a->grew = true;
    if (kind == CHAT_CONTENT) answer_scan(a, before);
    r->end = answer_text_end(a);
}

/* Tokens whose text was taken back wait again. */
static void on_withdrawn(void *context, size_t n) {
    answer *a = context;
    if (a->stopped) return;
    answer_run *r = last_run(a);
    INVARIANT(r && r->kind == CHAT_CONTENT && r->end - a->decided >= n);
    strbuf_drop_back(&a->text, n);
    r->end = a->decided = answer_text_end(a);
    if (r->end == r->begin) a->run_count--;
    while (a->waiting < a->tokens.count &&
           a->tokens.token[a->tokens.count - a->waiting - 1].text_end > a->decided)
        a->waiting++;
    answer_chat_drop(a); /* all that is left of the run may have been sent */
}

static void on_call(void *context, const parsed_call *call) {
    answer *a = context;
    if (a->stopped) return;
    answer_run *r = add_run(a, CHAT_CALL);
    r->call = memory_alloc(sizeof *r->call);
    r->call->index = a->calls++;
    r->call->name = memory_copy_string(strbuf_text(&call->name));
    call_id_make(r->call->id);
    strbuf_add(&a->text, strbuf_text(&call->arguments), call->arguments.size);
    r->end = a->decided = answer_text_end(a);
    a->grew = true;
    a->stopped = a->calls == a->calls_max;
    if (a->stopped) answer_settle(a, 0);
}

void answer_chat_open(answer *a, const tokenizer *t, const answer_form *form) {
    static const chat_parser_events events = {on_text, on_withdrawn, on_call};
    a->parser = chat_parser_open(&(chat_parser_options){.tokenizer = t,
                                                        .starts_in_thought = form->starts_in_thought,
                                                        .thinking = form->thinking,
                                                        .refuses_calls = form->refuses_calls,
                                                        .events = &events,
                                                        .context = a});
}

void answer_chat_close(answer *a) {
    for (size_t i = a->run_first; i < a->run_count; i++) free_run(&a->run[i]);
    free(a->run);
    chat_parser_close(a->parser);
}

/* Content that a call would take back, or that may begin a stop string, waits. */
static void decide(answer *a) {
    const answer_run *r = last_run(a);
    size_t held = 0;
    if (r && r->kind == CHAT_CONTENT) {
        size_t loose = chat_parser_loose(a->parser);
        held = stop_held(&a->stop);
        if (loose > held) held = loose;
    }
    uint64_t decided = answer_text_end(a) - held;
    if (decided > a->decided) a->decided = decided;
}

void answer_chat_add(answer *a, uint32_t id) {
    a->grew = false;
    chat_parser_add(a->parser, id);
    if (a->stopped) return;
    if (a->grew) answer_settle(a, chat_parser_waits(a->parser) ? 1 : 0);
    else if (token_queue_bytes(&a->tokens) > LIMIT_EVENT_BYTES) answer_settle(a, 0);
    decide(a);
}

void answer_chat_end(answer *a, bool whole) {
    if (a->stopped) return;
    chat_parser_end(a->parser, whole);
    if (a->stopped) return;
    answer_settle(a, 0);
    a->decided = answer_text_end(a);
}

void answer_chat_drop(answer *a) {
    while (a->run_first < a->run_count && a->run[a->run_first].end <= a->taken)
        free_run(&a->run[a->run_first++]);
    if (a->run_first < a->run_count) return;
    a->run_first = a->run_count = 0;
}
