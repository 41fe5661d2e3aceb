#include "fiber.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/memory.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
enum { STACK_BYTES = 512 << 10 };
#else
enum { STACK_BYTES = 128 << 10 };
#endif

fiber_stack *fiber_stack_open(unsigned colour) {
    fiber_stack *s = memory_alloc(sizeof *s);
    size_t guard = (size_t)sysconf(_SC_PAGESIZE);
    char *at = mmap(NULL, STACK_BYTES + guard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED || mprotect(at, guard, PROT_NONE)) {
        fprintf(stderr, "cuda_sim: no memory for the stack of a thread\n");
        abort();
    }
    /* Stacks that all end at the same place in a page would share a few lines of the first cache. */
    *s = (fiber_stack){.base = at + guard, .bytes = STACK_BYTES - colour * 320 % 4096 / 64 * 64};
    return s;
}

void fiber_stack_close(fiber_stack *s) {
    size_t guard = (size_t)sysconf(_SC_PAGESIZE);
#ifdef __SANITIZE_ADDRESS__
    /* Frames that were left and not returned from would still be marked when this place is mapped again. */
    __asan_unpoison_memory_region(s->base, STACK_BYTES);
#endif
    munmap(s->base - guard, STACK_BYTES + guard);
    free(s);
}

#if defined(__x86_64__)
/* What the calling convention says a function keeps; the rest is lost at any call. */
void fiber_swap(void **from, void *to);
__asm__(".text\n.globl fiber_swap\n.hidden fiber_swap\n.type fiber_swap, @function\n.p2align 4\n"
        "fiber_swap:\n"
        "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
        "    ret\n"
        ".size fiber_swap, . - fiber_swap\n");

void fiber_begin(fiber *f, fiber_stack *stack, void (*entry)(void)) {
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(stack->base, stack->bytes);
#endif
    void **top = (void **)(stack->base + stack->bytes);
    *--top = NULL;            /* the return address of entry: the end of a backtrace, and 8 below a multiple of 16 */
    *--top = (void *)(uintptr_t)entry;
    for (int i = 0; i < 6; i++) *--top = NULL;
    *f = (fiber){.at = top, .base = stack->base, .bytes = stack->bytes};
}
static inline void swap(fiber *from, fiber *to) { fiber_swap(&from->at, to->at); }
#else
#include <ucontext.h>

void fiber_begin(fiber *f, fiber_stack *stack, void (*entry)(void)) {
    /* Contexts lie at the lower end of the stack that they describe. */
    ucontext_t *c = (ucontext_t *)stack->base;
    getcontext(c);
    c->uc_stack.ss_sp = stack->base + sizeof *c;
    c->uc_stack.ss_size = stack->bytes - sizeof *c;
    c->uc_link = NULL;
    makecontext(c, entry, 0);
    *f = (fiber){.at = c, .base = stack->base, .bytes = stack->bytes};
}
static inline void swap(fiber *from, fiber *to) {
    if (!from->at) from->at = memory_alloc(sizeof(ucontext_t));
    swapcontext(from->at, to->at);
}
#endif

#ifdef __SANITIZE_ADDRESS__
static __thread fiber *arriving, *leaving;

static void finish_switch(void) {
    const void *base;
    size_t bytes;
    __sanitizer_finish_switch_fiber(arriving->fake_stack, &base, &bytes);
    if (leaving && !leaving->base) leaving->base = base, leaving->bytes = bytes; /* a thread's own stack */
}
void fiber_switch(fiber *from, fiber *to, int gone) {
    arriving = to;
    leaving = from;
    __sanitizer_start_switch_fiber(gone ? NULL : &from->fake_stack, to->base, to->bytes);
    swap(from, to);
    finish_switch();
}
void fiber_entered(void) { finish_switch(); }
#else
void fiber_switch(fiber *from, fiber *to, int gone) {
    (void)gone;
    swap(from, to);
}
void fiber_entered(void) {}
#endif
