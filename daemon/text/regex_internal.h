/* Between regex_parse.c and regex.c: the expression as a tree. */
#ifndef DAEMON_TEXT_REGEX_INTERNAL_H
#define DAEMON_TEXT_REGEX_INTERNAL_H

#include "daemon/text/regex.h"

typedef enum regex_kind {
    REGEX_EMPTY,
    REGEX_SET,
    REGEX_BOTH,   /* left, then right */
    REGEX_EITHER, /* left or right */
    REGEX_REPEAT, /* left, least … most times */
    REGEX_BEGIN,
    REGEX_END
} regex_kind;

typedef struct regex_node {
    regex_kind kind;
    uint32_t left, right, set, least, most; /* most CHAR_NFA_NONE: no bound */
} regex_node;

typedef struct regex_tree {
    regex_node *node;
    uint32_t count, capacity, root;
    char_nfa sets; /* holds the sets only */
} regex_tree;

STATUS_CHECKED status regex_parse(regex_tree *out, const char *text, size_t bytes);
void regex_tree_close(regex_tree *t);

#endif
