#include "daemon/queue/chat_conversation.h"

#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "proto/limits.h"

/* Values of clients in sentences are cut there. */
#define SHOWN ".64s"

static chat_text text_of(const char *s) { return s && s[0] ? (chat_text){s, strlen(s)} : (chat_text){0}; }

static bool is(const char *s, const char *word) { return s && !strcmp(s, word); }

/* ---- JSON ---- */

static const char *kind_name(json_kind kind) {
    static const char *const names[] = {
        [JSON_KIND_NULL] = "null",       [JSON_KIND_FALSE] = "false",     [JSON_KIND_TRUE] = "true",
        [JSON_KIND_NUMBER] = "a number", [JSON_KIND_STRING] = "a string", [JSON_KIND_ARRAY] = "a list",
        [JSON_KIND_OBJECT] = "an object"};
    return names[kind];
}

/* *out NULL: absent, empty or null. */
static status read_object(chat_conversation_owner *o, const char *json, const json_value **out) {
    json_tree *t;
    *out = NULL;
    if (!json || json[strspn(json, " \t\r\n")] == 0) return ST_OK;
    status st = json_tree_read(&t, json, strlen(json));
    if (st != ST_OK) return fail_within(ST_INVALID, "it is no JSON");
    o->trees[o->tree_count++] = t;
    o->values += json_tree_count(t);
    if (o->values > LIMIT_CHAT_VALUES)
        return fail(ST_INVALID, "the arguments and schemas of this chat have more than %d values",
                    LIMIT_CHAT_VALUES);
    const json_value *root = json_tree_root(t);
    if (root->kind == JSON_KIND_NULL) return ST_OK;
    if (root->kind != JSON_KIND_OBJECT)
        return fail(ST_INVALID, "it is %s, and must be an object", kind_name(root->kind));
    *out = root;
    return ST_OK;
}

/* ---- names of functions ---- */

/* What the syntax of calls gives a meaning of its own, and what a parser of calls takes for the end of a name. */
static bool may_be_in_name(uint32_t c) {
    if (c < 0x80) return c > ' ' && c != 0x7F && !strchr("()[]{}<>\"'`,", (int)c);
    return c != 0x85 && c != 0xA0 && c != 0x1680 && !(c >= 0x2000 && c <= 0x200F) &&
           !(c >= 0x2028 && c <= 0x202F) && !(c >= 0x80 && c < 0xA0) && c != 0x205F && c != 0x3000 &&
           c != 0xFEFF;
}

static status check_name(const char *name) {
    size_t n = name ? strlen(name) : 0;
    if (n == 0) return fail(ST_INVALID, "name is missing");
    if (n > LIMIT_TOOL_NAME_BYTES)
        return fail(ST_INVALID, "name has %zu bytes, at most %d", n, LIMIT_TOOL_NAME_BYTES);
    if (utf8_check(name, n) < n) return fail(ST_INVALID, "name is not UTF-8");
    for (const char *p = name; *p;) {
        uint32_t c;
        unsigned bytes = utf8_decode(p, &c);
        if (!may_be_in_name(c))
            return fail(
                ST_INVALID,
                "name \"%" SHOWN
                "\" has the character U+%04X; white space, brackets, quotes and commas cannot be called",
                name, c);
        p += bytes;
    }
    return ST_OK;
}

/* ---- messages ---- */

static status take_bytes(const ProtobufCBinaryData *bytes, chat_text *out) {
    size_t valid = bytes->len > 0 ? utf8_check(bytes->data, bytes->len) : 0;
    if (valid < bytes->len) return fail(ST_INVALID, "not UTF-8 at byte %zu", valid);
    *out = (chat_text){bytes->len > 0 ? (const char *)bytes->data : "", bytes->len};
    return ST_OK;
}

static status take_part(const Gemmad__V1__Part *from, chat_part *to) {
    status st;
    switch (from->part_case) {
    case GEMMAD__V1__PART__PART_TEXT:
        to->kind = CHAT_PART_TEXT;
        st = take_bytes(&from->text, &to->text);
        return st == ST_OK ? st : fail_within(st, "text");
    case GEMMAD__V1__PART__PART_IMAGE: return fail(ST_UNSUPPORTED, "image is not built yet");
    case GEMMAD__V1__PART__PART_AUDIO: return fail(ST_UNSUPPORTED, "audio is not built yet");
    case GEMMAD__V1__PART__PART_VIDEO: return fail(ST_UNSUPPORTED, "video is not built yet");
    default: return fail(ST_INVALID, "a part must have text");
    }
}

/* One part of text is the plain string, several are a list: templates tell them apart. */
static status take_content(chat_conversation_owner *o, const Gemmad__V1__Message *from, chat_message *to) {
    static const chat_part nothing = {CHAT_PART_TEXT, {"", 0}};
    if (o->part_count + from->n_content > LIMIT_MESSAGE_PARTS)
        return fail(ST_INVALID, "content: the messages have more than %d parts", LIMIT_MESSAGE_PARTS);
    to->parts = o->parts + o->part_count;
    to->part_count = (uint32_t)from->n_content;
    to->content = from->n_content == 0   ? CHAT_CONTENT_ABSENT
                  : from->n_content == 1 ? CHAT_CONTENT_STRING
                                         : CHAT_CONTENT_PARTS;
    for (size_t i = 0; i < from->n_content; i++) {
        status st = take_part(from->content[i], &o->parts[o->part_count++]);
        if (st != ST_OK) return fail_within(st, "content[%zu]", i);
    }
    if (from->n_content > 0 || !is(from->role, "tool")) return ST_OK;
    to->parts = &nothing;
    to->part_count = 1;
    to->content = CHAT_CONTENT_STRING;
    return ST_OK;
}

static status take_call(chat_conversation_owner *o, const Gemmad__V1__ToolCall *from, chat_call *to) {
    TRY(check_name(from->name));
    status st = read_object(o, from->arguments_json, &to->arguments);
    if (st != ST_OK) return fail_within(st, "arguments_json");
    to->id = text_of(from->id);
    to->name = text_of(from->name);
    return ST_OK;
}

static status take_calls(chat_conversation_owner *o, const Gemmad__V1__Message *from, chat_message *to) {
    to->calls = o->calls + o->call_count;
    to->call_count = (uint32_t)from->n_tool_calls;
    for (size_t i = 0; i < from->n_tool_calls; i++) {
        status st = take_call(o, from->tool_calls[i], &o->calls[o->call_count++]);
        if (st != ST_OK) return fail_within(st, "tool_calls[%zu]", i);
        for (size_t k = 0; k < i; k++)
            if (to->calls[i].id.text && is(from->tool_calls[k]->id, to->calls[i].id.text))
                return fail(ST_INVALID, "tool_calls[%zu]: id \"%" SHOWN "\" is that of tool_calls[%zu]", i,
                            to->calls[i].id.text, k);
    }
    return ST_OK;
}

/* Fields that a role has no use for would be lost, or written where they do not belong. */
static status check_fields(const Gemmad__V1__Message *m) {
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
    bool known = false;
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) known |= is(m->role, roles[i]);
    if (!known)
        return fail(ST_INVALID,
                    "role is \"%" SHOWN "\", and must be system, developer, user, assistant or tool",
                    m->role ? m->role : "");
    bool assistant = is(m->role, "assistant"), tool = is(m->role, "tool");
    if (m->n_tool_calls > 0 && !assistant)
        return fail(ST_INVALID, "tool_calls belong to role assistant, not %s", m->role);
    if (m->n_tool_calls > LIMIT_MESSAGE_CALLS)
        return fail(ST_INVALID, "tool_calls has %zu calls, at most %d", m->n_tool_calls, LIMIT_MESSAGE_CALLS);
    if (m->has_reasoning && m->reasoning.len > 0 && !assistant)
        return fail(ST_INVALID, "reasoning belongs to role assistant, not %s", m->role);
    if (m->tool_call_id && m->tool_call_id[0] && !tool)
        return fail(ST_INVALID, "tool_call_id belongs to role tool, not %s", m->role);
    if (tool && m->name && m->name[0]) return check_name(m->name);
    return ST_OK;
}

static status take_message(chat_conversation_owner *o, const Gemmad__V1__Message *from, chat_message *to) {
    TRY(check_fields(from));
    to->role = text_of(from->role);
    to->call_id = text_of(from->tool_call_id);
    to->name = text_of(from->name);
    if (from->has_reasoning) {
        status st = take_bytes(&from->reasoning, &to->reasoning);
        if (st != ST_OK) return fail_within(st, "reasoning");
    }
    TRY(take_content(o, from, to));
    return take_calls(o, from, to);
}

/* ---- tools ---- */

typedef struct named {
    const char *name;
    size_t place;
} named;

static int compare_named(const void *a, const void *b) {
    const named *p = a, *q = b;
    int c = strcmp(p->name, q->name);
    return c != 0 ? c : p->place < q->place ? -1 : 1;
}

static status check_unique(const Gemmad__V1__ChatRequest *r) {
    named all[LIMIT_TOOLS];
    for (size_t i = 0; i < r->n_tools; i++) all[i] = (named){r->tools[i]->name, i};
    qsort(all, r->n_tools, sizeof *all, compare_named);
    for (size_t i = 1; i < r->n_tools; i++)
        if (!strcmp(all[i - 1].name, all[i].name))
            return fail(ST_INVALID, "tools[%zu].name \"%" SHOWN "\" is that of tools[%zu]", all[i].place,
                        all[i].name, all[i - 1].place);
    return ST_OK;
}

static status take_tool(chat_conversation_owner *o, const Gemmad__V1__Tool *from, chat_tool *to) {
    TRY(check_name(from->name));
    to->name = text_of(from->name);
    status st = read_object(o, from->parameters_json, &to->parameters);
    if (st != ST_OK) return fail_within(st, "parameters_json");
    to->description = text_of(from->description);
    return ST_OK;
}

static status check_choice(const Gemmad__V1__ChatRequest *r) {
    const Gemmad__V1__ToolChoice *c = r->tool_choice;
    if (!c) return ST_OK;
    const char *mode = c->mode && c->mode[0] ? c->mode : "auto", *name = c->name ? c->name : "";
    bool by_name = is(mode, "named");
    if (!by_name && !is(mode, "none") && !is(mode, "auto") && !is(mode, "required"))
        return fail(ST_INVALID,
                    "tool_choice.mode is \"%" SHOWN "\", and must be none, auto, required or named", mode);
    if (!by_name && name[0])
        return fail(ST_INVALID, "tool_choice.name \"%" SHOWN "\" needs mode named, not %s", name, mode);
    if ((by_name || is(mode, "required")) && r->n_tools == 0)
        return fail(ST_INVALID, "tool_choice.mode is %s, and there are no tools", mode);
    for (size_t i = 0; by_name && i < r->n_tools; i++)
        if (!strcmp(r->tools[i]->name, name)) return ST_OK;
    return by_name ? fail(ST_INVALID, "tool_choice.name is \"%" SHOWN "\", and no tool has that name", name)
                   : ST_OK;
}

static status take_tools(chat_conversation_owner *o, const Gemmad__V1__ChatRequest *r) {
    for (size_t i = 0; i < r->n_tools; i++) {
        status st = take_tool(o, r->tools[i], &o->tools[i]);
        if (st != ST_OK && o->tools[i].name.text)
            return fail_within(st, "tools[%zu] (%" SHOWN ")", i, r->tools[i]->name);
        if (st != ST_OK) return fail_within(st, "tools[%zu]", i);
    }
    TRY(check_unique(r));
    return check_choice(r);
}

/* ---- the whole ---- */

static status check_counts(const Gemmad__V1__ChatRequest *r, size_t *parts, size_t *calls) {
    if (r->n_messages == 0) return fail(ST_INVALID, "messages is empty; a chat needs at least one");
    if (r->n_messages > LIMIT_MESSAGES)
        return fail(ST_INVALID, "messages has %zu, at most %d", r->n_messages, LIMIT_MESSAGES);
    if (r->n_tools > LIMIT_TOOLS)
        return fail(ST_INVALID, "tools has %zu, at most %d", r->n_tools, LIMIT_TOOLS);

    for (size_t i = 0; i < r->n_messages; i++)
        *parts += r->messages[i]->n_content, *calls += r->messages[i]->n_tool_calls;
    if (*parts > LIMIT_MESSAGE_PARTS)
        return fail(ST_INVALID, "the messages have %zu parts, at most %d", *parts, LIMIT_MESSAGE_PARTS);
    if (*calls > LIMIT_CHAT_CALLS)
        return fail(ST_INVALID, "the messages have %zu tool calls, at most %d", *calls, LIMIT_CHAT_CALLS);
    return ST_OK;
}

static status take_all(chat_conversation_owner *o, const Gemmad__V1__ChatRequest *r) {
    for (size_t i = 0; i < r->n_messages; i++) {
        status st = take_message(o, r->messages[i], &o->messages[i]);
        if (st != ST_OK && o->messages[i].role.text)
            return fail_within(st, "messages[%zu] (%s)", i, r->messages[i]->role);
        if (st != ST_OK) return fail_within(st, "messages[%zu]", i);
    }
    return take_tools(o, r);
}

status chat_conversation_open(chat_conversation_owner *out, const Gemmad__V1__ChatRequest *r) {
    size_t parts = 0, calls = 0;
    *out = (chat_conversation_owner){0};
    TRY(check_counts(r, &parts, &calls));
    out->messages = memory_alloc_array(r->n_messages, sizeof *out->messages);
    out->parts = memory_alloc_array(parts + 1, sizeof *out->parts);
    out->calls = memory_alloc_array(calls + 1, sizeof *out->calls);
    out->tools = memory_alloc_array(r->n_tools + 1, sizeof *out->tools);
    out->trees = memory_alloc_array(calls + r->n_tools + 1, sizeof *out->trees);
    status st = take_all(out, r);
    if (st != ST_OK) {
        chat_conversation_close(out);
        return st;
    }
    out->conversation = (chat_conversation){.messages = out->messages,
                                            .message_count = (uint32_t)r->n_messages,
                                            .tools = out->tools,
                                            .tool_count = (uint32_t)r->n_tools,
                                            .enable_thinking = r->has_enable_thinking && r->enable_thinking,
                                            .generation_prompt = true};
    return ST_OK;
}

void chat_conversation_close(chat_conversation_owner *o) {
    for (uint32_t i = 0; i < o->tree_count; i++) json_tree_close(o->trees[i]);
    free(o->trees);
    free(o->tools);
    free(o->calls);
    free(o->parts);
    free(o->messages);
    *o = (chat_conversation_owner){0};
}
