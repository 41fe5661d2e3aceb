#include "daemon/http/http_tls.h"

#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"

enum { CHAIN_MAX = 32 };

typedef struct identity {
    gnutls_pcert_st chain[CHAIN_MAX];
    unsigned count;
    gnutls_privkey_t key;
    gnutls_x509_trust_list_t clients; /* whose certificates clients show; NULL: none are asked for */
    struct identity *next;            /* older ones */
} identity;

struct http_tls {
    identity *first; /* the one in force */
    char *client_ca;
};

static http_tls *in_use;

static gnutls_datum_t datum(const char *text) {
    return (gnutls_datum_t){.data = (unsigned char *)(uintptr_t)text, .size = (unsigned)strlen(text)};
}

static void free_identity(identity *i) {
    for (unsigned k = 0; k < i->count; k++) gnutls_pcert_deinit(&i->chain[k]);
    if (i->key) gnutls_privkey_deinit(i->key);
    if (i->clients) gnutls_x509_trust_list_deinit(i->clients, 1);
    free(i);
}

static int read_clients(identity *i, const char *client_ca) {
    gnutls_datum_t pem = datum(client_ca);
    int error = gnutls_x509_trust_list_init(&i->clients, 0);
    if (error < 0) return error;
    int count = gnutls_x509_trust_list_add_trust_mem(i->clients, &pem, NULL, GNUTLS_X509_FMT_PEM, 0, 0);
    return count == 0 ? GNUTLS_E_NO_CERTIFICATE_FOUND : count;
}

static status read_identity(const tls_files *files, identity **out) {
    identity *i = memory_alloc(sizeof *i);
    gnutls_datum_t cert = datum(files->cert), key = datum(files->key);
    unsigned count = CHAIN_MAX;
    int error = gnutls_pcert_list_import_x509_raw(i->chain, &count, &cert, GNUTLS_X509_FMT_PEM,
                                                  GNUTLS_X509_CRT_LIST_IMPORT_FAIL_IF_EXCEED);
    if (error >= 0) i->count = count;
    if (error >= 0) error = gnutls_privkey_init(&i->key);
    if (error >= 0) error = gnutls_privkey_import_x509_raw(i->key, &key, GNUTLS_X509_FMT_PEM, NULL, 0);
    if (error >= 0 && files->client_ca) error = read_clients(i, files->client_ca);
    if (error < 0) {
        free_identity(i);
        return fail(ST_FORMAT, "the certificates of HTTPS: %s", gnutls_strerror(error));
    }
    *out = i;
    return ST_OK;
}

status http_tls_open(http_tls **out, const tls_files *files) {
    INVARIANT(!in_use);
    identity *first;
    TRY(read_identity(files, &first));
    http_tls *t = memory_alloc(sizeof *t);
    t->first = first;
    t->client_ca = files->client_ca ? memory_copy_string(files->client_ca) : NULL;
    *out = in_use = t;
    return ST_OK;
}

status http_tls_replace(http_tls *t, const tls_files *files) {
    identity *now;
    TRY(read_identity(files, &now));
    now->next = t->first;
    t->first = now;
    return ST_OK;
}

void http_tls_close(http_tls *t) {
    if (!t) return;
    while (t->first) {
        identity *i = t->first;
        t->first = i->next;
        free_identity(i);
    }
    free(t->client_ca);
    free(t);
    in_use = NULL;
}

int http_tls_give(gnutls_session_t session, const gnutls_datum_t *authorities, int authority_count,
                  const gnutls_pk_algorithm_t *algorithms, int algorithm_count, gnutls_pcert_st **chain,
                  unsigned *count, gnutls_privkey_t *key) {
    (void)authorities, (void)authority_count, (void)algorithms, (void)algorithm_count;
    INVARIANT(in_use);
    /* libmicrohttpd knows the authorities of the start only: clients are not told which certificate would do. */
    gnutls_certificate_send_x509_rdn_sequence(session, 1);
    *chain = in_use->first->chain;
    *count = in_use->first->count;
    *key = in_use->first->key;
    return 0;
}

const char *http_tls_client_ca(const http_tls *t) { return t->client_ca; }

/* ST_OK also for a chain that is not trusted: *problems tells. */
static status verify(gnutls_x509_trust_list_t trusted, const gnutls_datum_t *shown, unsigned count,
                     unsigned *problems) {
    gnutls_x509_crt_t chain[CHAIN_MAX];
    unsigned read = 0;
    int error = count <= CHAIN_MAX ? 0 : GNUTLS_E_SHORT_MEMORY_BUFFER;
    while (error >= 0 && read < count) {
        error = gnutls_x509_crt_init(&chain[read]);
        if (error < 0) break;
        error = gnutls_x509_crt_import(chain[read], &shown[read], GNUTLS_X509_FMT_DER);
        read++;
    }
    if (error >= 0) error = gnutls_x509_trust_list_verify_crt(trusted, chain, count, 0, problems, NULL);
    for (unsigned i = 0; i < read; i++) gnutls_x509_crt_deinit(chain[i]);
    return error >= 0 ? ST_OK : fail(ST_DENIED, "the client's certificate: %s", gnutls_strerror(error));
}

status http_tls_check_client(const http_tls *t, gnutls_session_t session) {
    unsigned problems = 0, count = 0;
    if (!t->first->clients) return ST_OK;
    const gnutls_datum_t *shown = gnutls_certificate_get_peers(session, &count);
    if (!shown || count == 0) return fail(ST_DENIED, "a client's certificate is needed");
    TRY(verify(t->first->clients, shown, count, &problems));
    return problems == 0 ? ST_OK
                         : fail(ST_DENIED, "the client's certificate is not one that is trusted here");
}
