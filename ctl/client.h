/* gemmad's gRPC API from the outside: one connection, calls one after another, an interrupt that cancels them.
 *
 * Memory:  replies are the caller's to protobuf_c_message_free_unpacked(reply, NULL).
 * Threads: one thread a client; gRPC keeps threads of its own inside.
 * Errors:  what the server answered, as our status with the server's sentence and the code's name in brackets.
 *          ST_UNAVAILABLE naming the address when nobody answers there; ST_TIMEOUT with the seconds; ST_CANCELLED after
 *          an interrupt. */
#ifndef CTL_CLIENT_H
#define CTL_CLIENT_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/status.h"
#include "ctl/access.h"

typedef struct client client;
typedef struct client_stream client_stream;

/* SIGINT and SIGTERM cancel the running call from now on instead of ending the process. */
void client_catch_interrupts(void);
int client_interrupt(void); /* the signal that came, 0: none */
/* Forgets SIGINT, which a program that goes on has answered. False when there was another, which stays. */
bool client_forget_interrupt(void);

/* For every client that is opened from now on; NULL: none. It must outlive them. */
void client_use_access(const client_access *a);
/* "unix:/path" or "host:port"; ST_INVALID says what is wrong with another. */
STATUS_CHECKED status client_check_address(const char *address);
/* Connects, waiting at most connect_ms. */
STATUS_CHECKED status client_open(client **out, const char *address, uint32_t connect_ms);
void client_close(client *c); /* NULL is fine; its streams are closed before */

/* timeout_ms 0: none. */
STATUS_CHECKED status client_call(client *c, const char *method, const ProtobufCMessage *request,
                                  const ProtobufCMessageDescriptor *reply, uint32_t timeout_ms,
                                  ProtobufCMessage **out);

STATUS_CHECKED status client_stream_open(client_stream **out, client *c, const char *method,
                                         const ProtobufCMessage *request, const ProtobufCMessageDescriptor *reply,
                                         uint32_t timeout_ms);
/* *out is NULL, with ST_OK, when the server has ended the stream well. */
STATUS_CHECKED status client_stream_next(client_stream *s, ProtobufCMessage **out);
void client_stream_close(client_stream *s); /* cancels what still runs; NULL is fine */

#endif
