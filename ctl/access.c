#include "ctl/access.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/memory.h"
#include "proto/limits.h"

enum { PEM_BYTES_MAX = 1 << 20 };

static status check_private(const char *path) {
    struct stat s;
    if (stat(path, &s) != 0) return fail_errno(errno == ENOENT ? ST_NOT_FOUND : ST_IO, "%s", path);
    /* A pipe of a shell's <(…) is this user's own. */
    if (S_ISREG(s.st_mode) && s.st_mode & 077)
        return fail(ST_DENIED, "%s has mode %04o: others could read it; chmod 600 %s", path,
                    s.st_mode & 07777, path);
    return ST_OK;
}

static status take_key(client_access *a, const char *text, const char *where) {
    size_t n = strcspn(text, "\r\n");
    bool plain = n > 0 && n <= LIMIT_KEY_BYTES && text[n + strspn(text + n, "\r\n")] == 0;
    for (size_t i = 0; plain && i < n; i++) plain = text[i] > ' ' && text[i] < 0x7f;
    if (!plain)
        return fail(ST_INVALID, "%s is not one key of 1 to %d letters and digits", where, LIMIT_KEY_BYTES);
    a->authorization = memory_alloc(n + sizeof "Bearer ");
    sprintf(a->authorization, "Bearer %.*s", (int)n, text);
    return ST_OK;
}

static status read_key(client_access *a, const char *file) {
    const char *from_environment = getenv("GEMMACTL_KEY");
    char *text;
    size_t n;
    if (!file)
        return from_environment && *from_environment ? take_key(a, from_environment, "GEMMACTL_KEY") : ST_OK;
    TRY(check_private(file));
    TRY(file_read_all(file, LIMIT_KEY_BYTES + 2, &text, &n));
    status st = take_key(a, text, file);
    explicit_bzero(text, n);
    free(text);
    return st;
}

static status read_pem(const char *file, char **out) {
    size_t n;
    return file ? file_read_all(file, PEM_BYTES_MAX, out, &n) : ST_OK;
}

static status read_all(client_access *a, const access_options *o) {
    if (!o->tls_cert != !o->tls_key) return fail(ST_INVALID, "--tls-cert and --tls-key go together");
    a->tls = o->tls || o->tls_ca || o->tls_cert;
    a->insecure = o->insecure;
    TRY(read_key(a, o->key_file));
    TRY(read_pem(o->tls_ca, &a->ca));
    TRY(read_pem(o->tls_cert, &a->cert));
    if (o->tls_key) TRY(check_private(o->tls_key));
    return read_pem(o->tls_key, &a->key);
}

status access_read(client_access *out, const access_options *o) {
    *out = (client_access){0};
    status st = read_all(out, o);
    if (st != ST_OK) access_close(out);
    return st;
}

/* A name may begin with 127. and lead anywhere. */
static bool stays_here(const char *address) {
    static const char *const local[] = {"unix:", "localhost:", "[::1]:"};
    for (size_t i = 0; i < sizeof local / sizeof *local; i++)
        if (!strncmp(address, local[i], strlen(local[i]))) return true;
    return !strncmp(address, "127.", 4) && address[strspn(address, "0123456789.")] == ':';
}

status access_check(const client_access *a, const char *address) {
    if (!a->authorization || a->tls || a->insecure || stays_here(address)) return ST_OK;
    return fail(ST_INVALID,
                "the key would be readable on its way to %s: --tls or --tls-ca FILE encrypts, --insecure "
                "sends it all the same",
                address);
}

void access_close(client_access *a) {
    if (a->authorization) explicit_bzero(a->authorization, strlen(a->authorization));
    if (a->key) explicit_bzero(a->key, strlen(a->key));
    free(a->authorization);
    free(a->ca);
    free(a->cert);
    free(a->key);
    *a = (client_access){0};
}
