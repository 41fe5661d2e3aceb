/* The prompt of `ask` where the server has no chat for the model: one user turn as the chat template of the large models
 * writes it, thinking off:
 *
 *     <bos><|turn>user⏎ DOCUMENT… ⏎⏎ QUESTION <turn|>⏎<|turn>model⏎<|channel>thought⏎<channel|>
 *
 * Markers are sent with parse_special and everything of the user without, so a document that spells <turn|> cannot close
 * its own turn. Special tokens cut the text into pieces that are encoded one by one, so "user⏎" goes with the content.
 *
 * Memory:  ids->at is the caller's to free().
 * Errors:  the server's. */
#ifndef CTL_PROMPT_H
#define CTL_PROMPT_H

#include "base/strbuf.h"
#include "ctl/args.h"
#include "ctl/client.h"

/* Adds the tokens of a text; markers: special tokens are read in it; first: the beginning-of-sequence token before. */
STATUS_CHECKED status prompt_encode(client *c, const char *model, const void *text, size_t n, bool markers,
                                    bool first, arg_ids *ids);
STATUS_CHECKED status prompt_encode_turn(client *c, const char *model, const strbuf *content, arg_ids *ids);

#endif
