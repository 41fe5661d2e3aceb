/* Listening sockets: what --listen and --http may say, and taking the address it names.
 *
 *     unix:/path/to/socket    unix:///path/to/socket
 *     127.0.0.1:8080          localhost:8080    [::1]:8080    port 0: any free one
 *     systemd:NAME            sockets that the service manager opened (activated.h)
 *
 * A Unix socket is made with mode 0600. A file there that no living process listens on is replaced; which of two
 * processes gets the path is decided under a lock of its folder.
 *
 * Memory:  the caller's structs.
 * Threads: start-up: name look-up blocks, and the umask is the process's.
 * Errors:  ST_INVALID for what is no address or a path too long for a socket; ST_AUTH for a public address without keys and
 *          TLS; ST_IN_USE for an address that is taken, by a file that is no socket too; ST_IO with path and reason. */
#ifndef DAEMON_API_ADDRESS_H
#define DAEMON_API_ADDRESS_H

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "base/status.h"

enum { ADDRESS_TEXT_BYTES = 160 };

typedef struct address_socket {
    int fd;
    bool is_unix;
    char text[ADDRESS_TEXT_BYTES]; /* where it listens: "unix:/run/gemmad.sock", "127.0.0.1:41234" */
    dev_t device;                  /* of the socket's file, so that only our own is removed */
    ino_t inode;                   /* 0: not ours */
} address_socket;

enum { ADDRESS_SOCKETS_MAX = 8 };

/* One for a path; for a name every address that it has on this machine, none with port 0 but the first.
 * public_allowed: addresses that other machines reach are taken too. option is for the sentence: "--listen". */
STATUS_CHECKED status address_listen(const char *option, const char *text, bool public_allowed,
                                     address_socket out[ADDRESS_SOCKETS_MAX], int *count);
bool address_is_loopback(const struct sockaddr *a); /* of IPv4 or IPv6 */
/* Fills in text and is_unix of a socket that has an address. */
void address_name(address_socket *s);
/* Of the file of a Unix socket that we made; others are left alone. */
STATUS_CHECKED status address_set_mode(const address_socket *s, mode_t mode);
/* Closes it and takes its file away if that is still ours. */
void address_close(address_socket *s);

#endif
