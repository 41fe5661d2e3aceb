/* gemmactl generate --prompt TEXT | --prompt-file FILE | --token-ids IDS */
#include <stdlib.h>
#include <string.h>

#include "ctl/answer.h"

typedef struct generate_options {
    answer_options answer;
    const char *prompt, *prompt_file;
    arg_ids token_ids;
    bool no_bos, no_special;
} generate_options;

#define AT(field) offsetof(generate_options, field)

static const arg_option own_option[] = {
    {"prompt", ARG_TEXT, "TEXT", AT(prompt), 0, 0, "the prompt"},
    {"prompt-file", ARG_TEXT, "FILE", AT(prompt_file), 0, 0,
     "the prompt, from a file (\"-\": standard input)"},
    {"token-ids", ARG_IDS, "IDS", AT(token_ids), 0, 0, "the prompt, as token ids: 1,2,3"},
    {"no-bos", ARG_FLAG, NULL, AT(no_bos), 0, 0, "put no beginning-of-sequence token before a text"},
    {"no-special", ARG_FLAG, NULL, AT(no_special), 0, 0, "take text like <turn|> as text, not as its token"},
};

static status run(ctl *c, const void *values, const arg_words *words) {
    static const answer_style style = {.text_key = "text"};
    const generate_options *o = values;
    if (words->count)
        return ctl_usage(c, "generate takes no words, and got \"%s\": see --prompt", words->at[0]);
    if ((o->prompt != NULL) + (o->prompt_file != NULL) + o->token_ids.set != 1)
        return ctl_usage(c, "generate needs exactly one of --prompt, --prompt-file and --token-ids");
    if (o->token_ids.set && (o->no_bos || o->no_special))
        return ctl_usage(c, "--no-bos and --no-special are for text; token ids are taken as they are");
    Gemmad__V1__TokenIds ids = GEMMAD__V1__TOKEN_IDS__INIT;
    Gemmad__V1__GenerateRequest request = GEMMAD__V1__GENERATE_REQUEST__INIT;
    char *from_file = NULL;
    size_t n = o->prompt ? strlen(o->prompt) : 0;
    if (o->prompt_file) TRY(ctl_read_file(o->prompt_file, &from_file, &n));
    if (o->token_ids.set) {
        ids.ids = o->token_ids.at;
        ids.n_ids = o->token_ids.count;
        request.prompt_case = GEMMAD__V1__GENERATE_REQUEST__PROMPT_TOKEN_IDS;
        request.token_ids = &ids;
    } else {
        request.prompt_case = GEMMAD__V1__GENERATE_REQUEST__PROMPT_TEXT;
        request.text = (ProtobufCBinaryData){n, (uint8_t *)(uintptr_t)(from_file ? from_file : o->prompt)};
        request.has_add_bos = request.has_parse_special = true;
        request.add_bos = !o->no_bos;
        request.parse_special = !o->no_special;
    }
    client *server = NULL;
    status st = ctl_connect(c, &server);
    if (st == ST_OK) {
        st = answer_run(c, server, &o->answer, &request, &style);
        client_close(server);
    }
    free(from_file);
    return st;
}

const command command_generate = {
    "generate",
    "",
    "continue a text or a list of token ids",
    own_option,
    sizeof own_option / sizeof *own_option,
    sizeof(generate_options),
    true,
    run,
};
