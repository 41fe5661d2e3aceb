"""gemmactl with a real daemon. (What it says when things go wrong is in test_ctl_fake.py.)"""
import json

import pytest

from plain_bpe import PlainBpe
from support import MODELS, ctl, samples


def bundled(model):
    folder = MODELS / model
    question, answer = ((folder / name).read_text().strip() for name in ("question.txt", "answer.txt"))
    return folder / "document.txt", question, answer


def test_ask_the_bundled_question(either):
    model, daemon = either
    document, question, answer = bundled(model)
    r = daemon.ctl("ask", document, question, "--temperature", "0", "--verbose")
    assert r.returncode == 0, r.stderr
    assert r.stdout == answer + "\n" and "tokens/s" in r.stderr
    out = json.loads(daemon.ctl("ask", document, question, "--temperature", "0", "--json").stdout)
    assert out["answer"] == answer and out["finish_reason"] == "stop"
    assert out["usage"]["completion_tokens"] == len(out["token_ids"]) > 0
    assert set(out["timings"]) == {"queue_ms", "prefill_ms", "decode_ms", "first_token_ms"}


def test_ask_sends_the_samples_prompts(either, tmp_path):
    model, daemon = either
    for case in samples(model, "plain", "json"):
        document, _, question = case["messages"][0]["content"].rpartition("\n\n")
        path = tmp_path / "document.txt"
        path.write_text(document)
        r = daemon.ctl("ask", path, question, "--prompt-only", "--json")
        assert json.loads(r.stdout)["token_ids"] == case["prompt_token_ids"], case["id"]
        r = daemon.ctl("ask", path, question, "--temperature", "0", "--json")
        assert json.loads(r.stdout)["token_ids"] == case["completion_token_ids"], case["id"]


def test_generate(either):
    model, daemon = either
    case = samples(model, "plain")[0]
    ids = ",".join(map(str, case["prompt_token_ids"]))
    r = daemon.ctl("generate", "--token-ids", ids, "--temperature", "0", "--model", model)
    assert r.returncode == 0 and r.stdout == case["completion"] + "\n"
    r = daemon.ctl("generate", "--prompt-file", "-", "--temperature", "0", stdin=case["prompt"].removeprefix("<bos>"))
    assert r.stdout == case["completion"] + "\n"
    r = daemon.ctl("generate", "--token-ids", ids, "--temperature", "0", "--logprobs", "2", "--json")
    out = json.loads(r.stdout)
    assert out["token_ids"] == case["completion_token_ids"] and len(out["logprobs"]) == len(out["token_ids"])
    assert all(len(row["top"]) == 2 for row in out["logprobs"])


def test_tokenize_and_detokenize(either):
    model, daemon = either
    text = "Invoice 2072 für 日本 <turn|>\n"
    r = daemon.ctl("tokenize", text)
    assert r.stdout.strip() == ",".join(map(str, PlainBpe(MODELS / model / "tokenizer.json").encode(text)))
    assert daemon.ctl("detokenize", r.stdout).stdout == text + "\n"


def test_status_and_models(either):
    model, daemon = either
    assert daemon.ctl("status", "--wait", "5").returncode == 0
    out = json.loads(daemon.ctl("status", "--json").stdout)
    assert out["state"] == "ready" and [m["name"] for m in out["models"]] == [model]
    [engine] = out["models"][0]["engines"]
    assert [r["rank"] for r in engine["ranks"]] == [0, 1] and all(r["pid"] > 0 and r["host"] for r in engine["ranks"])
    assert isinstance(out["requests_running"], int) and isinstance(engine["restarts"], int)
    [listed] = json.loads(daemon.ctl("models", "--json").stdout)["models"]
    assert listed["name"] == model and listed["vocab_size"] == 1280


@pytest.mark.parametrize("options, sentence", [
    (["--model", "nope", "--token-ids", "5"], "NOT_FOUND"), (["--token-ids", "5,99999"], "99999"),
    (["--prompt", ""], "INVALID_ARGUMENT"), (["--token-ids", "5", "--max-tokens", "1000000"], "1000000"),
])
def test_the_daemons_refusals_are_printed(dense, options, sentence):
    r = dense.ctl("generate", *options)
    assert r.returncode == 1 and sentence in r.stderr and r.stdout == ""


def test_no_daemon_says_how_to_start_one(tmp_path):
    r = ctl("ask", MODELS / "tiny-dense" / "document.txt", "Why?", server=f"unix:{tmp_path}/s")
    assert r.returncode == 1 and "gemmad --model" in r.stderr
