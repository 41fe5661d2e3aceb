/* From what a request says about the form of its answer (response_format, tools, tool_choice, parallel_tool_calls, thinking)
 * to the automaton that an engine follows, with a cache, since a form is seldom asked for once.
 *
 * Memory:  a form is shared and counted: chat_grammar_release gives one count back, whatever became of the cache. The cache
 *          keeps at most bytes_max bytes of automata, the last used ones. Tokenizers outlive the cache.
 * Threads: any; made on a worker thread, since a large schema takes longer than 1 ms. Two threads that want the same form at
 *          the same time make it once.
 * Errors:  ST_INVALID with the field and what is wrong in it, for a schema with the JSON pointer
 *          ("tools[1].parameters_json: /properties/a/not: …"); *out is then NULL. */
#ifndef DAEMON_QUEUE_CHAT_GRAMMAR_H
#define DAEMON_QUEUE_CHAT_GRAMMAR_H

#include "daemon/text/tokenizer.h"
#include "proto/gemmad.pb-c.h"
#include <stdbool.h>

enum { CHAT_GRAMMAR_CACHE_BYTES = 256 << 20 };

typedef struct chat_grammar_cache chat_grammar_cache;

typedef struct chat_grammar {
    const uint8_t *bytes; /* of grammar_compile, never changed */
    size_t size;
    uint64_t id; /* of no other form of this process; not 0 */
} chat_grammar;

/* What of a model a form depends on: its tokenizer and the ids that end an answer. */
typedef struct chat_grammar_model {
    const tokenizer *tokenizer;
    const uint32_t *ends;
    uint32_t end_count;
} chat_grammar_model;

chat_grammar_cache *chat_grammar_cache_open(size_t bytes_max);
void chat_grammar_cache_close(chat_grammar_cache *c); /* NULL is fine */

/* Whether the request asks for any form: without, there is nothing to make and no need for a worker. */
bool chat_grammar_wanted(const Gemmad__V1__ChatRequest *r);
/* *out NULL and ST_OK: any text will do. starts_in_thought: the prompt ended inside the thought channel. */
STATUS_CHECKED status chat_grammar_make(const chat_grammar **out, chat_grammar_cache *c,
                                        const chat_grammar_model *m, const Gemmad__V1__ChatRequest *r,
                                        bool starts_in_thought);
/* The same for Generate, whose whole answer has the form. */
STATUS_CHECKED status chat_grammar_make_format(const chat_grammar **out, chat_grammar_cache *c,
                                               const chat_grammar_model *m,
                                               const Gemmad__V1__ResponseFormat *f);
void chat_grammar_release(const chat_grammar *g); /* NULL is fine */

#endif
