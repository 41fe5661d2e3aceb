/* gemmactl tokenize [TEXT] and gemmactl detokenize IDS... */
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "ctl/ctl.h"
#include "ctl/json_write.h"
#include "ctl/terminal.h"
#include "proto/gemmad.pb-c.h"

typedef struct tokenize_options {
    const char *model, *file;
    bool add_bos, parse_special;
} tokenize_options;

typedef struct detokenize_options {
    const char *model;
    bool skip_special;
} detokenize_options;

static const arg_option tokenize_option[] = {
    {"model", ARG_TEXT, "NAME", offsetof(tokenize_options, model), 0, 0,
     "served model; default: the daemon's first"},
    {"file", ARG_TEXT, "FILE", offsetof(tokenize_options, file), 0, 0,
     "the text, from a file (\"-\": standard input)"},
    {"add-bos", ARG_FLAG, NULL, offsetof(tokenize_options, add_bos), 0, 0,
     "put the beginning-of-sequence token first"},
    {"parse-special", ARG_FLAG, NULL, offsetof(tokenize_options, parse_special), 0, 0,
     "take text like <turn|> as its token"},
};
static const arg_option detokenize_option[] = {
    {"model", ARG_TEXT, "NAME", offsetof(detokenize_options, model), 0, 0,
     "served model; default: the daemon's first"},
    {"skip-special", ARG_FLAG, NULL, offsetof(detokenize_options, skip_special), 0, 0,
     "leave special tokens out"},
};

/* One request, one reply: connects, calls, closes. */
static status call_once(ctl *c, const char *method, const ProtobufCMessage *request,
                        const ProtobufCMessageDescriptor *reply, ProtobufCMessage **out) {
    client *server;
    TRY(ctl_connect(c, &server));
    status st = client_call(server, method, request, reply, CTL_CALL_MS, out);
    client_close(server);
    return st;
}

static status print_reply(const ctl *c, const ProtobufCMessage *message, const strbuf *plain) {
    json_writer w = {0};
    if (c->json) json_message(&w, message);
    status st = terminal_write_line(c->json ? &w.out : plain);
    strbuf_close(&w.out);
    return st;
}

static status run_tokenize(ctl *c, const void *values, const arg_words *words) {
    const tokenize_options *o = values;
    if (words->count + (o->file != NULL) != 1)
        return ctl_usage(c, "tokenize needs one text: gemmactl tokenize TEXT, or --file FILE");
    char *from_file = NULL;
    size_t n = o->file ? 0 : strlen(words->at[0]);
    if (o->file) TRY(ctl_read_file(o->file, &from_file, &n));
    const char *text = from_file ? from_file : words->at[0];
    size_t valid = utf8_check(text, n);
    status st = valid == n
                    ? ST_OK
                    : fail(ST_INVALID, "%s is not UTF-8 at byte %zu", o->file ? o->file : "the text", valid);
    Gemmad__V1__TokenizeRequest request = GEMMAD__V1__TOKENIZE_REQUEST__INIT;
    ProtobufCMessage *message = NULL;
    strbuf plain = {0};
    request.model = ctl_model(o->model);
    request.has_text = request.has_add_bos = request.has_parse_special = true;
    request.text = (ProtobufCBinaryData){n, (uint8_t *)(uintptr_t)text};
    request.add_bos = o->add_bos;
    request.parse_special = o->parse_special;
    if (st == ST_OK)
        st = call_once(c, "/gemmad.v1.Inference/Tokenize", &request.base,
                       &gemmad__v1__tokenize_response__descriptor, &message);
    if (st == ST_OK) {
        const Gemmad__V1__TokenizeResponse *reply = (void *)message;
        for (size_t i = 0; i < reply->n_token_ids; i++)
            strbuf_add_format(&plain, "%s%u", i ? "," : "", reply->token_ids[i]);
        st = print_reply(c, message, &plain);
    }
    strbuf_close(&plain);
    if (message) protobuf_c_message_free_unpacked(message, NULL);
    free(from_file);
    return st;
}

static status run_detokenize(ctl *c, const void *values, const arg_words *words) {
    const detokenize_options *o = values;
    strbuf all = {0}, plain = {0};
    arg_ids ids = {0};
    for (size_t i = 0; i < words->count; i++) {
        strbuf_add_string(&all, words->at[i]);
        strbuf_add_string(&all, " ");
    }
    status st = args_read_ids("token ids", strbuf_text(&all), &ids);
    strbuf_close(&all);
    if (st != ST_OK) st = ctl_usage(c, "%s", status_text());
    else if (ids.count == 0) st = ctl_usage(c, "detokenize needs token ids: gemmactl detokenize 1,2,3");
    Gemmad__V1__DetokenizeRequest request = GEMMAD__V1__DETOKENIZE_REQUEST__INIT;
    ProtobufCMessage *message = NULL;
    request.model = ctl_model(o->model);
    request.token_ids = ids.at;
    request.n_token_ids = ids.count;
    request.has_skip_special = true;
    request.skip_special = o->skip_special;
    if (st == ST_OK)
        st = call_once(c, "/gemmad.v1.Inference/Detokenize", &request.base,
                       &gemmad__v1__detokenize_response__descriptor, &message);
    if (st == ST_OK) {
        const Gemmad__V1__DetokenizeResponse *reply = (void *)message;
        if (c->json) st = print_reply(c, message, NULL);
        else st = terminal_write_text(reply->text.data, reply->text.len);
        if (st == ST_OK && !c->json) st = terminal_write_line(&plain);
        protobuf_c_message_free_unpacked(message, NULL);
    }
    free(ids.at);
    return st;
}

const command command_tokenize = {
    "tokenize",
    "[TEXT]",
    "print the token ids of a text",
    tokenize_option,
    sizeof tokenize_option / sizeof *tokenize_option,
    sizeof(tokenize_options),
    false,
    run_tokenize,
};
const command command_detokenize = {
    "detokenize",
    "IDS...",
    "print the text of token ids",
    detokenize_option,
    sizeof detokenize_option / sizeof *detokenize_option,
    sizeof(detokenize_options),
    false,
    run_detokenize,
};
