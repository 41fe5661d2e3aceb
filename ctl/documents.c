#include "ctl/documents.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "ctl/ctl.h"
#include "ctl/prompt.h"
#include "ctl/terminal.h"
#include "proto/limits.h"

/* Bytes of the white-space character at the front of at[n], 0: it is none. */
static size_t space_at(const unsigned char *at, size_t n) {
    if (n >= 1 && (at[0] == ' ' || (at[0] >= 0x09 && at[0] <= 0x0D) || (at[0] >= 0x1C && at[0] <= 0x1F)))
        return 1;
    if (n >= 2 && at[0] == 0xC2 && (at[1] == 0x85 || at[1] == 0xA0)) return 2; /* U+0085, U+00A0 */
    if (n < 3) return 0;
    unsigned code = (at[0] & 0x0Fu) << 12 | (at[1] & 0x3Fu) << 6 | (at[2] & 0x3Fu);
    if ((at[0] & 0xF0) != 0xE0) return 0;
    bool space = code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
                 code == 0x202F || code == 0x205F || code == 0x3000;
    return space ? 3 : 0;
}

void documents_trim(const char **text, size_t *n) {
    const unsigned char *at = (const unsigned char *)*text;
    size_t left = *n, width;
    while ((width = space_at(at, left)) > 0) {
        at += width;
        left -= width;
    }
    for (bool trimmed = true; trimmed;) {
        trimmed = false;
        for (width = 1; width <= 3 && width <= left && !trimmed; width++)
            if (space_at(at + left - width, width) == width) {
                left -= width;
                trimmed = true;
            }
    }
    *text = (const char *)at;
    *n = left;
}

void documents_cut(documents *d, size_t count) {
    while (d->count > count) {
        document *last = &d->at[--d->count];
        free(last->path);
        free(last->text);
    }
}

void documents_close(documents *d) {
    documents_cut(d, 0);
    free(d->at);
    *d = (documents){0};
}

static status check_text(const char *what, const char **text, size_t *n) {
    size_t valid = utf8_check(*text, *n);
    if (valid < *n) return fail(ST_INVALID, "%s is not UTF-8 at byte %zu", what, valid);
    documents_trim(text, n);
    return *n ? ST_OK : fail(ST_INVALID, "%s is empty", what);
}

status documents_add(documents *d, const char *path) {
    char *all;
    size_t n;
    TRY(ctl_read_file(path, &all, &n));
    const char *text = all;
    status st = check_text(path, &text, &n);
    if (st == ST_OK) {
        d->at = memory_grow(d->at, (d->count + 1) * sizeof *d->at);
        document *new = &d->at[d->count++];
        *new = (document){.path = memory_copy_string(path), .text = memory_alloc(n + 1), .n = n};
        memcpy(new->text, text, n);
        d->counted = false;
    }
    free(all);
    return st;
}

static bool same_name(const char *a, const char *b) {
    const char *last_a = strrchr(a, '/'), *last_b = strrchr(b, '/');
    return !strcmp(last_a ? last_a + 1 : a, last_b ? last_b + 1 : b);
}

/* The last part of the path where that tells it from the others. */
static void add_name(strbuf *out, const documents *d, size_t i) {
    const char *path = d->at[i].path, *last = strrchr(path, '/');
    bool alone = true;
    strbuf safe = {0};
    for (size_t k = 0; k < d->count; k++) alone = alone && (k == i || !same_name(path, d->at[k].path));
    if (!strcmp(path, "-")) path = "standard input";
    else if (alone && last) path = last + 1;
    terminal_make_safe(&safe, path, strlen(path));
    for (size_t k = 0; k < safe.size; k++)
        if (safe.data[k] == '\n' || safe.data[k] == '\t') safe.data[k] = ' ';
    strbuf_add(out, safe.data, safe.size);
    strbuf_close(&safe);
}

status documents_join(const documents *d, const char *question, size_t n, strbuf *out) {
    out->max = LIMIT_PROMPT_BYTES;
    TRY(check_text("the question", &question, &n));
    for (size_t i = 0; i < d->count; i++) {
        if (d->count > 1) {
            strbuf_add_format(out, "Document %zu: ", i + 1);
            add_name(out, d, i);
            strbuf_add_string(out, "\n\n");
        }
        strbuf_add(out, d->at[i].text, d->at[i].n);
        strbuf_add_string(out, "\n\n");
    }
    strbuf_add(out, question, n);
    if (!out->full) return ST_OK;
    return fail(ST_INVALID, "documents and question are longer than %d bytes together", LIMIT_PROMPT_BYTES);
}

status documents_count(documents *d, client *server, const char *model) {
    for (size_t i = 0; i < d->count && !d->counted; i++) {
        char line[160];
        snprintf(line, sizeof line, "counting tokens: document %zu of %zu, %.80s", i + 1, d->count,
                 d->at[i].path);
        terminal_progress(line);
        arg_ids ids = {0};
        TRY(prompt_encode(server, model, d->at[i].text, d->at[i].n, false, false, &ids));
        d->at[i].tokens = (uint32_t)ids.count;
        free(ids.at);
    }
    terminal_progress(NULL);
    d->counted = true;
    return ST_OK;
}

void documents_add_number(strbuf *out, uint64_t n) {
    char digits[24];
    int count = snprintf(digits, sizeof digits, "%llu", (unsigned long long)n);
    for (int i = 0; i < count; i++) {
        if (i && (count - i) % 3 == 0) strbuf_add_string(out, ",");
        strbuf_add(out, digits + i, 1);
    }
}

void documents_describe(strbuf *out, const document *d, bool counted) {
    strbuf_add_format(out, "%s: ", strcmp(d->path, "-") ? d->path : "standard input");
    documents_add_number(out, d->n);
    strbuf_add_string(out, " bytes");
    if (!counted) return;
    strbuf_add_string(out, ", ");
    documents_add_number(out, d->tokens);
    strbuf_add_string(out, " tokens");
}

void documents_write_json(json_writer *w, const documents *d) {
    json_key(w, "documents");
    json_begin(w, '[');
    for (size_t i = 0; i < d->count; i++) {
        json_begin(w, '{');
        json_key(w, "path"), json_string(w, d->at[i].path);
        json_key(w, "bytes"), json_u64(w, d->at[i].n);
        json_key(w, "tokens");
        if (d->counted) json_u64(w, d->at[i].tokens);
        else json_null(w);
        json_end(w, '}');
    }
    json_end(w, ']');
}
