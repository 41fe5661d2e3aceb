/* Between answer.c and answer_chat.c, which reads the tokens of chats. */
#ifndef DAEMON_QUEUE_ANSWER_INTERNAL_H
#define DAEMON_QUEUE_ANSWER_INTERNAL_H

#include "daemon/queue/answer.h"

static inline uint64_t answer_text_end(const answer *a) { return a->taken + a->text.size; }
/* All but the last `pending` tokens that wait end where the text ends now. */
void answer_settle(answer *a, size_t pending);
/* Looks for stop strings in the text from offset `from` of the buffer on. true: one was found, and the answer is cut. */
bool answer_scan(answer *a, size_t from);

void answer_chat_open(answer *a, const tokenizer *t, const answer_form *form);
void answer_chat_close(answer *a);
void answer_chat_add(answer *a, uint32_t id);
void answer_chat_end(answer *a, bool whole);
/* Text has left. */
void answer_chat_drop(answer *a);
/* The one that the text which leaves next belongs to; NULL: none. */
static inline const answer_run *answer_first_run(const answer *a) {
    return a->run_first < a->run_count ? &a->run[a->run_first] : NULL;
}

#endif
