#!/bin/sh
# Runs comm_mpi_test under mpirun: comm_mpi.sh PROGRAM RANKS. Ends non-zero when a rank failed or did not
# report.
set -u
program=$1 ranks=$2
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
# What MPI itself never releases is not ours to report.
export ASAN_OPTIONS="${ASAN_OPTIONS:-}:detect_leaks=0"
output=$(mktemp) failed=0
trap 'rm -f "$output"' EXIT

# $1: what mpirun is to end with, "zero" or "any"; the rest: arguments of the program
run() {
    want=$1; shift
    timeout 120 mpirun --oversubscribe --bind-to none -np "$ranks" "$program" "$@" >"$output" 2>&1
    code=$?
    ok=$(grep -c '^rank [0-9]* ok$' "$output")
    if [ "$ok" -eq "$ranks" ] && { [ "$want" = any ] || [ "$code" -eq 0 ]; }; then
        echo "ok: $ranks ranks: $*"
    else
        echo "FAILED: $ranks ranks: $*: $ok ranks ok, mpirun ended with $code"
        cat "$output"
        failed=1
    fi
}

run zero check
run zero idle
# Ranks that were given up on end without MPI_Finalize, which mpirun takes for a failure.
for place in reduce gather wait; do
    run any abort $place 0
    run any abort $place 1
    [ "$ranks" -gt 2 ] && run any abort $place 2
done
exit $failed
