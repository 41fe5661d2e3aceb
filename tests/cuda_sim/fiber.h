/* Switching between stacks: the least that a coroutine needs.
 *
 * Memory:  a stack is the caller's from fiber_stack_open to fiber_stack_close; below it lies a page that faults.
 * Threads: a fiber stays on the thread that began it. */
#ifndef TESTS_CUDA_SIM_FIBER_H
#define TESTS_CUDA_SIM_FIBER_H

#include <stddef.h>

typedef struct fiber_stack {
    char *base;            /* lowest usable byte */
    size_t bytes;
    struct fiber_stack *next;
} fiber_stack;

/* Where a suspended fiber goes on. Zeroed before its first use. */
typedef struct fiber {
    void *at;
    void *fake_stack;      /* AddressSanitizer's */
    const void *base;      /* of the stack it runs on */
    size_t bytes;
} fiber;

fiber_stack *fiber_stack_open(unsigned colour);
void fiber_stack_close(fiber_stack *stack);
/* f is to run `entry` on the stack, from its beginning, when it is switched to. entry does not return. */
void fiber_begin(fiber *f, fiber_stack *stack, void (*entry)(void));
/* Suspends `from`, which is running, and goes on with `to`; gone: `from` never comes back. */
void fiber_switch(fiber *from, fiber *to, int gone);
/* The first thing an entry does. */
void fiber_entered(void);

#endif
