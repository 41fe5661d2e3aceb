/* Text files that go with a question: read, checked, counted and joined.
 *
 * Memory:  owns the texts; documents_close releases them. A zeroed one has none.
 * Threads: main thread.
 * Errors:  ST_INVALID naming the document and the byte that is not UTF-8, or an empty one; the file's own. */
#ifndef CTL_DOCUMENTS_H
#define CTL_DOCUMENTS_H

#include "base/strbuf.h"
#include "ctl/client.h"
#include "ctl/json_write.h"

typedef struct document {
    char *path, *text; /* text: without the white space at both ends, [n] and a NUL */
    size_t n;
    uint32_t tokens; /* alone, once they are counted */
} document;

typedef struct documents {
    document *at; /* [count] */
    size_t count;
    bool counted;
} documents;

void documents_close(documents *d);
/* Only the first `count` stay. */
void documents_cut(documents *d, size_t count);
/* White space at both ends is dropped, as the template does: exactly what Python's str.strip drops. */
void documents_trim(const char **text, size_t *n);
/* "-" is standard input. */
STATUS_CHECKED status documents_add(documents *d, const char *path);
/* Texts in order, an empty line after each, then the question. Where there are several, "Document 1: name" stands above
 * each, so that a question can be about one of them. */
STATUS_CHECKED status documents_join(const documents *d, const char *question, size_t n, strbuf *out);
/* Has the server count tokens of each. */
STATUS_CHECKED status documents_count(documents *d, client *server, const char *model);
/* A line for people: "a.txt: 1,234 bytes, 321 tokens". */
void documents_describe(strbuf *out, const document *d, bool counted);
/* "documents": [{path, bytes, tokens}], into an object that is begun. */
void documents_write_json(json_writer *w, const documents *d);
/* 1234567 as "1,234,567". */
void documents_add_number(strbuf *out, uint64_t n);

#endif
