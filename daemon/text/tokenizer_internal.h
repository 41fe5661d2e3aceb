/* What the files of the tokenizer share. Read-only once tokenizer_parse has returned. */
#ifndef DAEMON_TEXT_TOKENIZER_INTERNAL_H
#define DAEMON_TEXT_TOKENIZER_INTERNAL_H

#include "daemon/text/added_tokens.h"
#include "daemon/text/bpe.h"
#include "daemon/text/tokenizer.h"
#include "daemon/text/vocab.h"

struct tokenizer {
    vocab vocab;
    added_tokens added;
    bpe bpe;
};

#endif
