/* Gemma 4's tokenizer.json for tests and benchmarks: it lies in the repository compressed. */
#ifndef TESTS_GEMMA_TOKENIZER_H
#define TESTS_GEMMA_TOKENIZER_H

#include <stdio.h>
#include <stdlib.h>

#include "base/strbuf.h"

#define GEMMA_TOKENIZER_XZ TEST_DATA "/tokenizer/gemma4/tokenizer.json.xz"

/* The whole output of `xz -dc path`; false: there is no xz, or it failed. */
static inline bool gemma_tokenizer_unpack(const char *path, strbuf *out) {
    char command[4096], part[65536];
    if (snprintf(command, sizeof command, "xz -dc '%s'", path) >= (int)sizeof command) return false;
    FILE *pipe = popen(command, "r");
    if (!pipe) return false;
    size_t n;
    while ((n = fread(part, 1, sizeof part, pipe)) > 0) strbuf_add(out, part, n);
    return pclose(pipe) == 0 && out->size > 0;
}

#endif
