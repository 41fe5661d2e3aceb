/* Maxima that both sides of every boundary check before they allocate. Named once, here. */
#ifndef PROTO_LIMITS_H
#define PROTO_LIMITS_H

enum {
    LIMIT_MESSAGE_BYTES = 64 << 20,      /* one gRPC message; also one engine-link frame */
    LIMIT_MESSAGE_FIELDS = 2 << 20,      /* fields of one gRPC message, sub-messages' included: memory is ~100 bytes each */
    LIMIT_PROMPT_BYTES = 8 << 20,        /* text of one prompt: 262,144 tokens of 32 bytes */
    LIMIT_CONTEXT_TOKENS = 1 << 20,      /* of any model */
    LIMIT_VOCAB = 1 << 20,               /* of any model */
    LIMIT_VOCABULARY_BYTES = 32 << 20,   /* what the tokens of a model stand for */
    LIMIT_GRAMMAR_BYTES = 16 << 20,      /* of one request's automaton on the engine link */
    LIMIT_GRAMMAR_STATES = 1 << 18,
    LIMIT_GRAMMAR_MASKS = 2048,          /* sets of tokens that one automaton holds: 32 KiB each at 262,144 tokens */
    LIMIT_GRAMMAR_PLACES = 1024,         /* where an answer may stand in its grammar at once, for want of knowing better */
    LIMIT_GRAMMAR_DEPTH = 1 << 20,       /* rules inside rules */
    LIMIT_REQUEST_ID_BYTES = 256,
    LIMIT_MODEL_NAME_BYTES = 128,
    LIMIT_MODELS = 16,                   /* --model of one gemmad */
    LIMIT_REPLICAS = 64,                 /* engines of one model */
    LIMIT_RANKS = 1024,                  /* of one engine */
    LIMIT_STOP_STRINGS = 16,
    LIMIT_STOP_BYTES = 256,              /* one stop string */
    LIMIT_STOP_TOKENS = 64,
    LIMIT_LOGIT_BIAS = 1024,
    LIMIT_MESSAGES = 16384,              /* of one chat */
    LIMIT_MESSAGE_PARTS = 16384,         /* content parts of one chat, all messages together */
    LIMIT_MESSAGE_CALLS = 128,           /* tool calls of one message */
    LIMIT_CHAT_CALLS = 16384,            /* of one chat */
    LIMIT_CHAT_VALUES = 1 << 20,         /* JSON values of a chat's arguments and schemas: memory is 64 bytes each */
    LIMIT_TOOLS = 512,                   /* of one chat */
    LIMIT_TOOL_NAME_BYTES = 256,
    LIMIT_SAMPLES = 64,                  /* n of one prompt */
    LIMIT_LOGPROBS = 1024,               /* top n of one token */
    LIMIT_REQUESTS_PER_ENGINE = 256,     /* sequence slots: running at once */
    LIMIT_QUEUE_PER_MODEL = 4096,        /* waiting for a slot */
    LIMIT_BACKLOG_BYTES = 4 << 20,       /* events of one call sent and not taken: then its requests are paused */
    LIMIT_OVERSHOOT_BYTES = 32 << 20,    /* of a paused request, already on its way from the engine */
    LIMIT_EVENT_BYTES = 1 << 20,         /* of one streamed event, about: stock clients refuse more than 4 MiB */
    LIMIT_CONNECTIONS = 1024,            /* of one gemmad, all listeners */
    LIMIT_HTTP_BODIES_BYTES = 1 << 30,   /* of all HTTP requests that are being read or worked on */
    LIMIT_PREFILL_SHARE = 90,            /* percent of an engine's time */
    LIMIT_LAYERS = 256,
    LIMIT_EXPERTS = 1024,
    LIMIT_SECRET_BYTES = 32,
    LIMIT_KEY_BYTES = 256,               /* a key as a client shows it */
    LIMIT_COLLECTIVE_BUCKETS = 12,       /* steps by their time in collectives: up to 10 us, 40 us, … 10.5 s, and longer */
    LIMIT_COLLECTIVE_FIRST_NS = 10000,   /* the first bucket's bound; each of the next is four times the one before */
};

#endif
