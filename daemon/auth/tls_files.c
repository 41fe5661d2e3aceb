#include "daemon/auth/tls_files.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"

enum { PEM_BYTES_MAX = 1 << 20, CHAIN_MAX = 32 };

/* A group may read a private key, as Debian's ssl-cert does; others may not. */
static status check_private(const char *path) {
    struct stat s;
    if (stat(path, &s) != 0) return fail_errno(errno == ENOENT ? ST_NOT_FOUND : ST_IO, "%s", path);
    if (s.st_mode & 037)
        return fail(ST_DENIED, "%s has mode %04o: others could %s the private key; chmod 600 %s", path,
                    s.st_mode & 07777, s.st_mode & 022 ? "change" : "read", path);
    return ST_OK;
}

static gnutls_datum_t datum(const char *text) {
    return (gnutls_datum_t){.data = (unsigned char *)(uintptr_t)text, .size = (unsigned)strlen(text)};
}

static status read_expiry(tls_files *f, const char *path) {
    gnutls_datum_t pem = datum(f->cert);
    gnutls_x509_crt_t chain[CHAIN_MAX];
    unsigned count = CHAIN_MAX;
    int error = gnutls_x509_crt_list_import(chain, &count, &pem, GNUTLS_X509_FMT_PEM,
                                            GNUTLS_X509_CRT_LIST_IMPORT_FAIL_IF_EXCEED);
    if (error < 0) return fail(ST_FORMAT, "%s: no certificates in PEM: %s", path, gnutls_strerror(error));
    f->expires = (int64_t)gnutls_x509_crt_get_expiration_time(chain[0]);
    for (unsigned i = 0; i < count; i++) gnutls_x509_crt_deinit(chain[i]);
    return ST_OK;
}

static status check_pair(const tls_files *f, const char *cert, const char *key, const char *client_ca) {
    gnutls_certificate_credentials_t credentials;
    gnutls_datum_t cert_pem = datum(f->cert), key_pem = datum(f->key);
    if (gnutls_certificate_allocate_credentials(&credentials) != 0)
        return fail(ST_NO_MEMORY, "TLS credentials");
    status st = ST_OK;
    int error = gnutls_certificate_set_x509_key_mem(credentials, &cert_pem, &key_pem, GNUTLS_X509_FMT_PEM);
    if (error < 0) st = fail(ST_FORMAT, "%s with the key %s: %s", cert, key, gnutls_strerror(error));
    if (st == ST_OK && f->client_ca) {
        gnutls_datum_t ca_pem = datum(f->client_ca);
        error = gnutls_certificate_set_x509_trust_mem(credentials, &ca_pem, GNUTLS_X509_FMT_PEM);
        if (error < 0) st = fail(ST_FORMAT, "%s: %s", client_ca, gnutls_strerror(error));
        else if (error == 0) st = fail(ST_FORMAT, "%s: no certificates in PEM", client_ca);
    }
    gnutls_certificate_free_credentials(credentials);
    return st;
}

static status read_all(tls_files *f, const char *cert, const char *key, const char *client_ca) {
    size_t n;
    TRY(check_private(key));
    TRY(file_read_all(cert, PEM_BYTES_MAX, &f->cert, &n));
    TRY(file_read_all(key, PEM_BYTES_MAX, &f->key, &n));
    if (client_ca) TRY(file_read_all(client_ca, PEM_BYTES_MAX, &f->client_ca, &n));
    TRY(read_expiry(f, cert));
    return check_pair(f, cert, key, client_ca);
}

status tls_files_read(tls_files *out, const char *cert, const char *key, const char *client_ca) {
    *out = (tls_files){0};
    status st = read_all(out, cert, key, client_ca);
    if (st != ST_OK) tls_files_close(out);
    return st;
}

void tls_files_copy(tls_files *out, const tls_files *from) {
    *out = (tls_files){.cert = memory_copy_string(from->cert),
                       .key = memory_copy_string(from->key),
                       .client_ca = from->client_ca ? memory_copy_string(from->client_ca) : NULL,
                       .expires = from->expires};
}

void tls_files_close(tls_files *f) {
    if (f->key) explicit_bzero(f->key, strlen(f->key));
    free(f->cert);
    free(f->key);
    free(f->client_ca);
    *f = (tls_files){0};
}
