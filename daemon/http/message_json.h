/* A protobuf message as JSON, by the field names of its proto file: what `gemmactl --json` prints. Absent fields are null,
 * repeated ones lists; of a oneof only what is set is written.
 * Threads: any. */
#ifndef DAEMON_HTTP_MESSAGE_JSON_H
#define DAEMON_HTTP_MESSAGE_JSON_H

#include <protobuf-c/protobuf-c.h>

#include "base/strbuf.h"

void message_json(strbuf *out, const char *key, const ProtobufCMessage *message);

#endif
