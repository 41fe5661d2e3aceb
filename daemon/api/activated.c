#include "daemon/api/activated.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>

#include "base/strbuf.h"

static status take(const char *option, const char *name, int fd, bool public_allowed, address_socket *out) {
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    if (sd_is_socket(fd, AF_UNSPEC, SOCK_STREAM, 1) <= 0 || getsockname(fd, (struct sockaddr *)&a, &n) != 0)
        return fail(ST_INVALID, "%s " ACTIVATED_PREFIX "%s: descriptor %d is no listening stream socket",
                    option, name, fd);
    if (a.ss_family != AF_UNIX && !public_allowed && !address_is_loopback((const struct sockaddr *)&a))
        return fail(ST_AUTH,
                    "%s " ACTIVATED_PREFIX
                    "%s: other machines reach this socket; it needs --keys and TLS, or "
                    "--insecure",
                    option, name);
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0)
        return fail_errno(ST_IO, "%s " ACTIVATED_PREFIX "%s", option, name);
    *out = (address_socket){.fd = fd};
    address_name(out);
    return ST_OK;
}

status activated_take(const char *option, const char *name, bool public_allowed,
                      address_socket out[ADDRESS_SOCKETS_MAX], int *count) {
    char **names = NULL;
    strbuf there = {.max = STATUS_TEXT_MAX};
    int n = sd_listen_fds_with_names(0, &names);
    status st = ST_OK;
    *count = 0;
    for (int i = 0; i < n; i++) {
        strbuf_add_format(&there, "%s%s", i ? ", " : "", names[i]);
        if (strcmp(names[i], name) != 0 || st != ST_OK || *count == ADDRESS_SOCKETS_MAX) continue;
        st = take(option, name, SD_LISTEN_FDS_START + i, public_allowed, &out[*count]);
        if (st == ST_OK) ++*count;
    }
    if (st == ST_OK && *count == 0)
        st = n > 0 ? fail(ST_NOT_FOUND,
                          "%s " ACTIVATED_PREFIX "%s: no socket was handed over by this name, only %s",
                          option, name, strbuf_text(&there))
                   : fail(ST_NOT_FOUND,
                          "%s " ACTIVATED_PREFIX
                          "%s: no socket was handed over; a service manager starts gemmad so",
                          option, name);
    if (st != ST_OK)
        while (*count > 0) address_close(&out[--*count]);
    for (int i = 0; i < n; i++) free(names[i]);
    free(names);
    strbuf_close(&there);
    return st;
}
