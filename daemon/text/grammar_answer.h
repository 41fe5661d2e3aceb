/* A whole answer of a Gemma model as a grammar: a thought, tool calls, and text or what stands in its place.
 *
 *     answer = [ thought ] , ( text and calls | calls | form )
 *     call   = <|tool_call> , "call:" , name , arguments , <tool_call|>
 *
 * Special tokens are found by their text in the tokenizer. Arguments of a strict tool follow its schema, those of others are
 * any object, both in Gemma's syntax, so that every call can be read. Calls follow each other directly, or stand in free
 * text; where calls must be, or the answer has a form, no text stands beside them.
 *
 * Threads: any.
 * Errors:  ST_INVALID naming the field of the request, for a schema with its JSON pointer. */
#ifndef DAEMON_TEXT_GRAMMAR_ANSWER_H
#define DAEMON_TEXT_GRAMMAR_ANSWER_H

#include "daemon/text/grammar.h"

enum { ANSWER_CHOICES_MAX = 1 << 14, ANSWER_CHOICE_BYTES_MAX = 1 << 16 };

typedef struct answer_text {
    const char *text; /* UTF-8, not NUL-terminated */
    size_t bytes;
} answer_text;

typedef struct answer_tool {
    uint32_t index;               /* among the request's, for errors */
    answer_text name, parameters; /* parameters.bytes 0: none */
    bool strict;
} answer_tool;

typedef enum answer_kind {
    ANSWER_TEXT,
    ANSWER_OBJECT,
    ANSWER_SCHEMA,
    ANSWER_REGEX,
    ANSWER_CHOICE
} answer_kind;
typedef enum answer_calls { ANSWER_CALLS_NEVER, ANSWER_CALLS_MAY, ANSWER_CALLS_MUST } answer_calls;

typedef struct answer_form {
    answer_kind kind;
    answer_text text;          /* the schema, the expression */
    const answer_text *choice; /* [choice_count] */
    size_t choice_count;
    answer_calls calls;
    bool one_call;           /* at most */
    const answer_tool *tool; /* [tool_count]: those that may be called */
    size_t tool_count;
    bool may_think, starts_in_thought;
} answer_form;

STATUS_CHECKED status grammar_write_answer(grammar *g, const tokenizer *t, const answer_form *f);

#endif
