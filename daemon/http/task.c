#include "daemon/http/task.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/memory.h"
#include "daemon/http/fault.h"

enum { READ_HERE_BYTES = 64 << 10 }; /* under a millisecond */

static task *of_job(job *j) { return (task *)((char *)j - offsetof(task, job)); }

void task_end(task *t) {
    if (t->endpoint->close) t->endpoint->close(t);
    body_close(&t->body);
    free(t);
}

/* Browsers send other pages' forms and text without asking; application/json they ask for first, and are told nothing. */
static bool is_json(const http_exchange *x) {
    const char *type = http_header(x, "content-type");
    return type && !strncasecmp(type, "application/json", 16) &&
           strspn(type + 16, " ;") ==
               strcspn(type + 16, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
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

void task_start(const openai *o, http_exchange *x, const task_endpoint *e) {
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
    job_start(http_loop(x), &t->job, bytes <= READ_HERE_BYTES);
}

/* "sampling.top_p is 2, …": the field of the request is top_p. */
static bool field_of(const char *text, char field[64]) {
    static const char prefix[] = "sampling.";
    size_t n = 0;
    if (strncmp(text, prefix, sizeof prefix - 1) != 0) return false;
    text += sizeof prefix - 1;
    while (n < 63 && (islower((unsigned char)text[n]) || text[n] == '_')) n++;
    memcpy(field, text, n);
    field[n] = 0;
    return n > 0;
}

void task_refuse(http_exchange *x, status st, const char *text, uint32_t retry_after_ms) {
    char field[64];
    if (retry_after_ms) http_set_retry(x, retry_after_ms);
    if (st == ST_NOT_FOUND) http_refuse(x, 404, "model", "model_not_found", text);
    else if (st == ST_INVALID && field_of(text, field))
        http_refuse(x, 400, field, "invalid_value", text + sizeof "sampling." - 1);
    else http_refuse_status(x, st, text);
}
