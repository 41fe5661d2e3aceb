#include "daemon/http/answer_out.h"

#include <stdio.h>

#include "daemon/http/fault.h"

void answer_usage_add(answer_usage *u, const Gemmad__V1__Usage *from) {
    if (!from) return;
    u->prompt += from->prompt_tokens;
    u->cached += from->cached_tokens;
    u->completion += from->completion_tokens;
    u->reasoning += from->reasoning_tokens;
}

void answer_usage_write(const answer_usage *u, const char *key, strbuf *out) {
    out_object(out, key);
    out_number(out, "prompt_tokens", u->prompt);
    out_number(out, "completion_tokens", u->completion);
    out_number(out, "total_tokens", u->prompt + u->completion);
    out_object(out, "prompt_tokens_details");
    out_number(out, "cached_tokens", u->cached);
    out_end_object(out);
    out_object(out, "completion_tokens_details");
    out_number(out, "reasoning_tokens", u->reasoning);
    out_end_object(out);
    out_end_object(out);
}

void answer_sse(http_exchange *x, const strbuf *json) {
    http_stream_write(x, "data: ", 6);
    http_stream_write(x, strbuf_text(json), json->size);
    http_stream_write(x, "\n\n", 2);
}

void answer_sse_fault(http_exchange *x, status st, const char *text) {
    strbuf json = {0};
    fault_write(fault_code(st), NULL, fault_word(st), text, &json);
    answer_sse(x, &json);
    strbuf_close(&json);
}

void answer_sse_progress(http_exchange *x, const Gemmad__V1__Progress *p) {
    char text[80];
    int n = snprintf(text, sizeof text, ": read %u of %u prompt tokens\n\n", p->prefilled_tokens,
                     p->prompt_tokens);
    http_stream_write(x, text, (size_t)n);
}
