#!/usr/bin/env bash
# Sets up and runs every test. The last line is "N passed, N failed, N skipped" over everything; ends non-zero when
# anything failed. Safe to run twice, needs no terminal.
#
#   tests/run.sh [--long] [--only STEP]...
#
# --long      a minute of fuzzing for each target instead of 15 s, ten minutes of soak instead of 30 s, and the slow tests
# --only STEP one step (may repeat); those before it must have built what it needs. Steps, in order:
#             packages venv style layering build asan tsan core fuzz-build
#             unit unit-asan unit-tsan unit-core fuzz quickstart python python-asan cluster soak acceptance
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root" || exit 1

steps=(packages venv style layering build asan tsan core fuzz-build
       unit unit-asan unit-tsan unit-core fuzz quickstart python python-asan cluster soak acceptance)
long=""
only=()
while [ $# -gt 0 ]; do
    case "$1" in
        --long) long=1 ;;
        --only)
            [ $# -ge 2 ] || { echo "run.sh: --only needs a step: ${steps[*]}" >&2; exit 2; }
            [[ " ${steps[*]} " == *" $2 "* ]] || { echo "run.sh: no step $2; there are: ${steps[*]}" >&2; exit 2; }
            only+=("$2")
            shift ;;
        -h|--help) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "run.sh: unknown option $1 (there are --long and --only STEP)" >&2; exit 2 ;;
    esac
    shift
done
[ "${#only[@]}" -gt 0 ] && steps=("${only[@]}")

jobs=$(nproc)
logs=$root/build-logs
python=$root/.venv/bin/python
fuzz_seconds=${long:+60}
fuzz_seconds=${fuzz_seconds:-15}
soak_seconds=${long:+600}
soak_seconds=${soak_seconds:-30}
passed=0 failed=0 skipped=0
summary=()
mkdir -p "$logs"
export PYTHONDONTWRITEBYTECODE=1
[ -z "$long" ] || export GEMMAD_TEST_LONG=1
# A compiler cache is used where there is one; nothing depends on it.
if command -v ccache >/dev/null; then
    export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache CMAKE_CUDA_COMPILER_LAUNCHER=ccache
fi

count() { passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3)); }
skip() { echo "skipped $1: $2"; count 0 0 1; }
# What is one check, whatever it prints: its log is shown when it fails.
check() {
    local name=$1
    shift
    if "$@" >"$logs/$name.log" 2>&1; then
        count 1 0 0
    else
        count 0 1 0
        tail -n 60 "$logs/$name.log"
        echo "FAILED  $name: $* (all of it in $logs/$name.log)"
    fi
}

# Adds the counts of JUnit files and prints why tests were skipped or failed. A runner that ends badly without a failed
# test (it crashed, or found no tests) is a failure of its own.
count_junit() {
    local name=$1 status=$2 lines p f s
    shift 2
    if ! lines=$(python3 tests/count_results.py "$@" 2>&1); then
        count 0 1 0
        tail -n 60 "$logs/$name.log"
        echo "FAILED  $name: left no results (status $status, log $logs/$name.log)"
        return
    fi
    read -r p f s <<<"$lines"
    tail -n +2 <<<"$lines"
    count "$p" "$f" "$s"
    if [ "$f" -gt 0 ]; then
        tail -n 200 "$logs/$name.log"
    elif [ "$status" -ne 0 ] || [ $((p + s)) -eq 0 ]; then
        count 0 1 0
        tail -n 60 "$logs/$name.log"
        echo "FAILED  $name: status $status, $p passed (log $logs/$name.log)"
    fi
}

step_packages() { check packages deploy/packages.sh test; }

make_venv() {
    local stamp=.venv/requirements
    cmp -s tests/python/requirements.txt "$stamp" && return 0
    [ -x "$python" ] || python3 -m venv .venv || return 1
    .venv/bin/pip install -q --disable-pip-version-check -r tests/python/requirements.txt &&
        cp tests/python/requirements.txt "$stamp"
}
# The official JSON-Schema-Test-Suite is part of jsonschema's source package. Without it, its tests are skipped.
fetch_schema_suite() {
    local at=.venv/json-schema-suite work version
    [ -d "$at" ] && return 0
    version=$("$python" -c 'from importlib.metadata import version; print(version("jsonschema"))') || return 1
    work=$(mktemp -d .venv/suite.XXXXXX) # beside its place, so that it gets there in one step
    .venv/bin/pip download -q --disable-pip-version-check --no-binary jsonschema --no-deps -d "$work" "jsonschema==$version" &&
        tar xzf "$work"/jsonschema-*.tar.gz -C "$work" && mv "$work/jsonschema-$version/json" "$at"
    local status=$?
    rm -rf "$work"
    return $status
}
step_venv() {
    check venv make_venv
    fetch_schema_suite >"$logs/schema-suite.log" 2>&1 || skip json-schema-suite "$(tail -n 1 "$logs/schema-suite.log")"
}
step_style() { check style python3 tests/check_style.py; }
step_layering() {
    check layering python3 tests/check_layering.py
    check layering-test python3 tests/check_layering.py --self-test
}

build_preset() {
    local preset=$1
    shift
    cmake --preset "$preset" "$@" && cmake --build --preset "$preset" -j "$jobs"
}
step_build() { check build build_preset release; }
step_asan() { check build-asan build_preset asan; }
step_tsan() { check build-tsan build_preset tsan; }
# Where CUDA is, kernels are compiled for all GPUs in the step build; here for one.
step_core() { check build-core build_preset core -DCMAKE_CUDA_ARCHITECTURES=90a-real; }
step_fuzz-build() { check build-fuzz build_preset fuzz; }

# run_ctest NAME FOLDER [PREFIX…]: $select chooses tests by label.
run_ctest() {
    local name=$1 folder=$2 status
    shift 2
    rm -f "$logs/$name.xml"
    # Tests of label mpi start ranks of their own and have the machine to themselves, in the step cluster.
    "$@" ctest --test-dir "$folder" "${select[@]}" --output-on-failure --no-tests=error \
        --output-junit "$logs/$name.xml" >"$logs/$name.log" 2>&1
    status=$?
    count_junit "$name" "$status" "$logs/$name.xml"
}
select=(-LE mpi -j "$jobs")
step_unit() { run_ctest unit build; }
step_unit-asan() {
    ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1 \
        run_ctest unit-asan build-asan
}
step_unit-tsan() {
    # gcc 12's ThreadSanitizer does not know the memory layout of kernels with 32 bits of randomisation.
    local fixed=()
    setarch "$(uname -m)" -R true 2>/dev/null && fixed=(setarch "$(uname -m)" -R)
    TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 run_ctest unit-tsan build-tsan "${fixed[@]}"
}
# The same sources with the same flags have run in the step unit: here, what tells that they work without the daemon's libraries.
step_unit-core() {
    local select=(-R '^(base|loader|pack|kv|sched|comm|bench)/|test_(golden|instance|quant|block_formats|weights_pack)$' -j "$jobs")
    run_ctest unit-core build-core
}

fuzz_one() {
    local target=$1 name corpus seeds
    name=$(basename "$target")
    corpus=$(mktemp -d "/tmp/gemmad-$name.XXXXXX")
    seeds=tests/fuzz/seeds/$name
    [ -n "$(ls "$seeds" 2>/dev/null)" ] || { echo "there are no seeds in $seeds" >"$logs/$name.log"; return 1; }
    # What it finds lands in the log folder, ready to become a seed.
    "$target" -max_total_time="$fuzz_seconds" -timeout=25 -rss_limit_mb=4096 -print_final_stats=1 \
        -artifact_prefix="$logs/$name-" "$corpus" "$seeds" >"$logs/$name.log" 2>&1
    local status=$?
    rm -rf "$corpus"
    return $status
}
step_fuzz() {
    local targets=(build-fuzz/fuzz/fuzz_*) target name pids=() names=() i
    [ -e "${targets[0]}" ] || { count 0 1 0; echo "FAILED  fuzz: no targets in build-fuzz/fuzz"; return; }
    # A processor each, or the seconds are shared.
    for ((i = 0; i < ${#targets[@]}; i += jobs)); do
        pids=() names=()
        for target in "${targets[@]:i:jobs}"; do
            fuzz_one "$target" &
            pids+=($!) names+=("$(basename "$target")")
        done
        for name in "${!pids[@]}"; do
            if wait "${pids[name]}"; then
                count 1 0 0
                printf '  %s: %s runs\n' "${names[name]}" \
                    "$(sed -n 's/^stat::number_of_executed_units: *//p' "$logs/${names[name]}.log")"
            else
                count 0 1 0
                tail -n 40 "$logs/${names[name]}.log"
                echo "FAILED  ${names[name]} (input in $logs/${names[name]}-*)"
            fi
        done
    done
}

quickstart_again() {
    local began=$SECONDS
    deploy/quickstart.sh || return 1
    echo "second run: $((SECONDS - began)) s, allowed are 20"
    [ $((SECONDS - began)) -lt 20 ]
}
step_quickstart() {
    check quickstart deploy/quickstart.sh
    check quickstart-again quickstart_again
    sed -n '/^== tiny/,$p' "$logs/quickstart-again.log"
}

run_pytest() {
    local name=$1 status
    shift
    [ -x "$python" ] || { count 0 1 0; echo "FAILED  $name: no .venv; run the step venv first"; return; }
    rm -f "$logs/$name.xml"
    "$python" -m pytest -q -ra -p no:cacheprovider --junitxml="$logs/$name.xml" "$@" >"$logs/$name.log" 2>&1
    status=$?
    count_junit "$name" "$status" "$logs/$name.xml"
}
# Files are shared out to two processes, each with daemons of its own.
step_python() { run_pytest python -n 2 --dist loadfile tests/python; }
# Every process of an engine, the coordinator and gemmactl under AddressSanitizer and UndefinedBehaviorSanitizer, fed with
# what comes from outside: what they must refuse, HTTP, keys, certificates, schemas, tools, servers that misbehave.
step_python-asan() {
    local name files=()
    for name in bad_input chat ctl_fake hostile json_schema keys openai openapi reflection tls; do
        files+=("tests/python/test_$name.py")
    done
    # Whether answers are right is asked of the release build.
    GEMMAD_BUILD=$root/build-asan run_pytest python-asan -n 2 --dist loadfile \
        --deselect test_chat.py::test_samples_of_every_kind \
        --deselect test_ctl_fake.py::test_ask_builds_the_templates_prompt "${files[@]}"
}
step_cluster() {
    local select=(-L mpi)
    run_ctest cluster build
}

step_soak() {
    check soak "$python" tests/python/soak.py "$soak_seconds"
    tail -n 1 "$logs/soak.log"
}

# Checks that live beside the repository, where they exist.
step_acceptance() {
    local folder=../shared/tools/acceptance name
    for name in logits answers tokenizer batch_invariance gguf_files kv_budget chat openai_client; do
        if [ ! -f "$folder/$name.py" ]; then
            skip "acceptance-$name" "there is no $folder/$name.py beside this checkout"
            continue
        fi
        check "acceptance-$name" python3 "$folder/$name.py"
        echo "  $name: $(tail -n 1 "$logs/acceptance-$name.log")"
    done
}

for step in "${steps[@]}"; do
    echo "== $step"
    began=$SECONDS before="$passed $failed $skipped"
    "step_$step"
    read -r p f s <<<"$before"
    line=$(printf '%-12s %4d s  %5d passed %3d failed %3d skipped' "$step" $((SECONDS - began)) $((passed - p)) \
           $((failed - f)) $((skipped - s)))
    summary+=("$line")
    echo "$line"
done
echo
printf '%s\n' "${summary[@]}"
echo "all in $SECONDS s"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
