/* Records of rows whose logits are on a device: `scan` of ops.h makes them there, and they come back all at once. */
#include "shard/sample/sampler_inside.h"

static scan_row scan_of(sampler *s, const sample_row *row, uint32_t index) {
    const row_want *w = &s->want[index];
    const slot_state *state = &s->slot[row->slot];
    scan_row r = {.row = row->logits_row,
                  .tops = least(w->tops, s->share),
                  .known = UINT32_MAX,
                  .raw = w->logprob,
                  .draw = row->draw};
    if (row->known != SAMPLE_NO_TOKEN && row->known - s->begin < s->share) r.known = row->known - s->begin;
    if (!row->draw) return r;
    sampler_list_changes(s, state);
    r.candidates = least(w->candidates, s->share);
    if (w->blocks) {
        r.blocks = blocks_of(s, s->rank);
        r.factor = 1.0f / state->params.temperature;
    }
    if (row->allowed) {
        r.allowed = s->allowed[row->allowed - 1];
        r.allowed_new = s->allowed_new[row->allowed - 1];
    }
    return r;
}

status sampler_device_records(sampler *s, const float *logits, uint32_t n, const sample_row *rows,
                              const float **adjusted) {
    s->changed_count = 0;
    for (uint32_t i = 0; i < n; i++) {
        s->changed_begin[i] = s->changed_count;
        s->scan[i] = scan_of(s, &rows[i], i);
        s->scan[i].change_count = s->changed_count - s->changed_begin[i];
    }
    for (uint32_t i = 0; i < n; i++) { /* where they stand is known only now that there are no more */
        s->scan[i].changes = s->changes + s->changed_begin[i];
        if (rows[i].draw && rows[i].allowed) s->allowed_new[rows[i].allowed - 1] = false;
    }
    return s->device->ops->scan(s->device, logits, s->share, s->begin, s->scan, n, s->mine, adjusted);
}

status sampler_device_raw(const sampler *s, const float *logits, const sample_row *row, uint32_t token,
                          float *raw) {
    const float *at = logits + (size_t)row->logits_row * s->share + (token - s->begin);
    return s->device->ops->get(s->device, raw, at, sizeof *raw);
}
