// link: daemon_http
/* Headers that decide who may come in, one behind the other with 0 bytes between: Host, Origin, Authorization. No host but
 * localhost and addresses is this machine's loopback, an origin that is the same names the host, and there is one key. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/invariant.h"
#include "base/memory.h"
#include "daemon/http/gate.h"

#define KEY "gm-fuzz"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static auth *one_key(void) {
    static auth *keys;
    key_file f = {0};
    if (keys) return keys;
    key_entry *e;
    INVARIANT(key_file_add(&f, "fuzz", &e) == ST_OK);
    key_digest(KEY, strlen(KEY), e->digest);
    auth_open(&keys, NULL);
    auth_replace(keys, &f);
    key_file_close(&f);
    return keys;
}

static void check_host(const char *host) {
    if (!gate_is_loopback_host(host)) return;
    const char *name = host + (host[0] == '[');
    INVARIANT(!strncasecmp(name, "localhost", 9) || !strncmp(name, "127.", 4) || strchr("0:", name[0]));
}

static void check_key(const char *header, size_t n) {
    auth_key *who = NULL;
    status st = auth_check(one_key(), header, n, &who);
    INVARIANT(st == ST_OK || (st == ST_AUTH && !who && status_text()[0]));
    if (st != ST_OK) return;
    while (header[n - 1] == ' ') n--;
    INVARIANT(n >= strlen("Bearer " KEY) && !memcmp(header + n - strlen(" " KEY), " " KEY, strlen(" " KEY)));
    auth_key_release(who);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = memory_alloc(size + 3);
    memcpy(text, data, size);
    memset(text + size, 0, 3);
    const char *host = text, *origin = host + strlen(host) + 1;
    if (origin > text + size) origin = text + size;
    const char *authorization = origin + strlen(origin) + 1;
    if (authorization > text + size) authorization = text + size;
    check_host(host);
    if (gate_is_same_origin(origin, host)) INVARIANT(strlen(origin) > strlen(host) && host[0] != '/');
    check_key(authorization, (size_t)(text + size - authorization));
    free(text);
    return 0;
}
