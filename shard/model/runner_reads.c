/* Which weights steps read: counted on the way, since how long a step may take follows from it. */
#include "shard/model/runner_internal.h"

static uint64_t bytes_of(const weight *w) {
    return w->data ? weight_rows_bytes(w->type, w->rows, w->cols) : 0;
}

static uint64_t layer_bytes(const layer_weights *w) {
    const weight *const read[] = {&w->q,  &w->k,    &w->v,      &w->o,        &w->gate,
                                  &w->up, &w->down, &w->router, &w->ple_gate, &w->ple_projection};
    uint64_t bytes = 0;
    for (size_t i = 0; i < sizeof read / sizeof *read; i++) bytes += bytes_of(read[i]);
    return bytes;
}

runner_reads runner_weight_bytes(const runner *r) {
    const model_weights *w = r->o.weights;
    runner_reads bytes = {.whole = bytes_of(&w->ple_context), .heads = bytes_of(&w->embed)};
    for (uint32_t i = 0; i < r->config->layers; i++)
        *(i < r->tail_begin ? &bytes.whole : &bytes.tail) += layer_bytes(&w->layer[i]);
    if (r->config->experts && range_count(r->o.split->experts)) {
        const expert_weights *e = &w->layer[0].expert[0]; /* all have one shape and type */
        bytes.experts = bytes_of(&e->gate) + bytes_of(&e->up) + bytes_of(&e->down);
    }
    return bytes;
}

runner_reads runner_weight_reads(const runner *r) { return r->reads; }
