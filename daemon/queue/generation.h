/* What Generate and Chat have in common, from a request that was read to the end of its stream: the prompt is made (by a
 * worker where that takes long), samples are opened at an engine, and their events are told. generation.c brings it to
 * sessions, one for each sample, and generation_events.c tells its client.
 *
 * Memory:  a generation is the first member of its owner's struct, which generation_open allocates, zeroed, and which goes
 *          when the call ends, after ops->close.
 * Threads: loop thread, but for ops->make_prompt. */
#ifndef DAEMON_QUEUE_GENERATION_H
#define DAEMON_QUEUE_GENERATION_H

#include "daemon/queue/core_internal.h"
#include "daemon/queue/request_log.h"
#include "daemon/queue/sampling.h"
#include "daemon/queue/session.h"

typedef struct generation generation;

/* The oneof of GenerateEvent and ChatEvent, whose fields have the same numbers. */
typedef enum generation_event {
    GENERATION_STARTED = 1,
    GENERATION_PROGRESS = 2,
    GENERATION_DELTA = 3,
    GENERATION_PROMPT_LOGPROBS = 4,
    GENERATION_FINISHED = 5
} generation_event;

typedef struct generation_ops {
    /* On a worker, unless generation_start's kind is CORE_JOB_TINY: fills tokens and token_count, and the grammar if one is asked for.
     * NULL: they are there. */
    status (*make_prompt)(generation *g);
    void (*send)(generation *g, generation_event kind, void *message);
    void (*delta)(generation *g, uint32_t index, const answer_part *part);
    void (*close)(generation *g); /* what the owner holds; NULL: nothing */
} generation_ops;

typedef struct generation_sample {
    generation *owner;
    session *session; /* NULL before it is at the engine, and after its end */
    bool started, is_paused;
    core_paused paused;
} generation_sample;

struct generation {
    const generation_ops *ops;
    core *core;
    core_model *model;
    call *call;
    core_ticket ticket;
    sampling_plan sampling;
    int32_t priority;
    uint64_t arrival_ns;
    request_log log;
    uint32_t busy; /* what must end before the call can: sessions, the job, a function of ours on the stack */
    status failure; /* the first: what the call ends with */
    char *failure_text;
    generation_sample *sample; /* [sampling.n] */
    uint32_t live;             /* samples at the engine */
    bool told_started;
    uint32_t cached_tokens, completion_tokens, reasoning_tokens; /* of the first sample that began; of all */
    job job;                                                     /* ops->make_prompt */
    uint32_t *tokens;                                            /* freed when the engine has them */
    size_t token_count;
    const char *prompt_field; /* where ids outside the vocabulary came from, for the sentence */
    const chat_grammar
        *grammar; /* what the answers must follow, held until the engine has it; NULL: nothing */
    const vocabulary *vocabulary; /* that it was made with */
    uint32_t prompt_tokens;
    uint64_t seed;
    answer_form form; /* what the samples' tokens are read as; set before they are opened */
};

/* The call is g's from now on and ends with it: through generation_start, or generation_fail and generation_release. */
generation *generation_open(size_t owner_bytes, const generation_ops *ops, core *c, call *k);
/* Everything of the request but its prompt, the same for both rpcs. The ticket is not taken yet. */
typedef struct generation_request {
    const char *model;
    const Gemmad__V1__Sampling *sampling;
    bool has_resume_from;
    uint32_t resume_from;
    int32_t priority;
} generation_request;
STATUS_CHECKED status generation_read(generation *g, const generation_request *r);
/* The tokens that end an answer of the model: what the checkpoint names, and those that end a turn of a chat. */
typedef struct generation_ends {
    uint32_t id[64 + 3], count;
} generation_ends;
generation_ends generation_end_tokens(const core_model *m);
/* To the request's stop tokens. With a grammar this is done for all, since nothing else may follow its end. */
STATUS_CHECKED status generation_add_ends(generation *g);
/* In make_prompt, behind chat_grammar_make: what the engine must know beside the grammar. */
STATUS_CHECKED status generation_take_grammar(generation *g, const chat_grammar *form);
/* A place in the queue. */
STATUS_CHECKED status generation_admit(generation *g, const char *request_id);
/* The end of the handler: st is how reading the request went, with the thread's sentence. */
void generation_start(generation *g, status st, core_job kind);

/* The call ends with st and text, unless it failed before; its samples are cancelled. */
void generation_fail(generation *g, status st, const char *text);
/* One less of g->busy; with the last the call ends and g is gone. */
void generation_release(generation *g);
extern const session_sink generation_sink;

/* The ids and log-probabilities of a part as a delta has them. */
typedef struct generation_tokens {
    uint32_t *ids; /* [id_count] */
    size_t id_count, logprob_count;
    Gemmad__V1__TokenLogprob **logprobs;
} generation_tokens;
void generation_tokens_make(generation_tokens *out, const answer_part *part);
void generation_tokens_close(generation_tokens *t);

#endif
