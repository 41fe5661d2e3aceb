"""GGUF files through the whole daemon: the bundled ones, which llama.cpp's tools made, answer as the folders they were made
from; and an E model, which no bundled file is, against its golden values."""
import subprocess

import numpy
import pytest

import gguf_writer
from support import BUILD, GOLDEN, MODELS, Daemon, collect, pb, request, samples
from test_goldens import DIFFERENCE_MAX, log_softmax, read_tensors, rows

FILES = {"tiny-dense-q4_0": "tiny-dense", "tiny-moe-q4_k_m": "tiny-moe"}
TOP = 64


@pytest.fixture(scope="module", params=FILES)
def exact(request):
    with Daemon(MODELS / "gguf" / f"{request.param}.gguf", options=["--weights", "f32", "--kv", "f32"]) as daemon:
        yield request.param, daemon


def test_float32_is_what_the_published_code_computes(exact):
    name, daemon = exact
    x = read_tensors(MODELS / "gguf" / f"{name}.expected.safetensors")
    cases = [i for i in range(9) if f"case{i}.input_ids" in x]
    assert cases
    for i in cases:
        got = collect(daemon.inference().Generate(request(
            x[f"case{i}.input_ids"].tolist(), max_tokens=24, temperature=0, logprobs=TOP, want_prompt_logprobs=True,
            prompt_logprobs=TOP), timeout=120))
        all_rows = [*got.prompt_logprobs, *got.logprobs[:1]]
        for position, want in zip(x[f"case{i}.positions"], log_softmax(x[f"case{i}.logits"])):
            assert len(all_rows[position].top) == TOP
            assert max(abs(t.logprob - want[t.token_id]) for t in all_rows[position].top) < DIFFERENCE_MAX
        assert got.ids == x[f"case{i}.greedy"].tolist()  # its own end token ends it


def test_name_text_and_special_tokens(exact):
    name, daemon = exact
    [model] = daemon.status().models
    assert model.name == name
    stub = daemon.inference()
    for case in samples(FILES[name])[:5]:
        got = stub.Tokenize(pb.TokenizeRequest(text=case["prompt"], parse_special=True), timeout=30)
        assert list(got.token_ids) == case["prompt_token_ids"]


@pytest.mark.parametrize("name", FILES)
def test_answers_as_stored(name):
    """Without options, on one rank: quantised weights still find the records' answers."""
    with Daemon(MODELS / "gguf" / f"{name}.gguf", ranks=1) as daemon:
        cases = [c for c in samples(FILES[name], "plain") if c["correct"]][:6]
        assert cases
        for case in cases:
            got = collect(daemon.inference().Generate(request(case["prompt_token_ids"], temperature=0, max_tokens=64), timeout=120))
            assert got.finished.finish_reason == "stop" and got.text == case["completion"], case["id"]


def test_e_model_against_its_golden_values(tmp_path):
    path = tmp_path / "e2b.gguf"
    gguf_writer.write(path, GOLDEN / "e2b")
    x = read_tensors(GOLDEN / "e2b" / "expected.safetensors")
    with Daemon(path, options=["--weights", "f32", "--kv", "f32", "--context", "512"]) as daemon:
        ids, want = x["case0.input_ids"], log_softmax(x["case0.logits"])
        size = want.shape[1]
        got = collect(daemon.inference().Generate(request(
            ids.tolist(), max_tokens=32, temperature=0, ignore_eos=True, logprobs=size, want_prompt_logprobs=True,
            prompt_logprobs=size), timeout=120))
        assert numpy.abs(rows([*got.prompt_logprobs, got.logprobs[0]], size) - want).max() < DIFFERENCE_MAX
        assert got.ids == x["case0.greedy"].tolist()


@pytest.mark.parametrize("keep", [3, 24, 5000, 60000, 200000])
def test_a_cut_file_is_refused(keep, tmp_path):
    path = tmp_path / "cut.gguf"
    path.write_bytes((MODELS / "gguf" / "tiny-dense-q4_0.gguf").read_bytes()[:keep])
    got = subprocess.run([BUILD / "gemmad", "--dry-run", "--model", path], capture_output=True, text=True, timeout=60)
    assert got.returncode == 3 and "cut.gguf" in got.stderr, got.stderr
