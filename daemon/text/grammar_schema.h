/* A schema's values in a notation: one rule for each place of the schema that differs.
 *
 * Properties come in the schema's order, then those that only `required` names, then others where additionalProperties allows
 * them; the last may come in any order, and a name among them twice.
 *
 * Errors: ST_INVALID with both numbers for what is too large. */
#ifndef DAEMON_TEXT_GRAMMAR_SCHEMA_H
#define DAEMON_TEXT_GRAMMAR_SCHEMA_H

#include "daemon/text/grammar_value.h"
#include "daemon/text/schema.h"

/* *rule: the schema's values of the kinds (SCHEMA_OBJECT, … ; SCHEMA_KINDS: all) at the outermost place. */
STATUS_CHECKED status grammar_write_schema(value_notation *n, const schema *s, uint32_t kinds,
                                           uint32_t *rule);

#endif
