#include "base/dir_size.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static status read_size(const char *option, const char *text, uint64_t *bytes) {
    static const char *const units[] = {"", "KiB", "MiB", "GiB", "TiB"};
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    for (unsigned i = 0; errno == 0 && i < sizeof units / sizeof *units; i++) {
        if (strcmp(end, units[i])) continue;
        if (n == 0 || n > UINT64_MAX >> (10 * i)) break;
        *bytes = (uint64_t)n << (10 * i);
        return ST_OK;
    }
    return fail(ST_INVALID, "%s: the size \"%.64s\" is not a number of bytes, KiB, MiB, GiB or TiB", option,
                text);
}

status dir_size_read(const char *option, const char *text, char **dir, uint64_t *bytes) {
    const char *colon = strrchr(text, ':');
    bool sized = colon && colon[1] >= '0' && colon[1] <= '9';
    size_t n = sized ? (size_t)(colon - text) : strlen(text);
    *bytes = 0;
    if (n == 0) return fail(ST_INVALID, "%s: \"%.64s\" names no folder", option, text);
    if (sized) TRY(read_size(option, colon + 1, bytes));
    *dir = memory_alloc(n + 1);
    memcpy(*dir, text, n);
    return ST_OK;
}
