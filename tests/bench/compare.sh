#!/bin/sh
# Speed beside another engine: the same file, the same cores, one after the other, several times; medians and ratios.
#
#   tests/bench/compare.sh --model FILE.gguf --peer peer_bench.py --python PYTHON
#   tests/bench/compare.sh --model FILE.gguf --synth synth_gguf.py --shape 26b-a4b --peer … --python …
#   tests/bench/compare.sh --shape 26b-a4b --layers 2 --weights q4          our own figures alone
#
#   --model FILE     the file that both read; made first by `PYTHON SYNTH SHAPE FILE [--layers N]` if it is not there and
#                    --synth names the script
#   --peer SCRIPT    measures the other engine: SCRIPT FILE --threads N --prompt N --generate N --depth N --streams N
#                    --repeat 1, whose last line is JSON with prefill {N: tokens/s} and decode {DEPTH: tokens/s}
#   --python PROGRAM the Python that has what SCRIPT and SYNTH need; default python3
#   --ranks N --threads N       of ours; default 2 and 1. The other engine has N × N threads
#   --prompt N --generate N     default 512 and 24
#   --streams N      decoded together; default 8. 0: not measured
#   --depth N        tokens in the cache; default 16384. 0: not measured. The other engine reads them all first, which takes
#                    long, so it is measured there with --peer-depth only
#   --repeat N       runs of each; default 3
#   --read BYTES     memory that our bandwidth is measured on; default 4GiB
#   --build DIR      where gemmactl is; default build
#   --json           one JSON object instead of a table
set -eu
usage() { sed -n '2,/^set -eu$/p' "$0" | sed '$d; s/^# \{0,1\}//'; }
root=$(cd "$(dirname "$0")/../.." && pwd)
model= shape= layers= weights=auto peer= synth= python=python3 ranks=2 threads=1 prompt=512 generate=24 streams=8
depth=16384 peer_depth= repeat=3 build=$root/build json= read=4GiB
while [ $# -gt 0 ]; do
    case $1 in
    --help | -h) usage; exit 0 ;;
    --json) json=1; shift; continue ;;
    --peer-depth) peer_depth=1; shift; continue ;;
    --model | --shape | --layers | --weights | --peer | --synth | --python | --ranks | --threads | --prompt | --generate | \
        --streams | --depth | --repeat | --read | --build) ;;
    *) echo "compare.sh: unknown option $1; --help lists them" >&2; exit 2 ;;
    esac
    [ $# -gt 1 ] || { echo "compare.sh: $1 needs a value" >&2; exit 2; }
    eval "$(printf %s "$1" | cut -c3-)=\$2"
    shift 2
done
for n in "$ranks" "$threads" "$prompt" "$generate" "$streams" "$depth" "$repeat"; do
    case $n in '' | *[!0-9]*) echo "compare.sh: '$n' is not a number" >&2; exit 2 ;; esac
done
[ -n "$model" ] || [ -n "$shape" ] || { echo "compare.sh: give --model or --shape" >&2; exit 2; }
[ -z "$peer" ] || [ -n "$model" ] || { echo "compare.sh: --peer needs --model, the file that both read" >&2; exit 2; }
if [ -n "$model" ] && [ ! -e "$model" ]; then
    [ -n "$synth" ] && [ -n "$shape" ] || { echo "compare.sh: $model is not there; --synth and --shape make it" >&2; exit 2; }
    "$python" "$synth" "$shape" "$model" ${layers:+--layers "$layers"} >&2
fi

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT INT TERM
if [ -n "$model" ]; then source="--model $model"; else source="--shape $shape${layers:+ --layers $layers}"; fi

ours() { # NAME prefill|decode options…
    name=$1 what=$2
    shift 2
    if [ -n "$model" ]; then set -- --model "$model" "$@"; else set -- --shape "$shape" ${layers:+--layers "$layers"} "$@"; fi
    echo "ours: $name" >&2
    "$build/gemmactl" bench "$what" --ranks "$ranks" --threads "$threads" --weights "$weights" --repeat 1 --read "$read" "$@" --json \
        >"$out/ours.$name.$run"
}
theirs() { # NAME options…
    name=$1
    shift
    echo "other: $name" >&2
    "$python" "$peer" "$model" --threads $((ranks * threads)) --generate "$generate" --repeat 1 "$@" | tail -1 \
        >"$out/peer.$name.$run"
}

run=0
while [ "$run" -lt "$repeat" ]; do
    run=$((run + 1))
    echo "run $run of $repeat: $source" >&2
    [ -z "$peer" ] || theirs one --prompt "$prompt" --depth "0${peer_depth:+,$depth}"
    ours prefill prefill --prompt "$prompt"
    ours decode decode --generate "$generate"
    if [ "$streams" -gt 0 ]; then
        [ -z "$peer" ] || theirs streams --prompt 8 --depth 0 --streams "$streams"
        ours streams decode --generate "$generate" --batch "$streams"
    fi
    [ "$depth" -eq 0 ] || ours depth decode --generate "$generate" --depth "$depth"
done

exec python3 - "$out" "$prompt" "$streams" "$depth" "$json" <<'EOF'
import json, pathlib, statistics, sys
folder, (prompt, streams, depth, as_json) = pathlib.Path(sys.argv[1]), sys.argv[2:]
def median(pattern, *keys):
    values = []
    for path in sorted(folder.glob(pattern)):
        value = json.loads(path.read_text())
        for key in keys:
            value = (value or {}).get(key)
        values.append(value)
    values = [v for v in values if v is not None]
    return statistics.median(values) if values else None
def ratio(a, b):
    return a / b if a and b else None
rows = {
    f"prefill {prompt}": (median("ours.prefill.*", "prefill_tokens_per_s"), median("peer.one.*", "prefill", prompt), None),
    "decode": (median("ours.decode.*", "decode_tokens_per_s"), median("peer.one.*", "decode", "0"), None),
    f"decode, {streams} streams": (median("ours.streams.*", "decode_tokens_per_s"), median("peer.streams.*", "decode", "0"), "decode"),
    f"decode, depth {depth}": (median("ours.depth.*", "decode_tokens_per_s"), median("peer.one.*", "decode", depth), "decode"),
}
result = {name: {"tokens_per_s": a, "other_tokens_per_s": b, "ratio": ratio(a, b), "to_decode": ratio(a, rows[to][0]) if to else None}
          for name, (a, b, to) in rows.items() if a is not None}
share = median("ours.decode.*", "bandwidth_share")
if as_json:
    print(json.dumps({"rows": result, "bandwidth_share": share,
                      "read_bandwidth_gb_per_s": median("ours.*", "read_bandwidth_gb_per_s")}, indent=2))
else:
    text = lambda x, unit="": f"{x:.2f}{unit}" if x is not None else "-"
    print(f"{'tokens/s':<24}{'ours':>10}{'other':>10}{'ratio':>9}{'to decode':>11}")
    for name, r in result.items():
        print(f"{name:<24}{text(r['tokens_per_s']):>10}{text(r['other_tokens_per_s']):>10}"
              f"{text(r['ratio'], 'x'):>9}{text(r['to_decode'], 'x'):>11}")
    print(f"decode reads weights at {100 * share:.0f} % of {median('ours.*', 'read_bandwidth_gb_per_s'):.1f} GB/s")
EOF
