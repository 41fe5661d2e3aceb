#include "daemon/text/model_text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"

static status find_file(const char *path, bool *found) {
    *found = access(path, F_OK) == 0;
    if (*found || errno == ENOENT || errno == ENOTDIR) return ST_OK;
    return fail_errno(ST_IO, "%s", path);
}

static status open_directory(model_text *m, const char *path) {
    bool found;
    char *json = file_join(path, "tokenizer.json"), *template = file_join(path, "chat_template.jinja");
    status st = find_file(json, &found);
    if (st == ST_OK && found) st = tokenizer_open(&m->tokenizer, json);
    if (st == ST_OK) st = find_file(template, &found);
    if (st == ST_OK && found)
        st = file_read_all(template, CHAT_TEMPLATE_BYTES_MAX, &m->chat_template, &m->chat_template_bytes);
    free(template);
    free(json);
    return st;
}

static status read_gguf(model_text *m, const gguf *g) {
    gguf_text text = {0};
    TRY(tokenizer_read_gguf(&m->tokenizer, g));
    TRY(gguf_read_text_optional(g, "tokenizer.chat_template", &text));
    if (!text.at) return ST_OK;
    if (text.size > CHAT_TEMPLATE_BYTES_MAX)
        return fail(ST_FORMAT, "%s: tokenizer.chat_template has %zu bytes, at most %d are allowed", g->name,
                    text.size, CHAT_TEMPLATE_BYTES_MAX);
    m->chat_template = memory_alloc(text.size + 1);
    memcpy(m->chat_template, text.at, text.size);
    m->chat_template_bytes = text.size;
    return ST_OK;
}

status model_text_open(model_text *out, const char *path) {
    model_text m = {0};
    gguf *g = NULL;
    status st;
    char *metadata = gguf_metadata_path(path);
    if (metadata || gguf_is_path(path)) {
        st = gguf_open(&g, metadata ? metadata : path);
        if (st == ST_OK) st = read_gguf(&m, g);
        gguf_close(g);
    } else {
        st = open_directory(&m, path);
    }
    free(metadata);
    if (st == ST_OK) *out = m;
    else model_text_close(&m);
    return st;
}

void model_text_close(model_text *m) {
    tokenizer_close(m->tokenizer);
    free(m->chat_template);
    *m = (model_text){0};
}
