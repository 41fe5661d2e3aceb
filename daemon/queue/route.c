/* Which engine of a model takes a request. */
#include "daemon/queue/core_internal.h"

/* An engine that has the prompt's beginning is left for another only when that many requests more are there: what
 * reading a long prompt again costs is more than waiting behind a few. */
enum { ROUTE_BUSIER_MAX = 8 };

static uint32_t load(const core_engine *e) { return e->waiting + e->running; }

engine_state core_engine_state(const core_engine *e) {
    engine_status s = {0};
    engine_get_status(e->engine, &s);
    return s.state;
}

/* With the same load the one that had fewer so far: caches fill evenly. */
static bool is_freer(const core_engine *a, const core_engine *b) {
    return load(a) != load(b) ? load(a) < load(b) : a->sent < b->sent;
}

core_engine *core_route(core_model *m, const prefix_chain *prompt, const core_engine_set *except) {
    core_engine *freest = NULL, *nearest = NULL;
    uint32_t most = 0;
    for (uint32_t i = 0; i < m->engine_count; i++) {
        core_engine *e = &m->engine[i];
        if (except->has[i] || core_engine_state(e) != ENGINE_READY) continue;
        if (!freest || is_freer(e, freest)) freest = e;
        uint32_t pages = e->prefixes ? prefix_index_match(e->prefixes, prompt) : 0;
        if (pages == 0 || pages < most) continue;
        if (pages > most || is_freer(e, nearest)) nearest = e;
        most = pages;
    }
    if (nearest && load(nearest) <= load(freest) + ROUTE_BUSIER_MAX) return nearest;
    return freest;
}

void core_ticket_route(core_ticket *t, core_engine *e, const prefix_chain *prompt) {
    t->engine = e;
    e->waiting += t->waiting;
    e->sent++;
    if (e->prefixes) prefix_index_add(e->prefixes, prompt);
}

/* The model's: that of the engine with the smallest context, so that each can take what was accepted. */
const model_facts *core_facts(const core_model *m) {
    const model_facts *least = &m->engine[0].engine->facts;
    for (uint32_t i = 1; i < m->engine_count; i++)
        if (m->engine[i].engine->facts.context_tokens < least->context_tokens)
            least = &m->engine[i].engine->facts;
    return least;
}

engine_state core_model_state(const core_model *m) {
    /* The best of its engines: one is enough to serve. */
    static const int rank[] = {[ENGINE_READY] = 0,
                               [ENGINE_STARTING] = 1,
                               [ENGINE_DRAINING] = 2,
                               [ENGINE_STOPPED] = 3,
                               [ENGINE_FAILED] = 4};
    engine_state best = core_engine_state(&m->engine[0]);
    for (uint32_t i = 1; i < m->engine_count; i++) {
        engine_state s = core_engine_state(&m->engine[i]);
        if (rank[s] < rank[best]) best = s;
    }
    return best;
}
