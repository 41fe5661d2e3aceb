/* The commands of a chat: lines that begin with "/". */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "ctl/chat.h"
#include "ctl/terminal.h"

void chat_say(const chat *h, const char *format, ...) {
    strbuf safe = {0};
    FILE *out = line_is_edited(h->input) ? stdout : stderr;
    va_list args;
    char *text = NULL;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    if (n >= 0 && isatty(fileno(out))) terminal_make_safe(&safe, text, (size_t)n);
    else if (n >= 0) strbuf_add(&safe, text, (size_t)n);
    fprintf(out, "%s\n", strbuf_text(&safe));
    fflush(out);
    free(text);
    strbuf_close(&safe);
}

/* ---- models ---- */

static status list_models(const chat *h, Gemmad__V1__ListModelsResponse **out) {
    Gemmad__V1__ListModelsRequest request = GEMMAD__V1__LIST_MODELS_REQUEST__INIT;
    ProtobufCMessage *m = NULL;
    TRY(client_call(h->server, "/gemmad.v1.Inference/ListModels", &request.base,
                    &gemmad__v1__list_models_response__descriptor, CTL_CALL_MS, &m));
    *out = (void *)m;
    return ST_OK;
}

static void add_names(strbuf *out, const Gemmad__V1__ListModelsResponse *list) {
    for (size_t i = 0; i < list->n_models; i++)
        strbuf_add_format(out, "%s%s", i ? ", " : "", list->models[i]->name ? list->models[i]->name : "?");
}

status chat_choose_model(chat *h, const char *name) {
    Gemmad__V1__ListModelsResponse *list;
    const Gemmad__V1__Model *found = NULL;
    TRY(list_models(h, &list));
    for (size_t i = 0; i < list->n_models && !found; i++)
        if (!name || (list->models[i]->name && !strcmp(list->models[i]->name, name))) found = list->models[i];
    status st = ST_OK;
    if (found) {
        free(h->model);
        h->model = found->name ? memory_copy_string(found->name) : NULL;
        h->context_tokens = found->context_tokens;
    } else {
        strbuf names = {0};
        add_names(&names, list);
        st = name ? fail(ST_NOT_FOUND, "there is no model %s; served are: %s", name, strbuf_text(&names))
                  : fail(ST_NOT_FOUND, "%s serves no model", h->ctl->server);
        strbuf_close(&names);
    }
    gemmad__v1__list_models_response__free_unpacked(list, NULL);
    return st;
}

static status do_model(chat *h, const char *name) {
    if (*name) {
        TRY(chat_choose_model(h, name));
        chat_say(h, "model %s, context %u tokens", h->model, h->context_tokens);
        return ST_OK;
    }
    Gemmad__V1__ListModelsResponse *list;
    strbuf names = {0};
    TRY(list_models(h, &list));
    add_names(&names, list);
    chat_say(h, "model %s, context %u tokens; served are: %s", h->model ? h->model : "?", h->context_tokens,
             strbuf_text(&names));
    strbuf_close(&names);
    gemmad__v1__list_models_response__free_unpacked(list, NULL);
    return ST_OK;
}

/* ---- the conversation ---- */

static status do_file(chat *h, const char *path) {
    if (!*path) return fail(ST_INVALID, "/file needs a PATH");
    if (!strcmp(path, "-")) return fail(ST_INVALID, "/file - is what you type; name a file");
    size_t before = h->pending.count;
    TRY(documents_add(&h->pending, path));
    strbuf line = {0};
    status st = documents_count(&h->pending, h->server, h->model);
    if (st == ST_OK) {
        documents_describe(&line, &h->pending.at[h->pending.count - 1], true);
        chat_say(h, "%s; goes with the next question", strbuf_text(&line));
    } else {
        documents_cut(&h->pending, before); /* who tries again does not want it twice */
    }
    strbuf_close(&line);
    return st;
}

static status do_reset(chat *h, const char *rest) {
    (void)rest;
    talk_cut(&h->talk, talk_system(&h->talk) ? 1 : 0);
    documents_close(&h->pending);
    chat_say(h, "the conversation begins anew%s", talk_system(&h->talk) ? ", with the same system text" : "");
    return ST_OK;
}

static status do_system(chat *h, const char *text) {
    bool had = talk_system(&h->talk) != NULL;
    talk_set_system(&h->talk, text, strlen(text));
    chat_say(h, "%s",
             *text ? "system text set; it holds for the whole conversation"
             : had ? "system text removed"
                   : "there is no system text");
    return ST_OK;
}

static status write_all(int fd, const strbuf *text) {
    for (size_t done = 0; done < text->size;) {
        ssize_t n = write(fd, text->data + done, text->size - done);
        if (n < 0 && errno != EINTR) return ST_IO;
        if (n > 0) done += (size_t)n;
    }
    return ST_OK;
}

/* A file that this session did not write is not written over. */
static status do_save(chat *h, const char *path) {
    if (!*path) return fail(ST_INVALID, "/save needs a FILE");
    bool ours = h->saved && !strcmp(h->saved, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | (ours ? O_TRUNC : O_EXCL), 0600);
    if (fd < 0 && errno == EEXIST) return fail(ST_EXISTS, "%s is there already; choose another name", path);
    if (fd < 0) return fail_errno(ST_IO, "%s", path);
    json_writer w = {0};
    json_begin(&w, '{');
    json_key(&w, "model"), json_string(&w, h->model ? h->model : "");
    json_key(&w, "messages"), talk_write_json(&w, &h->talk);
    json_end(&w, '}');
    strbuf_add_string(&w.out, "\n");
    status st = write_all(fd, &w.out);
    if (close(fd) != 0) st = ST_IO;
    strbuf_close(&w.out);
    if (st != ST_OK) return fail_errno(st, "%s", path);
    if (!ours) free(h->saved), h->saved = memory_copy_string(path);
    chat_say(h, "%zu messages written to %s", h->talk.count, path);
    return ST_OK;
}

static status do_think(chat *h, const char *word) {
    if (*word && strcmp(word, "on") != 0 && strcmp(word, "off") != 0)
        return fail(ST_INVALID, "/think takes on or off, and got \"%s\"", word);
    h->think = *word ? !strcmp(word, "on") : !h->think;
    chat_say(h, "thinking is %s", h->think ? "on" : "off");
    return ST_OK;
}

static status do_tools(chat *h, const char *path) {
    if (*path) {
        tools new;
        TRY(tools_read(&new, path));
        tools_close(&h->tools);
        h->tools = new;
    }
    if (h->tools.count == 0) chat_say(h, "there are no tools; /tools FILE reads some");
    for (size_t i = 0; i < h->tools.count; i++)
        chat_say(h, "  %s  %s", h->tools.tool[i]->name,
                 h->tools.tool[i]->description ? h->tools.tool[i]->description : "");
    return ST_OK;
}

static status do_usage(chat *h, const char *rest) {
    const chat_usage *u = &h->usage;
    (void)rest;
    chat_say(h, "last answer: %u tokens (%u of them thoughts) to a prompt of %u (%u from the cache)",
             u->last.completion_tokens, u->last.reasoning_tokens, u->last.prompt_tokens,
             u->last.cached_tokens);
    chat_say(h, "%u answers: %llu tokens (%llu thoughts), prompts %llu (%llu from the cache)", u->answers,
             (unsigned long long)u->completion, (unsigned long long)u->reasoning,
             (unsigned long long)u->prompt, (unsigned long long)u->cached);
    uint32_t used = u->last.prompt_tokens + u->last.completion_tokens;
    if (h->context_tokens) chat_say(h, "context: %u of %u tokens", used, h->context_tokens);
    return ST_OK;
}

static status do_quit(chat *h, const char *rest) {
    (void)rest;
    h->quit = true;
    return ST_OK;
}

static status do_help(chat *h, const char *rest);

static const struct {
    const char *name, *words, *help;
    status (*run)(chat *h, const char *rest);
} table[] = {
    {"help", "", "this list", do_help},
    {"file", "PATH", "the text of a file goes with the next question; may repeat", do_file},
    {"reset", "", "begin the conversation anew; the system text stays", do_reset},
    {"system", "TEXT", "what the model is to be; without TEXT none", do_system},
    {"think", "on|off", "let the model think before it answers", do_think},
    {"tools", "[FILE]", "list the tools, or read them from a file", do_tools},
    {"model", "[NAME]", "which model answers, or another one", do_model},
    {"save", "FILE", "write the conversation as JSON", do_save},
    {"usage", "", "tokens so far", do_usage},
    {"quit", "", "leave; Ctrl-D does the same", do_quit},
};
enum { COMMANDS = sizeof table / sizeof *table };

static status do_help(chat *h, const char *rest) {
    (void)rest;
    for (int i = 0; i < COMMANDS; i++) {
        char left[40];
        snprintf(left, sizeof left, "/%s %s", table[i].name, table[i].words);
        chat_say(h, "  %-18s %s", left, table[i].help);
    }
    chat_say(h, "A line that ends in \\ goes on in the next; \"\"\" begins and ends a text of several lines; "
                "//x sends /x.\n"
                "Ctrl-C stops the answer.");
    return ST_OK;
}

status chat_command(chat *h, const char *line) {
    const char *name = line + 1;
    size_t n = strcspn(name, " \t\n");
    const char *rest = name + n + strspn(name + n, " \t\n");
    /* Spaces behind a path are a slip; those inside stay. */
    strbuf words = {0};
    size_t kept = strlen(rest);
    while (kept && strchr(" \t\n", rest[kept - 1])) kept--;
    strbuf_add(&words, rest, kept);
    status st = ST_NOT_FOUND;
    int i = 0;
    while (i < COMMANDS && (strlen(table[i].name) != n || memcmp(table[i].name, name, n) != 0)) i++;
    if (i < COMMANDS) st = table[i].run(h, strbuf_text(&words));
    else st = fail(ST_INVALID, "there is no command /%.*s; /help lists them", (int)n, name);
    strbuf_close(&words);
    return st;
}
