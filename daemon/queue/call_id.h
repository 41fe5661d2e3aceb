/* Names of tool calls that a client answers by: "call_" and 24 random hexadecimal digits. */
#ifndef DAEMON_QUEUE_CALL_ID_H
#define DAEMON_QUEUE_CALL_ID_H

enum { CALL_ID_BYTES = 30 }; /* with its NUL */

void call_id_make(char id[CALL_ID_BYTES]);

#endif
