#include "proto/frame.h"

#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "proto/limits.h"

enum {
    FIRST_BYTES = 4096,
    KEPT_BYTES = 1 << 20, /* a buffer that one large frame made larger than this is given back once empty */
    UNPACK_FACTOR =
        32, /* bytes in memory for a byte on the wire: a TopEntry of 4 bytes takes 40 + a pointer */
    UNPACK_BASE = 4096,
};

static uint32_t read_u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

void frame_reader_open(frame_reader *r, uint32_t max_bytes) {
    INVARIANT(max_bytes <= LIMIT_MESSAGE_BYTES);
    *r = (frame_reader){.max_bytes = max_bytes};
}

void frame_reader_close(frame_reader *r) {
    free(r->data);
    *r = (frame_reader){.max_bytes = r->max_bytes};
}

uint8_t *frame_reader_room(frame_reader *r, size_t *room) {
    if (r->begin == r->end) {
        r->begin = r->end = 0;
        if (r->capacity > KEPT_BYTES) frame_reader_close(r);
    } else if (r->begin > 0) {
        memmove(r->data, r->data + r->begin, r->end - r->begin);
        r->end -= r->begin;
        r->begin = 0;
    }
    if (r->end == r->capacity) {
        size_t most = (size_t)r->max_bytes + FRAME_HEADER_BYTES;
        size_t capacity = r->capacity ? r->capacity * 2 : FIRST_BYTES;
        if (capacity > most) capacity = most;
        INVARIANT(capacity > r->end); /* else a whole frame was left untaken */
        r->data = memory_grow(r->data, capacity);
        r->capacity = capacity;
    }
    *room = r->capacity - r->end;
    return r->data + r->end;
}

void frame_reader_add(frame_reader *r, size_t n) {
    INVARIANT(n <= r->capacity - r->end);
    r->end += n;
}

status frame_reader_next(frame_reader *r, const uint8_t **payload, uint32_t *n) {
    *payload = NULL;
    *n = 0;
    size_t have = r->end - r->begin;
    if (have < FRAME_HEADER_BYTES) return ST_OK;
    uint32_t length = read_u32(r->data + r->begin);
    if (length == 0 || length > r->max_bytes)
        return fail(ST_FORMAT, "a frame of %u bytes, allowed are 1 to %u", length, r->max_bytes);
    if (have - FRAME_HEADER_BYTES < length) return ST_OK;
    *payload = r->data + r->begin + FRAME_HEADER_BYTES;
    *n = length;
    r->begin += FRAME_HEADER_BYTES + (size_t)length;
    return ST_OK;
}

static void *budget_alloc(void *context, size_t bytes) {
    size_t *left = context;
    if (bytes > *left) return NULL;
    *left -= bytes;
    return malloc(bytes ? bytes : 1);
}

static void budget_free(void *context, void *p) {
    (void)context;
    free(p);
}

status frame_unpack(const uint8_t *payload, uint32_t n, engine_frame **out) {
    size_t left = (size_t)n * UNPACK_FACTOR + UNPACK_BASE;
    ProtobufCAllocator budget = {.alloc = budget_alloc, .free = budget_free, .allocator_data = &left};
    *out = gemmad__engine__frame__unpack(&budget, n, payload);
    if (!*out) return fail(ST_FORMAT, "a frame of %u bytes is no protobuf message of the engine link", n);
    return ST_OK;
}

void frame_free(engine_frame *f) {
    if (f) gemmad__engine__frame__free_unpacked(f, NULL); /* budget_alloc's memory is malloc's */
}

static status packed_size(const engine_frame *f, size_t *size) {
    *size = gemmad__engine__frame__get_packed_size(f);
    if (*size == 0 || *size > LIMIT_MESSAGE_BYTES)
        return fail(ST_INVALID, "a %s frame of %zu bytes, allowed are 1 to %d", frame_kind_name(f), *size,
                    LIMIT_MESSAGE_BYTES);
    return ST_OK;
}

static void pack_into(const engine_frame *f, size_t size, uint8_t *at) {
    for (int i = 0; i < FRAME_HEADER_BYTES; i++) at[i] = (uint8_t)(size >> (8 * i));
    size_t packed = gemmad__engine__frame__pack(f, at + FRAME_HEADER_BYTES);
    INVARIANT(packed == size);
}

status frame_pack(const engine_frame *f, uint8_t **out, size_t *n) {
    size_t size;
    TRY(packed_size(f, &size));
    *n = size + FRAME_HEADER_BYTES;
    *out = memory_alloc(*n);
    pack_into(f, size, *out);
    return ST_OK;
}

void frame_writer_open(frame_writer *w, size_t max_bytes) { *w = (frame_writer){.max_bytes = max_bytes}; }

void frame_writer_close(frame_writer *w) {
    free(w->data);
    *w = (frame_writer){.max_bytes = w->max_bytes};
}

size_t frame_writer_size(const frame_writer *w) { return w->end - w->begin; }

/* Room for n more bytes at w->end. Moving queued bytes to the front happens only when at least as many were
 * already sent, so that a long queue is not copied for every frame. */
static void make_room(frame_writer *w, size_t n) {
    size_t queued = w->end - w->begin;
    if (w->begin >= queued && w->begin > 0) {
        memmove(w->data, w->data + w->begin, queued);
        w->begin = 0;
        w->end = queued;
    }
    if (n <= w->capacity - w->end) return;
    size_t capacity = w->capacity ? w->capacity : FIRST_BYTES;
    while (capacity - w->end < n) capacity *= 2;
    w->data = memory_grow(w->data, capacity);
    w->capacity = capacity;
}

status frame_writer_add(frame_writer *w, const engine_frame *f) {
    size_t size;
    TRY(packed_size(f, &size));
    size_t total = size + FRAME_HEADER_BYTES, queued = frame_writer_size(w);
    if (queued > w->max_bytes || total > w->max_bytes - queued)
        return fail(ST_BUSY, "%zu bytes wait to be sent, and %zu more pass the bound of %zu", queued, total,
                    w->max_bytes);
    make_room(w, total);
    pack_into(f, size, w->data + w->end);
    w->end += total;
    return ST_OK;
}

const uint8_t *frame_writer_front(const frame_writer *w, size_t *n) {
    *n = w->end - w->begin;
    return *n ? w->data + w->begin : NULL;
}

void frame_writer_drop(frame_writer *w, size_t n) {
    INVARIANT(n <= w->end - w->begin);
    w->begin += n;
    if (w->begin < w->end) return;
    w->begin = w->end = 0;
    if (w->capacity > KEPT_BYTES) frame_writer_close(w);
}

void frame_writer_take_back(frame_writer *w, size_t size) {
    INVARIANT(size <= w->end - w->begin);
    w->end = w->begin + size;
}

const char *frame_kind_name(const engine_frame *f) {
    switch (f->kind_case) {
    case GEMMAD__ENGINE__FRAME__KIND_HELLO: return "hello";
    case GEMMAD__ENGINE__FRAME__KIND_HEARTBEAT: return "heartbeat";
    case GEMMAD__ENGINE__FRAME__KIND_STARTED: return "started";
    case GEMMAD__ENGINE__FRAME__KIND_PROGRESS: return "progress";
    case GEMMAD__ENGINE__FRAME__KIND_PROMPT_LOGPROBS: return "prompt_logprobs";
    case GEMMAD__ENGINE__FRAME__KIND_TOKENS: return "tokens";
    case GEMMAD__ENGINE__FRAME__KIND_FINISHED: return "finished";
    case GEMMAD__ENGINE__FRAME__KIND_FAILED: return "failed";
    case GEMMAD__ENGINE__FRAME__KIND_WELCOME: return "welcome";
    case GEMMAD__ENGINE__FRAME__KIND_SUBMIT: return "submit";
    case GEMMAD__ENGINE__FRAME__KIND_CANCEL: return "cancel";
    case GEMMAD__ENGINE__FRAME__KIND_DRAIN: return "drain";
    case GEMMAD__ENGINE__FRAME__KIND_PING: return "ping";
    case GEMMAD__ENGINE__FRAME__KIND_PAUSE: return "pause";
    case GEMMAD__ENGINE__FRAME__KIND_VOCABULARY: return "vocabulary";
    default: return "unknown";
    }
}
