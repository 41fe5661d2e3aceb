"""What gemmad --dry-run says of sizes and budgets, without weights at hand."""
import json
import subprocess

import pytest

from support import BUILD, MODELS, Daemon, pb

GIB = 1 << 30


def plan(*options):
    r = subprocess.run([BUILD / "gemmad", "--dry-run", "--json", *map(str, options)], capture_output=True, text=True, timeout=60)
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


def one_request(p):
    """Bytes of all ranks that one request of the whole context takes from the pool."""
    return sum(p["kv_request_slabs"] * r["kv_slab_bytes"] for r in p["per_rank"])


@pytest.mark.parametrize("shape, ranks, most, full, sliding", [
    ("31b", 1, 11.3, 10.0, 1.23), ("31b", 2, 11.3, 10.0, 1.23), ("31b", 4, 11.3, 10.0, 1.23),
    ("26b-a4b", 1, 2.85, 2.5, 0.31), ("26b-a4b", 2, 2.85, 2.5, 0.31)])
def test_kv_of_the_whole_context(shape, ranks, most, full, sliding):
    p = plan("--shape", shape, "--ranks", ranks)
    assert p["context_tokens"] == p["context_model"] == 262144 and not p["context_cut"]
    assert p["kv_bytes_full"] == full * GIB and p["kv_bytes_sliding"] <= sliding * GIB
    assert p["kv_bytes_full"] + p["kv_bytes_sliding"] == p["kv_bytes_total"] <= one_request(p) <= most * GIB
    assert p["kv_requests"] == 16 and p["kv_tokens"] >= 16 * 262144
    eighth = plan("--shape", shape, "--ranks", ranks, "--kv", "q8")  # 256 + 4 and 512 + 4 bytes a row
    assert eighth["kv_bytes_full"] * 512 * 2 == p["kv_bytes_full"] * 516
    assert eighth["kv_bytes_sliding"] * 256 * 2 == p["kv_bytes_sliding"] * 260
    assert eighth["kv_requests"] == 16 and (p["kv_type"], eighth["kv_type"]) == ("bf16", "q8")


def test_memory_is_the_bound():
    loose = plan("--shape", "31b", "--ranks", 2)
    rank = loose["per_rank"][0]
    fixed = rank["weight_bytes"] + rank["activation_bytes"]
    for slabs in (30, 100, loose["kv_request_slabs"] - 1):
        p = plan("--shape", "31b", "--ranks", 2, "--memory", fixed + slabs * rank["kv_slab_bytes"])
        assert p["per_rank"][1]["kv_slabs"] == slabs and p["context_cut"] and p["kv_requests"] == 1
        assert p["kv_tokens"] == p["context_tokens"] < 262144
        assert p["kv_request_slabs"] <= slabs  # and a page more has no room
        more = subprocess.run([BUILD / "gemmad", "--dry-run", "--shape", "31b", "--ranks", "2", "--memory",
                               str(fixed + slabs * rank["kv_slab_bytes"]), "--context", str(p["context_tokens"] + 1)],
                              capture_output=True, text=True, timeout=60)
        assert more.returncode != 0 and f"one request of {p['context_tokens'] + 1} tokens needs {slabs + 1} KV slabs" in more.stderr
    # Room for one whole request and a part of another.
    p = plan("--shape", "31b", "--ranks", 2, "--memory", fixed + (loose["kv_request_slabs"] + 40) * rank["kv_slab_bytes"])
    assert not p["context_cut"] and p["kv_requests"] == 1 and 262144 < p["kv_tokens"] < 2 * 262144


def test_a_cut_is_said():
    text = subprocess.run([BUILD / "gemmad", "--dry-run", "--model", MODELS / "tiny-dense", "--memory", "12MiB"],
                          capture_output=True, text=True, timeout=60).stdout
    assert "tokens, cut from 4096: memory holds no more" in text and "1 requests of the whole context" in text


def test_the_start_says_what_was_planned():
    with Daemon(MODELS / "tiny-dense", ranks=1, options=["--memory", "12MiB", "--kv", "q8"]) as daemon:
        log = daemon.log()
        facts = plan("--model", MODELS / "tiny-dense", "--memory", "12MiB", "--kv", "q8")
        assert "KV in q8" in log and f"{facts['kv_tokens']} tokens, 1 requests of the whole context at" in log
        assert f"the context is cut from 4096 to {facts['context_tokens']} tokens" in log
        assert daemon.inference().ListModels(pb.ListModelsRequest()).models[0].context_tokens == facts["context_tokens"]
