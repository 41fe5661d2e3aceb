"""Several engines of one model, and queues with an end."""
import concurrent.futures
import json
import os
import signal

import grpc
import pytest

from conftest import EXACT
from support import Daemon, collect, eventually, pb, request, rpc, run_gemmad, samples


@pytest.fixture(scope="module")
def pair():
    with Daemon("tiny-dense", ranks=1, options=[*EXACT, "--replicas", "2"]) as daemon:
        assert eventually(lambda: [e.state for e in engines(daemon)] == ["ready", "ready"])
        yield daemon


def engines(daemon):
    return daemon.status().models[0].engines


def prompt_tokens(daemon, want):
    """How many prompt tokens each engine has read, once it is `want` together: heartbeats come every second."""
    def counted():
        now = [e.prompt_tokens for e in engines(daemon)]
        return now if sum(now) >= want else None
    return eventually(counted) or [e.prompt_tokens for e in engines(daemon)]


def test_both_serve_and_prompts_come_back_to_theirs(pair):
    assert [e.id for e in engines(pair)] == ["tiny-dense/0", "tiny-dense/1"]
    cases = [c for c in samples("tiny-dense") if c["min_margin"] > 1e-3]
    one, two = cases[0], next(c for c in cases if c["prompt_token_ids"][:64] != cases[0]["prompt_token_ids"][:64])
    read = [0, 0]
    home = {}
    for _ in range(3):
        for case in (one, two):
            got = pair.generate(case["prompt_token_ids"], max_tokens=len(case["completion_token_ids"]), temperature=0)
            assert got.ids == case["completion_token_ids"]
            now = prompt_tokens(pair, sum(read) + len(case["prompt_token_ids"]) - got.finished.usage.cached_tokens)
            grown = [i for i in (0, 1) if now[i] > read[i]]
            read = now
            assert len(grown) == 1 and home.setdefault(case["id"], grown) == grown
    assert home[one["id"]] != home[two["id"]]


def test_many_at_once_are_right(pair):
    cases = [c for c in samples("tiny-dense") if c["min_margin"] > 1e-3]
    with concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:
        def ask(case):
            r = request(case["prompt_token_ids"], max_tokens=len(case["completion_token_ids"]), temperature=0)
            return collect(pair.inference().Generate(r, timeout=60)).ids
        assert list(pool.map(ask, cases)) == [c["completion_token_ids"] for c in cases]


def test_one_engine_is_enough():
    with Daemon("tiny-dense", ranks=1, options=["--replicas", "2"]) as daemon:
        assert eventually(lambda: [e.state for e in engines(daemon)] == ["ready", "ready"])
        os.kill(engines(daemon)[0].ranks[0].pid, signal.SIGKILL)
        assert eventually(lambda: engines(daemon)[0].state == "failed")
        assert daemon.status().state == "ready" and engines(daemon)[0].failure
        for i in range(4):
            assert len(daemon.generate([2, 5 + i], max_tokens=3, ignore_eos=True).ids) == 3
        os.kill(engines(daemon)[1].ranks[0].pid, signal.SIGKILL)
        assert eventually(lambda: daemon.status().state == "failed")
        with pytest.raises(grpc.RpcError) as error:
            daemon.generate([2, 5], max_tokens=3)
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE


def test_the_plan_says_how_many():
    r = run_gemmad("--dry-run", "--shape", "e2b", "--replicas", "3", "--json")
    assert r.returncode == 0 and json.loads(r.stdout)["replicas"] == 3
    assert "3 engines" in run_gemmad("--dry-run", "--shape", "e2b", "--replicas", "3").stdout


def test_a_full_queue_says_when_to_come_again():
    with Daemon("tiny-dense", ranks=1, options=["--queue", "40", "--queue-per-client", "4"]) as daemon:
        stub, leader = daemon.inference(), daemon.ranks()[0].pid
        os.kill(leader, signal.SIGSTOP)  # nothing begins
        try:
            calls = [stub.Generate(request([2, 5], max_tokens=3, ignore_eos=True), timeout=60) for _ in range(10)]
            assert eventually(lambda: sum(call.done() for call in calls) == 6)
            refused = [call for call in calls if call.done()]
            for error in refused:
                assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "at most 4" in error.details(), error.details()
                hints = {k: v for k, v in error.trailing_metadata()}
                assert 0 < int(hints["retry-after-ms"]) <= 60000 and hints["grpc-retry-pushback-ms"] == hints["retry-after-ms"]
        finally:
            os.kill(leader, signal.SIGCONT)
        assert all(len(collect(call).ids) == 3 for call in calls if call not in refused)
        assert len(daemon.generate([2, 5], max_tokens=3, ignore_eos=True).ids) == 3


def test_watching_the_status(pair):
    control = rpc.ControlStub(pair.channel())
    watch = control.WatchStatus(pb.GetStatusRequest(interval_ms=100), timeout=60)
    seen = [next(watch) for _ in range(3)]
    assert all(s.state == "ready" and len(s.models[0].engines) == 2 for s in seen)
    watch.cancel()
    with pytest.raises(grpc.RpcError) as error:
        next(control.WatchStatus(pb.GetStatusRequest(interval_ms=1), timeout=60))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_top_has_a_row_for_each_engine(pair):
    pair.generate([2, 5, 6, 7], max_tokens=40, ignore_eos=True)
    out = json.loads(pair.ctl("top", "--once", "--json").stdout)
    assert [e["id"] for e in out["engines"]] == ["tiny-dense/0", "tiny-dense/1"]
    assert all(e["state"] == "ready" and e["generated_tokens_per_s"] >= 0 and 0 <= e["kv_usage"] <= 1 for e in out["engines"])
    assert len(pair.ctl("top").stdout.splitlines()) == 5
