/* What the files of the chat templates share: a text under way, with the ranges that came from strangers, and the templates'
 * own way of writing values and declarations.
 * Threads: a writer belongs to one. */
#ifndef DAEMON_TEXT_CHAT_WRITER_H
#define DAEMON_TEXT_CHAT_WRITER_H

#include "daemon/text/chat_template.h"

/* As published, in their order. */
typedef enum chat_version { CHAT_APRIL_10, CHAT_APRIL_28, CHAT_JULY } chat_version;

struct chat_template {
    const char *name;
    const char *sha256; /* of its text without the white space at its end */
    chat_version version;
    bool empty_thought; /* without thinking, the generation prompt holds a thought that is over */
};

enum { CHAT_TEMPLATES = 6 };
extern const chat_template chat_templates[CHAT_TEMPLATES];

typedef struct chat_writer {
    const chat_template *template;
    strbuf *text;
    text_range *plain;
    size_t plain_count, plain_capacity;
} chat_writer;

/* The template's own text, special tokens included. */
void chat_mark(chat_writer *w, const char *text);
/* Text of strangers. */
void chat_plain(chat_writer *w, const char *text, size_t bytes);
/* str(v) as text of strangers; chat_plain_upper: in capitals. */
void chat_plain_str(chat_writer *w, const json_value *v);
void chat_plain_upper(chat_writer *w, const json_value *v);
/* str(v).upper() == word */
bool chat_upper_is(const json_value *v, const char *word);

/* The children of an object by their lower-cased keys (free()): [v->count]. */
const json_value **chat_sorted(const json_value *v);

/* A value in the syntax of calls; NULL is null. quoted: keys stand in delimiters. */
void chat_write_value(chat_writer *w, const json_value *v, bool quoted);
/* "a:1,b:2" of an object, keys bare. */
void chat_write_members(chat_writer *w, const json_value *object);

/* "<|tool>declaration:…<tool|>". ST_INVALID for a schema that the template fails on. */
STATUS_CHECKED status chat_write_tool(chat_writer *w, const chat_tool *t);

#endif
