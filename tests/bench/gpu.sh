#!/bin/sh
# What one GPU does, beside its limits in the same run: the table of RESULTS.md, "On a GPU". Medians of several runs.
#
#   tests/bench/gpu.sh [--build DIR] [--repeat N] [--dir DIR] [--peak TFLOPS] [--only ROW]…
#
#   --build DIR    where gemmad-shard is (preset core will do); default build
#   --repeat N     runs of each; default 5
#   --dir DIR      where a checkpoint of the 26B is written for the row "start" (50 GB); without it that row is left out
#   --peak TFLOPS  dense bf16 of the GPU, for the prefill row; default 989, an H100's or H200's by its datasheet
#   --layers N     cuts the models, to try the script; figures then mean nothing
#   --only ROW     26b, 31b, 31b-fp8, prefill, attention, start; may repeat
# Ends with 77 where there is no GPU.
set -eu
usage() { sed -n '2,/^set -eu$/p' "$0" | sed '$d; s/^# \{0,1\}//'; }
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$root/build repeat=5 dir= peak=989 layers= only=
while [ $# -gt 0 ]; do
    case $1 in
    --help | -h) usage; exit 0 ;;
    --build | --repeat | --dir | --peak | --layers) [ $# -gt 1 ] || { echo "gpu.sh: $1 needs a value" >&2; exit 2; }
        eval "${1#--}=\$2" ;;
    --only) [ $# -gt 1 ] || { echo "gpu.sh: --only needs a row" >&2; exit 2; }
        only="$only $2" ;;
    *) echo "gpu.sh: unknown option $1; --help lists them" >&2; exit 2 ;;
    esac
    shift 2
done
shard=$build/gemmad-shard
[ -x "$shard" ] || { echo "gpu.sh: there is no $shard" >&2; exit 2; }
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT INT TERM

wants() { [ -z "$only" ] || case "$only " in *" $1 "*) true ;; *) false ;; esac }
# number FILE KEY: of one JSON object, a key a line
number() { sed -n "s/^ *\"$2\": *\([-0-9.eE+]*\),\{0,1\}$/\1/p" "$1" | head -n 1; }
bench() { # NAME prefill|decode options…
    name=$1 what=$2
    shift 2
    if ! "$shard" bench "$what" --device cuda --repeat "$repeat" ${layers:+--layers "$layers"} "$@" --json \
        >"$out/$name" 2>"$out/$name.err"; then
        if grep -q 'no GPU\|no CUDA toolkit' "$out/$name.err"; then
            echo "skipped: $(cat "$out/$name.err")"
            exit 77
        fi
        echo "gpu.sh: $name failed: $(cat "$out/$name.err")" >&2
        # A figure that cannot be right is printed all the same, and said on standard error.
        [ -s "$out/$name" ] || return 1
    fi
}
share() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.0f %%", b > 0 ? 100 * a / b : 0 }'; }
row() { printf '| %-38s | %-34s | %-10s | %-12s |\n' "$@"; }

decode_row() { # LABEL FILE ASKED
    row "$1" "$(number "$out/$2" decode_tokens_per_s) tokens/s at $(number "$out/$2" weight_gb_per_s) GB/s" \
        "$(share "$(number "$out/$2" weight_gb_per_s)" "$(number "$out/$2" read_bandwidth_gb_per_s)")" "$3"
}

row "" "here" "of limit" "asked for"
row "---" "---" "---" "---"
if wants 26b; then
    bench 26b decode --shape 26b-a4b --weights bf16 --generate 128
    decode_row "26B-A4B bf16, one stream" 26b "60 %, 380/s"
fi
if wants 31b && [ -z "$layers" ]; then
    bench 31b decode --shape 31b --weights bf16 --generate 64
    decode_row "31B bf16, one stream" 31b "80 %, 62/s"
fi
if wants 31b-fp8; then
    bench 31b-fp8 decode --shape 31b --weights fp8 --generate 64
    decode_row "31B fp8, one stream" 31b-fp8 "85 %"
fi
if wants prefill; then
    bench prefill prefill --shape 31b --weights bf16 --prompt 8192
    tflops=$(number "$out/prefill" matrix_tflop_per_s)
    row "31B bf16, prompt of 8,192" "$(number "$out/prefill" prefill_tokens_per_s) tokens/s, $tflops TFLOP/s" \
        "$(share "$tflops" "$peak")" "55 %"
fi
if wants attention; then
    # What a step takes longer at 131,072 than at 4,096, both beyond the window: only full layers read more. There are 10 of 60,
    # with 4 KV heads and one vector of 512 bf16 a position and head: 40 KiB a token.
    bench attention decode --shape 31b --weights q4 --depth 131072 --generate 16
    bench attention-4k decode --shape 31b --weights q4 --depth 4096 --generate 16
    full=$((${layers:-60} / 6))
    rate=$(awk -v deep="$(number "$out/attention" step_ms)" -v shallow="$(number "$out/attention-4k" step_ms)" -v n="$full" \
        'BEGIN { ms = deep - shallow; printf "%.0f", ms > 0 ? (131072 - 4096) * n * 4096 / ms / 1e6 : 0 }')
    row "attention of full layers, 128K deep" "$rate GB/s of keys and values" \
        "$(share "$rate" "$(number "$out/attention" read_bandwidth_gb_per_s)")" "75 %"
fi
if wants start && [ -n "$dir" ]; then
    [ -e "$dir/config.json" ] || "$shard" bench decode --shape 26b-a4b ${layers:+--layers "$layers"} --write "$dir" >&2
    cat "$dir"/*.safetensors >/dev/null # into the page cache
    saved=$layers layers=
    bench start decode --model "$dir" --generate 1
    layers=$saved
    row "26B start to first token, cache warm" "$(number "$out/start" first_token_s) s, loading $(number "$out/start" load_s) s" "-" "15 s"
fi
echo
printf 'read-only bandwidth of each run, GB/s:'
for f in "$out"/*; do
    case $f in *.err) ;; *) printf ' %s %s;' "$(basename "$f")" "$(number "$f" read_bandwidth_gb_per_s)" ;; esac
done
echo
