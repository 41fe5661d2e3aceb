/* What a model's path holds about text: the tokenizer and the chat template, of a directory (tokenizer.json,
 * chat_template.jinja) or of a GGUF file (its metadata, as a directory's metadata.gguf as well).
 *
 * Memory:  model_text_open allocates; model_text_close releases; a zeroed one is empty.
 * Errors:  as tokenizer.h and gguf.h, and ST_FORMAT for a template over CHAT_TEMPLATE_BYTES_MAX. A directory without
 *          tokenizer.json has no tokenizer and serves token ids only; a template may be missing in either form. */
#ifndef DAEMON_TEXT_MODEL_TEXT_H
#define DAEMON_TEXT_MODEL_TEXT_H

#include "daemon/text/tokenizer.h"

enum { CHAT_TEMPLATE_BYTES_MAX = 1 << 20 };

typedef struct model_text {
    tokenizer *tokenizer; /* NULL: none */
    char *chat_template;  /* NUL-terminated; NULL: none */
    size_t chat_template_bytes;
} model_text;

STATUS_CHECKED status model_text_open(model_text *out, const char *path);
void model_text_close(model_text *m);

#endif
