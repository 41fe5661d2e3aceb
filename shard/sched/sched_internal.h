/* Inside of the scheduler: what its files share. */
#ifndef SHARD_SCHED_SCHED_INTERNAL_H
#define SHARD_SCHED_SCHED_INTERNAL_H

#include "shard/sample/allowed_sets.h"
#include "shard/sample/grammar_state.h"
#include "shard/sched/sched.h"

typedef struct sequence sequence;
typedef struct sched_client sched_client;
typedef struct sched_class sched_class;
typedef struct sched_group sched_group;

typedef struct sequence_list {
    sequence *first, *last;
} sequence_list;

struct sequence {
    sched_request r;
    uint64_t order;                    /* of arrival */
    sequence *next, *previous;         /* in the queue it waits in */
    sequence *all_next, *all_previous; /* of all there are */
    sequence_list *queue;              /* NULL: it runs */
    sched_client *client;
    sched_group *group;                /* NULL: none */
    uint64_t submitted_ns, started_ns, prefilled_ns;
    uint32_t slot;
    uint32_t done;                     /* tokens whose KV is written or planned */
    uint32_t planned;                  /* rows in the current step */
    uint32_t token_cap;
    uint32_t generated;                /* drawn here, without those already emitted */
    uint32_t told_progress, told_logprobs; /* what a computation from the start does not tell again */
    uint32_t *page[KV_KINDS];          /* [table_pages]; KV_NO_PAGE outside of first … end - 1 */
    uint32_t first[KV_KINDS], end[KV_KINDS];
    uint32_t sent_first[KV_KINDS], sent_end[KV_KINDS]; /* what the ranks know of that */
    bool open_due;                     /* the ranks have not heard of this use of the slot */
    bool started, paused, finished, no_prefix;
    uint32_t parting;                  /* pages that others' texts share; 0: unknown */
    grammar_state *grammar;            /* NULL: the answer is free */
};

/* ---- who is next (sched_queue.c) ---- */

/* A client inside one class: least service first. */
struct sched_client {
    sched_client *next;
    sched_class *class;
    uint64_t id, service;
    sequence_list waiting;             /* in order of arrival */
    uint32_t waiting_count, running;
};

struct sched_class {
    sched_class *next;                 /* of lower priority */
    int32_t priority;
    sched_client *clients;
    sequence_list preempted;           /* before all others of the class, in order of arrival */
    uint32_t members;
};

struct sched_group {
    sched_group *next;
    uint64_t id;
    uint32_t members;
    sequence *reader;                  /* who computes the prompt */
    bool computed;
};

void queue_join(sched *s, sequence *q);    /* a new sequence: class, client and group */
void queue_leave(sched *s, sequence *q);   /* … and its end; it waits in no queue then */
void queue_wait(sched *s, sequence *q);
void queue_return(sched *s, sequence *q);  /* a preempted one */
void queue_take_out(sched *s, sequence *q);
void queue_started(sequence *q, uint32_t rows); /* rows: that its prompt will take */
void queue_served(sequence *q);            /* a token was drawn */
sequence *queue_next(const sched *s);      /* NULL: nobody may start */
void queue_prompt_computed(sequence *q);
/* Whether a comes before b where pages are scarce. */
bool queue_before(const sequence *a, const sequence *b);

/* ---- pages of a sequence (sched_pages.c) ---- */

/* Pages that q will hold at once until the tokens it has are computed, without those it has now. */
void pages_ahead(const sched *s, const sequence *q, uint64_t count[KV_KINDS]);
/* Adds the pages that q holds and that were not added since s->count_round went up. */
void pages_count(sched *s, const sequence *q, uint64_t count[KV_KINDS]);
/* Releases sliding pages that no row from the begin of q's last page on looks at: the prefix cache may want to go on from
 * there. pages_cover releases more when it has to. */
void pages_drop_left(sched *s, sequence *q);
/* Takes what positions before `end` need. False when there is none; what was taken stays. */
bool pages_cover(sched *s, sequence *q, uint32_t end);
uint32_t pages_covered(const sched *s, const sequence *q); /* positions */
void pages_release_all(sched *s, sequence *q);
void pages_tell(plan *p, sequence *q);     /* to the ranks */
/* The prefix cache's places. */
bool prefix_begin(sched *s, sequence *q);  /* false: not now */
void prefix_computed(sched *s, sequence *q, uint32_t from); /* positions from … q->done - 1 */
void prefix_keep(sched *s, sequence *q);
bool prefix_reclaim_for(sched *s, kv_kind kind);

/* ---- coming and going (sched_admit.c) ---- */

status admit_waiting(sched *s);
void preempt(sched *s, sequence *q);
/* Slot and pages go back; q is in no list of running ones any more. */
void stop_running(sched *s, sequence *q);
void running_insert(sched *s, sequence *q);
void running_remove(sched *s, sequence *q);

/* ---- answers that follow a grammar (sched_grammar.c); for others these do nothing ---- */

/* Before anything else of a request, since others may share what it brings. */
status grammar_arrive(sched *s, sequence *q);
status grammar_begin(sched *s, sequence *q);
status grammar_took(sequence *q, uint32_t token);
bool grammar_ended(const sequence *q);
void grammar_tell(sched *s, plan *p, const sequence *q, plan_span *span);

/* ---- how many rows (sched_budget.c) ---- */

/* A line through recent samples, newer ones weigh more; between a constant and a line through the origin. */
typedef struct estimate {
    double n, x, y, xx, xy;
} estimate;

typedef struct step_budget {
    estimate decode;                   /* ns of a step that only decodes, over its rows */
    estimate row;                      /* ns of a prompt's row beside streams, over its depth */
    uint32_t mixed_rows;               /* prompt rows of the last mixed step that had as many as it might */
    uint32_t mixed_steps, probes;      /* since decoding alone was measured; measurements since */
    uint32_t given;                    /* prompt rows, while a step is chosen; limited: by their cost */
    bool limited;
    uint64_t step_ns;                  /* of the last step that decoded */
    /* the current step */
    uint64_t begin_ns;
    uint32_t decode_rows, prompt_rows;
    double depth;                      /* sum over prompt rows */
} step_budget;

/* ns that prompts may take beside so many decode rows; 0: this step is to measure decoding alone. */
double budget_for_prompts(step_budget *b, uint32_t decode_rows, uint32_t min_share);
/* Rows of a prompt at a depth that *ns buys, at most `most`; takes their cost off *ns. */
uint32_t budget_rows(step_budget *b, uint32_t depth, uint32_t most, double *ns);
void budget_step_begin(step_budget *b, uint64_t now_ns);
void budget_count_rows(step_budget *b, uint32_t depth, uint32_t rows, bool decode);
void budget_step_done(step_budget *b, uint64_t now_ns);

struct sched {
    sched_options o;
    kv_pages *pages;
    sequence **slot;                   /* [slots]; NULL: free */
    sequence **running;                /* [slots], in the order of queue_before */
    sequence **prefill;                /* [slots] scratch */
    sequence **span_owner;             /* [slots]: of the current step's spans */
    uint32_t running_count, running_paused, waiting_count, waiting_paused;
    uint32_t *counted[KV_KINDS], count_round; /* per page: the round in which it was counted */
    sequence *all_first, *all_last;
    sched_class *classes;
    sched_group *groups;
    sequence *sole;                    /* runs alone until it ends: pages lay too scattered for it */
    sequence *blocked;                 /* did not fit; nothing was released since */
    uint64_t orders, next_deadline_ns;
    uint64_t steps, prompt_tokens, generated_tokens, preemptions;
    step_budget budget;
    grammar_book *grammars;
    allowed_sets *allowed;             /* what the ranks have of them */
};

uint64_t sched_now(const sched *s);
uint64_t last_position(const sequence *q);
status tell_finished(sched *s, const sequence *q, const char *reason, bool stopped, uint32_t stop_token, status error);
status sched_expire(sched *s);
void sequence_end(sched *s, sequence *q);  /* running or waiting; frees it */

#endif
