"""Clients that leave, ranks that die, daemons that are told to stop: nothing hangs, nothing stays behind."""
import contextlib
import os
import pathlib
import signal
import subprocess
import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support import (BUILD, PATIENCE_SECONDS, Daemon, collect, eventually, pb, process_exists, processes_with, request, rpc,
                     samples)

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
# Long enough that it cannot end by itself while a test looks; tiny models may have 4,096 tokens of context.
LONG = {"max_tokens": 4000, "temperature": 1.0, "ignore_eos": True}
PROMPT = samples("tiny-dense", "plain")[1]["prompt_token_ids"][:60]


def prompt():
    return list(PROMPT)


def engine(daemon):
    return daemon.status().models[0].engines[0]


def health(daemon, service="gemmad.v1.Inference"):
    with grpc.insecure_channel(daemon.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status


def first_delta(call):
    for event in call:
        if event.WhichOneof("event") == "delta":
            return
    raise AssertionError("the stream ended without a delta")


def test_a_client_that_cancels_stops_its_work(dense):
    before = engine(dense).steps
    calls = [dense.inference().Generate(request(prompt(), seed=i, **LONG)) for i in range(4)]
    for call in calls:
        first_delta(call)
    for call in calls:
        call.cancel()
    assert eventually(lambda: dense.status().requests_running == 0, 20), dense.status()
    time.sleep(2)  # steps are told by a heartbeat every second
    ended_at = engine(dense).steps
    assert ended_at - before < LONG["max_tokens"] / 2, "the work went on to its end"
    time.sleep(2)
    assert engine(dense).steps == ended_at

    def held():
        now = engine(dense)
        return now.kv_pages_used - now.cached_pages
    assert eventually(lambda: held() == 0, 10), f"{held()} KV pages are still held, beside those of the prefix cache"


def test_a_client_that_is_killed_stops_its_work(dense):
    before = engine(dense).steps
    client = subprocess.Popen([BUILD / "gemmactl", "--server", dense.address, "generate", "--token-ids",
                               ",".join(map(str, prompt())), "--max-tokens", "4000", "--ignore-eos"],
                              stdout=subprocess.PIPE)
    assert client.stdout.read(1)
    client.kill()
    client.wait()
    client.stdout.close()
    assert eventually(lambda: dense.status().requests_running == 0, 20)
    assert engine(dense).steps - before < LONG["max_tokens"] / 2


def test_a_deadline_ends_the_work(dense):
    with pytest.raises(grpc.RpcError) as error:
        for _ in dense.inference().Generate(request(prompt(), **LONG), timeout=0.2):
            pass
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert eventually(lambda: dense.status().requests_running == 0, 20)


def test_a_client_that_does_not_read_does_not_stop_the_others(dense):
    slow = [dense.inference().Generate(request(prompt(), seed=i, **LONG)) for i in range(2)]
    for call in slow:
        next(call)  # and no more
    case = samples("tiny-dense", "plain")[0]
    got = dense.generate(case["prompt_token_ids"], max_tokens=64, temperature=0)
    assert got.ids == case["completion_token_ids"]
    for call in slow:
        call.cancel()
    assert eventually(lambda: dense.status().requests_running == 0, 20)


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_an_idle_engine_uses_less_than_one_percent_of_a_core_per_rank(dense, moe):
    """Both models at once: each process's own time is what counts."""
    for daemon in (dense, moe):
        assert eventually(lambda: daemon.status().requests_running == 0, 20)
    time.sleep(2)
    pids = [p for daemon in (dense, moe) for p in processes_with(str(daemon.dir))]
    names = {p: pathlib.Path(f"/proc/{p}/comm").read_text().strip() for p in pids}
    ranks = lambda: [r for daemon in (dense, moe) for r in daemon.ranks()]
    reported = {r.pid: r.cpu_ms for r in ranks()}
    own, started = {p: cpu_seconds(p) for p in pids}, time.monotonic()
    time.sleep(10)
    seconds = time.monotonic() - started
    for p in pids:
        share = (cpu_seconds(p) - own[p]) / seconds
        assert share < 0.01, f"{names[p]} ({p}) used {share:.1%} of a core while idle"
    for r in ranks():
        used_ms = r.cpu_ms - reported[r.pid]
        assert used_ms < 10 * seconds, f"rank {r.rank}: {used_ms} ms in {seconds:.1f} s"
        # What is reported is what the system says, up to one heartbeat's age.
        assert abs(r.cpu_ms / 1000 - cpu_seconds(r.pid)) < 1


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_its_requests_and_health_says_so(own_dense, rank):
    daemon = own_dense
    assert health(daemon) == SERVING and health(daemon, "") == SERVING
    channel = daemon.channel()
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="gemmad.v1.Inference"))
    assert next(watch).status == SERVING
    calls = [daemon.inference().Generate(request(prompt(), seed=i, **LONG)) for i in range(4)]
    for call in calls:
        first_delta(call)
    pids = {r.rank: r.pid for r in daemon.ranks()}
    os.kill(pids[rank], signal.SIGKILL)
    killed = time.monotonic()
    for call in calls:
        with pytest.raises(grpc.RpcError) as error:
            collect_rest(call)
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE and error.value.details()
    assert time.monotonic() - killed < 10, "requests outlived their engine"
    assert eventually(lambda: health(daemon) == NOT_SERVING, 10)
    assert next(watch).status == NOT_SERVING
    with pytest.raises(grpc.RpcError) as error:
        daemon.generate(prompt(), max_tokens=1, temperature=0, timeout=10)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    status = daemon.status()
    assert status.state == "failed" and status.models[0].engines[0].state == "failed"
    assert status.models[0].engines[0].failure
    # The rest of the engine goes too, and the daemon still stops when asked.
    assert eventually(lambda: not any(map(process_exists, pids.values())), 30)
    assert daemon.stop() == 0
    assert eventually(lambda: not processes_with(str(daemon.dir)), 15), processes_with(str(daemon.dir))


def collect_rest(call):
    for _ in call:
        pass


@pytest.mark.skipif(not os.environ.get("GEMMAD_TEST_LONG"), reason="takes a minute or two: run with --long")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_stopped_rank_is_noticed(own_dense, rank):
    """SIGSTOP: the process is there and says nothing. A leader's heartbeats are missed at once; for a follower the watchdog
    ends the layer that waits for it."""
    call = own_dense.inference().Generate(request(prompt(), **LONG))
    first_delta(call)
    pids = {r.rank: r.pid for r in own_dense.ranks()}
    os.kill(pids[rank], signal.SIGSTOP)
    stopped = time.monotonic()
    with pytest.raises(grpc.RpcError) as error:
        collect_rest(call)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE and time.monotonic() - stopped < 120
    assert eventually(lambda: not any(map(process_exists, pids.values())), 60)


def test_one_engine_of_two_dies_and_the_other_serves():
    with Daemon("tiny-dense", "tiny-moe") as daemon:
        dense, moe = (m.engines[0] for m in daemon.status().models)
        os.kill(dense.ranks[1].pid, signal.SIGKILL)
        assert eventually(lambda: daemon.status().models[0].engines[0].state == "failed", 20)
        case = samples("tiny-moe", "plain")[0]
        got = daemon.generate(case["prompt_token_ids"], model="tiny-moe", max_tokens=64, temperature=0)
        assert got.ids[:1] == case["completion_token_ids"][:1]
        with pytest.raises(grpc.RpcError) as error:
            daemon.generate(prompt(), model="tiny-dense", max_tokens=1)
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        assert process_exists(moe.ranks[0].pid)


def drain_by_rpc(daemon):
    rpc.ControlStub(daemon.channel()).Drain(pb.DrainRequest(keep_engines=False), timeout=10)


@pytest.mark.parametrize("ask", [lambda daemon: daemon.process.terminate(), drain_by_rpc], ids=["SIGTERM", "Control.Drain"])
def test_draining(own_dense, ask):
    """What runs is finished, new work is refused, and then everything ends."""
    daemon = own_dense
    want = 1500
    stub = daemon.inference()
    call = stub.Generate(request(prompt(), max_tokens=want, temperature=1.0, seed=3, ignore_eos=True))
    first_delta(call)
    got, done = [1], threading.Event()

    def read():
        with contextlib.suppress(grpc.RpcError):
            for event in call:
                if event.WhichOneof("event") == "delta":
                    got[0] += len(event.delta.token_ids)
                if event.WhichOneof("event") == "finished":
                    got.append(event.finished)
        done.set()
    reader = threading.Thread(target=read)
    reader.start()
    ask(daemon)
    refused = None
    while not done.is_set() and refused is None:
        try:
            # Over the connection that is there: new ones are not accepted any more.
            collect(stub.Generate(request(prompt(), max_tokens=1, temperature=0), timeout=10))
        except grpc.RpcError as error:
            refused = error
    reader.join(PATIENCE_SECONDS)
    assert len(got) == 2 and got[1].finish_reason == "length" and got[1].usage.completion_tokens == want
    assert got[0] >= want
    assert refused is not None and refused.code() == grpc.StatusCode.UNAVAILABLE, refused
    assert daemon.process.wait(30) == 0
    assert eventually(lambda: not processes_with(str(daemon.dir)), 15), processes_with(str(daemon.dir))
    assert not pathlib.Path(daemon.address.removeprefix("unix:")).exists()


def test_engines_cannot_be_kept(dense):
    with pytest.raises(grpc.RpcError) as error:
        rpc.ControlStub(dense.channel()).Drain(pb.DrainRequest(keep_engines=True), timeout=10)
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED and "keep_engines" in error.value.details()
    assert dense.status().state == "ready"


def test_a_second_sigterm_stops_at_once(own_dense):
    calls = [own_dense.inference().Generate(request(prompt(), seed=i, **LONG)) for i in range(4)]
    for call in calls:
        first_delta(call)
    own_dense.process.terminate()
    time.sleep(0.2)
    if own_dense.process.poll() is None:
        own_dense.process.terminate()
    assert own_dense.process.wait(10) == 0
    assert eventually(lambda: not processes_with(str(own_dense.dir)), 15)


def test_sigterm_while_starting_leaves_nothing():
    with Daemon("tiny-dense", wait=False) as daemon:
        time.sleep(0.3)
        assert daemon.stop() == 0
        assert eventually(lambda: not processes_with(str(daemon.dir)), 15), processes_with(str(daemon.dir))


def test_a_killed_gemmad_leaves_nothing_behind_for_ever():
    """An engine may wait for a next gemmad for its grace time, and no longer."""
    with Daemon("tiny-dense", options=["--engine-grace", "3"]) as daemon:
        pids = [r.pid for r in daemon.ranks()]
        daemon.process.kill()
        daemon.process.wait()
        assert eventually(lambda: not any(map(process_exists, pids)), 30), "ranks live on without a coordinator"
        assert eventually(lambda: not processes_with(str(daemon.dir)), 30), processes_with(str(daemon.dir))


def test_status_over_the_life_of_an_engine():
    with Daemon("tiny-dense", wait=False) as daemon:
        seen = []

        def ready():
            assert daemon.process.poll() is None, daemon.log()
            with contextlib.suppress(grpc.RpcError):
                state = daemon.status().state
                if seen[-1:] != [state]:
                    seen.append(state)
                if state == "starting":
                    assert health(daemon) == NOT_SERVING
                return state == "ready"
        assert eventually(ready), daemon.log()
        assert seen in (["starting", "ready"], ["ready"]) and health(daemon) == SERVING
        assert rpc.ControlStub(daemon.channel())
