/* One tool call as a Gemma model writes it, between <|tool_call> and <tool_call|>: call:name{key:value,…}. Strings stand
 * between delimiter tokens and have no escapes. What models do besides is read too, where it can mean one thing only: JSON
 * and single quotes, bare words, a delimiter or closer left out, delimiters for quotation marks inside a string.
 *
 * Memory:  parsed_call_read allocates; parsed_call_close releases. A zeroed call is empty.
 * Threads: any.
 * Cost:    O(bytes of the text · log of its members). */
#ifndef DAEMON_TEXT_PARSED_CALL_H
#define DAEMON_TEXT_PARSED_CALL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/strbuf.h"

enum { CALL_DELIMITER = 0xFF }; /* stands in the text for the delimiter token: no byte of UTF-8 */

typedef struct parsed_call {
    strbuf name, arguments; /* arguments: a JSON object, keys as they came, numbers as they were spelled */
} parsed_call;

/* text[n] is UTF-8 and delimiters. closes: what is open at its end is closed there. false: it cannot be read, and the call
 * is empty. */
bool parsed_call_read(parsed_call *out, const char *text, size_t n, bool closes);
void parsed_call_close(parsed_call *c);

#endif
