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


def test_chat_answers_the_samples(either):
    """What ask says in one turn, chat says too; thoughts apart from the answer; and a second question knows the first."""
    model, daemon = either
    for case in samples(model, "plain")[:3]:
        text = '"""' + case["messages"][0]["content"] + '"""\n'
        r = daemon.ctl("chat", "--temperature", "0", "--json", stdin=text)
        out = json.loads(r.stdout)
        assert out["token_ids"] == case["completion_token_ids"] and out["content"] == case["completion"], case["id"]
        assert out["usage"]["prompt_tokens"] == case["prompt_tokens"] and out["tool_calls"] == []
    case = samples(model, "think")[0]
    r = daemon.ctl("chat", "--temperature", "0", "--think", "on", "--json", stdin='"""' + case["messages"][0]["content"] + '"""\n')
    out = json.loads(r.stdout)
    assert out["token_ids"] == case["completion_token_ids"] and out["reasoning"] and out["content"] in case["completion"]
    r = daemon.ctl("chat", "--temperature", "0", "--max-tokens", "4", "--json", stdin="One.\nTwo.\n")
    first, second = map(json.loads, r.stdout.splitlines())
    assert second["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]


def quoted(text):
    return f'"""{text}"""\n'


def test_tools_of_a_chat(either, tmp_path):
    """The samples with calls: declared in a file, called by the model, their results typed; and the answer to those."""
    model, daemon = either
    cases = samples(model, "call", "result")
    assert cases
    for case in cases:
        (tmp_path / "tools.json").write_text(json.dumps(case["tools"]))
        typed = "".join(quoted(m["content"]) for m in case["messages"] if m["role"] != "assistant")
        r = daemon.ctl("chat", "--temperature", "0", "--json", "--tools", tmp_path / "tools.json", stdin=typed)
        answers = [json.loads(line) for line in r.stdout.splitlines()]
        assert answers[0]["finish_reason"] == "tool_calls" and not answers[0]["malformed"]
        assert isinstance(json.loads(answers[0]["tool_calls"][0]["arguments_json"]), dict)
        assert answers[-1]["token_ids"] == case["completion_token_ids"], case["id"]
        assert len(answers) == (1 if case["kind"] == "call" else 2)


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
