/* Following an automaton, byte by byte. */
#include <stdlib.h>
#include <string.h>

#include "base/automaton_parts.h"
#include "base/invariant.h"
#include "base/memory.h"
#include "proto/limits.h"

uint32_t automaton_next(const automaton_parts *p, uint32_t state, uint8_t byte) {
    const automaton_range *r = p->range + p->state[state].range, *end = p->range + p->state[state + 1].range;
    while (end - r > 8) { /* the last whose low is not above byte is in r … end */
        const automaton_range *middle = r + (end - r) / 2;
        if (middle->low <= byte) r = middle;
        else end = middle;
    }
    for (; r < end && r->low <= byte; r++)
        if (byte <= r->high) return r->target;
    return AUTOMATON_NONE;
}

/* ---- places ---- */

static void *grown(void *array, uint32_t need, uint32_t *cap, size_t size) {
    if (need <= *cap) return array;
    *cap = *cap ? *cap * 2 : 16;
    return memory_grow(array, *cap * size);
}

static automaton_level *top(automaton_cursor *c) { return &c->level[c->levels - 1]; }

static void add_place(automaton_cursor *c, uint32_t state, uint32_t frame, uint32_t count) {
    uint32_t *of = &c->a->place_of[state], begin = top(c)->place, previous = 0;
    if (*of >= begin && *of < c->places && c->place[*of].state == state) {
        for (uint32_t i = *of + 1; i > 0; i = c->place[i - 1].previous)
            if (c->place[i - 1].frame == frame && c->place[i - 1].count == count) return;
        previous = *of + 1;
    }
    if (c->places - begin == LIMIT_GRAMMAR_PLACES) {
        c->over = true;
        return;
    }
    c->place = grown(c->place, c->places + 1, &c->place_cap, sizeof *c->place);
    c->place[c->places] = (automaton_place){state, frame, count, previous};
    *of = c->places++;
}

static void add_link(automaton_cursor *c, uint32_t to, uint32_t target, uint32_t frame) {
    for (uint32_t i = c->frame[to].link; i > 0; i = c->link[i - 1].next)
        if (c->link[i - 1].target == target && c->link[i - 1].frame == frame) return;
    c->link = grown(c->link, c->links + 1, &c->link_cap, sizeof *c->link);
    c->link[c->links] = (automaton_link){target, frame, c->frame[to].link};
    c->frame[to].link = ++c->links;
}

static bool counted(const automaton_cursor *c, uint32_t frame) {
    return c->a->p.symbol[c->frame[frame].symbol].counted;
}

static bool is_new(automaton_cursor *c, uint32_t frame) { return frame >= top(c)->frame; }

/* Where a call returns to. A call that is the last thing of its rule returns to where that rule does, so that recursion on
 * the right needs no depth; a frame of this position may still get more links, and is not passed over. */
static void link_return(automaton_cursor *c, uint32_t callee, uint32_t target, uint32_t frame) {
    if (!c->a->pure_end[target] || is_new(c, frame) || counted(c, frame)) {
        add_link(c, callee, target, frame);
        return;
    }
    for (uint32_t i = c->frame[frame].link; i > 0; i = c->link[i - 1].next)
        add_link(c, callee, c->link[i - 1].target, c->link[i - 1].frame);
}

static void enter(automaton_cursor *c, uint32_t symbol, uint32_t target, uint32_t frame) {
    uint32_t *of = &c->a->frame_of[symbol];
    bool there = *of < c->frames && is_new(c, *of) && c->frame[*of].symbol == symbol;
    if (!there) {
        if (c->frames >= LIMIT_GRAMMAR_DEPTH) {
            c->over = true;
            return;
        }
        c->frame = grown(c->frame, c->frames + 1, &c->frame_cap, sizeof *c->frame);
        c->frame[c->frames] = (automaton_frame){symbol, 0};
        *of = c->frames++;
    }
    uint32_t callee = *of;
    link_return(c, callee, target, frame);
    const automaton_parts *p = &c->a->p;
    if (!there) add_place(c, p->rule[p->symbol[symbol].rule], callee, 0);
}

static void leave(automaton_cursor *c, uint32_t frame) {
    for (uint32_t i = c->frame[frame].link; i > 0; i = c->link[i - 1].next) {
        automaton_link l = c->link[i - 1];
        if (l.target == AUTOMATON_TO_END) top(c)->complete = true;
        else if (l.target == AUTOMATON_TO_OUTSIDE) top(c)->outside = true;
        else add_place(c, l.target, l.frame, 0);
    }
}

/* Calls that begin, and rules that end, at the places of the last level; more places come while it goes. What a rule matches
 * without a byte is in its callers as a way around, so a frame of this position does not end here. */
static void complete_level(automaton_cursor *c) {
    const automaton_parts *p = &c->a->p;
    for (uint32_t i = top(c)->place; i < c->places && !c->over; i++) {
        automaton_place at = c->place[i];
        const automaton_state *s = &p->state[at.state];
        for (uint32_t k = s->call; k < s[1].call; k++)
            enter(c, p->call[k].symbol, p->call[k].target, at.frame);
        if (s->accept && !is_new(c, at.frame) && !counted(c, at.frame)) leave(c, at.frame);
    }
}

static void move(automaton_cursor *c, automaton_place from, uint32_t target) {
    const automaton_parts *p = &c->a->p;
    const automaton_symbol *symbol = &p->symbol[c->frame[from.frame].symbol];
    if (!symbol->counted || !p->state[target].accept) {
        add_place(c, target, from.frame, from.count);
        return;
    }
    uint32_t count = from.count + 1;
    if (symbol->most == AUTOMATON_UNBOUNDED && count > symbol->least) count = symbol->least;
    if (count < symbol->most) add_place(c, p->rule[symbol->rule], from.frame, count);
    if (count >= symbol->least) leave(c, from.frame);
}

/* ---- levels ---- */

static void begin_level(automaton_cursor *c) {
    INVARIANT(c->levels < sizeof c->level / sizeof *c->level);
    c->level[c->levels++] = (automaton_level){.place = c->places, .frame = c->frames, .link = c->links};
}

static bool end_level(automaton_cursor *c) {
    complete_level(c);
    return c->places > top(c)->place || top(c)->complete || top(c)->outside;
}

void automaton_pop_to(automaton_cursor *c, uint32_t levels) {
    if (levels >= c->levels) return;
    c->places = c->level[levels].place;
    c->frames = c->level[levels].frame;
    c->links = c->level[levels].link;
    c->levels = levels;
}

bool automaton_push(automaton_cursor *c, uint8_t byte) {
    uint32_t i = top(c)->place, end = c->places;
    begin_level(c);
    for (; i < end; i++) {
        uint32_t target = automaton_next(&c->a->p, c->place[i].state, byte);
        if (target != AUTOMATON_NONE) move(c, c->place[i], target);
    }
    return end_level(c);
}

bool automaton_push_end(automaton_cursor *c, uint32_t frame) {
    begin_level(c);
    leave(c, frame);
    return end_level(c);
}

bool automaton_push_here(automaton_cursor *c) {
    uint32_t i = top(c)->place, end = c->places;
    begin_level(c);
    for (; i < end; i++) add_place(c, c->place[i].state, c->place[i].frame, c->place[i].count);
    return end_level(c);
}

bool automaton_push_narrow(automaton_cursor *c) {
    uint32_t end = c->places;
    INVARIANT(c->levels == 1);
    begin_level(c);
    for (uint32_t i = c->level[0].place; i < end; i++) {
        const automaton_state *s = &c->a->p.state[c->place[i].state];
        if (s->table == AUTOMATON_NONE && s->range < s[1].range)
            add_place(c, c->place[i].state, c->place[i].frame, c->place[i].count);
    }
    return c->places > top(c)->place; /* their calls are places of level 0, too */
}

static bool push_token(automaton_cursor *c, uint32_t id) {
    const automaton_parts *p = &c->a->p;
    uint32_t i = top(c)->place, end = c->places;
    begin_level(c);
    for (; i < end; i++) {
        const automaton_state *s = &p->state[c->place[i].state];
        for (uint32_t k = s->token; k < s[1].token; k++)
            if (p->token[k].id == id) move(c, c->place[i], p->token[k].target);
    }
    return end_level(c);
}

/* ---- the cursor ---- */

static automaton_cursor *open_at(automaton *a, uint32_t symbol, uint32_t state, uint32_t returns_to) {
    automaton_cursor *c = memory_alloc(sizeof *c);
    c->a = automaton_keep(a);
    c->frame = grown(NULL, 1, &c->frame_cap, sizeof *c->frame);
    c->frame[c->frames++] = (automaton_frame){symbol, 0};
    add_link(c, 0, returns_to, 0);
    c->levels = 1; /* frame 0 is of this level: nothing has been matched yet */
    add_place(c, state, 0, 0);
    return c;
}

automaton_cursor *automaton_cursor_open(automaton *a) {
    uint32_t start = a->p.rule[a->p.symbol[0].rule];
    automaton_cursor *c = open_at(a, 0, start, AUTOMATON_TO_END);
    complete_level(c);
    c->level[0].complete = a->p.state[start].accept;
    return c;
}

automaton_cursor *automaton_cursor_at(automaton *a, uint32_t symbol, uint32_t state) {
    return open_at(a, symbol, state, AUTOMATON_TO_OUTSIDE);
}

void automaton_cursor_close(automaton_cursor *c) {
    if (!c) return;
    automaton_drop(c->a);
    free(c->place);
    free(c->frame);
    free(c->link);
    free(c);
}

/* Frames that no place can return to any more are forgotten. */
static void collect(automaton_cursor *c) {
    uint32_t *name = memory_alloc_array(c->frames, sizeof *name),
             *queue = memory_alloc_array(c->frames, sizeof *queue);
    uint32_t count = 0;
    for (uint32_t i = 0; i < c->places; i++)
        if (!name[c->place[i].frame]) {
            queue[count++] = c->place[i].frame;
            name[c->place[i].frame] = count;
        }
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t l = c->frame[queue[i]].link; l > 0; l = c->link[l - 1].next)
            if (c->link[l - 1].target != AUTOMATON_TO_END && !name[c->link[l - 1].frame]) {
                queue[count++] = c->link[l - 1].frame;
                name[c->link[l - 1].frame] = count;
            }
    automaton_frame *old_frame = c->frame;
    automaton_link *old_link = c->link;
    c->frame = memory_alloc_array(count + 1, sizeof *c->frame);
    c->link = NULL;
    c->frame_cap = count + 1;
    c->frames = count;
    c->links = c->link_cap = 0;
    for (uint32_t i = 0; i < count; i++) {
        c->frame[i].symbol = old_frame[queue[i]].symbol;
        for (uint32_t l = old_frame[queue[i]].link; l > 0; l = old_link[l - 1].next) {
            automaton_link x = old_link[l - 1];
            c->link = grown(c->link, c->links + 1, &c->link_cap, sizeof *c->link);
            c->link[c->links] = (automaton_link){
                x.target, x.target == AUTOMATON_TO_END ? 0 : name[x.frame] - 1, c->frame[i].link};
            c->frame[i].link = ++c->links;
        }
    }
    for (uint32_t i = 0; i < c->places; i++) c->place[i].frame = name[c->place[i].frame] - 1;
    free(old_frame);
    free(old_link);
    free(name);
    free(queue);
}

/* The last level becomes level 0. */
static void settle(automaton_cursor *c) {
    automaton_level last = *top(c);
    uint32_t count = c->places - last.place;
    memmove(c->place, c->place + last.place, count * sizeof *c->place);
    for (uint32_t i = 0; i < count; i++) c->place[i].previous = 0;
    c->places = count;
    c->levels = 1;
    c->level[0] = (automaton_level){.complete = last.complete};
    if (c->frames <= 2 * c->kept_frames + 64) return;
    collect(c);
    c->kept_frames = c->frames;
}

static status finish_take(automaton_cursor *c, bool alive) {
    bool over = c->over;
    if (alive && !over) {
        settle(c);
        return ST_OK;
    }
    c->over = false;
    automaton_pop_to(c, 1);
    if (over)
        return fail(ST_UNSUPPORTED,
                    "the answer could stand at more than %d places of its grammar, or %d rules deep, which "
                    "is not followed",
                    LIMIT_GRAMMAR_PLACES, LIMIT_GRAMMAR_DEPTH);
    return ST_INVALID;
}

status automaton_take_byte(automaton_cursor *c, uint8_t byte) {
    status st = finish_take(c, !c->ended && automaton_push(c, byte));
    return st == ST_INVALID ? fail(ST_INVALID, "the grammar does not allow byte 0x%02X here", byte) : st;
}

status automaton_take_token(automaton_cursor *c, uint32_t id) {
    const automaton_parts *p = &c->a->p;
    for (uint32_t i = 0; c->level[0].complete && !c->ended && i < p->ends; i++)
        if (p->end[i] == id) {
            c->ended = true;
            return ST_OK;
        }
    vocabulary_token t = vocabulary_token_of(c->a->v, id);
    bool alive = !c->ended;
    if (t.size == 0) alive = alive && push_token(c, id);
    for (uint32_t i = 0; alive && i < t.size; i++) alive = automaton_push(c, t.bytes[i]);
    status st = finish_take(c, alive);
    return st == ST_INVALID ? fail(ST_INVALID, "the grammar does not allow token %u here", id) : st;
}

bool automaton_complete(const automaton_cursor *c) { return c->level[0].complete; }
bool automaton_ended(const automaton_cursor *c) { return c->ended; }
