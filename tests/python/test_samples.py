"""Several samples of one prompt, and readers that do not keep up."""
import json
import threading

import grpc
import pytest

from support import collect, eventually, request, samples


def by_sample(events):
    """([token ids of each sample], [finished of each], the usages that came)."""
    ids, text, finished, usages, started = {}, {}, {}, [], 0
    for event in events:
        kind = event.WhichOneof("event")
        started += kind == "started"
        assert started == 1
        if kind == "delta":
            assert event.delta.index not in finished
            ids.setdefault(event.delta.index, []).extend(event.delta.token_ids)
            text[event.delta.index] = text.get(event.delta.index, "") + event.delta.text
        elif kind == "finished":
            assert event.finished.index not in finished and not usages
            finished[event.finished.index] = event.finished
            if event.finished.HasField("usage"):
                usages.append(event.finished.usage)
    order = range(len(finished))
    return [ids.get(i, []) for i in order], [finished[i] for i in order], usages


def draw(stub, prompt, n, **sampling):
    r = request(prompt, n=n, max_tokens=30, ignore_eos=True, **sampling)
    ids, finished, usages = by_sample(stub.Generate(r, timeout=60))
    assert [f.finish_reason for f in finished] == ["length"] * n and [len(i) for i in ids] == [30] * n
    assert len(usages) == 1 and usages[0].completion_tokens == 30 * n and usages[0].prompt_tokens == len(prompt)
    return ids


def test_samples_differ_and_come_again(either):
    _, daemon = either
    stub, prompt = daemon.inference(), samples(either[0], "plain")[0]["prompt_token_ids"]
    drawn = draw(stub, prompt, 5, temperature=2, top_p=1, top_k=0, seed=11)
    assert len(set(map(tuple, drawn))) == 5
    assert draw(stub, prompt, 5, temperature=2, top_p=1, top_k=0, seed=11) == drawn
    assert draw(stub, prompt, 2, temperature=2, top_p=1, top_k=0, seed=11) == drawn[:2]
    assert daemon.generate(prompt, max_tokens=30, ignore_eos=True, temperature=2, top_p=1, top_k=0, seed=11).ids == drawn[0]
    greedy = draw(stub, prompt, 3, temperature=0)
    assert greedy[0] == greedy[1] == greedy[2]


def test_prompt_logprobs_come_once(dense):
    r = request([2, 30, 40, 50], n=3, max_tokens=2, ignore_eos=True, want_prompt_logprobs=True, logprobs=0)
    events = list(dense.inference().Generate(r, timeout=60))
    assert sum(len(e.prompt_logprobs.logprobs) for e in events) == 3
    assert sum(len(e.delta.logprobs) for e in events) == 6


def test_more_samples_than_allowed(dense):
    for n in (0, 65):
        with pytest.raises(grpc.RpcError) as error:
            list(dense.inference().Generate(request([2, 5], n=n, max_tokens=1), timeout=60))
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT and "sampling.n" in error.value.details()


def idle(daemon):
    s = daemon.status()
    return s.requests_running == s.requests_waiting == 0


def test_a_cancel_ends_all_samples(dense):
    call = dense.inference().Generate(request([2, 5], n=6, max_tokens=3000, ignore_eos=True), timeout=60)
    next(call)
    status = dense.status()
    assert status.requests_running + status.requests_waiting == 6
    call.cancel()
    assert eventually(lambda: idle(dense))


def test_gemmactl_prints_samples(dense):
    args = ("generate", "--token-ids", "2,30,40", "--n", "3", "--max-tokens", "4", "--ignore-eos", "--temperature", "2", "--seed", "5")
    plain = dense.ctl(*args)
    assert plain.returncode == 0, plain.stderr
    assert [line for line in plain.stdout.splitlines() if line.startswith("--- sample")] == [
        f"--- sample {i} of 3, ended by length" for i in (1, 2, 3)]
    out = json.loads(dense.ctl(*args, "--json").stdout)
    assert [s["index"] for s in out["samples"]] == [0, 1, 2] and out["usage"]["completion_tokens"] == 12
    assert all(len(s["token_ids"]) == 4 and s["text"] in plain.stdout for s in out["samples"])
    assert (out["text"], out["token_ids"]) == (out["samples"][0]["text"], out["samples"][0]["token_ids"])


# 13 bytes for each of 1,024 log-probabilities. Some 8 MB lie in buffers of gRPC and sockets, 4 MiB in the daemon's: then it pauses.
LOUD = dict(max_tokens=1600, temperature=0, ignore_eos=True, logprobs=1024)


def paused(daemon):
    s = daemon.status()
    return s.requests_paused == 1 and s.models[0].engines[0].requests_paused == 1


def test_a_slow_reader_is_paused_loses_nothing_and_stalls_nobody(dense):
    call = dense.inference().Generate(request([2, 30, 40], **LOUD), timeout=240)
    events = [next(call)]
    assert eventually(lambda: paused(dense))
    other = dense.generate([2, 30, 40], max_tokens=1600, temperature=0, ignore_eos=True, timeout=120)
    assert paused(dense)
    got = collect(events + list(call))
    assert len(got.ids) == len(got.logprobs) == 1600 and got.ids == other.ids
    assert eventually(lambda: idle(dense)) and dense.status().requests_paused == 0


def test_slow_readers_that_leave(dense):
    def leave():
        call = dense.inference().Generate(request([2, 30], **LOUD), timeout=60)
        next(call)
        assert eventually(lambda: dense.status().requests_paused > 0)
        call.cancel()
    threads = [threading.Thread(target=leave) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert eventually(lambda: idle(dense)) and dense.status().requests_paused == 0
