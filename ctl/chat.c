/* gemmactl chat */
#include "ctl/chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/paths.h"
#include "ctl/terminal.h"

#define AT(field) offsetof(chat_options, field)

static const arg_option own_option[] = {
    {"think", ARG_WORD, "on|off", AT(think), 0, 0, "let the model think before it answers; default off"},
    {"system", ARG_TEXT, "TEXT", AT(system), 0, 0, "what the model is to be"},
    {"file", ARG_TEXTS, "FILE", AT(file), 0, 0, "goes with the first question; may repeat"},
    {"tools", ARG_TEXT, "FILE", AT(tools), 0, 0, "tools that the model may call: OpenAI's array in JSON"},
    {"tool-command", ARG_TEXT, "PROGRAM", AT(tool_command), 0, 0,
     "answers calls: gets one as JSON on standard input, prints the result; default: you are asked"},
    {"no-history", ARG_FLAG, NULL, AT(no_history), 0, 0, "do not keep what was typed for the next chat"},
};

/* *out is NULL where no history can be kept. */
static void find_history(const chat_options *o, char **out) {
    char *folder = NULL;
    *out = NULL;
    if (o->no_history || path_default_state(&folder) != ST_OK) return;
    for (char *slash = folder + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        (void)mkdir(folder, 0700);
        *slash = '/';
    }
    (void)mkdir(folder, 0700);
    *out = file_join(folder, "chat_history");
    free(folder);
}

static status begin(chat *h) {
    const chat_options *o = h->options;
    char *history;
    find_history(o, &history);
    status st = line_open(&h->input, history);
    free(history);
    TRY(st);
    if (o->tools) TRY(tools_read(&h->tools, o->tools));
    if (o->system) talk_set_system(&h->talk, o->system, strlen(o->system));
    for (size_t i = 0; i < o->file.count; i++) {
        if (!strcmp(o->file.at[i], "-"))
            return fail(ST_INVALID, "--file - would take what you type; name a file");
        TRY(documents_add(&h->pending, o->file.at[i]));
    }
    TRY(ctl_connect(h->ctl, &h->server));
    TRY(chat_choose_model(h, o->answer.model));
    if (!line_is_edited(h->input)) return ST_OK;
    chat_say(h, "%s at %s, context %u tokens. /help lists commands, Ctrl-D leaves.",
             h->model ? h->model : "?", h->ctl->server, h->context_tokens);
    return documents_count(&h->pending, h->server, h->model);
}

static status take_text(chat *h, strbuf *text) {
    const char *at = strbuf_text(text);
    if (at[0] == '/' && at[1] != '/') return chat_command(h, at);
    if (at[0] == '/') strbuf_drop_front(text, 1);
    if (strspn(strbuf_text(text), " \t\r\n") == text->size) return ST_OK;
    return chat_turn(h, text);
}

/* At a terminal what fails is said, and the next try is the user's; a script that fails ends. */
static status converse(chat *h) {
    while (!h->quit) {
        strbuf text = {0};
        line_end how;
        status st = line_read(h->input, "> ", &how, &text);
        if (st == ST_OK && how == LINE_TEXT) st = take_text(h, &text);
        strbuf_close(&text);
        if (st == ST_OK && how == LINE_NO_MORE) break;
        if (how == LINE_INTERRUPTED && !(line_is_edited(h->input) && client_forget_interrupt()))
            return fail(ST_CANCELLED, "interrupted");
        if (st == ST_OK) continue;
        if (!line_is_edited(h->input) || st == ST_IO || client_interrupt()) return st;
        chat_say(h, "gemmactl: %s", status_text());
    }
    return ST_OK;
}

static status run(ctl *c, const void *values, const arg_words *words) {
    const chat_options *o = values;
    if (words->count) return ctl_usage(c, "chat takes no words, and got \"%s\"", words->at[0]);
    if (o->answer.n.set || o->answer.logprobs.set || o->answer.prompt_logprobs.set || o->answer.request_id)
        return ctl_usage(c, "--n, --logprobs, --prompt-logprobs and --request-id are not for a chat");
    if (o->tool_command && !o->tools) return ctl_usage(c, "--tool-command answers the calls of --tools");
    chat h = {.ctl = c, .options = o, .think = o->think && !strcmp(o->think, "on")};
    status st = begin(&h);
    if (st == ST_OK) st = converse(&h);
    line_close(h.input);
    talk_close(&h.talk);
    tools_close(&h.tools);
    documents_close(&h.pending);
    client_close(h.server);
    free(h.model);
    free(h.saved);
    return st;
}

const command command_chat = {
    "chat",
    "",
    "talk to a model; /help lists what can be said besides",
    own_option,
    sizeof own_option / sizeof *own_option,
    sizeof(chat_options),
    true,
    run,
};
