/* Tokens and their log-probabilities as OpenAI's answers have them.
 * Threads: any; the tokenizer is read only. tokenizer NULL: ids have the text "token_id:N". */
#ifndef DAEMON_HTTP_TOKEN_TEXT_H
#define DAEMON_HTTP_TOKEN_TEXT_H

#include "base/strbuf.h"
#include "daemon/text/tokenizer.h"
#include "proto/gemmad.pb-c.h"

/* The bytes that the token stands for. room is for ids without text. */
const char *token_bytes(const tokenizer *t, uint32_t id, size_t *n, char room[24]);
/* {"token", "logprob", "bytes", "top_logprobs": […]}, an element of a chat's logprobs.content. */
void token_write_chat(const tokenizer *t, const Gemmad__V1__TokenLogprob *l, size_t top, strbuf *out);

/* The four parallel arrays of a completion's logprobs, without their brackets. */
typedef struct token_columns {
    strbuf tokens, token_logprobs, top_logprobs, text_offset;
    bool want_top;
} token_columns;
/* A token that begins at a character of the text; l NULL: its log-probability is not known (the first of a prompt). At most
 * `top` alternatives, and the token itself if it is none of them. */
void token_columns_add(token_columns *c, const tokenizer *t, uint32_t id, const Gemmad__V1__TokenLogprob *l,
                       size_t top, uint64_t offset);
/* {"tokens", "token_logprobs", "top_logprobs", "text_offset"}; empties them. */
void token_columns_write(token_columns *c, const char *key, strbuf *out);
void token_columns_close(token_columns *c);
/* Characters that begin in these bytes. */
uint64_t token_characters(const char *bytes, size_t n);

#endif
