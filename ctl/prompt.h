/* The prompt of `ask`: one user turn as the chat template of the large models writes it, thinking off:
 *
 *     <bos><|turn>user⏎ DOCUMENT… ⏎⏎ QUESTION <turn|>⏎<|turn>model⏎<|channel>thought⏎<channel|>
 *
 * Markers are sent with parse_special and everything of the user without, so a document that spells <turn|> cannot close
 * its own turn. Special tokens cut the text into pieces that are encoded one by one, so "user⏎" goes with the content.
 *
 * Memory:  outputs are the caller's: strbuf_close, free(ids->at).
 * Errors:  ST_INVALID naming the document and the byte that is not UTF-8, or an empty one. */
#ifndef CTL_PROMPT_H
#define CTL_PROMPT_H

#include "base/strbuf.h"
#include "ctl/args.h"
#include "ctl/client.h"

/* White space at both ends is dropped, as the template does: exactly what Python's str.strip drops. */
void prompt_trim(const char **text, size_t *n);
/* The documents' texts in order, an empty line after each, then the question. Path "-" is standard input. */
STATUS_CHECKED status prompt_join_documents(char *const *paths, size_t count, const char *question, strbuf *content);
STATUS_CHECKED status prompt_encode_turn(client *c, const char *model, const strbuf *content, arg_ids *ids);

#endif
