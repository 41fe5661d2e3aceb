/* A config file of lines: "key = value", "[section]", "# comment", empty ones. A value may stand in double
 * quotes, which keep its outer spaces; there are no escapes. '#' begins a comment only at the start of a line
 * or after a space.
 *
 * Memory:  config_file_close releases; the entries point into the file.
 * Threads: one; read-only once opened.
 * Errors:  ST_NOT_FOUND, ST_IO; ST_FORMAT with file and line. */
#ifndef BASE_CONFIG_FILE_H
#define BASE_CONFIG_FILE_H

#include "base/status.h"
#include <stddef.h>
#include <stdint.h>

enum { CONFIG_FILE_BYTES_MAX = 1 << 20, CONFIG_FILE_ENTRIES_MAX = 4096 };

typedef struct config_entry {
    const char *section; /* "" above the first */
    const char *key;     /* "" for the line that opens the section */
    const char *value;
    uint32_t line;
} config_entry;

typedef struct config_file {
    char *name, *text;
    config_entry *entry; /* [count], in order */
    size_t count;
} config_file;

STATUS_CHECKED status config_file_open(config_file *f, const char *path);
/* From bytes; name is for messages. */
STATUS_CHECKED status config_file_parse(config_file *f, const char *name, const char *bytes, size_t n);
void config_file_close(config_file *f);

#endif
