/* The messages and tools of a ChatRequest, checked, as what a chat template renders.
 *
 * Memory:  chat_conversation_open allocates; chat_conversation_close releases; a zeroed one is fine. Texts point into the
 *          request, which must outlive it.
 * Threads: any.
 * Errors:  as chat_prompt.h; *out is then zeroed. */
#ifndef DAEMON_QUEUE_CHAT_CONVERSATION_H
#define DAEMON_QUEUE_CHAT_CONVERSATION_H

#include "daemon/text/chat_template.h"
#include "proto/gemmad.pb-c.h"

typedef struct chat_conversation_owner {
    chat_conversation conversation;
    chat_message *messages;
    chat_part *parts; /* of all messages; calls as well */
    chat_call *calls;
    chat_tool *tools;
    json_tree **trees;
    uint32_t part_count, call_count, tree_count, values;
} chat_conversation_owner;

STATUS_CHECKED status chat_conversation_open(chat_conversation_owner *out, const Gemmad__V1__ChatRequest *r);
void chat_conversation_close(chat_conversation_owner *o);

#endif
