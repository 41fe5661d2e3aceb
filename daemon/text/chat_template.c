#include "daemon/text/chat_template.h"

#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "daemon/text/chat_writer.h"
#include "daemon/text/python_text.h"
#include "proto/limits.h"

const chat_template chat_templates[CHAT_TEMPLATES] = {
    {"gemma4", "6a1015c47ccfcfa67c3b772385bccee357a4d37c3cda37bd202e9047f391ab82", CHAT_JULY, true},
    {"gemma4-small", "603a42db292c25278e9b23d94c7abbe77453f13e26a053c43c5c2f900b4136f7", CHAT_JULY, false},
    {"gemma4-2026-04-28", "94899c0f917d93f6fe81c95744d1e8ddab2d21d39228d2e4aec1fb2a25bff413", CHAT_APRIL_28,
     true},
    {"gemma4-small-2026-04-28", "33204f1acb5bd0002713e16a593847f24ceeafe711ed88bda2a352dc996a3373",
     CHAT_APRIL_28, false},
    {"gemma4-2026-04-10", "1d35a24a2a63cc600c0cab43628a6df4cd3318e959b03307cf5f9f7e29ecf783", CHAT_APRIL_10,
     true},
    {"gemma4-small-2026-04-10", "781d10940fbc44be40064b5d43a056fc486c84ceaa55538226368b57314132bf",
     CHAT_APRIL_10, false},
};

const chat_template *chat_template_named(const char *name) {
    for (int i = 0; i < CHAT_TEMPLATES; i++)
        if (!strcmp(chat_templates[i].name, name)) return &chat_templates[i];
    return NULL;
}

const char *chat_template_name(const chat_template *t) { return t->name; }

/* What a message ended with, as far as what follows depends on it. */
typedef enum ended { ENDED_TEXT, ENDED_CALL, ENDED_RESPONSE } ended;

typedef struct renderer {
    chat_writer w;
    const chat_conversation *c;
    uint32_t begin;             /* the first message that the system turn has not taken */
    uint32_t last_user;         /* UINT32_MAX: none from begin on */
    const chat_message *before; /* the last message that was no tool's */
    ended ended;
    strbuf scratch;
} renderer;

/* Before July. */
static bool is_april(const renderer *r) { return r->w.template->version < CHAT_JULY; }

static bool is(chat_text t, const char *word) {
    return t.bytes == strlen(word) && (t.bytes == 0 || !memcmp(t.text, word, t.bytes));
}

static bool is_tool(const chat_message *m) { return is(m->role, "tool"); }

static bool is_model(const chat_message *m) { return is(m->role, "assistant") || is(m->role, "model"); }

static bool is_system(const chat_message *m) { return is(m->role, "system") || is(m->role, "developer"); }

/* What was put together in the scratch buffer; too much of it is too much for the prompt. */
static void plain_scratch(renderer *r, bool strip) {
    const char *text = strbuf_text(&r->scratch);
    size_t bytes = r->scratch.size;
    if (r->scratch.full) r->w.text->full = true;
    if (strip) python_strip(&text, &bytes);
    chat_plain(&r->w, text, bytes);
}

static void plain_stripped(renderer *r, const char *text, size_t bytes) {
    python_strip(&text, &bytes);
    chat_plain(&r->w, text, bytes);
}

/* ---- the system turn ---- */

/* The first version printed a list of parts as Python does. */
static void write_parts_repr(renderer *r, const chat_message *m) {
    static const char *const kinds[] = {[CHAT_PART_TEXT] = "text",
                                        [CHAT_PART_IMAGE] = "image",
                                        [CHAT_PART_AUDIO] = "audio",
                                        [CHAT_PART_VIDEO] = "video"};
    strbuf_clear(&r->scratch);
    strbuf_add_string(&r->scratch, "[");
    for (uint32_t i = 0; i < m->part_count; i++) {
        strbuf_add_format(&r->scratch, "%s{'type': '%s'", i ? ", " : "", kinds[m->parts[i].kind]);
        if (m->parts[i].kind == CHAT_PART_TEXT) {
            strbuf_add_string(&r->scratch, ", 'text': ");
            python_write_repr(&r->scratch, m->parts[i].text.text, m->parts[i].text.bytes);
        }
        strbuf_add_string(&r->scratch, "}");
    }
    strbuf_add_string(&r->scratch, "]");
    plain_scratch(r, false);
}

static void write_system_text(renderer *r, const chat_message *m) {
    if (m->content == CHAT_CONTENT_STRING) {
        plain_stripped(r, m->parts[0].text.text, m->parts[0].text.bytes);
    } else if (m->content == CHAT_CONTENT_PARTS && r->w.template->version == CHAT_APRIL_10) {
        write_parts_repr(r, m);
    } else if (m->content == CHAT_CONTENT_PARTS) {
        for (uint32_t i = 0; i < m->part_count; i++) {
            if (m->parts[i].kind == CHAT_PART_TEXT)
                plain_stripped(r, m->parts[i].text.text, m->parts[i].text.bytes);
            chat_mark(&r->w, " ");
        }
    }
}

static status write_system_turn(renderer *r) {
    const chat_conversation *c = r->c;
    bool told = is_system(&c->messages[0]);
    if (!c->enable_thinking && c->tool_count == 0 && !told) return ST_OK;
    chat_mark(&r->w, "<|turn>system\n");
    if (c->enable_thinking) chat_mark(&r->w, "<|think|>\n");
    if (told) write_system_text(r, &c->messages[0]);
    r->begin = told;
    for (uint32_t i = 0; i < c->tool_count; i++)
        if (chat_write_tool(&r->w, &c->tools[i]) != ST_OK)
            return fail_within(ST_INVALID, "tools[%u] (%.*s)", i,
                               (int)(c->tools[i].name.bytes > 64 ? 64 : c->tools[i].name.bytes),
                               c->tools[i].name.bytes > 0 ? c->tools[i].name.text : "");
    chat_mark(&r->w, "<turn|>\n");
    return ST_OK;
}

/* ---- parts of a message ---- */

static void write_reasoning(renderer *r, const chat_message *m, uint32_t index) {
    bool current = r->last_user == UINT32_MAX || index > r->last_user;
    if (m->reasoning.bytes == 0) return;
    if (is_april(r) ? !current || m->call_count == 0
                    : !current && !(r->c->preserve_thinking && m->call_count > 0))
        return;
    chat_mark(&r->w, "<|channel>thought\n");
    chat_plain(&r->w, m->reasoning.text, m->reasoning.bytes);
    chat_mark(&r->w, "\n<channel|>");
}

static status write_calls(renderer *r, const chat_message *m, uint32_t index) {
    for (uint32_t i = 0; i < m->call_count; i++) {
        const json_value *a = m->calls[i].arguments;
        chat_mark(&r->w, "<|tool_call>call:");
        chat_plain(&r->w, m->calls[i].name.text, m->calls[i].name.bytes);
        chat_mark(&r->w, "{");
        if (a && a->kind == JSON_KIND_OBJECT) chat_write_members(&r->w, a);
        else if (a && a->kind == JSON_KIND_STRING && is_april(r)) chat_plain(&r->w, a->text, a->bytes);
        else if (a && a->kind != JSON_KIND_NULL && !is_april(r))
            return fail(ST_INVALID, "messages[%u].tool_calls[%u]: the arguments are no object", index, i);
        chat_mark(&r->w, "}<tool_call|>");
    }
    if (m->call_count > 0) r->ended = ENDED_CALL;
    return ST_OK;
}

static void begin_response(renderer *r, chat_text name) {
    chat_mark(&r->w, "<|tool_response>response:");
    chat_plain(&r->w, name.text, name.bytes);
    chat_mark(&r->w, "{");
}

static void end_response(renderer *r) {
    chat_mark(&r->w, "}<tool_response|>");
    r->ended = ENDED_RESPONSE;
}

static const chat_text unknown = {"unknown", 7};

static void write_own_responses(renderer *r, const chat_message *m) {
    for (uint32_t i = 0; i < m->response_count; i++) {
        const json_value *v = m->responses[i].response;
        bool named = is_april(r) ? m->responses[i].name.text != NULL : m->responses[i].name.bytes > 0;
        begin_response(r, named ? m->responses[i].name : unknown);
        if (v && v->kind == JSON_KIND_OBJECT) {
            chat_write_members(&r->w, v);
        } else {
            chat_mark(&r->w, "value:");
            chat_write_value(&r->w, v, false);
        }
        end_response(r);
    }
}

static bool same_id(chat_text a, chat_text b) {
    if (!a.text || !b.text) return !a.text && !b.text;
    return a.bytes == b.bytes && (a.bytes == 0 || !memcmp(a.text, b.text, a.bytes));
}

/* The last call with the same id gives the name, also when neither has one. */
static chat_text response_name(const chat_message *calls, const chat_message *tool, bool april) {
    for (uint32_t i = calls->call_count; i-- > 0;)
        if (same_id(calls->calls[i].id, tool->call_id)) return calls->calls[i].name;
    return april || tool->name.bytes > 0 ? tool->name : unknown;
}

static void write_placeholder(renderer *r, chat_part_kind kind) {
    if (kind == CHAT_PART_IMAGE) chat_mark(&r->w, "<|image|>");
    if (kind == CHAT_PART_AUDIO) chat_mark(&r->w, "<|audio|>");
    if (kind == CHAT_PART_VIDEO) chat_mark(&r->w, "<|video|>");
}

static status write_tool_message(renderer *r, const chat_message *calls, const chat_message *m) {
    chat_text name = response_name(calls, m, is_april(r));
    if (!name.text)
        return fail(ST_INVALID,
                    "messages[%u]: a tool message with neither a name nor the id of a call before it",
                    (uint32_t)(m - r->c->messages));
    begin_response(r, name);
    chat_mark(&r->w, "value:");
    if (m->content == CHAT_CONTENT_ABSENT) {
        chat_write_value(&r->w, NULL, false);
    } else {
        chat_mark(&r->w, "<|\"|>");
        for (uint32_t i = 0; i < m->part_count; i++)
            if (m->parts[i].kind == CHAT_PART_TEXT)
                chat_plain(&r->w, m->parts[i].text.text, m->parts[i].text.bytes);
        chat_mark(&r->w, "<|\"|>");
    }
    end_response(r);
    for (uint32_t i = 0; i < m->part_count && !is_april(r); i++) write_placeholder(r, m->parts[i].kind);
    return ST_OK;
}

/* Results are the tool messages that follow at once. */
static status write_responses(renderer *r, const chat_message *m, uint32_t index) {
    if (m->response_count > 0) write_own_responses(r, m);
    else if (m->call_count > 0)
        for (uint32_t k = index + 1; k < r->c->message_count && is_tool(&r->c->messages[k]); k++)
            TRY(write_tool_message(r, m, &r->c->messages[k]));
    return ST_OK;
}

/* What the model once wrote, without its thoughts: cut at each end of one, each piece up to a beginning. */
static void write_without_thoughts(renderer *r, const char *text, size_t bytes) {
    static const char open[] = "<|channel>", close[] = "<channel|>";
    const char *end = text + bytes;
    strbuf_clear(&r->scratch);
    while (text < end) {
        const char *cut = memmem(text, (size_t)(end - text), close, sizeof close - 1),
                   *stop = cut ? cut : end;
        const char *thought = memmem(text, (size_t)(stop - text), open, sizeof open - 1);
        strbuf_add(&r->scratch, text, (size_t)((thought ? thought : stop) - text));
        text = cut ? cut + sizeof close - 1 : end;
    }
    plain_scratch(r, true);
}

static void write_content(renderer *r, const chat_message *m) {
    for (uint32_t i = 0; i < m->part_count; i++) {
        const chat_part *p = &m->parts[i];
        if (p->kind != CHAT_PART_TEXT) {
            write_placeholder(r, p->kind);
            if (is_april(r)) r->ended = ENDED_TEXT;
        } else if (p->text.bytes > 0) {
            if (is_model(m)) write_without_thoughts(r, p->text.text, p->text.bytes);
            else plain_stripped(r, p->text.text, p->text.bytes);
        }
    }
}

/* ---- messages ---- */

static const chat_message *next_message(const renderer *r, uint32_t index) {
    for (uint32_t k = index + 1; k < r->c->message_count; k++)
        if (!is_tool(&r->c->messages[k])) return &r->c->messages[k];
    return NULL;
}

/* The content before it is trimmed. */
static bool says_something(const chat_message *m) {
    if (m->content == CHAT_CONTENT_STRING) return m->parts[0].text.bytes > 0;
    return m->content == CHAT_CONTENT_PARTS && m->part_count > 0;
}

static void close_turn(renderer *r, const chat_message *m, uint32_t index, bool responded, bool has_content) {
    const chat_message *next = next_message(r, index);
    bool goes_on;
    if (r->w.template->version == CHAT_JULY)
        goes_on = (is_model(m) && next && is(next->role, "assistant") && (m->call_count == 0 || responded)) ||
                  (responded && !has_content && !next);
    else goes_on = responded && !(r->w.template->version == CHAT_APRIL_10 ? says_something(m) : has_content);
    if (r->ended == ENDED_CALL && !responded) chat_mark(&r->w, "<|tool_response>");
    else if (!goes_on) chat_mark(&r->w, "<turn|>\n");
}

static status write_message(renderer *r, const chat_message *m, uint32_t index) {
    r->ended = ENDED_TEXT;
    if (!(is_model(m) && r->before && is(r->before->role, "assistant"))) {
        chat_mark(&r->w, "<|turn>");
        if (is_model(m)) chat_mark(&r->w, "model");
        else chat_plain(&r->w, m->role.text, m->role.bytes);
        chat_mark(&r->w, "\n");
    }
    write_reasoning(r, m, index);
    TRY(write_calls(r, m, index));
    TRY(write_responses(r, m, index));
    bool responded = r->ended == ENDED_RESPONSE;
    size_t before = r->w.text->size;
    write_content(r, m);
    close_turn(r, m, index, responded, r->w.text->size > before);
    r->before = m;
    return ST_OK;
}

static void write_generation_prompt(renderer *r, bool *starts_in_thought) {
    const chat_template *t = r->w.template;
    if (r->ended == ENDED_TEXT) {
        chat_mark(&r->w, "<|turn>model\n");
        if (t->empty_thought && !r->c->enable_thinking) chat_mark(&r->w, "<|channel>thought\n<channel|>");
    } else if (r->ended == ENDED_RESPONSE && r->c->enable_thinking && t->version == CHAT_JULY) {
        chat_mark(&r->w, "<|channel>thought\n");
        *starts_in_thought = true;
    }
}

static status render(renderer *r, bool *starts_in_thought) {
    const chat_conversation *c = r->c;
    if (c->message_count == 0) return fail(ST_INVALID, "messages is empty; a chat needs at least one");
    chat_mark(&r->w, "<bos>");
    TRY(write_system_turn(r));
    for (uint32_t i = r->begin; i < c->message_count; i++)
        if (is(c->messages[i].role, "user")) r->last_user = i;
    for (uint32_t i = r->begin; i < c->message_count; i++)
        if (!is_tool(&c->messages[i])) TRY(write_message(r, &c->messages[i], i));
    if (c->generation_prompt) write_generation_prompt(r, starts_in_thought);
    if (r->w.text->full) return fail(ST_INVALID, "the prompt has more than %d bytes", LIMIT_PROMPT_BYTES);
    return ST_OK;
}

status chat_template_render(const chat_template *t, const chat_conversation *c, chat_rendering *out) {
    *out = (chat_rendering){.text = {.max = LIMIT_PROMPT_BYTES}};
    renderer r = {.w = {.template = t, .text = &out->text}, .c = c, .last_user = UINT32_MAX};
    r.scratch.max = LIMIT_PROMPT_BYTES;
    status st = render(&r, &out->starts_in_thought);
    out->plain = r.w.plain;
    out->plain_count = r.w.plain_count;
    strbuf_close(&r.scratch);
    if (st != ST_OK) chat_rendering_close(out);
    return st;
}

void chat_rendering_close(chat_rendering *r) {
    strbuf_close(&r->text);
    free(r->plain);
    *r = (chat_rendering){0};
}
