#include "daemon/api/tls.h"

#include <grpc/grpc_security.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/invariant.h"
#include "base/memory.h"

enum { PORTS_MAX = 32 };

/* Each port asks for itself and is told once of each change. */
typedef struct port {
    tls *owner;
    grpc_server_credentials *credentials;
    uint64_t given; /* guarded by the owner's lock */
} port;

struct tls {
    pthread_mutex_t lock;
    tls_files files; /* guarded by lock */
    uint64_t change; /* guarded by lock: from 1 */
    bool asks_clients;
    port *port[PORTS_MAX];
    uint32_t port_count;
};

/* For each connection. */
static grpc_ssl_certificate_config_reload_status give(void *context,
                                                      grpc_ssl_server_certificate_config **out) {
    port *p = context;
    grpc_ssl_certificate_config_reload_status answer = GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    pthread_mutex_lock(&p->owner->lock);
    if (p->given != p->owner->change) {
        const tls_files *f = &p->owner->files;
        grpc_ssl_pem_key_cert_pair pair = {.private_key = f->key, .cert_chain = f->cert};
        /* gRPC insists on authorities even where it asks clients for nothing. */
        *out = grpc_ssl_server_certificate_config_create(f->client_ca ? f->client_ca : f->cert, &pair, 1);
        p->given = p->owner->change;
        answer = GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
    }
    pthread_mutex_unlock(&p->owner->lock);
    return answer;
}

void tls_open(tls **out, const tls_files *files) {
    tls *t = memory_alloc(sizeof *t);
    pthread_mutex_init(&t->lock, NULL);
    tls_files_copy(&t->files, files);
    t->change = 1;
    t->asks_clients = files->client_ca != NULL;
    *out = t;
}

void tls_replace(tls *t, const tls_files *files) {
    pthread_mutex_lock(&t->lock);
    tls_files_close(&t->files);
    tls_files_copy(&t->files, files);
    t->change++;
    pthread_mutex_unlock(&t->lock);
}

status tls_add_port(tls *t, grpc_server *server, const char *address) {
    if (t->port_count == PORTS_MAX)
        return fail(ST_INVALID, "%s: more than %d ports with TLS", address, PORTS_MAX);
    port *p = memory_alloc(sizeof *p);
    p->owner = t;
    t->port[t->port_count++] = p;
    grpc_ssl_server_credentials_options *options =
        grpc_ssl_server_credentials_create_options_using_config_fetcher(
            t->asks_clients ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                            : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
            give, p);
    INVARIANT(options);
    p->credentials = grpc_ssl_server_credentials_create_with_options(options);
    if (!grpc_server_add_http2_port(server, address, p->credentials))
        return fail(ST_IO, "cannot listen on %s with TLS: gRPC refuses; --log-level debug tells why",
                    address);
    return ST_OK;
}

void tls_close(tls *t) {
    if (!t) return;
    for (uint32_t i = 0; i < t->port_count; i++) {
        grpc_server_credentials_release(t->port[i]->credentials);
        free(t->port[i]);
    }
    tls_files_close(&t->files);
    pthread_mutex_destroy(&t->lock);
    free(t);
}
