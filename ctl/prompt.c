#include "ctl/prompt.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/utf8.h"
#include "ctl/ctl.h"
#include "proto/gemmad.pb-c.h"
#include "proto/limits.h"

/* Bytes of the white-space character at the front of at[n], 0: it is none. */
static size_t space_at(const unsigned char *at, size_t n) {
    if (n >= 1 && (at[0] == ' ' || (at[0] >= 0x09 && at[0] <= 0x0D) || (at[0] >= 0x1C && at[0] <= 0x1F)))
        return 1;
    if (n >= 2 && at[0] == 0xC2 && (at[1] == 0x85 || at[1] == 0xA0)) return 2; /* U+0085, U+00A0 */
    if (n < 3) return 0;
    unsigned code = (at[0] & 0x0Fu) << 12 | (at[1] & 0x3Fu) << 6 | (at[2] & 0x3Fu);
    if ((at[0] & 0xF0) != 0xE0) return 0;
    bool space = code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
                 code == 0x202F || code == 0x205F || code == 0x3000;
    return space ? 3 : 0;
}

void prompt_trim(const char **text, size_t *n) {
    const unsigned char *at = (const unsigned char *)*text;
    size_t left = *n, width;
    while ((width = space_at(at, left)) > 0) {
        at += width;
        left -= width;
    }
    for (bool trimmed = true; trimmed;) {
        trimmed = false;
        for (width = 1; width <= 3 && width <= left && !trimmed; width++)
            if (space_at(at + left - width, width) == width) {
                left -= width;
                trimmed = true;
            }
    }
    *text = (const char *)at;
    *n = left;
}

static status add_trimmed(strbuf *content, const char *what, const char *text, size_t n) {
    size_t valid = utf8_check(text, n);
    if (valid < n) return fail(ST_INVALID, "%s is not UTF-8 at byte %zu", what, valid);
    prompt_trim(&text, &n);
    if (n == 0) return fail(ST_INVALID, "%s is empty", what);
    if (content->size > 0) strbuf_add_string(content, "\n\n");
    strbuf_add(content, text, n);
    if (content->full)
        return fail(ST_INVALID, "documents and question are longer than %d bytes together",
                    LIMIT_PROMPT_BYTES);
    return ST_OK;
}

status prompt_join_documents(char *const *paths, size_t count, const char *question, strbuf *content) {
    content->max = LIMIT_PROMPT_BYTES;
    for (size_t i = 0; i < count; i++) {
        char *text;
        size_t n;
        TRY(ctl_read_file(paths[i], &text, &n));
        status st = add_trimmed(content, paths[i], text, n);
        free(text);
        TRY(st);
    }
    return add_trimmed(content, "the question", question, strlen(question));
}

static status encode(client *c, const char *model, const void *text, size_t n, bool markers, bool first,
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
    status st = encode(c, model, before, sizeof before - 1, true, true, ids);
    if (st == ST_OK) st = encode(c, model, turn.data, turn.size, false, false, ids);
    if (st == ST_OK) st = encode(c, model, after, sizeof after - 1, true, false, ids);
    strbuf_close(&turn);
    return st;
}
