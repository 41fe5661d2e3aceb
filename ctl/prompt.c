#include "ctl/prompt.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "ctl/ctl.h"
#include "proto/gemmad.pb-c.h"

status prompt_encode(client *c, const char *model, const void *text, size_t n, bool markers, bool first,
                     arg_ids *ids) {
    Gemmad__V1__TokenizeRequest request = GEMMAD__V1__TOKENIZE_REQUEST__INIT;
    ProtobufCMessage *message;
    request.model = ctl_model(model);
    request.has_text = true;
    request.text = (ProtobufCBinaryData){n, (uint8_t *)(uintptr_t)text};
    request.has_parse_special = true;
    request.parse_special = markers;
    request.has_add_bos = true;
    request.add_bos = first;
    TRY(client_call(c, "/gemmad.v1.Inference/Tokenize", &request.base,
                    &gemmad__v1__tokenize_response__descriptor, CTL_CALL_MS, &message));
    const Gemmad__V1__TokenizeResponse *reply = (void *)message;
    ids->at = memory_grow(ids->at, (ids->count + reply->n_token_ids + 1) * sizeof *ids->at);
    if (reply->n_token_ids)
        memcpy(ids->at + ids->count, reply->token_ids, reply->n_token_ids * sizeof *ids->at);
    ids->count += reply->n_token_ids;
    ids->set = true;
    protobuf_c_message_free_unpacked(message, NULL);
    return ST_OK;
}

status prompt_encode_turn(client *c, const char *model, const strbuf *content, arg_ids *ids) {
    static const char before[] = "<|turn>", role[] = "user\n";
    static const char after[] = "<turn|>\n<|turn>model\n<|channel>thought\n<channel|>";
    strbuf turn = {0};
    strbuf_add(&turn, role, sizeof role - 1);
    strbuf_add(&turn, content->data, content->size);
    status st = prompt_encode(c, model, before, sizeof before - 1, true, true, ids);
    if (st == ST_OK) st = prompt_encode(c, model, turn.data, turn.size, false, false, ids);
    if (st == ST_OK) st = prompt_encode(c, model, after, sizeof after - 1, true, false, ids);
    strbuf_close(&turn);
    return st;
}
