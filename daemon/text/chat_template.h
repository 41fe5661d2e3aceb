/* The official chat templates of Gemma 4, rendered natively: a conversation as the text and the ids that the model was
 * trained on. A checkpoint's template is known by its SHA-256; no other is interpreted.
 *
 * Memory:  templates are constant and live for ever. A conversation is the caller's and is only read. A rendering owns its
 *          text and ranges; chat_rendering_close releases.
 * Threads: any.
 * Errors:  ST_INVALID for a conversation that the template refuses (no messages; a schema with a value in it that the
 *          template cannot write) and for a text over LIMIT_PROMPT_BYTES. The rendering is then empty. */
#ifndef DAEMON_TEXT_CHAT_TEMPLATE_H
#define DAEMON_TEXT_CHAT_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/strbuf.h"
#include "daemon/text/json_tree.h"
#include "daemon/text/tokenizer.h"

typedef struct chat_template chat_template;

/* "gemma4" (12B, 26B-A4B, 31B), "gemma4-small" (E2B, E4B); NULL: there is no such name. */
const chat_template *chat_template_named(const char *name);
const char *chat_template_name(const chat_template *t);

/* What a model's chats are rendered with. */
typedef struct chat_choice {
    const chat_template *template; /* NULL: the model serves no chat, and `why` says why */
    char why[STATUS_TEXT_MAX];
} chat_choice;
/* `option` is --chat-template or NULL; text[bytes] is the checkpoint's template, NULL: it has none. The option wins. A
 * tokenizer (NULL: none) without a token that the template writes gives no chat either. */
void chat_template_choose(chat_choice *out, const char *option, const char *text, size_t bytes,
                          const tokenizer *tok);

/* ---- conversations ---- */

typedef struct chat_text {
    const char *text; /* UTF-8, not NUL-terminated; NULL: absent */
    size_t bytes;
} chat_text;

typedef enum chat_part_kind {
    CHAT_PART_TEXT,
    CHAT_PART_IMAGE,
    CHAT_PART_AUDIO,
    CHAT_PART_VIDEO
} chat_part_kind;
typedef struct chat_part {
    chat_part_kind kind;
    chat_text text; /* of CHAT_PART_TEXT */
} chat_part;

/* Templates treat a plain string and a list of parts differently. */
typedef enum chat_content { CHAT_CONTENT_ABSENT, CHAT_CONTENT_STRING, CHAT_CONTENT_PARTS } chat_content;

typedef struct chat_call {
    chat_text id, name;
    const json_value *arguments; /* an object; NULL or null: {} */
} chat_call;

/* A result that stands in the assistant's own message. */
typedef struct chat_response {
    chat_text name;
    const json_value *response; /* NULL: null */
} chat_response;

typedef struct chat_message {
    chat_text role; /* "assistant" is written as "model", others as they are */
    chat_content content;
    const chat_part *parts; /* [part_count]; of CHAT_CONTENT_STRING exactly one, of text */
    uint32_t part_count;
    chat_text reasoning;
    const chat_call *calls; /* [call_count] */
    uint32_t call_count;
    const chat_response *responses; /* [response_count] */
    uint32_t response_count;
    chat_text call_id, name; /* of a tool message */
} chat_message;

typedef struct chat_tool {
    chat_text name, description;
    const json_value *parameters; /* NULL: none */
    const json_value *response;   /* NULL: none */
} chat_tool;

typedef struct chat_conversation {
    const chat_message *messages; /* [message_count] */
    uint32_t message_count;
    const chat_tool *tools; /* [tool_count] */
    uint32_t tool_count;
    bool enable_thinking, preserve_thinking, generation_prompt;
} chat_conversation;

/* ---- rendering ---- */

typedef struct chat_rendering {
    strbuf text;
    text_range *plain; /* [plain_count]: what came from strangers, for tokenizer_encode_marked */
    size_t plain_count;
    bool
        starts_in_thought; /* the prompt ends in an open thought: what the model writes first belongs to it */
} chat_rendering;

STATUS_CHECKED status chat_template_render(const chat_template *t, const chat_conversation *c,
                                           chat_rendering *out);
void chat_rendering_close(chat_rendering *r); /* a zeroed one is fine */

#endif
