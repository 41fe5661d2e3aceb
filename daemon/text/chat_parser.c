#include "daemon/text/chat_parser.h"

#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "daemon/text/python_text.h"

typedef enum role {
    CALL_OPENS,
    CALL_CLOSES,
    RESPONSE_OPENS,
    DELIMITER,
    CHANNEL_OPENS,
    CHANNEL_CLOSES,
    TURN_OPENS,
    TURN_CLOSES,
    END_OF_TEXT,
    ROLE_COUNT,
    HIDDEN, /* any other special token */
    TEXT
} role;

static const char *const role_text[ROLE_COUNT] = {"<|tool_call>", "<tool_call|>", "<|tool_response>",
                                                  "<|\"|>",       "<|channel>",   "<channel|>",
                                                  "<|turn>",      "<turn|>",      "<eos>"};

typedef enum place {
    AT_START, /* nothing was said yet */
    AT_NAME,  /* of a channel */
    IN_THOUGHT,
    IN_CONTENT,
    IN_CALL
} place;

/* What a line at the start, or behind the opening of a channel, says when it is no text. */
static const char thought_line[] = "thought\n", turn_line[] = "model\n";

typedef enum call_end { BY_CLOSER, BY_ANOTHER, BY_STOP, BY_LIMIT } call_end;

struct chat_parser {
    chat_parser_options options;
    uint32_t id[ROLE_COUNT];
    detokenizer detokenizer;
    strbuf text; /* of one token */
    place place;
    const char *line; /* which one may be coming, in AT_START and AT_NAME; NULL: none */
    size_t matched;   /* bytes of it that came, and are not said yet */
    uint32_t line_tokens;
    bool newline_held; /* of a thought: it may be the last one */
    bool after_call;   /* the next content starts on a line of its own */
    uint64_t content_bytes;
    size_t loose;
    strbuf call; /* as written, with CALL_DELIMITER for delimiters */
    size_t call_bytes;
    uint32_t calls, reasoning_tokens;
    chat_malformed malformed;
    strbuf truncated;
    bool is_truncated, at_end, over;
};

chat_parser *chat_parser_open(const chat_parser_options *o) {
    chat_parser *p = memory_alloc(sizeof *p);
    p->options = *o;
    for (int i = 0; i < ROLE_COUNT; i++)
        if (!tokenizer_find(o->tokenizer, role_text[i], &p->id[i])) p->id[i] = UINT32_MAX;
    detokenizer_open(&p->detokenizer, o->tokenizer, false);
    p->place = o->starts_in_thought ? IN_THOUGHT : AT_START;
    if (!o->starts_in_thought && o->thinking) p->line = thought_line;
    p->call.max = CHAT_CALL_BYTES_MAX;
    return p;
}

void chat_parser_close(chat_parser *p) {
    if (!p) return;
    strbuf_close(&p->text);
    strbuf_close(&p->call);
    strbuf_close(&p->truncated);
    chat_malformed_close(&p->malformed);
    free(p);
}

static role role_of(const chat_parser *p, uint32_t id) {
    for (int i = 0; i < ROLE_COUNT; i++)
        if (p->id[i] == id && id != UINT32_MAX) return (role)i;
    return tokenizer_is_special(p->options.tokenizer, id) ? HIDDEN : TEXT;
}

/* ---- text ---- */

static void say(chat_parser *p, chat_kind kind, const char *text, size_t n) {
    if (n > 0) p->options.events->text(p->options.context, kind, text, n);
}

/* White space is what the chat template cuts off. */
static size_t leading_space(const char *text, size_t n) {
    const char *begin = text;
    python_strip(&begin, &n);
    return (size_t)(begin - text);
}

static size_t trailing_space(const char *text, size_t n) {
    const char *begin = text;
    size_t kept = n;
    python_strip(&begin, &kept);
    return kept == 0 ? n : n - kept - (size_t)(begin - text);
}

static void say_content(chat_parser *p, const char *text, size_t n) {
    if (p->after_call) {
        size_t space = leading_space(text, n);
        text += space;
        n -= space;
        if (n == 0) return;
        p->after_call = false;
        if (p->content_bytes > 0) say(p, CHAT_CONTENT, "\n", 1);
    }
    size_t space = trailing_space(text, n);
    p->loose = space == n ? p->loose + n : space;
    p->content_bytes += n;
    say(p, CHAT_CONTENT, text, n);
}

static void say_thought(chat_parser *p, const char *text, size_t n) {
    if (n == 0) return;
    if (p->newline_held) say(p, CHAT_REASONING, "\n", 1);
    p->newline_held = text[n - 1] == '\n';
    say(p, CHAT_REASONING, text, n - p->newline_held);
}

/* What came of a line was text after all. */
static void release_line(chat_parser *p) {
    size_t n = p->matched;
    const char *line = p->line;
    bool thought = p->place == AT_NAME;
    p->line = NULL;
    p->matched = 0;
    p->line_tokens = 0;
    p->place = thought ? IN_THOUGHT : IN_CONTENT;
    if (thought) say_thought(p, line, n);
    else say_content(p, line, n);
}

/* Takes the part of text that goes on with the expected line; returns how much. */
static size_t take_line(chat_parser *p, const char *text, size_t n) {
    size_t i = 0;
    while (i < n && p->line[p->matched] && text[i] == p->line[p->matched]) i++, p->matched++;
    if (!p->line[p->matched]) {
        bool turn = p->line == turn_line;
        if (p->place == AT_START && !turn) p->reasoning_tokens += p->line_tokens;
        p->line = turn && p->options.thinking ? thought_line : NULL;
        p->matched = 0;
        p->line_tokens = 0;
        p->place = turn ? AT_START : IN_THOUGHT;
    } else if (i < n) {
        release_line(p);
    }
    return i;
}

static void take_text(chat_parser *p, const char *text, size_t n) {
    while (n > 0 && p->line) {
        size_t taken = take_line(p, text, n);
        text += taken;
        n -= taken;
    }
    if (n == 0) return;
    if (p->place == AT_START) p->place = IN_CONTENT;
    if (p->place == IN_CALL) {
        p->call_bytes += n;
        strbuf_add(&p->call, text, n);
    } else if (p->place == IN_THOUGHT) {
        say_thought(p, text, n);
    } else {
        say_content(p, text, n);
    }
}

/* Bytes of a character that something else came between. */
static void flush_character(chat_parser *p) {
    if (!detokenizer_waits(&p->detokenizer)) return;
    strbuf_clear(&p->text);
    detokenizer_flush(&p->detokenizer, &p->text);
    take_text(p, strbuf_text(&p->text), p->text.size);
}

/* ---- structure ---- */

/* A line that is complete but for its end: the name of a channel, or of a turn, and no text. */
static void end_line(chat_parser *p) {
    if (!p->line) return;
    bool named = p->matched + 1 == strlen(p->line) && (p->place == AT_NAME || p->line == turn_line);
    if (named) p->matched = 0;
    release_line(p);
}

/* Ends a thought or the start, so that content or a call can begin. cut: by the limit, so that nothing is left out. */
static void end_thought(chat_parser *p, bool cut) {
    end_line(p);
    if (p->newline_held && cut) say(p, CHAT_REASONING, "\n", 1);
    p->newline_held = false;
    p->place = IN_CONTENT;
}

static void begin_thought(chat_parser *p) {
    end_line(p);
    p->loose = 0;
    p->place = AT_NAME;
    p->line = thought_line;
    p->matched = 0;
    p->line_tokens = 0;
}

static void begin_call(chat_parser *p) {
    end_thought(p, false);
    if (p->loose > 0) p->options.events->withdrawn(p->options.context, p->loose);
    p->content_bytes -= p->loose;
    p->loose = 0;
    strbuf_clear(&p->call);
    p->call.full = false;
    p->call_bytes = 0;
    p->place = IN_CALL;
}

/* The call as it stands in the output. */
static void write_call(const chat_parser *p, bool closed, strbuf *out) {
    strbuf_add_string(out, role_text[CALL_OPENS]);
    const char *text = strbuf_text(&p->call), *end = text + p->call.size, *at;
    for (; (at = memchr(text, CALL_DELIMITER, (size_t)(end - text))) != NULL; text = at + 1) {
        strbuf_add(out, text, (size_t)(at - text));
        strbuf_add_string(out, role_text[DELIMITER]);
    }
    strbuf_add(out, text, (size_t)(end - text));
    if (p->call.full) strbuf_add_format(out, "\xE2\x80\xA6 (%zu bytes in all)", p->call_bytes);
    if (closed) strbuf_add_string(out, role_text[CALL_CLOSES]);
}

static bool read_call(chat_parser *p, bool closes) {
    parsed_call call;
    if (p->options.refuses_calls || p->call.full) return false;
    if (!parsed_call_read(&call, strbuf_text(&p->call), p->call.size, closes)) return false;
    p->calls++;
    p->options.events->call(p->options.context, &call);
    parsed_call_close(&call);
    return true;
}

static void end_call(chat_parser *p, call_end by) {
    p->place = IN_CONTENT;
    p->after_call = true;
    if (by != BY_LIMIT && read_call(p, by != BY_STOP)) return;
    strbuf text = {0};
    write_call(p, by == BY_CLOSER, &text);
    if (by == BY_LIMIT) {
        chat_malformed_clip(&p->truncated, text.data, text.size);
        p->is_truncated = true;
    } else {
        chat_malformed_add(&p->malformed, text.data, text.size);
    }
    strbuf_close(&text);
}

static void take_delimiter(chat_parser *p) {
    if (p->place == IN_CALL) {
        p->call_bytes += strlen(role_text[DELIMITER]);
        strbuf_add(&p->call, (char[]){(char)CALL_DELIMITER}, 1);
    } else {
        take_text(p, "\"", 1);
    }
}

static void open_channel(chat_parser *p) {
    if (p->place == IN_CALL) end_call(p, BY_ANOTHER);
    begin_thought(p);
}

static void close_channel(chat_parser *p) {
    if (p->place == AT_NAME || p->place == IN_THOUGHT) end_thought(p, false);
}

static void open_call(chat_parser *p) {
    if (p->place == IN_CALL) end_call(p, BY_ANOTHER);
    begin_call(p);
}

static void open_turn(chat_parser *p) {
    if (p->place != AT_START || p->matched > 0) return;
    p->line = turn_line;
}

static void end_turn(chat_parser *p) {
    if (p->place == IN_CALL) end_call(p, BY_STOP);
    else end_thought(p, false);
    p->at_end = true;
}

static void take_role(chat_parser *p, role r) {
    flush_character(p);
    switch (r) {
    case CALL_OPENS: open_call(p); break;
    case CALL_CLOSES:
        if (p->place == IN_CALL) end_call(p, BY_CLOSER);
        break;
    case DELIMITER: take_delimiter(p); break;
    case CHANNEL_OPENS: open_channel(p); break;
    case CHANNEL_CLOSES: close_channel(p); break;
    case TURN_OPENS: open_turn(p); break;
    case RESPONSE_OPENS: p->over = true; /* fall through */
    case TURN_CLOSES:
    case END_OF_TEXT: end_turn(p); break;
    default: break;
    }
}

static void count_token(chat_parser *p, role r, bool was_thought) {
    if (chat_parser_in_thought(p) || (was_thought && r == CHANNEL_CLOSES)) p->reasoning_tokens++;
    else if (p->matched > 0) p->line_tokens++;
}

void chat_parser_add(chat_parser *p, uint32_t id) {
    if (p->over) return;
    role r = role_of(p, id);
    bool was_thought = chat_parser_in_thought(p);
    p->at_end = false;
    if (r < ROLE_COUNT) {
        take_role(p, r);
    } else if (r == TEXT) {
        strbuf_clear(&p->text);
        if (detokenizer_add(&p->detokenizer, id, &p->text) != ST_OK) {
            detokenizer_flush(&p->detokenizer, &p->text);
            strbuf_add_string(&p->text, "\xEF\xBF\xBD");
        }
        take_text(p, strbuf_text(&p->text), p->text.size);
    }
    count_token(p, r, was_thought);
}

void chat_parser_end(chat_parser *p, bool whole) {
    flush_character(p);
    if (p->place == IN_CALL) end_call(p, whole ? BY_STOP : BY_LIMIT);
    else end_thought(p, !whole);
    p->loose = 0;
    p->over = true;
}

bool chat_parser_waits(const chat_parser *p) {
    return p->matched > 0 || p->newline_held || p->place == IN_CALL || detokenizer_waits(&p->detokenizer);
}

size_t chat_parser_loose(const chat_parser *p) { return p->loose; }
bool chat_parser_in_thought(const chat_parser *p) { return p->place == AT_NAME || p->place == IN_THOUGHT; }
bool chat_parser_at_end(const chat_parser *p) { return p->at_end; }
uint32_t chat_parser_calls(const chat_parser *p) { return p->calls; }
uint32_t chat_parser_reasoning_tokens(const chat_parser *p) { return p->reasoning_tokens; }
const chat_malformed *chat_parser_malformed(const chat_parser *p) { return &p->malformed; }

const char *chat_parser_truncated(const chat_parser *p, size_t *n) {
    *n = p->truncated.size;
    return p->is_truncated ? strbuf_text(&p->truncated) : NULL;
}
