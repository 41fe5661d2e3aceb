/* Listening sockets that a service manager opened: "systemd:NAME" takes those of the unit whose FileDescriptorName= is NAME.
 *
 * Memory:  the caller's structs; address_close closes them and leaves their files to the manager.
 * Threads: start-up.
 * Errors:  ST_NOT_FOUND when none has the name, with the names there are; ST_AUTH for a public one without keys and TLS;
 *          ST_INVALID for what is no listening stream socket. */
#ifndef DAEMON_API_ACTIVATED_H
#define DAEMON_API_ACTIVATED_H

#include "daemon/api/address.h"

#define ACTIVATED_PREFIX "systemd:"

STATUS_CHECKED status activated_take(const char *option, const char *name, bool public_allowed,
                                     address_socket out[ADDRESS_SOCKETS_MAX], int *count);

#endif
