#!/usr/bin/env bash
# From a bare Debian 12 to an answer: installs what is missing, builds, starts gemmad with the two bundled models on two
# ranks each, asks each a question about a bundled document, says what ran where, and stops what it started.
#
#   deploy/quickstart.sh [--keep]
#
# --keep leaves gemmad running and says how to talk to it and how to stop it. Safe to run twice and without a terminal;
# ends 0 only when both answers are right.
set -euo pipefail
cd "$(dirname "$0")/.."

keep=
for argument in "$@"; do
    case "$argument" in
        --keep) keep=1 ;;
        -h|--help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "quickstart: unknown option $argument (there is --keep)" >&2; exit 2 ;;
    esac
done

models=(tiny-dense tiny-moe)
ready_seconds=120
began=$SECONDS
daemon=
state=

say() { printf '\n== %s\n' "$*"; }
die() { echo "quickstart: $*" >&2; exit 1; }

stop_daemon() {
    [ -n "$daemon" ] || return 0
    kill -TERM "$daemon" 2>/dev/null || true
    for _ in $(seq 300); do
        kill -0 "$daemon" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$daemon" 2>/dev/null || true
    wait "$daemon" 2>/dev/null || true
    daemon=
}

cleanup() {
    local status=$?
    trap - EXIT INT TERM
    if [ "$status" != 0 ] && [ -n "$state" ] && [ -s "$state/log" ]; then
        echo "quickstart: the last lines of gemmad's log:" >&2
        tail -n 30 "$state/log" >&2
    fi
    if [ "$status" != 0 ] || [ -z "$keep" ]; then
        stop_daemon
        [ -z "$state" ] || rm -rf "$state"
    fi
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Output of a build goes to a file: it matters only when it fails.
quietly() {
    local log=build/quickstart.log
    mkdir -p build
    "$@" >"$log" 2>&1 || { tail -n 40 "$log" >&2; die "failed: $* (all of it in $log)"; }
}

say "packages"
deploy/packages.sh build
echo "all there after $((SECONDS - began)) s"

say "build"
[ -f build/build.ninja ] || quietly cmake --preset release
quietly cmake --build build --target gemmad gemmad-shard gemmactl
echo "built after $((SECONDS - began)) s"

say "start"
state=$(mktemp -d /tmp/gemmad-quickstart.XXXXXX)
server="unix:$state/socket"
command=(build/gemmad --ranks 2 --state "$state/state" --listen "$server")
for model in "${models[@]}"; do command+=(--model "tests/models/$model"); done
echo "${command[*]}"
# A session of its own, so that --keep outlives this script and its terminal.
setsid "${command[@]}" </dev/null >"$state/log" 2>&1 &
daemon=$!
ready() {
    local end=$((SECONDS + ready_seconds))
    while [ "$SECONDS" -lt "$end" ]; do
        kill -0 "$daemon" 2>/dev/null || die "gemmad ended while it started"
        build/gemmactl --server "$server" status --wait 2 >/dev/null 2>&1 && return 0
    done
    build/gemmactl --server "$server" status || true
    die "gemmad is not ready after $ready_seconds s"
}
ready
echo "ready after $((SECONDS - began)) s"

wrong=0
for model in "${models[@]}"; do
    folder=tests/models/$model
    question=$(cat "$folder/question.txt")
    say "$model"
    echo "document: $folder/document.txt"
    echo "question: $question"
    answer=$(build/gemmactl --server "$server" ask --model "$model" --temperature 0 --verbose "$folder/document.txt" \
             "$question" 2>"$state/speed") || { cat "$state/speed" >&2; die "$model did not answer"; }
    echo "answer:   $answer"
    cat "$state/speed"
    if [ "$answer" != "$(cat "$folder/answer.txt")" ]; then
        echo "quickstart: $model should have answered: $(cat "$folder/answer.txt")" >&2
        wrong=1
    fi
done

say "what ran where"
build/gemmactl --server "$server" status
[ "$wrong" = 0 ] || die "an answer is wrong"

if [ -n "$keep" ]; then
    say "gemmad keeps running (process $daemon)"
    cat <<END
ask:   build/gemmactl --server $server ask DOCUMENT "QUESTION"
look:  build/gemmactl --server $server status
log:   $state/log
stop:  kill $daemon && rm -rf $state
END
fi
echo
echo "done in $((SECONDS - began)) s"
