/* Two ranks' weights slot by slot, for tests that hold one against the other.
 *
 * Memory:  of the functions' own. */
#ifndef TESTS_WEIGHT_SLOTS_H
#define TESTS_WEIGHT_SLOTS_H

#include "base/memory.h"
#include "shard/model/weights_slots.h"
#include "tests/test.h"

typedef struct slot_list {
    weight_slot *slot;
    uint32_t count, capacity;
} slot_list;

static inline status slot_list_add_(void *context, const weight_slot *s) {
    slot_list *l = context;
    if (l->count == l->capacity) {
        l->capacity = l->capacity ? 2 * l->capacity : 256;
        l->slot = memory_grow(l->slot, l->capacity * sizeof *l->slot);
    }
    l->slot[l->count++] = *s;
    return ST_OK;
}

/* As many slots in each, of the same names in one order; what is in them is for `check`. */
static inline void slots_compare(model_weights *a, model_weights *b, const model_config *config, const layout *l,
                                 void (*check)(const weight_slot *of_a, const weight_slot *of_b, const void *context),
                                 const void *context) {
    slot_list of_a = {0}, of_b = {0};
    CHECK_STATUS(weights_walk(a, config, l, slot_list_add_, &of_a), ST_OK);
    CHECK_STATUS(weights_walk(b, config, l, slot_list_add_, &of_b), ST_OK);
    CHECK(of_a.count == of_b.count && of_a.count > 10);
    for (uint32_t i = 0; i < of_a.count && i < of_b.count; i++) {
        CHECK(!strcmp(of_a.slot[i].name, of_b.slot[i].name));
        check(&of_a.slot[i], &of_b.slot[i], context);
    }
    free(of_a.slot);
    free(of_b.slot);
}

#endif
