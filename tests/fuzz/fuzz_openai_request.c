// link: daemon_http
/* Bodies of HTTP requests, as the endpoints read them. The first byte chooses the endpoint. */
#include <stdlib.h>

#include "base/invariant.h"
#include "daemon/http/chat_body.h"
#include "daemon/http/completion_body.h"
#include "daemon/http/response_body.h"

/* What was read is packed, as a transport would send it: every pointer in it is followed. */
static void pack(const ProtobufCMessage *m) {
    size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *bytes = malloc(n + 1);
    INVARIANT(bytes && protobuf_c_message_pack(m, bytes) == n);
    free(bytes);
}

static status read_chat(body *b) {
    chat_body chat = {0};
    status st = chat_body_read(b, &chat);
    if (st == ST_OK) pack(&chat.request.base);
    return st;
}

static status read_completion(body *b) {
    completion_body completion = {0};
    status st = completion_body_read(b, &completion);
    for (uint32_t i = 0; st == ST_OK && i < completion.count; i++) pack(&completion.prompt[i].request.base);
    return st;
}

static status read_response(body *b) {
    response_body response = {0};
    status st = response_body_read(b, &response);
    if (st == ST_OK) pack(&response.request.base);
    strbuf_close(&response.echo);
    return st;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static status (*const readers[])(body *) = {read_chat, read_completion, read_response};
    body b;
    if (size == 0) return 0;
    status st = body_open(&b, (const char *)data + 1, size - 1);
    if (st == ST_OK) st = readers[data[0] % 3](&b);
    INVARIANT(st == ST_OK || (b.word && status_text()[0]));
    body_close(&b);
    return 0;
}
