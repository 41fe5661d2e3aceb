/* gemmactl ask DOCUMENT... QUESTION */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "ctl/answer.h"
#include "ctl/json_write.h"
#include "ctl/prompt.h"
#include "ctl/terminal.h"

typedef struct ask_options {
    answer_options answer;
    bool prompt_only;
} ask_options;

static const arg_option own_option[] = {
    {"prompt-only", ARG_FLAG, NULL, offsetof(ask_options, prompt_only), 0, 0,
     "print the prompt's token ids instead of asking"},
};

static status print_prompt(const ctl *c, const arg_ids *ids) {
    json_writer w = {0};
    if (c->json) {
        json_begin(&w, '{');
        json_key(&w, "token_ids");
        json_u32_array(&w, ids->at, ids->count);
        json_end(&w, '}');
    } else {
        for (size_t i = 0; i < ids->count; i++) strbuf_add_format(&w.out, "%s%u", i ? "," : "", ids->at[i]);
    }
    status st = terminal_write_line(&w.out);
    strbuf_close(&w.out);
    return st;
}

static status ask_server(ctl *c, const ask_options *o, const strbuf *content) {
    static const answer_style style = {.text_key = "answer", .say_when_cut = true};
    client *server;
    arg_ids ids = {0};
    TRY(ctl_connect(c, &server));
    status st = prompt_encode_turn(server, o->answer.model, content, &ids);
    if (st == ST_OK && o->prompt_only) {
        st = print_prompt(c, &ids);
    } else if (st == ST_OK) {
        Gemmad__V1__TokenIds prompt = GEMMAD__V1__TOKEN_IDS__INIT;
        Gemmad__V1__GenerateRequest request = GEMMAD__V1__GENERATE_REQUEST__INIT;
        prompt.ids = ids.at;
        prompt.n_ids = ids.count;
        request.prompt_case = GEMMAD__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS;
        request.token_ids = &prompt;
        st = answer_run(c, server, &o->answer, &request, &style);
    }
    free(ids.at);
    client_close(server);
    return st;
}

static status run(ctl *c, const void *values, const arg_words *words) {
    const ask_options *o = values;
    if (words->count < 2)
        return ctl_usage(c, "ask needs a document and a question: gemmactl ask DOCUMENT... QUESTION");
    strbuf content = {0};
    status st = prompt_join_documents(words->at, words->count - 1, words->at[words->count - 1], &content);
    if (st == ST_OK) st = ask_server(c, o, &content);
    strbuf_close(&content);
    return st;
}

const command command_ask = {
    "ask",
    "DOCUMENT... QUESTION",
    "answer a question about text files (\"-\": standard input)",
    own_option,
    sizeof own_option / sizeof *own_option,
    sizeof(ask_options),
    true,
    run,
};
