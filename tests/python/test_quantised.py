"""The trained models with quantised weights, and with keys and values of 8 bits: they find the same answers, on one rank
and on two, and the price in log-probability is printed."""
import functools

import pytest

from support import MODELS, Daemon, collect, request, samples

SAME_ANSWERS_MIN = 0.95


@functools.cache
def answers(model, ranks, *options):
    """Text of every sample's answer, and the log-probability of its first token."""
    with Daemon(MODELS / model, ranks=ranks, options=options) as daemon:
        stub = daemon.inference()
        got = [collect(stub.Generate(request(c["prompt_token_ids"], temperature=0, max_tokens=64, logprobs=0), timeout=120))
               for c in samples(model)]
    return [g.text for g in got], [g.logprobs[0].logprob for g in got]


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("options", [("--weights", "q8"), ("--weights", "q4"), ("--kv", "q8"),
                                     ("--weights", "q4", "--kv", "q8")], ids=" ".join)
@pytest.mark.parametrize("model", ["tiny-dense", "tiny-moe"])
def test_answers_are_the_same(model, options, ranks):
    want = [c["completion"] for c in samples(model)]
    texts, logprobs = answers(model, ranks, *options)
    _, exact = answers(model, ranks, "--weights", "f32", "--kv", "f32")
    same = sum(a == b for a, b in zip(texts, want)) / len(want)
    difference = max(abs(a - b) for a, b in zip(logprobs, exact))
    print(f"\n{model}, {' '.join(options)}, {ranks} ranks: {same:.1%} the same answers, "
          f"log-probabilities within {difference:.4f}")
    assert same >= SAME_ANSWERS_MIN
    assert logprobs != exact  # something was really rounded
