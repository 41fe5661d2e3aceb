/* Our statuses as gRPC sees them.
 * Threads: any. */
#ifndef DAEMON_API_CODE_H
#define DAEMON_API_CODE_H

#include <grpc/status.h>
#include <stdint.h>

#include "base/status.h"
#include "base/strbuf.h"

grpc_status_code code_of_status(status st);
/* The sentence as it may travel: UTF-8 whatever went in (a client's own bytes may be quoted in it; what is none
 * becomes U+FFFD), at most CODE_TEXT_MAX bytes, with "…" when cut. gRPC percent-encodes it, and peers refuse headers
 * of more than 8 KiB. */
enum { CODE_TEXT_MAX = 2048 };
void code_add_text(const char *text, strbuf *out);
/* A google.rpc.Status with a google.rpc.RetryInfo: the value of the trailer grpc-status-details-bin. */
void code_add_retry_details(grpc_status_code code, const char *text, uint32_t retry_after_ms, strbuf *out);

#endif
