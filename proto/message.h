/* Reading a protobuf message from outside. protobuf-c alone checks neither that a `string` is UTF-8 nor that
 * it holds no NUL (a char * would end there, and the rest be lost), and it turns 64 MiB of empty sub-messages
 * into gigabytes.
 *
 * Memory:  *out is the caller's to protobuf_c_message_free_unpacked(*out, NULL).
 * Threads: any.
 * Errors:  ST_INVALID naming the message, the field and the byte offset in it; *out is then NULL. */
#ifndef PROTO_MESSAGE_H
#define PROTO_MESSAGE_H

#include "base/status.h"
#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

/* What every reader of gemmad.v1 messages uses instead of protobuf_c_message_unpack. Fields that
 * text_as_bytes.cmake turned into `bytes` are not looked at: those who use them check them, the long ones off
 * the loop. */
STATUS_CHECKED status message_unpack(const ProtobufCMessageDescriptor *descriptor, const uint8_t *bytes,
                                     size_t n, ProtobufCMessage **out);

#endif
