// link: daemon_core
/* Any JSON as a conversation, by all templates. What is rendered is UTF-8, and what its ranges leave over are the template's own
 * words: no text of strangers is ever outside of them. */
#include <string.h>

#include "base/invariant.h"
#include "base/utf8.h"
#include "daemon/text/chat_template.h"
#include "tests/unit/text/chat_vectors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What lies outside of strangers' text is made of these alone. */
static const char *const words[] = {"<bos>",
                                    "<|turn>",
                                    "<turn|>",
                                    "<|think|>",
                                    "<|channel>",
                                    "<channel|>",
                                    "<|tool>",
                                    "<tool|>",
                                    "<|tool_call>",
                                    "<tool_call|>",
                                    "<|tool_response>",
                                    "<tool_response|>",
                                    "<|\"|>",
                                    "<|image|>",
                                    "<|audio|>",
                                    "<|video|>",
                                    "system",
                                    "model",
                                    "thought",
                                    "declaration:",
                                    "description:",
                                    "parameters:",
                                    "properties:",
                                    "required:",
                                    "response:",
                                    "type:",
                                    "enum:",
                                    "items:",
                                    "nullable:true",
                                    "call:",
                                    "value:",
                                    "null",
                                    "None",
                                    "true",
                                    "false",
                                    "{",
                                    "}",
                                    "[",
                                    "]",
                                    ",",
                                    ":",
                                    "\n",
                                    " "};

static size_t word_at(const char *text, size_t n) {
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t length = strlen(words[i]);
        if (length <= n && memcmp(text, words[i], length) == 0) return length;
    }
    return 0;
}

static void check_words(const char *text, size_t n) {
    for (size_t at = 0, step; at < n; at += step) {
        step = word_at(text + at, n - at);
        INVARIANT(step > 0);
    }
}

static void check(const chat_rendering *r) {
    size_t end = 0;
    INVARIANT(utf8_check(strbuf_text(&r->text), r->text.size) == r->text.size);
    for (size_t i = 0; i < r->plain_count; i++) {
        INVARIANT(r->plain[i].begin >= end && r->plain[i].end > r->plain[i].begin &&
                  r->plain[i].end <= r->text.size);
        check_words(strbuf_text(&r->text) + end, r->plain[i].begin - end);
        end = r->plain[i].end;
    }
    check_words(strbuf_text(&r->text) + end, r->text.size - end);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const names[] = {"gemma4", "gemma4-small", "gemma4-2026-04-10", "gemma4-2026-04-28"};
    json_tree *t;
    if (json_tree_read(&t, (const char *)data, size) != ST_OK) return 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        chat_conversation c;
        chat_rendering r;
        if (vector_conversation(json_tree_root(t), i < 2, &c)) {
            if (chat_template_render(chat_template_named(names[i]), &c, &r) == ST_OK) check(&r);
            else INVARIANT(!r.text.data && !r.plain && *status_text() != 0);
            chat_rendering_close(&r);
        }
        vector_close(&c);
    }
    json_tree_close(t);
    return 0;
}
