#include "daemon/http/task.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/memory.h"
#include "daemon/http/fault.h"

enum {
    READ_HERE_BYTES = 64 << 10, /* under a millisecond */
    LONG_BYTES = 1 << 20        /* above: tens of milliseconds and more */
};

static task *of_job(job *j) { return (task *)((char *)j - offsetof(task, job)); }

void task_end(task *t) {
    if (t->endpoint->close) t->endpoint->close(t);
    body_close(&t->body);
    free(t);
}

/* Browsers send other pages' forms and text without asking; application/json they ask for first, and are told nothing. */
static bool is_json(const http_exchange *x) {
    static const char name[] = "application/json";
    const char *type = http_header(x, "content-type");
    if (!type || strncasecmp(type, name, sizeof name - 1) != 0) return false;
    type += sizeof name - 1;
    type += strspn(type, " \t");
    return !*type || *type == ';';
}

static status run(job *j) {
    task *t = of_job(j);
    size_t bytes;
    const char *text = http_body(t->exchange, &bytes);
    TRY(body_open(&t->body, text, bytes));
    return t->endpoint->read(t);
}

static void refuse_body(task *t) {
    const body *b = &t->body;
    http_refuse(t->exchange, fault_code(t->job.st), b->param[0] ? b->param : NULL,
                b->word ? b->word : fault_word(t->job.st), t->job.text);
}

static void done(job *j) {
    task *t = of_job(j);
    http_drop_body(t->exchange);
    if (t->left) {
        http_refuse_status(t->exchange, ST_CANCELLED, "the client no longer waits");
        task_end(t);
    } else if (j->st != ST_OK) {
        refuse_body(t);
        task_end(t);
    } else {
        t->begun = true;
        t->endpoint->begin(t);
    }
}

static void on_left(void *context, http_exchange *x) {
    task *t = context;
    (void)x;
    t->left = true;
    if (t->begun) t->endpoint->left(t);
    else job_cancel(&t->job);
}

static void on_drained(void *context, http_exchange *x) {
    task *t = context;
    (void)x;
    if (t->begun && t->endpoint->drained) t->endpoint->drained(t);
}

void task_start(openai *o, http_exchange *x, const task_endpoint *e) {
    size_t bytes;
    if (!is_json(x)) {
        http_refuse(x, 415, NULL, "unsupported_media_type",
                    "the body's Content-Type must be application/json");
        return;
    }
    task *t = memory_alloc(e->bytes);
    t->api = o;
    t->exchange = x;
    t->endpoint = e;
    t->job.run = run;
    t->job.done = done;
    http_watch(x, on_left, on_drained, t);
    (void)http_body(x, &bytes);
    o->lane.loop = http_loop(x);
    if (bytes > LONG_BYTES) job_start_in(&o->lane, http_caller(x), &t->job);
    else job_start(http_loop(x), &t->job, bytes <= READ_HERE_BYTES);
}

/* The core's sentences begin with the field they are about. "sampling.top_p is 2, …": the field of the request is top_p, and
 * its clients know no "sampling". "messages[1].content: …": messages[1].content. */
static bool find_field(const char *text, char field[64], const char **plain) {
    static const char prefix[] = "sampling.";
    static const char *const known[] = {"messages", "tools", "tool_choice", "response_format"};
    bool ours = !strncmp(text, prefix, sizeof prefix - 1);
    if (ours) text += sizeof prefix - 1;
    size_t length = strspn(text, "abcdefghijklmnopqrstuvwxyz_0123456789[]."), name = strcspn(text, ".[: ");
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        ours = ours || (strlen(known[i]) == name && !memcmp(text, known[i], name));
    if (!ours || length == 0 || length >= 64) return false;
    memcpy(field, text, length);
    field[length] = 0;
    *plain = text;
    return true;
}

/* What sampling_fit says of a prompt that, with max_tokens if they are given, the context has no room for. */
static bool refuse_too_long(http_exchange *x, const char *text) {
    char plain[STATUS_TEXT_MAX];
    if (strncmp(text, "the prompt has ", 15) != 0 || !strstr(text, "context")) return false;
    const char *at = strstr(text, "sampling.max_tokens");
    if (at) snprintf(plain, sizeof plain, "%.*s%s", (int)(at - text), text, strchr(at, '.') + 1);
    else snprintf(plain, sizeof plain, "%s", text);
    http_refuse(x, 400, at ? "max_tokens" : NULL, "context_length_exceeded", plain);
    return true;
}

void task_refuse(http_exchange *x, status st, const char *text, uint32_t retry_after_ms) {
    char field[64];
    const char *plain;
    if (retry_after_ms) http_set_retry(x, retry_after_ms);
    if (st == ST_NOT_FOUND) http_refuse(x, 404, "model", "model_not_found", text);
    else if (st == ST_INVALID && refuse_too_long(x, text)) return;
    else if (st == ST_INVALID && find_field(text, field, &plain))
        http_refuse(x, 400, field, "invalid_value", plain);
    else http_refuse_status(x, st, text);
}
