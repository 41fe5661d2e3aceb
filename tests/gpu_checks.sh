#!/usr/bin/env bash
# Every check that needs a GPU, in the order of what they tell: builds preset core for the GPU that is here, runs the tests of
# label gpu, looks with compute-sanitizer, measures. Needs nvcc, cmake, ninja and a C compiler; libjansson from the system, or
# from carry/ (--carry makes that folder on a machine that has it).
#
#   tests/gpu_checks.sh [--out DIR] [--build DIR] [--checkpoint DIR] [--seconds N] [--only STEP]…
#   tests/gpu_checks.sh --carry     libjansson's headers and static library into carry/, for a machine without it
#
#   --out DIR         where logs and results go; default build-gpu-logs
#   --build DIR       default build-gpu
#   --checkpoint DIR  room for a 26B checkpoint, for the row "start"
#   --seconds N       nothing is begun after so many; default 840
#   --only STEP       build tests sanitizer bench; may repeat
# The last line reads "N passed, N failed, N skipped". Ends with 77 where there is no GPU.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root" || exit 1
out=build-gpu-logs build=build-gpu checkpoint="" seconds=840 only=()
carry() {
    local to=$root/carry library
    library=$(find /usr/lib /usr/local/lib -name libjansson.a 2>/dev/null | head -n 1)
    [ -n "$library" ] || { echo "gpu_checks: no libjansson.a here" >&2; return 1; }
    mkdir -p "$to/include" "$to/lib/pkgconfig"
    cp "$(find /usr/include /usr/local/include -name jansson.h | head -n 1)" \
        "$(find /usr/include /usr/local/include -name jansson_config.h | head -n 1)" "$to/include/"
    cp "$library" "$to/lib/"
    # ${pcfiledir} is pkg-config's, for wherever the folder lands.
    printf '%s\n' 'prefix=${pcfiledir}/../..' 'Name: jansson' 'Description: JSON' 'Version: 2.14' \
        'Cflags: -I${prefix}/include' 'Libs: -L${prefix}/lib -ljansson' >"$to/lib/pkgconfig/jansson.pc"
    du -sh "$to"
}
while [ $# -gt 0 ]; do
    case "$1" in
        --carry) carry; exit ;;
        --out | --build | --checkpoint | --seconds)
            [ $# -ge 2 ] || { echo "gpu_checks: $1 needs a value" >&2; exit 2; }
            printf -v "${1#--}" %s "$2"
            shift ;;
        --only) [ $# -ge 2 ] || { echo "gpu_checks: --only needs a step" >&2; exit 2; }
            only+=("$2")
            shift ;;
        -h | --help) sed -n '2,/^set -uo/p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 0 ;;
        *) echo "gpu_checks: unknown option $1; --help lists them" >&2; exit 2 ;;
    esac
    shift
done
nvidia-smi -L >/dev/null 2>&1 || { echo "skipped: there is no NVIDIA GPU (nvidia-smi lists none)"; exit 77; }
mkdir -p "$out"
[ -d carry/lib/pkgconfig ] && export PKG_CONFIG_PATH=$root/carry/lib/pkgconfig
passed=0 failed=0 skipped=0

begins() { # STEP: whether it is wanted and there is time
    if [ "${#only[@]}" -gt 0 ] && [[ " ${only[*]} " != *" $1 "* ]]; then return 1; fi
    [ "$SECONDS" -lt "$seconds" ] && { echo "== $1 (${SECONDS} s)"; return 0; }
    echo "skipped $1: $seconds s are over"
    skipped=$((skipped + 1))
    return 1
}
result() { # NAME STATUS LOG; a test that hangs has failed, what is slow under a sanitizer has not
    case $2 in
        0) passed=$((passed + 1)); echo "  passed $1" ;;
        124) if [[ $1 = gpu_test_* && $1 != *check ]]; then
                failed=$((failed + 1)); echo "  FAILED $1: it did not end in its time"; tail -n 15 "$3"
            else
                skipped=$((skipped + 1)); echo "  skipped $1: it did not end in its time"
            fi ;;
        77) skipped=$((skipped + 1)); echo "  skipped $1: $(grep -m1 '^skipped' "$3" | cut -c10-)" ;;
        *) failed=$((failed + 1)); echo "  FAILED $1 (status $2)"; tail -n 15 "$3" ;;
    esac
}
# run NAME SECONDS COMMAND…
run() {
    local name=$1 limit=$2 status
    shift 2
    timeout "$limit" "$@" >"$out/$name.log" 2>&1
    status=$?
    result "$name" "$status" "$out/$name.log"
    return $status
}
tests() { (cd "$build/tests" && ls gpu_test_* 2>/dev/null); }

nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv | tee "$out/gpu.csv"
if begins build; then
    capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
    [ "$capability" = 90 ] && capability=90a
    run configure 120 cmake --preset core -B "$build" "-DCMAKE_CUDA_ARCHITECTURES=$capability-real" &&
        run build 500 cmake --build "$build" -j "$(nproc)" || { echo "$passed passed, $failed failed, $skipped skipped"; exit 1; }
fi
if begins tests; then
    # The small ones first: when something is wrong with the machine they say it soonest.
    for t in gpu_test_cuda_rows gpu_test_cuda_sim gpu_test_cuda_linear gpu_test_cuda_wgmma gpu_test_cuda_attention \
        gpu_test_cuda_moe gpu_test_cuda_scan gpu_test_cuda_golden $(tests); do
        [ -x "$build/tests/$t" ] && [ ! -e "$out/$t.log" ] && run "$t" 180 "$build/tests/$t"
    done
fi
if begins sanitizer; then
    if command -v compute-sanitizer >/dev/null; then
        for t in gpu_test_cuda_{rows,linear,attention,attention_prepare,moe,scan,sampler,comm}; do
            for tool in memcheck racecheck synccheck; do
                [ "$SECONDS" -lt "$seconds" ] || break 2
                GEMMAD_TEST_SMALL=1 run "$t-$tool" 120 compute-sanitizer --tool "$tool" --error-exitcode 1 "$build/tests/$t"
            done
        done
    else
        echo "skipped sanitizer: compute-sanitizer is not here"
        skipped=$((skipped + 1))
    fi
fi
if begins bench; then
    run doctor 120 "$build/gemmad-shard" doctor
    cat "$out/doctor.log"
    run bench $((seconds > SECONDS + 60 ? seconds - SECONDS : 60)) \
        tests/bench/gpu.sh --build "$build" --repeat 3 ${checkpoint:+--dir "$checkpoint"}
    cat "$out/bench.log"
fi
echo "all in $SECONDS s, logs in $out"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
