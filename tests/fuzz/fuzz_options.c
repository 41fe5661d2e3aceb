// link: base
/* The configuration file: any bytes are read or refused, and what was read can be asked for. */
#include <stdint.h>

#include "base/options.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const option_row rows[] = {
        {.name = "model", .kind = OPTION_TEXT, .where = OPTION_REPEATS | OPTION_PER_MODEL, .value = "PATH", .help = ""},
        {.name = "ranks", .kind = OPTION_NUMBER, .where = OPTION_PER_MODEL, .value = "N", .least = 1, .most = 9, .help = ""},
        {.name = "memory", .kind = OPTION_BYTES, .value = "BYTES", .most = UINT64_MAX, .help = ""},
        {.name = "kv", .kind = OPTION_CHOICE, .value = "T", .choices = "auto|q8", .help = ""},
        {.name = "insecure", .kind = OPTION_FLAG, .help = ""},
    };
    static const option_table table = {.program = "p", .usage = "", .purpose = "", .row = rows, .count = 5};
    option_set *s;
    options_open(&s, &table);
    if (options_parse_file(s, "f", (const char *)data, n) == ST_OK) {
        for (uint32_t i = 0; i < options_section_count(s); i++)
            (void)options_number(s, "ranks", options_section_name(s, i));
        (void)options_number(s, "memory", NULL);
        (void)options_count(s, "model");
    }
    options_close(s);
    return 0;
}
