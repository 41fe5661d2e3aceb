"""One golden model of each kind over MPI, through the whole daemon: log-probabilities of every prompt position and the
greedy continuation. The full matrix of models and rank counts runs in C (tests/unit/model/test_golden.c)."""
import json
import struct

import numpy as np
import pytest

import support


def read_safetensors(path):
    data = path.read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + n])
    types = {"F32": np.float32, "I32": np.int32}
    return {k: np.frombuffer(data[8 + n:][v["data_offsets"][0]:v["data_offsets"][1]], types[v["dtype"]]).reshape(v["shape"])
            for k, v in header.items() if k != "__metadata__" and v["dtype"] in types}


@pytest.mark.parametrize("model, ranks", [("dense", 2), ("dense", 4), ("moe", 2), ("moe", 4), ("e2b", 2)])
def test_golden_model_over_mpi(model, ranks, monkeypatch):
    if ranks > 2:  # four ranks that poll on two cores would crawl
        monkeypatch.setenv("OMPI_MCA_mpi_yield_when_idle", "1")
    golden = read_safetensors(support.GOLDEN / model / "expected.safetensors")
    with support.Daemon(support.GOLDEN / model, ranks=ranks, options=["--weights", "f32", "--kv", "f32"]) as daemon:
        cases = 0
        while f"case{cases}.input_ids" in golden:
            ids, logits = golden[f"case{cases}.input_ids"], golden[f"case{cases}.logits"].astype(np.float64)
            greedy = golden[f"case{cases}.greedy"].tolist()
            got = daemon.generate(ids.tolist(), max_tokens=len(greedy), temperature=0, ignore_eos=True, logprobs=1024,
                                  want_prompt_logprobs=True, prompt_logprobs=1024)
            want = logits - logits.max(-1, keepdims=True)
            want -= np.log(np.exp(want).sum(-1, keepdims=True))
            rows = [*got.prompt_logprobs, got.logprobs[0]]
            assert len(rows) == len(ids) and all(len(r.top) == logits.shape[1] for r in rows)
            have = np.full(want.shape, np.nan)
            for row, said in zip(have, rows):
                for t in said.top:
                    row[t.token_id] = t.logprob
            difference = np.abs(have - want)
            assert difference.max() < 1e-3 and difference.mean() < 1e-4, f"case {cases}: {difference.max():.1e}"
            assert got.ids == greedy, f"case {cases}"
            cases += 1
        assert cases >= 3
