/* Products of warpgroups (wgmma.h). */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "sim.h"
#include "wgmma.h"

enum { GROUP = 128, GROUPS = SIM_THREADS_MAX / GROUP, ROWS = 64, DEPTH = 16, COLUMNS_MAX = 256, SUMS_MAX = COLUMNS_MAX / 2 };

/* Left and right operand as they lay in shared memory: a[row][k], b[k][column]. */
typedef struct operands {
    uint16_t a[ROWS][DEPTH], b[DEPTH][COLUMNS_MAX];
} operands;

/* A product that lanes have not all waited for. */
typedef struct product {
    sim_wgmma_call call;
    operands seen;
    unsigned waited;           /* lanes */
} product;

/* Sums of a lane that are under way. */
typedef struct pending {
    float *d;
    uint32_t count;
    unsigned group;
    float sums[SUMS_MAX];
} pending;

enum { PENDING_MAX = 4, PRODUCTS_MAX = 64 };

typedef struct member {
    pending pending[PENDING_MAX];
    unsigned pending_count;
    unsigned group;            /* groups committed so far */
    struct { product *product; unsigned group; } products[PRODUCTS_MAX];
    unsigned product_count;
    bool fenced;               /* since the last wait */
    float *d;                  /* what the lane brings to the product that it waits in */
    uint32_t a[4];
} member;

typedef struct group {
    member members[GROUP];
    product *meeting;          /* lanes are coming to it */
    unsigned arrived;
    bool used;                 /* by this block */
} group;

static __thread group *groups[GROUPS];
static __thread unsigned block_threads;
static __thread bool copied[SIM_THREADS_MAX]; /* something has arrived that no fence_proxy_async has followed */
static __thread unsigned char *visible;  /* dynamic shared memory as products may see it, NULL before the first fence_proxy_async */
static __thread bool proxy_fenced;       /* by somebody, since threads met */
static pthread_key_t groups_key;
static pthread_once_t groups_once = PTHREAD_ONCE_INIT;

static void groups_free(void *p) {
    group **all = p;
    for (int i = 0; i < GROUPS; i++) free(all[i]);
    free(visible);
}
static void key_make(void) { pthread_key_create(&groups_key, groups_free); }
/* What the thread holds is freed when it ends. */
static void hold_thread(void) {
    pthread_once(&groups_once, key_make);
    pthread_setspecific(groups_key, groups);
}

static unsigned thread_number(void) {
    return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}
static group *own_group(void) {
    unsigned g = thread_number() / GROUP;
    if ((g + 1) * GROUP > block_threads) sim_die("wgmma: warpgroup %u of %u threads is not whole", g, block_threads);
    if (!groups[g]) {
        groups[g] = memory_alloc(sizeof *groups[g]);
        hold_thread();
    }
    groups[g]->used = true;
    return groups[g];
}
static member *own_member(void) { return &own_group()->members[thread_number() % GROUP]; }

void sim_wgmma_begin(unsigned threads) {
    block_threads = threads;
    for (int i = 0; i < GROUPS; i++)
        if (groups[i] && groups[i]->used) memset(groups[i], 0, sizeof *groups[i]);
    memset(copied, 0, sizeof copied);
    free(visible);
    visible = NULL;
    proxy_fenced = false;
}

/* ---- memory ---- */

enum { DYNAMIC_ADDRESS = 1024 + 128 };

uint32_t sim_shared_address(const void *p) {
    const unsigned char *dynamic = sim_dynamic_shared();
    if (!sim_is_shared(p, 1) || (const unsigned char *)p < dynamic)
        sim_die("the address of %p, which is not in dynamic shared memory, was asked for", p);
    return (uint32_t)((const unsigned char *)p - dynamic) + DYNAMIC_ADDRESS;
}

/* An element at an address, of a matrix with 128-byte swizzling: bits 4 … 6 are exchanged by bits 7 … 9. */
static uint16_t element(uint32_t address) {
    address ^= (address >> 7 & 7u) << 4;
    const unsigned char *p = (const unsigned char *)sim_dynamic_shared() + (address - DYNAMIC_ADDRESS);
    uint16_t x;
    if (address < DYNAMIC_ADDRESS || !sim_is_shared(p, 2))
        sim_die("wgmma reads address %u, which is outside of dynamic shared memory", address);
    memcpy(&x, p, 2);
    if (!visible || memcmp(p, visible + (address - DYNAMIC_ADDRESS), 2) != 0)
        sim_die("wgmma reads address %u, which was written without a fence_proxy_async and a barrier behind that", address);
    return x;
}

void sim_wgmma_barrier(void) {
    if (!proxy_fenced) return;
    size_t bytes = sim_running->shared_bytes;
    if (!visible) {
        visible = memory_alloc(bytes);
        hold_thread();
    }
    memcpy(visible, sim_dynamic_shared(), bytes);
    proxy_fenced = false;
}

typedef struct matrix {
    uint32_t start, leading, stride;
} matrix;

static matrix decode(uint64_t descriptor) {
    matrix m = {(uint32_t)(descriptor & 0x3FFF) << 4, (uint32_t)(descriptor >> 16 & 0x3FFF) << 4,
                (uint32_t)(descriptor >> 32 & 0x3FFF) << 4};
    if (descriptor >> 62 != 1) sim_die("wgmma: swizzling mode %u, and only 128 bytes are simulated", (unsigned)(descriptor >> 62));
    if (descriptor >> 49 & 7) sim_die("wgmma: a base offset");
    if (m.start & 0x380) sim_die("wgmma: a matrix at address %u, in the middle of 1024 bytes that are swizzled", m.start);
    if (m.stride % 1024 != 0) sim_die("wgmma: a stride of %u bytes", m.stride);
    return m;
}

/* Line `line` (of rows or columns), step k. */
static uint16_t along_k(const matrix *m, uint32_t line, uint32_t k) {
    return element(m->start + line / 8 * m->stride + line % 8 * 128 + 2 * k);
}
static uint16_t along_n(const matrix *m, uint32_t k, uint32_t column) {
    return element(m->start + column / 64 * m->leading + k / 8 * m->stride + k % 8 * 128 + column % 64 * 2);
}

static void look(const sim_wgmma_call *call, operands *o) {
    matrix b = decode(call->b);
    memset(o, 0, sizeof *o);
    if (call->along_n && (b.start & 0x70 || (call->columns > 64 && b.leading % 1024 != 0)))
        sim_die("wgmma: a matrix along N at address %u, columns %u bytes apart", b.start, b.leading);
    for (uint32_t k = 0; k < DEPTH; k++)
        for (uint32_t i = 0; i < call->columns; i++) o->b[k][i] = call->along_n ? along_n(&b, k, i) : along_k(&b, i, k);
    if (call->registers) return;
    matrix a = decode(call->a);
    for (uint32_t i = 0; i < ROWS; i++)
        for (uint32_t k = 0; k < DEPTH; k++) o->a[i][k] = along_k(&a, i, k);
}

static void look_again(const product *p, const char *when) {
    static __thread operands now; /* fibers' stacks are small */
    look(&p->call, &now);
    if (memcmp(&now, &p->seen, sizeof now) != 0) sim_die("shared memory that wgmma reads was written %s", when);
}

/* ---- products ---- */

static pending *find_pending(member *m, const float *d) {
    for (unsigned i = 0; i < m->pending_count; i++)
        if (m->pending[i].d == d) return &m->pending[i];
    return NULL;
}

/* Sums that are under way already, or those in registers, which hold NaN from here on. */
static pending *begin_pending(member *m, uint32_t count) {
    pending *p = find_pending(m, m->d);
    if (p && p->count != count) sim_die("wgmma: %u sums, and %u of them are under way", count, p->count);
    if (!p) {
        if (!m->fenced) sim_die("wgmma without a wgmma_fence before it");
        if (m->pending_count == PENDING_MAX) sim_die("wgmma: too many sums under way for the simulator");
        p = &m->pending[m->pending_count++];
        p->d = m->d;
        p->count = count;
        memcpy(p->sums, m->d, count * sizeof *p->sums);
        memset(m->d, 0xFF, count * sizeof *p->sums);
    }
    p->group = m->group;
    return p;
}

/* Products of bf16 are exact in float; they are added one by one, in the order of k. */
static void multiply(group *g, product *p) {
    static __thread float a[ROWS][DEPTH], b[DEPTH][COLUMNS_MAX];
    uint32_t columns = p->call.columns;
    for (int k = 0; k < DEPTH; k++) {
        for (int i = 0; i < ROWS; i++) a[i][k] = sim_bf16_float(p->seen.a[i][k]);
        for (uint32_t i = 0; i < columns; i++) b[k][i] = sim_bf16_float(p->seen.b[k][i]);
    }
    pending *lanes[GROUP];
    for (int i = 0; i < GROUP; i++) {
        member *m = &g->members[i];
        int row = i / 32 * 16 + i % 32 / 4, k = i % 4 * 2;
        lanes[i] = begin_pending(m, columns / 2);
        for (int r = 0; p->call.registers && r < 4; r++) {
            a[row + r % 2 * 8][k + r / 2 * 8] = sim_bf16_float(m->a[r]);
            a[row + r % 2 * 8][k + r / 2 * 8 + 1] = sim_bf16_float(m->a[r] >> 16);
        }
    }
    for (int i = 0; i < ROWS; i++) {
        float sum[COLUMNS_MAX];
        int first = i / 16 * 32 + i % 8 * 4, half = i % 16 / 8;
        for (uint32_t c = 0; c < columns; c++) sum[c] = lanes[first + (int)(c % 8 / 2)]->sums[c / 8 * 4 + (uint32_t)half * 2 + c % 2];
        for (int k = 0; k < DEPTH; k++)
            for (uint32_t c = 0; c < columns; c++) sum[c] += a[i][k] * b[k][c];
        for (uint32_t c = 0; c < columns; c++) lanes[first + (int)(c % 8 / 2)]->sums[c / 8 * 4 + (uint32_t)half * 2 + c % 2] = sum[c];
    }
}

static void finish_meeting(group *g) {
    product *p = g->meeting;
    for (unsigned i = 0; i < block_threads; i++)
        if (copied[i])
            sim_die("wgmma, and thread %u has waited for copies without a fence_proxy_async after it", i);
    look_again(p, "before all of its lanes had come");
    multiply(g, p);
    for (int i = 0; i < GROUP; i++) {
        member *m = &g->members[i];
        if (m->product_count == PRODUCTS_MAX) sim_die("wgmma: too many products under way for the simulator");
        m->products[m->product_count].product = p;
        m->products[m->product_count++].group = m->group;
    }
    g->meeting = NULL;
    g->arrived = 0;
}

void sim_wgmma(const sim_wgmma_call *call, float *d, const uint32_t *a) {
    group *g = own_group();
    member *m = own_member();
    if (!g->meeting) {
        g->meeting = memory_alloc(sizeof *g->meeting);
        g->meeting->call = *call;
        look(call, &g->meeting->seen);
    }
    const sim_wgmma_call *o = &g->meeting->call;
    if (o->columns != call->columns || o->along_n != call->along_n || o->registers != call->registers || o->a != call->a ||
        o->b != call->b)
        sim_die("wgmma: lanes of a warpgroup come with different matrices");
    m->d = d;
    if (a) memcpy(m->a, a, sizeof m->a);
    if (++g->arrived == GROUP) finish_meeting(g);
    sim_barrier_of_group((int)(thread_number() / GROUP), GROUP);
}

void sim_wgmma_hold(void *registers, int count) {
    (void)count;
    if (find_pending(own_member(), registers)) sim_die("wgmma_hold of sums that are under way");
}
void sim_wgmma_fence(void) { own_member()->fenced = true; }
void sim_wgmma_commit(void) { own_member()->group++; }

void sim_wgmma_wait(int left) {
    member *m = own_member();
    unsigned kept = 0;
    for (unsigned i = 0; i < m->product_count; i++) {
        product *p = m->products[i].product;
        if (m->products[i].group + (unsigned)left >= m->group) {
            m->products[kept++] = m->products[i];
        } else if (++p->waited == GROUP) {
            look_again(p, "before all of its lanes had waited");
            free(p);
        }
    }
    m->product_count = kept;
    kept = 0;
    for (unsigned i = 0; i < m->pending_count; i++) {
        pending *p = &m->pending[i];
        if (p->group + (unsigned)left >= m->group) {
            if (kept != i) m->pending[kept] = *p;
            kept++;
        } else {
            memcpy(p->d, p->sums, p->count * sizeof *p->sums);
        }
    }
    m->pending_count = kept;
    m->fenced = false;
}

void sim_wgmma_fence_proxy(void) {
    copied[thread_number()] = false;
    proxy_fenced = true;
}
void sim_wgmma_copied(void) { copied[thread_number()] = true; }
void sim_wgmma_end(void) {
    unsigned n = thread_number();
    const group *g = groups[n / GROUP];
    if (g && g->used && g->members[n % GROUP].product_count) sim_die("returns while wgmma is under way");
}
