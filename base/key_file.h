/* The file of keys: who may use a gemmad, and how much. gemmactl writes it and gemmad reads it. It holds SHA-256
 * digests, never keys: a key is 32 random bytes, so that its digest needs no salt and no slow hash.
 *
 *     {"version": 1, "keys": [{"name": "alice", "sha256": "…", "created": "2026-01-31T12:00:00Z", "admin": false,
 *      "expires": "2027-01-31T12:00:00Z", "requests_per_minute": 60, "tokens_per_minute": 100000, "concurrent": 4,
 *      "models": ["gemma"]}]}
 *
 * name and sha256 are required. A limit that is absent or 0 is none; no models are all of them. What is unknown is
 * refused, since a limit that is misspelled would be no limit.
 *
 * Memory:  a key_file owns its entries; key_file_close releases. A zeroed one is empty and valid.
 * Threads: any, each with its own structs.
 * Errors:  ST_FORMAT with file, key and field; ST_NOT_FOUND without a file; ST_DENIED for a file that others may read or
 *          change; ST_IO, ST_IN_USE (another process is writing it). Outputs are then empty. */
#ifndef BASE_KEY_FILE_H
#define BASE_KEY_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
    KEY_FILE_BYTES_MAX = 8 << 20,
    KEY_FILE_KEYS_MAX = 4096,
    KEY_FILE_MODELS_MAX = 64,       /* of one key */
    KEY_FILE_MODEL_BYTES_MAX = 128, /* of one name */
    KEY_NAME_BYTES_MAX = 64,
    KEY_DIGEST_BYTES = 32,
    KEY_TEXT_BYTES = 7 + 64, /* "gemmad-" and 64 hexadecimal digits */
    KEY_LIMIT_MAX = 2000000000,
    KEY_TIME_BYTES = 20, /* "2026-01-31T12:00:00Z" */
};

typedef struct key_entry {
    char name[KEY_NAME_BYTES_MAX + 1];
    uint8_t digest[KEY_DIGEST_BYTES];
    bool admin;
    int64_t created, expires;                                    /* seconds since 1970, 0: not known; never */
    uint32_t requests_per_minute, tokens_per_minute, concurrent; /* 0: no limit */
    char **model;                                                /* [model_count], none: all */
    uint32_t model_count;
} key_entry;

typedef struct key_file {
    key_entry *entry;
    uint32_t count;
} key_file;

/* `where` is for the message. */
STATUS_CHECKED status key_file_parse(key_file *out, const char *bytes, size_t n, const char *where);
/* The file must be this user's or root's, others may neither read nor write it, and its group may not write. */
STATUS_CHECKED status key_file_read(key_file *out, const char *path);
/* Replaces the file in one step; a new one gets mode 0600, an old one keeps owner and mode. */
STATUS_CHECKED status key_file_write(const key_file *f, const char *path);
/* One writer at a time, from reading to writing: *lock is closed by the caller. */
STATUS_CHECKED status key_file_lock(const char *path, int *lock);
void key_file_close(key_file *f);

key_entry *key_file_find(const key_file *f, const char *name); /* NULL: none */
/* A zeroed entry with this name at the end. ST_EXISTS, ST_INVALID, ST_NO_MEMORY (too many). */
STATUS_CHECKED status key_file_add(key_file *f, const char *name, key_entry **out);
void key_file_remove(key_file *f, key_entry *e);
void key_entry_add_model(key_entry *e, const char *model);

/* Letters, digits, and . _ - @ within: names stand in logs and metrics. */
STATUS_CHECKED status key_check_name(const char *name);
/* A new key. Whoever shows it is who it was made for: it is printed once and kept nowhere. */
STATUS_CHECKED status key_make(char text[KEY_TEXT_BYTES + 1]);
void key_digest(const char *text, size_t n, uint8_t digest[KEY_DIGEST_BYTES]);

/* "2026-01-31T12:00:00Z". */
void key_time_write(int64_t seconds, char text[KEY_TIME_BYTES + 1]);
STATUS_CHECKED status key_time_read(const char *text, int64_t *seconds);

#endif
