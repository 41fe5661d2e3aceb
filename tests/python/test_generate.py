"""The bundled models' held-out conversations through the daemon on two ranks, by a client made with stock grpcio."""
import concurrent.futures

import grpc
import pytest

from plain_bpe import PlainBpe
from support import MODELS, collect, pb, request, rpc, samples

# Below this margin two right implementations may choose differently.
NEAR_TIE = 1e-3
CASES = [(m, c) for m in ("tiny-dense", "tiny-moe") for c in samples(m) if c["min_margin"] >= NEAR_TIE]


@pytest.fixture(scope="session")
def daemons(dense, moe):
    return {"tiny-dense": dense, "tiny-moe": moe}


@pytest.fixture(scope="session")
def bpes():
    return {m: PlainBpe(MODELS / m / "tokenizer.json") for m in ("tiny-dense", "tiny-moe")}


def limit(case):
    """With room left the model must stop by itself."""
    return len(case["completion_token_ids"]) + (8 if case["stop_token"] else 0)


def check(case, got, bpe):
    want = case["completion_token_ids"]
    assert got.ids == want
    shown = want[:-1] if case["stop_token"] else want
    assert got.text == bpe.decode(shown)
    assert got.finished.finish_reason == ("stop" if case["stop_token"] else "length")
    usage, timings = got.finished.usage, got.finished.timings
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(case["prompt_token_ids"]), len(want))
    assert usage.cached_tokens <= usage.prompt_tokens and got.started.prompt_tokens == usage.prompt_tokens
    assert got.started.request_id and got.finished.HasField("timings")
    assert 0 < timings.first_token_ms and 0 <= timings.queue_ms and 0 < timings.prefill_ms and 0 <= timings.decode_ms


@pytest.mark.parametrize("model, case", CASES, ids=[f"{m}-{c['id']}" for m, c in CASES])
def test_samples(daemons, bpes, model, case):
    check(case, daemons[model].generate(case["prompt_token_ids"], max_tokens=limit(case), temperature=0), bpes[model])


@pytest.mark.parametrize("model", ["tiny-dense", "tiny-moe"])
def test_samples_all_at_once(daemons, bpes, model):
    cases = [c for m, c in CASES if m == model]
    with concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:
        def ask(case):
            return daemons[model].generate(case["prompt_token_ids"], max_tokens=limit(case), temperature=0)
        for case, got in zip(cases, pool.map(ask, cases)):
            check(case, got, bpes[model])


@pytest.mark.parametrize("model", ["tiny-dense", "tiny-moe"])
def test_text_prompts_are_the_same_prompts(daemons, bpes, model):
    for case in samples(model)[:12]:
        r = request(case["prompt"], max_tokens=limit(case), temperature=0)
        r.add_bos = False  # the rendered prompt begins with <bos>
        check(case, collect(daemons[model].inference().Generate(r, timeout=60)), bpes[model])
        r.text, r.add_bos = case["prompt"].removeprefix("<bos>"), True
        check(case, collect(daemons[model].inference().Generate(r, timeout=60)), bpes[model])


def longest(model):
    return max((c for m, c in CASES if m == model and c["kind"] == "plain"), key=lambda c: len(c["completion_token_ids"]))


def test_max_tokens_ends_with_length(either):
    model, daemon = either
    case = longest(model)
    got = daemon.generate(case["prompt_token_ids"], max_tokens=2, temperature=0)
    assert got.ids == case["completion_token_ids"][:2] and got.finished.finish_reason == "length"
    assert got.finished.usage.completion_tokens == 2


def test_stop_strings_are_cut_from_the_text_and_counted(either):
    model, daemon = either
    case = longest(model)
    text = case["completion"]
    # Across a token's border, so that text which may be the beginning of a stop string has to be held back.
    stop = text[2:5]
    got = daemon.generate(case["prompt_token_ids"], max_tokens=64, temperature=0, stop=[stop, "no such text"])
    assert got.text == text[:text.index(stop)] and got.finished.finish_reason == "stop"
    n = len(got.ids)
    assert got.ids == case["completion_token_ids"][:n] and got.finished.usage.completion_tokens == n > 0
    # One that never comes changes nothing, however much of it did come.
    got = daemon.generate(case["prompt_token_ids"], max_tokens=64, temperature=0, stop=[text + "!"])
    assert got.text == text and got.ids == case["completion_token_ids"]


def test_stop_token_ids_end_like_end_tokens(either):
    model, daemon = either
    case = longest(model)
    last = case["completion_token_ids"][2]
    n = case["completion_token_ids"].index(last) + 1
    got = daemon.generate(case["prompt_token_ids"], max_tokens=64, temperature=0, stop_token_ids=[last])
    assert got.ids == case["completion_token_ids"][:n] and got.finished.finish_reason == "stop"


def test_ignore_eos_goes_on(either):
    model, daemon = either
    case = samples(model, "plain")[0]
    want = case["completion_token_ids"]
    got = daemon.generate(case["prompt_token_ids"], max_tokens=len(want) + 5, temperature=0, ignore_eos=True)
    assert got.ids[:len(want)] == want and len(got.ids) == len(want) + 5 and got.finished.finish_reason == "length"


def test_logprobs(either):
    model, daemon = either
    case = samples(model, "plain")[1]
    prompt = case["prompt_token_ids"]
    got = daemon.generate(prompt, max_tokens=6, temperature=0, logprobs=5, want_prompt_logprobs=True, prompt_logprobs=3)
    assert [p.token_id for p in got.logprobs] == got.ids
    assert [p.token_id for p in got.prompt_logprobs] == prompt[1:]
    for rows, n in ((got.logprobs, 5), (got.prompt_logprobs, 3)):
        for row in rows:
            tops = [t.logprob for t in row.top]
            assert len(tops) == n and tops == sorted(tops, reverse=True) and all(x <= 0 for x in [*tops, row.logprob])
            assert row.logprob == next((t.logprob for t in row.top if t.token_id == row.token_id), row.logprob)
    # Greedy: what was chosen is the best.
    assert all(row.top[0].token_id == row.token_id for row in got.logprobs)
    none = daemon.generate(prompt, max_tokens=6, temperature=0)
    assert none.ids == got.ids and none.logprobs == [] and none.prompt_logprobs == []
    only = daemon.generate(prompt, max_tokens=6, temperature=0, logprobs=0)
    assert [p.logprob for p in only.logprobs] == [p.logprob for p in got.logprobs]
    assert all(len(p.top) == 0 for p in only.logprobs)


def test_tokenize_and_detokenize(either, bpes):
    model, daemon = either
    stub, bpe = daemon.inference(), bpes[model]
    for text in ("", "Invoice 2072 was issued", " two  spaces\n\n\tand tabs ", "häßlich 日本 😀 \0 <turn|>", "a" * 5000):
        for special in (False, True):
            ids = list(stub.Tokenize(pb.TokenizeRequest(text=text, parse_special=special)).token_ids)
            assert ids == bpe.encode(text, special)
            assert stub.Detokenize(pb.DetokenizeRequest(token_ids=ids)).text == text
    assert list(stub.Tokenize(pb.TokenizeRequest(text="x", add_bos=True)).token_ids) == [bpe.bos, *bpe.encode("x")]
    ids = bpe.encode("a<turn|>b", True)
    assert stub.Detokenize(pb.DetokenizeRequest(token_ids=ids, skip_special=True)).text == "ab"


def test_models_are_listed_and_chosen_by_name(either):
    model, daemon = either
    listed = daemon.inference().ListModels(pb.ListModelsRequest()).models
    assert [m.name for m in listed] == [model]
    assert listed[0].vocab_size == 1280 and listed[0].has_tokenizer and listed[0].context_tokens > 0
    assert sorted(listed[0].end_token_ids) == [1, 9, 16] and listed[0].checkpoint_hash
    case = samples(model, "plain")[0]
    for name in ("", model):
        got = daemon.generate(case["prompt_token_ids"], model=name, max_tokens=3, temperature=0)
        assert got.ids == case["completion_token_ids"][:3]
    with pytest.raises(grpc.RpcError) as error:
        daemon.generate([2, 5], model="nope", max_tokens=1)
    assert error.value.code() == grpc.StatusCode.NOT_FOUND and model in error.value.details()


def test_what_is_not_built_is_refused_by_name(either):
    _, daemon = either
    stub = daemon.inference()

    def refused(call, name):
        with pytest.raises(grpc.RpcError) as error:
            list(call) if hasattr(call, "__iter__") else call()
        assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED and name in error.value.details(), error.value.details()
    r = request([2, 5], max_tokens=1)
    r.resume_from = 3
    refused(stub.Generate(r), "resume_from")
    jobs = rpc.JobsStub(daemon.channel())
    refused(lambda: jobs.Submit(iter([pb.SubmitJobRequest()])), "Submit")
    refused(lambda: jobs.Get(pb.GetJobRequest()), "Get")
    refused(jobs.Results(pb.JobResultsRequest()), "Results")


def test_status_names_every_rank(either):
    model, daemon = either
    status = daemon.status()
    assert status.state == "ready" and [m.name for m in status.models] == [model]
    [engine] = status.models[0].engines
    assert engine.state == "ready" and engine.restarts == 0 and [r.rank for r in engine.ranks] == [0, 1]
    assert len({r.pid for r in engine.ranks}) == 2 and all(r.host and r.weight_bytes_read > 0 for r in engine.ranks)
