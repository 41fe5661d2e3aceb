#include "shard/link/wire.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static void unpack_sampling(const Gemmad__Engine__Submit *submit, sampling *out) {
    const Gemmad__Engine__Sampling *s = submit->sampling;
    out->temperature = s->temperature;
    out->top_p = s->top_p;
    out->min_p = s->min_p;
    out->top_k = s->top_k;
    out->repetition_penalty = s->repetition_penalty;
    out->presence_penalty = s->presence_penalty;
    out->frequency_penalty = s->frequency_penalty;
    out->seed = s->seed;
    out->sample_index = submit->sample_index;
    out->logprobs = s->logprobs;
    out->prompt_logprobs = s->prompt_logprobs;
    out->max_tokens = s->max_tokens;
    out->stop_token_count = (uint32_t)s->n_stop_token_ids;
    for (uint32_t i = 0; i < out->stop_token_count; i++) out->stop_token[i] = s->stop_token_ids[i];
    out->bias_count = (uint32_t)s->n_logit_bias;
    for (uint32_t i = 0; i < out->bias_count; i++)
        out->bias[i] = (logit_bias){.token = s->logit_bias[i]->token_id, .bias = s->logit_bias[i]->bias};
}

link_request *link_request_unpack(const Gemmad__Engine__Submit *s) {
    link_request *r = memory_alloc(sizeof *r);
    r->id = s->id;
    r->token_count = (uint32_t)s->n_tokens;
    r->prompt_count = s->prompt_count;
    r->priority = s->priority;
    r->deadline_ms = s->deadline_ms;
    r->client = s->client;
    r->group = s->group;
    r->tokens = memory_alloc_array(s->n_tokens, sizeof *r->tokens);
    memcpy(r->tokens, s->tokens, s->n_tokens * sizeof *r->tokens);
    unpack_sampling(s, &r->sampling);
    r->same_grammar = s->same_grammar;
    if (s->has_grammar) {
        r->grammar_bytes = s->grammar.len;
        r->grammar = memory_alloc(r->grammar_bytes);
        memcpy(r->grammar, s->grammar.data, r->grammar_bytes);
    }
    return r;
}

void link_request_free(link_request *r) {
    if (!r) return;
    free(r->tokens);
    free(r->grammar);
    free(r);
}

void link_rank_pack(const link_rank_info *info, uint32_t count, Gemmad__Engine__RankInfo *rank,
                    Gemmad__Engine__RankInfo **list) {
    for (uint32_t i = 0; i < count; i++) {
        Gemmad__Engine__RankInfo *r = &rank[i];
        gemmad__engine__rank_info__init(r);
        r->has_rank = r->has_pid = r->has_cpu_ms = r->has_kv_bytes = r->has_weight_bytes_read =
            r->has_threads = true;
        r->rank = info[i].rank;
        r->pid = info[i].pid;
        r->cpu_ms = info[i].cpu_ms;
        r->kv_bytes = info[i].kv_bytes;
        r->weight_bytes_read = info[i].weight_bytes_read;
        r->threads = info[i].threads;
        r->host = (char *)info[i].host;
        r->state = (char *)info[i].state;
        r->isa = (char *)info[i].isa;
        list[i] = r;
    }
}

/* Arrays of one allocation, widest alignment first. */
void *link_logprob_pack(const token_logprob *p, uint32_t n, Gemmad__Engine__TokenLogprob ***list) {
    size_t tops = 0;
    for (uint32_t i = 0; i < n; i++) tops += p[i].top_count;
    size_t entry_bytes = n * sizeof(Gemmad__Engine__TokenLogprob),
           top_bytes = tops * sizeof(Gemmad__Engine__TopEntry);
    uint8_t *block = memory_alloc(entry_bytes + top_bytes + (n + tops) * sizeof(void *) + 1);
    Gemmad__Engine__TokenLogprob *entry = (void *)block;
    Gemmad__Engine__TopEntry *top = (void *)(block + entry_bytes);
    Gemmad__Engine__TokenLogprob **entry_list = (void *)(block + entry_bytes + top_bytes);
    Gemmad__Engine__TopEntry **top_list = (void *)(entry_list + n);
    for (uint32_t i = 0; i < n; i++) {
        gemmad__engine__token_logprob__init(&entry[i]);
        entry[i].has_token_id = entry[i].has_logprob = true;
        entry[i].token_id = p[i].token;
        entry[i].logprob = p[i].logprob;
        entry[i].n_top = p[i].top_count;
        entry[i].top = top_list;
        for (uint32_t k = 0; k < p[i].top_count; k++, top++) {
            gemmad__engine__top_entry__init(top);
            top->has_token_id = top->has_logprob = true;
            top->token_id = p[i].top[k].token;
            top->logprob = p[i].top[k].logprob;
            *top_list++ = top;
        }
        entry_list[i] = &entry[i];
    }
    *list = entry_list;
    return block;
}
