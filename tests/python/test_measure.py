"""gemmactl bench, doctor and eval on the bundled models, and tests/bench/compare.sh. Figures are the machine's: what is checked is
that they are there and belong together."""
import json
import math
import os
import subprocess
import sys

import pytest

from support import BUILD, MODELS, ROOT, Daemon, ctl

BENCH_KEYS = {"prefill_tokens_per_s", "decode_tokens_per_s", "weight_bytes_per_token", "weight_gb_per_s",
              "read_bandwidth_gb_per_s", "bandwidth_share", "experts_hit", "step_ms", "collective_ms", "load_s", "operators",
              "imbalance"}
SERVE_KEYS = {"duration", "completed", "total_input_tokens", "total_output_tokens", "request_throughput", "output_throughput",
              "total_token_throughput"} | {f"{a}_{b}_ms" for a in ("mean", "median", "std", "p99")
              for b in ("ttft", "tpot", "itl", "e2el")} | {"failed", "max_concurrent_requests", "max_output_tokens_per_s", "num_prompts",
                                                           "request_rate", "max_concurrency"}
READ = ("--read", "64MiB")  # in place of 4 GiB: figures are not looked at
MINUTES = 300  # memory is read by gigabytes, and the machine may be busy


def figures(*args):
    r = ctl(*args, "--json", timeout=MINUTES)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


@pytest.mark.parametrize("model, what", [("tiny-dense", "prefill"), ("tiny-moe", "decode")])
def test_bench(model, what):
    out = figures("bench", what, "--model", MODELS / model, "--ranks", 2, "--threads", 1, "--prompt", 100, "--batch", 3,
                  "--depth", 200 if what == "decode" else 0, "--generate", 4, "--repeat", 2, *READ)
    assert BENCH_KEYS <= out.keys()
    other = {"prefill": "decode", "decode": "prefill"}[what]
    rate = out[f"{what}_tokens_per_s"]
    assert rate > 0 and out[f"{other}_tokens_per_s"] is None
    assert math.isclose(out["weight_gb_per_s"], out["weight_bytes_per_token"] * rate / 1e9, rel_tol=1e-6)
    assert math.isclose(out["bandwidth_share"], out["weight_gb_per_s"] / out["read_bandwidth_gb_per_s"], rel_tol=1e-6)
    # A step's parts do not come to more than the step; the median step and the mean parts may differ on a busy machine.
    assert {"qkv", "attention_out", "mlp_in", "mlp_out", "head", "collectives"} <= out["operators"].keys()
    assert out["imbalance"]["compute"] >= 1
    if model == "tiny-moe":
        assert 2 <= out["experts_hit"] <= 6 and "experts" in out["operators"] and out["imbalance"]["expert_rows"] >= 1
    else:
        assert out["experts_hit"] is None


def test_bench_says_it_to_people():
    r = ctl("bench", "decode", "--model", MODELS / "tiny-dense", "--threads", 1, "--generate", 2, "--repeat", 1, *READ,
            timeout=MINUTES)
    assert r.returncode == 0 and "tokens/s" in r.stdout and "read bandwidth" in r.stdout and "per step" in r.stdout


@pytest.mark.parametrize("args, code, sentence", [
    (["bench"], 2, "prefill, decode and serve"), (["bench", "sideways"], 2, "prefill, decode and serve"),
    (["bench", "decode"], 2, "--model PATH or --shape NAME"), (["bench", "decode", "--shape", "27b"], 2, "26b-a4b"),
    (["bench", "decode", "--model", "x", "--layers", "2"], 2, "--layers belongs to --shape"),
    (["bench", "prefill", "--model", "/nowhere"], 3, "/nowhere"), (["bench", "decode", "--shape", "e2b", "--layers", "36"], 2, "has 35"),
    (["bench", "decode", "--model", MODELS / "tiny-dense", "--ranks", "3"], 3, "3 ranks"),
    (["bench", "serve", "--model", "x", "--shape", "31b"], 2, "not both"),
    (["bench", "serve", "--request-rate", "nan"], 2, "is nan"),
    (["bench", "serve", "--metric-percentiles", "101"], 2, "0 to 100"),
    (["bench", "serve", "--random-range-ratio", "1.5"], 2, "0 to 1"), (["doctor", "--ranks", "0"], 2, "--ranks"),
    (["eval"], 2, "--text"), (["eval", "--text", "x", "--top", "64"], 2, "--against"),
])
def test_wrong_command_lines(args, code, sentence):
    r = ctl(*args)
    assert r.returncode == code and sentence in r.stderr and r.stdout == "", (r.returncode, r.stderr)


def test_bench_serve_with_a_daemon_of_its_own():
    out = figures("bench", "serve", "--model", MODELS / "tiny-dense", "--ranks", 2, "--threads", 1, "--batch", 3, "--prompt", 20,
                  "--generate", 5, "--repeat", 2)
    assert SERVE_KEYS <= out.keys()
    assert out["completed"] == 6 and out["total_input_tokens"] == 120 and out["total_output_tokens"] == 30
    assert math.isclose(out["total_token_throughput"], 150 / out["duration"], rel_tol=1e-6)
    assert 0 < out["median_ttft_ms"] <= out["p99_ttft_ms"]


def test_bench_serve_with_a_running_one(dense):
    r = dense.ctl("bench", "serve", "--batch", 2, "--prompt", 8, "--generate", 3, "--json", timeout=MINUTES)
    assert r.returncode == 0, r.stderr
    assert json.loads(r.stdout)["completed"] == 2
    out = json.loads(dense.ctl("bench", "serve", "--num-prompts", 12, "--max-concurrency", 2, "--request-rate", 200, "--prompt", 20,
                               "--generate", 4, "--random-range-ratio", 0.5, "--seed", 3, "--metric-percentiles", "50,99.9",
                               "--json").stdout)
    assert out["completed"] == 12 and out["request_rate"] == 200 and 1 <= out["max_concurrent_requests"] <= 2
    assert out["p50_ttft_ms"] == out["median_ttft_ms"] <= out["p99.9_ttft_ms"] and "p99_ttft_ms" not in out
    assert 120 <= out["total_input_tokens"] <= 360 and 24 <= out["total_output_tokens"] <= 72
    assert out["mean_ttft_ms"] <= out["mean_e2el_ms"]
    text = dense.ctl("bench", "serve", "--batch", 2, "--prompt", 8, "--generate", 3).stdout
    assert text.startswith("============ Serving Benchmark Result ============\n") and "P99 E2EL (ms):" in text
    r = dense.ctl("bench", "serve", "--batch", 2, "--prompt", 4000, "--generate", 3000)
    assert r.returncode == 1 and "INVALID_ARGUMENT" in r.stderr


def test_random_weights_are_served(tmp_path):
    (tmp_path / "config.json").write_text((MODELS / "tiny-moe" / "config.json").read_text())
    (tmp_path / "random-weights").touch()
    with Daemon(tmp_path, options=("--weights", "q8")) as daemon:
        assert len(daemon.generate([5, 6, 7], max_tokens=3, ignore_eos=True).ids) == 3


def test_doctor():
    out = figures("doctor", "--ranks", 2, "--threads", 1, "--model", MODELS / "tiny-moe", "--weights", "q8", *READ)
    assert out["read_bandwidth_gb_per_s"] > 0 and all(v > 0 for v in out["all_reduce_us"].values())
    assert set(out["gmac_per_s"]) == {"f32", "bf16", "q8", "q4"} and all(v > 0 for v in out["gmac_per_s"].values())
    [expected] = out["expected"]
    assert expected["decode_tokens_per_s"] > 0 and expected["prefill_tokens_per_s"] > 0 and expected["fits"]
    assert out["verdict"] in ("OK", "WARN") and "model" in {c["check"] for c in out["checks"]}


def test_writing_a_checkpoint_is_the_engines(tmp_path):
    """A real one has gigabytes; its refusals show who is asked."""
    r = ctl("bench", "--write", tmp_path / "model", "--model", "x")
    assert r.returncode == 2 and "--write belongs to --shape" in r.stderr
    r = ctl("bench", "--shape", "e2b", "--layers", "36", f"--write={tmp_path / 'model'}")
    assert r.returncode != 0 and "--layers is 36, shape e2b has 35" in r.stderr and not (tmp_path / "model").exists()


def launched(*args):
    """Figures of two ranks that mpirun starts; gemmactl's own ranks are forked."""
    env = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    r = subprocess.run(["mpirun", "--bind-to", "none", "--oversubscribe", "-n", "2", BUILD / "gemmad-shard", *args, "--comm", "mpi",
                        "--threads", "1", "--json"], capture_output=True, text=True, timeout=MINUTES, env=env)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


def test_ranks_that_mpirun_starts():
    out = launched("bench", "decode", "--model", MODELS / "tiny-moe", "--generate", "2", "--repeat", "1", *READ)
    assert BENCH_KEYS <= out.keys() and out["ranks"] == 2 and out["operators"]["collectives"] is not None
    found = launched("doctor", "--shape", "e2b", *READ)
    assert found["ranks"] == 2 and found["threads"] == 1 and all(v > 0 for v in found["all_reduce_us"].values())


def test_eval(dense):
    text = MODELS / "tiny-dense" / "document.txt"
    alone = json.loads(dense.ctl("eval", "--text", text, "--context", 200, "--stride", 100, "--json").stdout)
    ids = json.loads(dense.ctl("tokenize", "--file", text, "--add-bos", "--json").stdout)["token_ids"]
    assert alone["tokens"] == len(ids) - 1 and alone["windows"] > 1
    # The whole as one window, against the log-probabilities that Generate gives.
    whole = json.loads(dense.ctl("eval", "--text", text, "--json").stdout)
    told = dense.generate(ids, max_tokens=1, temperature=0, want_prompt_logprobs=True).prompt_logprobs
    assert math.isclose(whole["nll"], -sum(t.logprob for t in told) / len(told), rel_tol=1e-6)
    assert math.isclose(whole["perplexity"], math.exp(whole["nll"]), rel_tol=1e-9)
    assert whole["nll"] < alone["nll"] * 1.5
    same = json.loads(dense.ctl("eval", "--text", text, "--against", dense.address, "--json").stdout)
    assert same["kl_max"] == 0 and same["top1_agreement"] == 1 and same["against_perplexity"] == same["perplexity"]
    with Daemon("tiny-dense", options=("--weights", "q4")) as other:
        apart = json.loads(other.ctl("eval", "--text", text, "--against", dense.address, "--json").stdout)
    assert 0 < apart["kl_mean"] < 1 and 0.5 < apart["top1_agreement"] <= 1
    assert apart["against_perplexity"] == whole["perplexity"] != apart["perplexity"]


PEER = """import json, sys
streams = int(sys.argv[sys.argv.index("--streams") + 1]) if "--streams" in sys.argv else 1
print("words before the figures")
print(json.dumps({"prefill": {sys.argv[sys.argv.index("--prompt") + 1]: 50.0}, "decode": {"0": 10.0 * streams}}))
"""


def test_compare(tmp_path):
    peer = tmp_path / "peer.py"
    peer.write_text(PEER)
    r = subprocess.run([ROOT / "tests/bench/compare.sh", "--model", MODELS / "tiny-dense", "--peer", peer, "--python", sys.executable,
                        "--repeat", "1", "--prompt", "64", "--generate", "2", "--streams", "2", "--depth", "128", "--build", BUILD,
                        *READ, "--json"], capture_output=True, text=True, timeout=MINUTES, env=dict(os.environ))
    assert r.returncode == 0, r.stderr
    rows = json.loads(r.stdout)["rows"]
    assert set(rows) == {"prefill 64", "decode", "decode, 2 streams", "decode, depth 128"}
    assert rows["decode, 2 streams"]["other_tokens_per_s"] == 20 and rows["decode, depth 128"]["other_tokens_per_s"] is None
    assert all(math.isclose(row["ratio"], row["tokens_per_s"] / row["other_tokens_per_s"]) for row in rows.values() if row["ratio"])
    assert rows["decode, depth 128"]["to_decode"] > 0
