/* Finding what `gemmactl doctor` judges.
 *
 * Threads: main thread; other programs are run, each with a time to end by.
 * Errors:  what cannot be found is a fact as well. ST_CANCELLED after an interrupt. */
#ifndef CTL_DOCTOR_GATHER_H
#define CTL_DOCTOR_GATHER_H

#include "ctl/ctl.h"
#include "ctl/doctor_check.h"

typedef struct doctor_question {
    const char *model, *weights, *device, *certificate, *key;
    uint32_t ranks; /* of the plan; 0: gemmad's default */
} doctor_question;

void doctor_gather_machine(doctor_facts *f);
STATUS_CHECKED status doctor_gather_programs(doctor_facts *f, const doctor_question *q);
STATUS_CHECKED status doctor_gather_daemon(doctor_facts *f, const ctl *c);
void doctor_gather_tls(doctor_facts *f, const doctor_question *q);

/* The parts that read text of the system; for tests. */
/* "always [madvise] never" → "madvise"; "" when no word is in brackets. */
void doctor_read_choice(const char *text, char *out, size_t size);
/* CPUs of a cgroup v2 cpu.max, "150000 100000"; 0: no bound. */
double doctor_read_quota(const char *text);
/* "0.1.0, build x, CUDA 13.0" → "0.1.0, build x", and "CUDA 13.0", which lies in the same text; NULL when there is none. */
const char *doctor_read_built(char *version);
/* The best of amx, avx512, avxvnni, avx2 and scalar in the "flags" of /proc/cpuinfo. */
const char *doctor_read_isa(const char *cpuinfo);

#endif
