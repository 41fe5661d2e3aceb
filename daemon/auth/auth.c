#include "daemon/auth/auth.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "daemon/auth/bucket.h"
#include "proto/limits.h"

enum { CONCURRENT_RETRY_MS = 1000 };

struct auth_key {
    auth *owner;
    key_entry entry; /* its models are this struct's own */
    bool listed;     /* in the file that is in force */
    uint32_t holds;  /* calls, and one while it is listed */
    uint32_t running;
    bucket requests, tokens;
};

struct auth {
    auth_clock clock;
    auth_key **key; /* [count], listed */
    uint32_t count;
    uint32_t alive;   /* keys not freed yet */
    uint64_t refused; /* ever */
};

static int64_t system_seconds(void *context) {
    (void)context;
    return (int64_t)time(NULL);
}

void auth_open(auth **out, const auth_clock *clock) {
    *out = memory_alloc(sizeof **out);
    (*out)->clock = clock ? *clock : (auth_clock){.monotonic = clock_system, .unix_seconds = system_seconds};
}

uint32_t auth_key_count(const auth *a) { return a->count; }

/* ---- the keys in force ---- */

static void free_models(auth_key *k) {
    for (uint32_t i = 0; i < k->entry.model_count; i++) free(k->entry.model[i]);
    free(k->entry.model);
}

static void take_entry(auth_key *k, const key_entry *from) {
    free_models(k);
    k->entry = *from;
    k->entry.model = NULL;
    k->entry.model_count = 0;
    for (uint32_t i = 0; i < from->model_count; i++) key_entry_add_model(&k->entry, from->model[i]);
}

/* From *at on, and around; *at is then the place behind it. Files mostly keep their order: all keys are found in one round. */
static auth_key *find(const auth *a, const char *name, uint32_t *at) {
    for (uint32_t i = 0; i < a->count; i++) {
        uint32_t k = (*at + i) % a->count;
        if (strcmp(a->key[k]->entry.name, name) != 0) continue;
        *at = k + 1;
        return a->key[k];
    }
    return NULL;
}

static auth_key *make_key(auth *a) {
    auth_key *k = memory_alloc(sizeof *k);
    k->owner = a;
    k->holds = 1;
    a->alive++;
    return k;
}

static void unlist(auth_key *k) {
    k->listed = false;
    auth_key_release(k);
}

void auth_replace(auth *a, const key_file *keys) {
    auth_key **list = memory_alloc_array(keys->count + 1, sizeof *list);
    uint32_t at = 0;
    for (uint32_t i = 0; i < a->count; i++) a->key[i]->listed = false;
    for (uint32_t i = 0; i < keys->count; i++) {
        auth_key *k = find(a, keys->entry[i].name, &at);
        list[i] = k ? k : make_key(a);
        take_entry(list[i], &keys->entry[i]);
        list[i]->listed = true;
    }
    for (uint32_t i = 0; i < a->count; i++)
        if (!a->key[i]->listed) unlist(a->key[i]);
    free(a->key);
    a->key = list;
    a->count = keys->count;
}

void auth_close(auth *a) {
    if (!a) return;
    for (uint32_t i = 0; i < a->count; i++) unlist(a->key[i]);
    free(a->key);
    INVARIANT(a->alive == 0);
    free(a);
}

auth_key *auth_key_hold(auth_key *k) {
    if (k) k->holds++;
    return k;
}

void auth_key_release(auth_key *k) {
    if (!k) return;
    INVARIANT(k->holds > 0);
    if (--k->holds > 0) return;
    INVARIANT(!k->listed && k->running == 0);
    k->owner->alive--;
    free_models(k);
    free(k);
}

/* ---- showing a key ---- */

/* All bytes, whatever the first says. */
static bool equal_digests(const uint8_t *a, const uint8_t *b) {
    volatile uint8_t different = 0;
    for (int i = 0; i < KEY_DIGEST_BYTES; i++) different |= a[i] ^ b[i];
    return different == 0;
}

/* "Bearer", spaces, the key; the scheme in any case (RFC 9110, 11.1). */
static bool split_header(const char *header, size_t n, const char **key, size_t *key_bytes) {
    static const char scheme[] = "Bearer ";
    size_t at = sizeof scheme - 1;
    if (n <= at || strncasecmp(header, scheme, at) != 0) return false;
    while (at < n && header[at] == ' ') at++;
    while (n > at && header[n - 1] == ' ') n--;
    *key = header + at;
    *key_bytes = n - at;
    return *key_bytes > 0 && *key_bytes <= LIMIT_KEY_BYTES;
}

status auth_check(auth *a, const char *header, size_t n, auth_key **out) {
    const char *text;
    size_t bytes;
    uint8_t digest[KEY_DIGEST_BYTES];
    auth_key *found = NULL;
    if (!split_header(header, n, &text, &bytes))
        return fail(ST_AUTH, "the authorization is not \"Bearer KEY\" with a key of 1 to %d bytes",
                    LIMIT_KEY_BYTES);
    key_digest(text, bytes, digest);
    /* Every key is looked at, wherever the right one stands. */
    for (uint32_t i = 0; i < a->count; i++)
        if (equal_digests(a->key[i]->entry.digest, digest)) found = a->key[i];
    if (!found) return fail(ST_AUTH, "the key is not known here");
    if (found->entry.expires && a->clock.unix_seconds(a->clock.context) >= found->entry.expires) {
        char when[KEY_TIME_BYTES + 1];
        key_time_write(found->entry.expires, when);
        return fail(ST_AUTH, "the key %s has expired, on %s", found->entry.name, when);
    }
    *out = auth_key_hold(found);
    return ST_OK;
}

void auth_refused(auth *a) { a->refused++; }
uint64_t auth_refusals(const auth *a) { return a ? a->refused : 0; }

/* ---- what it may do ---- */

const char *auth_key_name(const auth_key *k) { return k ? k->entry.name : NULL; }
bool auth_key_is_admin(const auth_key *k) { return !k || k->entry.admin; }

bool auth_key_may_use(const auth_key *k, const char *model) {
    if (!k || k->entry.model_count == 0) return true;
    for (uint32_t i = 0; i < k->entry.model_count; i++)
        if (!strcmp(k->entry.model[i], model)) return true;
    return false;
}

static uint64_t now_ns(const auth_key *k) {
    const clock_source *c = &k->owner->clock.monotonic;
    return c->now_ns(c->context);
}

status auth_key_request(auth_key *k, uint32_t *retry_after_ms) {
    if (!k) return ST_OK;
    const key_entry *e = &k->entry;
    *retry_after_ms = bucket_wait_ms(&k->requests, e->requests_per_minute, now_ns(k));
    if (*retry_after_ms > 0)
        return fail(ST_BUSY, "key %s may make %u requests a minute; the next in %.1f s", e->name,
                    e->requests_per_minute, *retry_after_ms / 1e3);
    *retry_after_ms = bucket_wait_ms(&k->tokens, e->tokens_per_minute, now_ns(k));
    if (*retry_after_ms > 0)
        return fail(ST_BUSY,
                    "key %s may use %u tokens a minute, prompts and answers together; the next in %.1f s",
                    e->name, e->tokens_per_minute, *retry_after_ms / 1e3);
    bucket_take(&k->requests, e->requests_per_minute, 1, now_ns(k));
    return ST_OK;
}

status auth_key_begins(auth_key *k, uint32_t *retry_after_ms) {
    if (!k) return ST_OK;
    if (k->entry.concurrent && k->running >= k->entry.concurrent) {
        *retry_after_ms = CONCURRENT_RETRY_MS;
        return fail(ST_BUSY, "key %s has %u requests under way, at most %u", k->entry.name, k->running,
                    k->entry.concurrent);
    }
    k->running++;
    return ST_OK;
}

void auth_key_ends(auth_key *k) {
    if (!k) return;
    INVARIANT(k->running > 0);
    k->running--;
}

void auth_key_tokens(auth_key *k, uint32_t count) {
    if (k) bucket_take(&k->tokens, k->entry.tokens_per_minute, count, now_ns(k));
}
