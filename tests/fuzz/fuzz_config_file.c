// link: base
/* A configuration file. What is accepted has its lines in order and its texts within the file. */
#include <string.h>

#include "base/config_file.h"
#include "base/invariant.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const config_file *f, size_t size) {
    uint32_t line = 0;
    for (size_t i = 0; i < f->count; i++) {
        const config_entry *e = &f->entry[i];
        INVARIANT(e->line > line && e->line <= size);
        line = e->line;
        INVARIANT(strlen(e->section) + strlen(e->key) + strlen(e->value) <= size);
        INVARIANT(e->key[0] || e->section[0]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    config_file f;
    if (config_file_parse(&f, "fuzz", (const char *)data, size) != ST_OK) {
        INVARIANT(status_text()[0] != 0);
        return 0;
    }
    check(&f, size);
    config_file_close(&f);
    return 0;
}
