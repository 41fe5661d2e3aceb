#!/bin/bash
# Runs comm_mpi_test over two "hosts": network namespaces joined by a veth pair, each with its own host name,
# so that Open MPI and our wake connections go over TCP between them. netns.sh PROGRAM. Ends 77 where namespaces
# are not permitted. COMM_BENCH=1 measures too.
set -u
program=$(readlink -f "$1")
id=$$ a=gmda$$ b=gmdb$$ work=$(mktemp -d) failed=0
# Every process of a test runs in these namespaces only, so they can be ended by namespace.
clean() {
    for ns in "$a" "$b"; do
        pids=$(ip netns pids "$ns" 2>/dev/null) && [ -n "$pids" ] && kill -9 $pids 2>/dev/null
        ip netns del "$ns" 2>/dev/null
    done
    rm -rf "$work"
}
trap clean EXIT
skip() { echo "skipped: $1"; exit 77; }

command -v ip >/dev/null || skip "no ip command (package iproute2)"
command -v mpirun >/dev/null || skip "no mpirun"
why=$(ip netns add "$a" 2>&1) || skip "network namespaces are not permitted here: $why"
why=$(ip netns add "$b" 2>&1) || skip "network namespaces are not permitted here: $why"
why=$(ip link add "v$id" netns "$a" type veth peer name "v$id" netns "$b" 2>&1) ||
    skip "veth is not permitted here: $why"
why=$(unshare -u true 2>&1) || skip "host name namespaces are not permitted here: $why"
net=10.$((64 + id / 256 % 128)).$((id % 256))
set_up() { ip -n "$1" addr add "$2/24" dev "v$id" && ip -n "$1" link set "v$id" up && ip -n "$1" link set lo up; }
set_up "$a" "$net.1" && set_up "$b" "$net.2" || exit 1

# mpirun's "rsh": HOST COMMAND…, where HOST is a namespace. Without a host name of its own, Open MPI would take
# the two for one host and use shared memory.
cat >"$work/rsh" <<'RSH'
#!/bin/bash
host=$1; shift
exec ip netns exec "$host" unshare -u bash -c 'hostname "$0"; exec bash -c "$*"' "$host" "$@"
RSH
chmod +x "$work/rsh"
export ASAN_OPTIONS="${ASAN_OPTIONS:-}:detect_leaks=0"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1

# $1: hosts with slots, $2: ranks, $3: "zero" or "any" end of mpirun; the rest: arguments of the program
run() {
    hosts=$1 ranks=$2 want=$3; shift 3
    ip netns exec "$a" unshare -u bash -c 'hostname "$0"; exec "$@"' "$a" \
        timeout 100 mpirun --host "$hosts" -np "$ranks" --bind-to none --oversubscribe \
        --mca plm rsh --mca plm_rsh_agent "$work/rsh" --mca plm_rsh_no_tree_spawn 1 --mca routed direct \
        --mca oob_tcp_if_include "$net.0/24" --mca btl_tcp_if_include "$net.0/24" --mca btl self,vader,tcp \
        --mca pml ob1 "$program" "$@" >"$work/out" 2>&1
    code=$?
    ok=$(grep -c '^rank [0-9]* ok$' "$work/out")
    if [ "$ok" -eq "$ranks" ] && { [ "$want" = any ] || [ "$code" -eq 0 ]; }; then
        echo "ok: $ranks ranks on $hosts: $*"
    else
        echo "FAILED: $ranks ranks on $hosts: $*: $ok ranks ok, mpirun ended with $code"
        cat "$work/out"
        failed=1
    fi
}

run "$a:1,$b:1" 2 zero check-hosts
run "$a:2,$b:2" 4 zero check-hosts
run "$a:2,$b:1" 3 zero check-hosts
run "$a:1,$b:1" 2 zero idle
run "$a:2,$b:2" 4 any abort wait
run "$a:2,$b:2" 4 any abort reduce
if [ "${COMM_BENCH:-}" ]; then
    run "$a:1,$b:1" 2 zero bench
    cat "$work/out"
fi
exit $failed
