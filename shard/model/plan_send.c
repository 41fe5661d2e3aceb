#include "shard/model/plan_send.h"

#include <string.h>

#include "base/memory.h"

void plan_channel_close(plan_channel *c) { strbuf_close(&c->bytes); }

status plan_send(plan_channel *c, const plan *p) {
    if (comm_size(c->ranks) == 1) return ST_OK;
    strbuf_clear(&c->bytes);
    plan_encode(p, &c->bytes);
    uint64_t total = c->bytes.size;
    size_t first = total < PLAN_FIRST_BYTES - sizeof total ? (size_t)total : PLAN_FIRST_BYTES - sizeof total;
    memset(c->first, 0, sizeof c->first);
    memcpy(c->first, &total, sizeof total);
    memcpy(c->first + sizeof total, c->bytes.data, first);
    TRY(comm_broadcast(c->ranks, c->first, sizeof c->first, 0));
    if (first == total) return ST_OK;
    return comm_broadcast(c->ranks, c->bytes.data + first, (size_t)total - first, 0);
}

status plan_receive(plan_channel *c, plan *p, const plan_bounds *bounds) {
    uint64_t total;
    TRY(comm_broadcast(c->ranks, c->first, sizeof c->first, 0));
    memcpy(&total, c->first, sizeof total);
    if (total > LIMIT_MESSAGE_BYTES)
        return fail(ST_FORMAT, "step plan of %llu bytes, at most %u", (unsigned long long)total,
                    LIMIT_MESSAGE_BYTES);
    size_t first = total < PLAN_FIRST_BYTES - sizeof total ? (size_t)total : PLAN_FIRST_BYTES - sizeof total;
    if (first == total) return plan_decode(p, c->first + sizeof total, first, bounds);
    strbuf_clear(&c->bytes);
    while (c->bytes.size < total) { /* room for it all */
        size_t left = (size_t)total - c->bytes.size;
        strbuf_add(&c->bytes, c->first, left < sizeof c->first ? left : sizeof c->first);
    }
    memcpy(c->bytes.data, c->first + sizeof total, first);
    TRY(comm_broadcast(c->ranks, c->bytes.data + first, (size_t)total - first, 0));
    return plan_decode(p, c->bytes.data, (size_t)total, bounds);
}
