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

enum { FORM_CHOICES_MAX = 1 << 14, FORM_CHOICE_BYTES_MAX = 1 << 16 };

typedef struct form_text {
    const char *text; /* UTF-8, not NUL-terminated */
    size_t bytes;
} form_text;

typedef struct form_tool {
    uint32_t index;             /* among the request's, for errors */
    form_text name, parameters; /* parameters.bytes 0: none */
    bool strict;
} form_tool;

typedef enum form_kind { FORM_TEXT, FORM_OBJECT, FORM_SCHEMA, FORM_REGEX, FORM_CHOICE } form_kind;
typedef enum form_calls { FORM_CALLS_NEVER, FORM_CALLS_MAY, FORM_CALLS_MUST } form_calls;

typedef struct form_answer {
    form_kind kind;
    form_text text;          /* the schema, the expression */
    const form_text *choice; /* [choice_count] */
    size_t choice_count;
    form_calls calls;
    bool one_call;         /* at most */
    const form_tool *tool; /* [tool_count]: those that may be called */
    size_t tool_count;
    bool may_think, starts_in_thought;
} form_answer;

STATUS_CHECKED status grammar_write_answer(grammar *g, const tokenizer *t, const form_answer *f);

#endif
