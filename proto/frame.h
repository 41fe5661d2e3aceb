/* Frames of the engine link: a little-endian uint32 length and that many bytes of one Frame
 * (proto/engine.proto). The reader takes bytes as they come, the writer queues whole frames up to a bound;
 * neither knows a socket.
 *
 * Memory:  both own their bytes; close releases them. A frame handed out points into the reader until
 *          frame_reader_room. A reader grows with the bytes that came, never with the length that a header
 *          claims.
 * Threads: one at a time.
 * Errors:  ST_FORMAT for a length that cannot be; the stream is then beyond repair and the connection must be
 *          closed. */
#ifndef PROTO_FRAME_H
#define PROTO_FRAME_H

#include <stddef.h>
#include <stdint.h>
#include "base/status.h"
#include "proto/engine.pb-c.h"

enum {
    FRAME_HEADER_BYTES = 4,
    FRAME_FIRST_BYTES_MAX = 64 << 10, /* a frame of a peer that has not shown the secret yet */
};

typedef Gemmad__Engine__Frame engine_frame;

typedef struct frame_reader {
    uint8_t *data;
    size_t begin, end, capacity;
    uint32_t max_bytes; /* of one frame; may be raised between frames */
} frame_reader;

void frame_reader_open(frame_reader *r, uint32_t max_bytes);
void frame_reader_close(frame_reader *r);
/* Where the next bytes go: *room >= 1 of them. Every complete frame must have been taken before. */
uint8_t *frame_reader_room(frame_reader *r, size_t *room);
void frame_reader_add(frame_reader *r, size_t n);
/* *payload is NULL when no whole frame is there yet. */
STATUS_CHECKED status frame_reader_next(frame_reader *r, const uint8_t **payload, uint32_t *n);

/* Unpacks one frame; memory is bounded by a multiple of n, so that a frame of millions of empty messages is
 * refused instead of unfolding to gigabytes. Release with frame_free. */
STATUS_CHECKED status frame_unpack(const uint8_t *payload, uint32_t n, engine_frame **out);
void frame_free(engine_frame *f); /* NULL is fine */
/* Header and payload in one block, the caller's to free(). ST_INVALID: larger than a frame may be. */
STATUS_CHECKED status frame_pack(const engine_frame *f, uint8_t **out, size_t *n);

typedef struct frame_writer {
    uint8_t *data;
    size_t begin, end, capacity, max_bytes;
} frame_writer;

void frame_writer_open(frame_writer *w, size_t max_bytes);
void frame_writer_close(frame_writer *w);
/* ST_BUSY: the queue is full, and unchanged; ST_INVALID: the frame is larger than a frame may be. */
STATUS_CHECKED status frame_writer_add(frame_writer *w, const engine_frame *f);
size_t frame_writer_size(const frame_writer *w);
const uint8_t *frame_writer_front(const frame_writer *w, size_t *n);
void frame_writer_drop(frame_writer *w, size_t n);
/* Takes back what was added since frame_writer_size() was `size` (nothing may have been dropped since). */
void frame_writer_take_back(frame_writer *w, size_t size);

/* The kind's name for messages: "hello", "submit", …; "unknown" for what this build does not know. */
const char *frame_kind_name(const engine_frame *f);

#endif
