#include "shard/kernels/cuda/scan.h"

#include <stdlib.h>
#include <string.h>

#include "base/invariant.h"
#include "base/memory.h"

enum { ALIGNMENT_BYTES = 256 };

/* A set of allowed tokens on the device, by where the host has it. */
typedef struct kept_set {
    const uint32_t *host; /* NULL: free */
    uint64_t used;        /* the last call */
} kept_set;

struct cuda_scan_state {
    void *memory;
    scan_memory m;        /* with logits, share and first_id of the current call */
    uint32_t rows_max, share_max;
    uint64_t record_bytes; /* of m.records */
    uint64_t calls;
    kept_set set[SCAN_SETS];
    uint64_t fresh[SCAN_SETS]; /* the call in which it was put */
    scan_edit *edits;     /* [SCAN_EDITS], host */
    uint32_t edit_count;
    uint32_t *last_edit;  /* [share_max], host: the last of this index, if it is one of edits[edit_count] of that index */
};

static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }
static uint32_t parts_of(uint32_t share) { return (share + SCAN_PART - 1) / SCAN_PART; }

/* The next `bytes` of memory that begins at base; base NULL: only their size is wanted. */
static void *carve(char *base, uint64_t *at, uint64_t bytes) {
    void *p = base ? base + *at : NULL;
    *at += (bytes + ALIGNMENT_BYTES - 1) / ALIGNMENT_BYTES * ALIGNMENT_BYTES;
    return p;
}

static uint64_t records_bytes_max(uint32_t rows, uint32_t share) {
    uint64_t best = least(share, SCAN_BEST), blocks = (share + SCAN_BLOCK - 1) / SCAN_BLOCK;
    return rows * (sizeof(scan_head) + 2 * best * 8 + blocks * sizeof(float));
}

static uint64_t lay_out(scan_memory *m, char *base, uint32_t rows, uint32_t share) {
    const uint64_t selections = 2 * SCAN_ROWS, parts = parts_of(share), changed_words = (share + 31) / 32,
                   set_words = changed_words + 1;
    uint64_t at = 0;
    m->adjusted = carve(base, &at, (uint64_t)rows * share * sizeof(float));
    m->changed = carve(base, &at, rows * changed_words * sizeof(uint32_t));
    m->edits = carve(base, &at, SCAN_EDITS * sizeof(scan_edit));
    m->sets = carve(base, &at, SCAN_SETS * set_words * sizeof(uint32_t));
    m->part = carve(base, &at, SCAN_ROWS * parts * sizeof(scan_part));
    m->max = carve(base, &at, SCAN_ROWS * sizeof(float));
    m->some = carve(base, &at, SCAN_ROWS * sizeof(uint32_t));
    m->counts = carve(base, &at, selections * SCAN_DIGITS * SCAN_BINS * sizeof(uint32_t));
    m->part_counts = carve(base, &at, selections * parts * (SCAN_LAST_BINS / 2) * sizeof(uint32_t));
    m->chosen = carve(base, &at, selections * SCAN_DIGITS * sizeof(scan_chosen));
    m->taken = carve(base, &at, selections * sizeof(uint32_t));
    m->best = carve(base, &at, selections * SCAN_BEST * sizeof(uint64_t));
    m->records = carve(base, &at, records_bytes_max(rows, share));
    m->changed_words = (uint32_t)changed_words;
    m->set_words = (uint32_t)set_words;
    return at;
}

uint64_t cuda_scan_bytes(const cuda_backend_options *o) {
    scan_memory m;
    return o->share && o->scan_rows_max ? lay_out(&m, NULL, o->scan_rows_max, o->share) : 0;
}

status cuda_scan_open(cuda_backend *c) {
    const cuda_backend_options *o = &c->options;
    cuda_scan_state *s = memory_alloc(sizeof *s);
    c->scan = s;
    INVARIANT(o->scan_rows_max <= SCAN_SETS);
    s->rows_max = o->scan_rows_max;
    s->share_max = o->share;
    uint64_t bytes = cuda_scan_bytes(o);
    if (!bytes) return ST_OK;
    TRY(cuda_take(c, bytes, "memory for sampling", &s->memory));
    (void)lay_out(&s->m, s->memory, s->rows_max, s->share_max);
    s->record_bytes = records_bytes_max(s->rows_max, s->share_max);
    s->edits = memory_alloc_array(SCAN_EDITS, sizeof *s->edits);
    s->last_edit = memory_alloc_array(s->share_max, sizeof *s->last_edit);
    return ST_OK;
}

void cuda_scan_close(cuda_backend *c) {
    cuda_scan_state *s = c->scan;
    if (!s) return;
    cuda_give(s->memory);
    free(s->edits);
    free(s->last_edit);
    free(s);
    c->scan = NULL;
}

/* Where the device has a set; the one that was not used for longest makes place for another. */
static uint32_t place_set(cuda_backend *c, const uint32_t *host, bool is_new) {
    cuda_scan_state *s = c->scan;
    uint32_t at = 0;
    for (uint32_t i = 0; i < SCAN_SETS; i++) {
        if (s->set[i].host == host) {
            at = i;
            break;
        }
        if (s->set[i].used < s->set[at].used) at = i;
    }
    bool known = s->set[at].host == host;
    if (!known || (is_new && s->fresh[at] != s->calls)) {
        INVARIANT(known || s->set[at].used < s->calls); /* a call has no more rows than there are places */
        uint32_t words = (s->m.first_id + s->m.share + 31) / 32 - s->m.first_id / 32;
        cuda_put(c, s->m.sets + (size_t)at * s->m.set_words, host, words * sizeof *host);
        s->fresh[at] = s->calls;
    }
    s->set[at] = (kept_set){host, s->calls};
    return at;
}

static void launch_edits(cuda_backend *c, const scan_memory *m, const scan_items *items) {
    cuda_scan_state *s = c->scan;
    if (!s->edit_count) return;
    cuda_put(c, m->edits, s->edits, s->edit_count * sizeof *s->edits);
    scan_launch_edits(c->stream, m, items, s->edit_count);
    s->edit_count = 0;
}

/* Changes of one index become a list: the order in which they are made is theirs, that of different indices is nobody's. */
static void add_edits(cuda_backend *c, const scan_memory *m, const scan_items *items, uint32_t row, const scan_row *r) {
    cuda_scan_state *s = c->scan;
    for (uint32_t i = 0; i < r->change_count; i++) {
        const scan_change *change = &r->changes[i];
        INVARIANT(change->at < m->share);
        if (s->edit_count == SCAN_EDITS) launch_edits(c, m, items);
        uint32_t own = s->edit_count++, before = s->last_edit[change->at];
        bool follows = before < own && s->edits[before].at == change->at && s->edits[before].row == row;
        if (follows) s->edits[before].next = own;
        s->edits[own] = (scan_edit){row, change->at, change->add, change->times, UINT32_MAX, !follows};
        s->last_edit[change->at] = own;
    }
}

static uint32_t record_words(const scan_row *r) {
    return SCAN_HEAD_WORDS + 2 * (r->tops + r->candidates) + r->blocks;
}

static scan_item item_of(cuda_backend *c, const scan_row *r, uint32_t record) {
    const uint32_t share = c->scan->m.share;
    INVARIANT(r->tops <= least(share, SCAN_BEST) && r->candidates <= least(share, SCAN_BEST));
    INVARIANT(r->blocks == 0 || r->blocks == (share + SCAN_BLOCK - 1) / SCAN_BLOCK);
    INVARIANT(r->draw || (r->candidates == 0 && r->blocks == 0));
    INVARIANT(r->known == UINT32_MAX || r->known < share);
    return (scan_item){.row = r->row,
                       .record = record,
                       .tops = r->tops,
                       .candidates = r->candidates,
                       .blocks = r->blocks,
                       .known = r->known,
                       .set = r->draw && r->allowed ? place_set(c, r->allowed, r->allowed_new) : (uint32_t)SCAN_ALL,
                       .factor = r->factor,
                       .raw = r->raw,
                       .draw = r->draw,
                       .changed = r->draw && r->change_count > 0};
}

/* Up to SCAN_ROWS rows; their adjusted logits are those from m->adjusted on. Returns where the next record begins. */
static uint32_t scan_some(cuda_backend *c, const scan_memory *m, const scan_row *rows, uint32_t n, uint32_t record) {
    scan_items items = {0};
    bool lists = false, select = false;
    for (uint32_t i = 0; i < n; i++) {
        items.row[i] = item_of(c, &rows[i], record);
        record += record_words(&rows[i]);
        select = select || rows[i].tops || rows[i].candidates;
        lists = lists || rows[i].blocks;
    }
    for (uint32_t i = 0; i < n; i++)
        if (rows[i].draw) add_edits(c, m, &items, i, &rows[i]);
    launch_edits(c, m, &items);
    scan_launch_heads(c->stream, m, &items, n);
    if (lists || select) scan_launch_lists(c->stream, m, &items, n, select);
    return record;
}

/* A rank without a share has nothing to say. */
static void scan_nothing(const scan_row *rows, uint32_t n, void *out) {
    const scan_head none = {-__builtin_inff(), 0, -__builtin_inff(), UINT32_MAX, 0, 0};
    for (uint32_t i = 0; i < n; i++) {
        INVARIANT(rows[i].tops == 0 && rows[i].candidates == 0 && rows[i].blocks == 0);
        memcpy((char *)out + i * sizeof none, &none, sizeof none);
    }
}

status cuda_scan(backend *b, const float *logits, uint32_t share, uint32_t first_id, const scan_row *rows, uint32_t n,
                 void *out, const float **adjusted) {
    cuda_backend *c = cuda_of(b);
    cuda_scan_state *s = c->scan;
    INVARIANT(n <= s->rows_max && share <= s->share_max);
    *adjusted = s->m.adjusted;
    if (n == 0) return ST_OK;
    if (share == 0) {
        scan_nothing(rows, n, out);
        return ST_OK;
    }
    s->calls++;
    s->edit_count = 0;
    if (s->m.share != share || s->m.first_id != first_id) /* sets that are there are of another share */
        memset(s->set, 0, sizeof s->set);
    s->m.logits = logits;
    s->m.share = share;
    s->m.first_id = first_id;
    s->m.parts = parts_of(share);
    uint32_t record = 0;
    for (uint32_t i = 0; i < n; i += SCAN_ROWS) {
        scan_memory m = s->m;
        m.adjusted += (size_t)i * share;
        m.changed += (size_t)i * m.changed_words;
        record = scan_some(c, &m, rows + i, least(n - i, SCAN_ROWS), record);
    }
    TRY(cuda_check(c, cudaGetLastError(), "sampling"));
    INVARIANT(record * sizeof(uint32_t) <= s->record_bytes);
    return cuda_get(c, out, s->m.records, record * sizeof(uint32_t));
}
