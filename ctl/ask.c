/* gemmactl ask DOCUMENT... QUESTION */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "ctl/answer.h"
#include "ctl/documents.h"
#include "ctl/json_write.h"
#include "ctl/prompt.h"
#include "ctl/talk.h"
#include "ctl/terminal.h"

typedef struct ask_options {
    answer_options answer;
    const char *think, *system;
    bool prompt_only;
} ask_options;

#define AT(field) offsetof(ask_options, field)

static const arg_option own_option[] = {
    {"think", ARG_WORD, "on|off", AT(think), 0, 0, "let the model think before it answers; default off"},
    {"system", ARG_TEXT, "TEXT", AT(system), 0, 0, "what the model is to be"},
    {"prompt-only", ARG_FLAG, NULL, AT(prompt_only), 0, 0, "print the prompt's token ids instead of asking"},
};

typedef struct asking {
    ctl *ctl;
    const ask_options *options;
    client *server;
    documents documents;
    strbuf content; /* of the user's turn */
    talk talk;
    arg_ids ids; /* of the whole prompt */
    bool chat;   /* the server has chat for this model */
} asking;

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

static bool thinks(const ask_options *o) { return o->think && !strcmp(o->think, "on"); }

static void fill_request(const asking *a, Gemmad__V1__ChatRequest *request) {
    request->model = ctl_model(a->options->answer.model);
    request->messages = a->talk.message;
    request->n_messages = a->talk.count;
    request->has_enable_thinking = true;
    request->enable_thinking = thinks(a->options);
}

/* The prompt as the model's own template writes it; where the server has none, as prompt.h does. */
static status render(asking *a) {
    const ask_options *o = a->options;
    ProtobufCMessage *m = NULL;
    Gemmad__V1__ChatRequest request = GEMMAD__V1__CHAT_REQUEST__INIT;
    if (o->system) talk_set_system(&a->talk, o->system, strlen(o->system));
    talk_add(&a->talk, "user", a->content.data, a->content.size);
    fill_request(a, &request);
    status st = client_call(a->server, "/gemmad.v1.Inference/RenderChat", &request.base,
                            &gemmad__v1__render_chat_response__descriptor, CTL_CALL_MS, &m);
    if (st == ST_UNSUPPORTED && !o->system && !thinks(o))
        return prompt_encode_turn(a->server, o->answer.model, &a->content, &a->ids);
    if (st == ST_UNSUPPORTED) return fail_within(st, "--system and --think need chat");
    TRY(st);
    const Gemmad__V1__RenderChatResponse *rendered = (void *)m;
    a->chat = true;
    a->ids.count = rendered->n_token_ids;
    a->ids.at = memory_alloc_array(a->ids.count + 1, sizeof *a->ids.at);
    if (a->ids.count) memcpy(a->ids.at, rendered->token_ids, a->ids.count * sizeof *a->ids.at);
    protobuf_c_message_free_unpacked(m, NULL);
    return ST_OK;
}

static bool is_shown(const ctl *c) { return !c->json && (c->verbose || isatty(STDERR_FILENO)); }

static void say_sizes(const asking *a) {
    if (!is_shown(a->ctl)) return;
    terminal_progress(NULL);
    for (size_t i = 0; i < a->documents.count; i++) {
        strbuf line = {0};
        documents_describe(&line, &a->documents.at[i], a->documents.counted);
        terminal_say(strbuf_text(&line));
        strbuf_close(&line);
    }
}

static status find_context(const asking *a, uint32_t *out) {
    Gemmad__V1__ListModelsRequest request = GEMMAD__V1__LIST_MODELS_REQUEST__INIT;
    const char *name = a->options->answer.model;
    ProtobufCMessage *m;
    TRY(client_call(a->server, "/gemmad.v1.Inference/ListModels", &request.base,
                    &gemmad__v1__list_models_response__descriptor, CTL_CALL_MS, &m));
    const Gemmad__V1__ListModelsResponse *list = (void *)m;
    bool found = false;
    *out = 0;
    for (size_t i = 0; i < list->n_models && !found; i++) {
        found = !name || !*name || (list->models[i]->name && !strcmp(list->models[i]->name, name));
        if (found) *out = list->models[i]->context_tokens;
    }
    protobuf_c_message_free_unpacked(m, NULL);
    return ST_OK;
}

/* Refused here, before anything is sent that would be read for minutes, and with the document that is the longest. */
static status check_room(asking *a) {
    const answer_options *o = &a->options->answer;
    uint32_t context, answer = o->max_tokens.set ? o->max_tokens.value : 1;
    TRY(find_context(a, &context));
    if (context == 0 || a->ids.count + (size_t)answer <= context) return ST_OK;
    strbuf what = {0};
    strbuf_add_format(&what, "the prompt has %zu tokens", a->ids.count);
    if (o->max_tokens.set) strbuf_add_format(&what, " and --max-tokens is %u", answer);
    strbuf_add_format(&what, "; the model's context is %u", context);
    if (documents_count(&a->documents, a->server, o->model) == ST_OK)
        for (size_t i = 0; i < a->documents.count; i++) {
            strbuf_add_string(&what, i ? ", " : " (");
            documents_describe(&what, &a->documents.at[i], true);
        }
    strbuf_add_string(&what, a->documents.count ? ")" : "");
    status st = fail(ST_INVALID, "%s", strbuf_text(&what));
    strbuf_close(&what);
    return st;
}

static void more_json(json_writer *w, const void *context) { documents_write_json(w, context); }

static status answer(asking *a) {
    const ask_options *o = a->options;
    const answer_style style = {"answer", true, more_json, &a->documents};
    if (a->chat) {
        Gemmad__V1__ChatRequest request = GEMMAD__V1__CHAT_REQUEST__INIT;
        fill_request(a, &request);
        return answer_run_chat(a->ctl, a->server, &o->answer, &request, &style);
    }
    Gemmad__V1__TokenIds prompt = GEMMAD__V1__TOKEN_IDS__INIT;
    Gemmad__V1__GenerateRequest request = GEMMAD__V1__GENERATE_REQUEST__INIT;
    prompt.ids = a->ids.at;
    prompt.n_ids = a->ids.count;
    request.prompt_case = GEMMAD__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS;
    request.token_ids = &prompt;
    return answer_run(a->ctl, a->server, &o->answer, &request, &style);
}

static status ask(asking *a, const arg_words *words) {
    const char *question = words->at[words->count - 1];
    for (size_t i = 0; i + 1 < words->count; i++) TRY(documents_add(&a->documents, words->at[i]));
    TRY(documents_join(&a->documents, question, strlen(question), &a->content));
    TRY(ctl_connect(a->ctl, &a->server));
    TRY(render(a));
    if (a->options->prompt_only) return print_prompt(a->ctl, &a->ids);
    TRY(check_room(a));
    if (a->ctl->json || is_shown(a->ctl))
        TRY(documents_count(&a->documents, a->server, a->options->answer.model));
    say_sizes(a);
    return answer(a);
}

static status run(ctl *c, const void *values, const arg_words *words) {
    if (words->count < 2)
        return ctl_usage(c, "ask needs a document and a question: gemmactl ask DOCUMENT... QUESTION");
    asking a = {.ctl = c, .options = values};
    status st = ask(&a, words);
    documents_close(&a.documents);
    strbuf_close(&a.content);
    talk_close(&a.talk);
    free(a.ids.at);
    client_close(a.server);
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
