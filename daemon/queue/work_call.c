#include "daemon/queue/work_call.h"

#include <stdlib.h>

#include "base/memory.h"

status work_open(work_call **out, size_t owner_bytes, core *c, call *k, const char *model,
                 void (*release)(work_call *w)) {
    core_model *m;
    *out = NULL;
    TRY(core_enter(c, k, model, &m));
    if (!m->tokenizer)
        return fail(ST_INVALID, "model %s has no tokenizer and works on token ids only", m->name);
    work_call *w = memory_alloc(owner_bytes);
    w->core = c;
    w->call = k;
    w->model = m;
    w->release = release;
    *out = w;
    core_call_begins(c);
    return ST_OK;
}

static void cancelled(call *k, void *context, status why) {
    work_call *w = context;
    (void)k;
    w->why = why;
    job_cancel(&w->job);
}

void work_start(work_call *w, status (*run)(job *), void (*done)(job *), core_job kind) {
    w->job.run = run;
    w->job.done = done;
    w->call->cancelled = cancelled;
    w->call->context = w;
    core_start_job(w->core, w->call, &w->job, kind);
}

static void close_call(work_call *w) {
    core *c = w->core;
    w->release(w);
    free(w);
    core_call_ends(c);
}

void work_refuse(work_call *w, status st) {
    core_refuse(w->call, st);
    close_call(w);
}

static void answer(work_call *w, const ProtobufCMessage *message) {
    size_t bytes = message && w->why == ST_OK ? protobuf_c_message_get_packed_size(message) : 0;
    if (w->why != ST_OK) core_refuse(w->call, fail(w->why, "the client no longer waits"));
    else if (!message) w->call->ops->finish(w->call, w->job.st, w->job.text, 0);
    else if (bytes > LIMIT_MESSAGE_BYTES)
        core_refuse(w->call, fail(ST_INVALID, "the answer has %zu bytes, at most %d; ask for less at once",
                                  bytes, LIMIT_MESSAGE_BYTES));
    else core_answer(w->call, message);
}

void work_end(work_call *w, const ProtobufCMessage *message) {
    w->call->cancelled = NULL;
    answer(w, message);
    close_call(w);
}
