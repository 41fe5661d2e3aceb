/* What engines say of themselves, as metrics. */
#include <string.h>

#include "daemon/queue/core_internal.h"

metrics *core_metrics(core *c) { return c->metrics; }

metrics_engine *core_metrics_of(const core_model *m, const engine *e) {
    for (uint32_t i = 0; i < m->engine_count; i++)
        if (m->engine[i].engine == e) return m->engine[i].metrics;
    return NULL;
}

static double part(uint64_t n, uint64_t of) { return of ? (double)n / (double)of : 0; }

static void set_engine(const core_engine *e) {
    engine_status s = {0};
    engine_get_status(e->engine, &s);
    uint64_t cached = s.cached_pages < s.kv_pages_used ? s.cached_pages : s.kv_pages_used;
    metrics_engine_now now = {.ready = s.state == ENGINE_READY,
                              .running = e->running,
                              .waiting = e->waiting,
                              .paused = s.paused,
                              .restarts = s.restarts,
                              .kv_usage = part(s.kv_pages_used - cached, s.kv_pages_total),
                              .kv_cached = part(cached, s.kv_pages_total),
                              .prefix_query_tokens = s.prefix_query_tokens,
                              .prefix_hit_tokens = s.prefix_hit_tokens,
                              .preemptions = s.preemptions,
                              .spilled_bytes = s.spilled_bytes,
                              .steps = s.steps,
                              .step_ns = s.step_ns,
                              .weight_bytes = s.weight_bytes,
                              .collective_ns = s.collective_ns,
                              .weight_bytes_per_second = s.weight_bytes_per_second,
                              .imbalance = (double)s.imbalance};
    memcpy(now.collective_steps, s.collective_steps, sizeof now.collective_steps);
    metrics_set_engine(e->metrics, &now);
}

void core_write_metrics(core *c, strbuf *out) {
    for (uint32_t i = 0; i < c->model_count; i++)
        for (uint32_t k = 0; k < c->model[i].engine_count; k++) set_engine(&c->model[i].engine[k]);
    metrics_set_auth_failures(c->metrics, auth_refusals(c->keys));
    metrics_write(c->metrics, out);
}
