/* What the tokens of a Gemma model mean: reasoning, content and tool calls, token by token. Structure is what special tokens
 * say, found by their text in the tokenizer; the same characters in ordinary tokens are text.
 *
 * Text comes out as soon as it is certain, in whole characters; a call comes out whole. What came out stays, but for white
 * space at the end of the content: next to a call it is not content (chat_parser_loose, events.withdrawn). The result does
 * not depend on how the tokens were handed over.
 *
 * Memory:  chat_parser_open allocates; chat_parser_close releases. Of a call in progress CHAT_CALL_BYTES_MAX bytes are kept
 *          (a longer one cannot be read), of those that could not be read what chat_malformed.h says. The tokenizer outlives
 *          the parser.
 * Threads: one at a time.
 * Cost:    O(n log n) for n bytes of output, whatever is in it.
 * Errors:  none: any sequence of ids means something. An id that the tokenizer does not have is U+FFFD. */
#ifndef DAEMON_TEXT_CHAT_PARSER_H
#define DAEMON_TEXT_CHAT_PARSER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/text/chat_malformed.h"
#include "daemon/text/parsed_call.h"
#include "daemon/text/tokenizer.h"

enum { CHAT_CALL_BYTES_MAX = 8 << 20 };

typedef enum chat_kind { CHAT_CONTENT, CHAT_REASONING, CHAT_CALL } chat_kind;

typedef struct chat_parser chat_parser;

/* Called from inside chat_parser_add and chat_parser_end; what they are given lives until they return. */
typedef struct chat_parser_events {
    void (*text)(void *context, chat_kind kind, const char *text,
                 size_t n);                     /* CHAT_CONTENT or CHAT_REASONING; n > 0 */
    void (*withdrawn)(void *context, size_t n); /* the last n bytes of content are not */
    void (*call)(void *context, const parsed_call *call);
} chat_parser_events;

typedef struct chat_parser_options {
    const tokenizer *tokenizer;
    bool starts_in_thought; /* the prompt ended inside a thought */
    bool thinking; /* an answer that starts with the line "thought" is a thought whose opening was lost */
    bool refuses_calls; /* every call counts as one that cannot be read */
    const chat_parser_events *events;
    void *context;
} chat_parser_options;

chat_parser *chat_parser_open(const chat_parser_options *options);
void chat_parser_close(chat_parser *p); /* NULL is fine */
/* The tokens that end a turn (<eos>, <turn|>, <|tool_response>) may come as any others do: they end what is open. What
 * follows <|tool_response> is not the model's and is left out. */
void chat_parser_add(chat_parser *p, uint32_t id);
/* No more tokens, once. whole: the model came to an end, or was stopped, where it was; otherwise a limit cut it off. */
void chat_parser_end(chat_parser *p, bool whole);

/* Whether text of tokens that were added waits: for the rest of a character, a line or a call. */
bool chat_parser_waits(const chat_parser *p);
/* Bytes at the end of the content that a call would make unsaid. */
size_t chat_parser_loose(const chat_parser *p);
bool chat_parser_in_thought(const chat_parser *p);
/* Whether the last token was one that ends a turn. */
bool chat_parser_at_end(const chat_parser *p);
/* Calls handed out so far. */
uint32_t chat_parser_calls(const chat_parser *p);
/* Tokens of thoughts, with those that begin and end them. */
uint32_t chat_parser_reasoning_tokens(const chat_parser *p);
/* The text of each call that could not be read, markers included. */
const chat_malformed *chat_parser_malformed(const chat_parser *p);
/* After chat_parser_end: the text of a call that the limit cut; NULL: none was. */
const char *chat_parser_truncated(const chat_parser *p, size_t *n);

#endif
