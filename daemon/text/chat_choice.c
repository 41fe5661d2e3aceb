/* Which template a model's chats are rendered with. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/sha256.h"
#include "daemon/text/chat_writer.h"

static void hash(const char *text, size_t bytes, char hex[65]) {
    uint8_t digest[32];
    sha256 s;
    sha256_begin(&s);
    sha256_add(&s, text, bytes);
    sha256_end(&s, digest);
    sha256_hex(digest, hex);
}

/* Each template ends in a tag that takes the white space behind it away: files that differ in that alone are the same. */
static const chat_template *find(const char *text, size_t bytes) {
    char hex[65];
    while (bytes > 0 && text[bytes - 1] && strchr(" \t\r\n", text[bytes - 1])) bytes--;
    hash(text, bytes, hex);
    for (int i = 0; i < CHAT_TEMPLATES; i++)
        if (!strcmp(chat_templates[i].sha256, hex)) return &chat_templates[i];
    return NULL;
}

/* A word that a template writes and that is no special token would be spelled out, and the model would not know it. */
static bool knows_markers(const tokenizer *tok, chat_choice *out) {
    static const char *const markers[] = {
        "<bos>",   "<|turn>", "<turn|>",      "<|think|>",    "<|channel>",       "<channel|>",
        "<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>",
        "<|\"|>"};
    for (size_t i = 0; i < sizeof markers / sizeof *markers; i++) {
        uint32_t id;
        if (tokenizer_find(tok, markers[i], &id) && tokenizer_is_special(tok, id)) continue;
        snprintf(out->why, sizeof out->why,
                 "its tokenizer has no special token %s, which the chat template writes", markers[i]);
        return false;
    }
    return true;
}

void chat_template_choose(chat_choice *out, const char *option, const char *text, size_t bytes,
                          const tokenizer *tok) {
    char hex[65];
    *out = (chat_choice){0};
    const chat_template *t = option ? chat_template_named(option) : text ? find(text, bytes) : NULL;
    if (!tok) {
        snprintf(out->why, sizeof out->why, "it has no tokenizer");
    } else if (!t && !text) {
        snprintf(out->why, sizeof out->why,
                 "it has no chat template; --chat-template gemma4 or gemma4-small gives it one");
    } else if (!t) {
        hash(text, bytes, hex);
        snprintf(out->why, sizeof out->why,
                 "its chat template is none of Gemma 4's (SHA-256 %s); --chat-template gemma4 or "
                 "gemma4-small says that it may "
                 "be rendered as one",
                 hex);
    } else if (knows_markers(tok, out)) {
        out->template = t;
    }
}
