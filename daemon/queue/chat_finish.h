/* What the end of an answer says besides its text: calls that could not be read, and one that was cut, as protobuf has it.
 *
 * Memory:  chat_finish_make allocates; chat_finish_close releases. The texts are the parser's. */
#ifndef DAEMON_QUEUE_CHAT_FINISH_H
#define DAEMON_QUEUE_CHAT_FINISH_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>

#include "daemon/text/chat_parser.h"

typedef struct chat_finish {
    ProtobufCBinaryData *malformed; /* [malformed_count] */
    size_t malformed_count;
    bool has_truncated;
    ProtobufCBinaryData truncated;
} chat_finish;

/* After chat_parser_end. */
void chat_finish_make(chat_finish *out, const chat_parser *p);
void chat_finish_close(chat_finish *f);

#endif
