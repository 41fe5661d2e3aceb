/* INVARIANT: what only a programmer can break. Alive in release builds: a wrong token served is worse than an engine
 * that ends with the place and the condition on its last line (the supervisor starts another). What an operator or a
 * client can cause returns a status instead. */
#ifndef BASE_INVARIANT_H
#define BASE_INVARIANT_H

_Noreturn void invariant_broken(const char *file, int line, const char *condition);

#define INVARIANT(condition)                                                                                 \
    do {                                                                                                     \
        if (__builtin_expect(!(condition), 0)) invariant_broken(__FILE__, __LINE__, #condition);             \
    } while (0)

#endif
