/* One Generate or Chat call from the command line: its sampling options, the stream on standard output, the figures after it.
 *
 * Threads: main thread.
 * Errors:  the server's, or ST_IO when standard output fails; what was printed stays printed. */
#ifndef CTL_ANSWER_H
#define CTL_ANSWER_H

#include "ctl/ctl.h"
#include "ctl/json_write.h"
#include "proto/gemmad.pb-c.h"

/* First member of the option structs of `ask`, `chat` and `generate`. */
typedef struct answer_options {
    const char *model, *request_id;
    arg_u32 n, max_tokens, top_k, logprobs, prompt_logprobs, timeout_s;
    arg_float temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
    arg_u64 seed;
    arg_i32 priority;
    arg_texts stop;
    arg_ids stop_token_ids;
    arg_bias logit_bias;
    bool ignore_eos;
} answer_options;

/* Rows of the option tables. Bounds are those of docs/api.md; what only the model knows, the server checks. */
extern const arg_option answer_option_table[];
extern const size_t answer_option_count;
enum { ANSWER_OPTIONS_MAX = 24 };

typedef struct answer_style {
    const char *text_key; /* of --json: "answer", "text" */
    bool say_when_cut;    /* a word on standard error when the token limit ended the text */
    void (*more_json)(json_writer *w, const void *context); /* keys of the command's own; NULL: none */
    const void *context;
} answer_style;

/* Fills the sampling into request, which holds the prompt, and runs it. */
STATUS_CHECKED status answer_run(ctl *c, client *server, const answer_options *options,
                                 Gemmad__V1__GenerateRequest *request, const answer_style *style);
STATUS_CHECKED status answer_run_chat(ctl *c, client *server, const answer_options *options,
                                      Gemmad__V1__ChatRequest *request, const answer_style *style);

/* For who runs a request without the above; answer_free_sampling releases the lists. */
void answer_fill_sampling(Gemmad__V1__Sampling *s, const answer_options *o);
void answer_free_sampling(Gemmad__V1__Sampling *s);

#endif
