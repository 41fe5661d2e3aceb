"""What a seed fixes, and that each sampling field does what docs/api.md says. (The chi-square test of the distribution is
a test of the shard, in C.)"""
import concurrent.futures

import pytest

import support
from support import samples


def prompt_of(model, i=0):
    return samples(model, "plain")[i]["prompt_token_ids"]


def sampled(daemon, prompt, seed, **more):
    got = daemon.generate(prompt, temperature=1.5, top_p=1.0, top_k=0, seed=seed, max_tokens=24, ignore_eos=True, logprobs=0,
                          **more)
    return got.ids, [p.logprob for p in got.logprobs]


def test_same_seed_same_tokens_alone_and_among_sixteen(either):
    model, daemon = either
    prompts = [prompt_of(model, i) for i in range(17)]
    alone = [sampled(daemon, p, 1000 + i) for i, p in enumerate(prompts)]
    again = [sampled(daemon, p, 1000 + i) for i, p in enumerate(prompts)]
    assert alone == again
    with concurrent.futures.ThreadPoolExecutor(17) as pool:
        together = list(pool.map(lambda i: sampled(daemon, prompts[i], 1000 + i), range(17)))
    # Log-probabilities too, to the last bit: company must not change arithmetic.
    assert together == alone


def test_other_seeds_give_other_tokens(either):
    model, daemon = either
    answers = {tuple(sampled(daemon, prompt_of(model), seed)[0]) for seed in range(8)}
    assert len(answers) == 8


def test_a_drawn_seed_is_told_and_repeats_the_answer(either):
    model, daemon = either
    ask = {"temperature": 1.5, "top_p": 1.0, "top_k": 0, "max_tokens": 16, "ignore_eos": True}
    first = daemon.generate(prompt_of(model), **ask)
    assert first.started.HasField("seed")
    assert daemon.generate(prompt_of(model), **ask).started.seed != first.started.seed
    assert daemon.generate(prompt_of(model), seed=first.started.seed, **ask).ids == first.ids


@pytest.mark.parametrize("greedy", [{"temperature": 0}, {"temperature": 2, "top_k": 1}, {"temperature": 1, "top_p": 1e-6},
                                    {"temperature": 1, "min_p": 1}], ids=str)
def test_ways_to_be_greedy(either, greedy):
    model, daemon = either
    case = samples(model, "plain")[0]
    got = daemon.generate(case["prompt_token_ids"], max_tokens=64, seed=5, **greedy)
    assert got.ids == case["completion_token_ids"]


def test_logit_bias_forces_and_forbids_but_logprobs_are_the_models(either):
    model, daemon = either
    case = samples(model, "plain")[0]
    first = case["completion_token_ids"][0]
    plain = daemon.generate(case["prompt_token_ids"], max_tokens=1, temperature=0, logprobs=2).logprobs[0]
    got = daemon.generate(case["prompt_token_ids"], max_tokens=4, temperature=0, logit_bias={700: 100.0})
    assert got.ids == [700] * 4
    got = daemon.generate(case["prompt_token_ids"], max_tokens=1, temperature=0, logprobs=2, logit_bias={first: -100.0})
    assert got.ids[0] == plain.top[1].token_id != first
    assert [t.logprob for t in got.logprobs[0].top] == [t.logprob for t in plain.top]


@pytest.fixture(scope="module")
def random_model():
    """A golden model: its weights are random, so the best two tokens are close and a penalty changes the choice."""
    daemon = support.Daemon(support.GOLDEN / "dense", ranks=2)
    yield daemon
    daemon.close()


@pytest.mark.parametrize("presence, frequency", [(2.0, 0.0), (0.0, 2.0), (1.0, 0.5), (-1.0, 0.0)])
def test_presence_and_frequency_penalties(random_model, presence, frequency):
    """The daemon's choices, made again from the log-probabilities it reports, which are those before any penalty."""
    prompt = [2, 40, 41, 42]
    got = random_model.generate(prompt, temperature=0, max_tokens=48, ignore_eos=True, logprobs=1024,
                                presence_penalty=presence, frequency_penalty=frequency)
    for i, row in enumerate(got.logprobs):
        said = got.ids[:i]
        score = sorted(((t.logprob - presence * (t.token_id in said) - frequency * said.count(t.token_id), t.token_id)
                        for t in row.top), reverse=True)
        if score[0][0] - score[1][0] > 1e-3:
            assert got.ids[i] == score[0][1]
    plain = random_model.generate(prompt, temperature=0, max_tokens=48, ignore_eos=True)
    assert got.ids != plain.ids, "penalties that change nothing prove nothing"


def test_repetition_penalty_divides_what_was_said(either):
    model, daemon = either
    prompt = prompt_of(model)
    assert 700 not in prompt and 701 not in prompt
    # Logits lie within the softcap of 30, so biased ones are 70 to 130 and at most 13 once divided by 10.
    push = {"temperature": 0, "max_tokens": 3, "ignore_eos": True, "logit_bias": {700: 100.0, 701: 70.0}}
    assert daemon.generate(prompt, **push).ids == [700] * 3
    assert daemon.generate(prompt, **push, repetition_penalty=1.0).ids == [700] * 3
    got = daemon.generate(prompt, **push, repetition_penalty=10.0).ids
    assert set(got[:2]) == {700, 701}
