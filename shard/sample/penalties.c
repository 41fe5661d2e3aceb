#include "shard/sample/penalties.h"

#include <stdlib.h>

#include "base/memory.h"
#include "shard/sample/sampler.h"

bool penalties_wanted(const sampling *p) {
    return p->repetition_penalty != 1.0f || p->presence_penalty != 0.0f || p->frequency_penalty != 0.0f;
}

void penalties_clear(penalties *t) {
    for (uint32_t i = 0; i < t->capacity; i++) t->place[i] = (seen_token){SAMPLE_NO_TOKEN, 0};
    t->count = 0;
}

void penalties_close(penalties *t) {
    free(t->place);
    *t = (penalties){0};
}

static seen_token *find(seen_token *place, uint32_t capacity, uint32_t token) {
    uint32_t i = token * 2654435761u & (capacity - 1);
    while (place[i].token != token && place[i].token != SAMPLE_NO_TOKEN) i = (i + 1) & (capacity - 1);
    return &place[i];
}

void penalties_add(penalties *t, uint32_t token, bool in_answer) {
    if (t->count * 2 >= t->capacity) {
        uint32_t capacity = t->capacity ? t->capacity * 2 : 256;
        seen_token *place = memory_alloc_array(capacity, sizeof *place);
        for (uint32_t i = 0; i < capacity; i++) place[i].token = SAMPLE_NO_TOKEN;
        for (uint32_t i = 0; i < t->capacity; i++)
            if (t->place[i].token != SAMPLE_NO_TOKEN) *find(place, capacity, t->place[i].token) = t->place[i];
        free(t->place);
        t->place = place;
        t->capacity = capacity;
    }
    seen_token *s = find(t->place, t->capacity, token);
    if (s->token == SAMPLE_NO_TOKEN) {
        s->token = token;
        t->count++;
    }
    if (in_answer) s->in_answer++;
}
