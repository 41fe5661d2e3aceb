/* The parts of engine_plan: running gemmad-shard, and reading what it printed.
 * Errors:  plan_read_facts: ST_FORMAT, facts unchanged. plan_refusal: the status that the shard's sentence
 *          names. */
#ifndef DAEMON_ENGINE_PLAN_H
#define DAEMON_ENGINE_PLAN_H

#include <stddef.h>
#include "base/strbuf.h"
#include "daemon/engine/engine.h"

/* What gemmad-shard plan prints, added to *json; blocking. Errors as engine_plan's. */
STATUS_CHECKED status plan_run(const engine_options *options, strbuf *json);
STATUS_CHECKED status plan_read_facts(const char *json, size_t n, const char *where, model_facts *facts);
/* how is waitpid's; errors[n] what was printed on standard error. */
STATUS_CHECKED status plan_refusal(int how, const char *errors, size_t n, const char *program);

#endif
