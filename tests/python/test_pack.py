"""Packed directories: gemmactl pack, and gemmad serving what it wrote."""
import json
import subprocess

import pytest

from support import BUILD, GOLDEN, MODELS, Daemon, collect, ctl, pb, request, samples

GGUF = MODELS / "gguf" / "tiny-dense-q4_0.gguf"


def pack(model, out, *options):
    r = ctl("pack", "--model", model, "--out", out, *options)
    assert r.returncode == 0, r.stderr
    return out


def answers(model, weights, prompts, name=None):
    with Daemon(str(model), options=("--weights", weights)) as daemon:
        stub = daemon.inference()
        log = "".join(p.read_text() for p in daemon.dir.rglob("engine.log"))
        ids = [collect(stub.Generate(request(p, temperature=0, max_tokens=24, logprobs=1))) for p in prompts]
        models = stub.ListModels(pb.ListModelsRequest()).models
    return [(r.ids, [p.logprob for p in r.logprobs]) for r in ids], models[0].checkpoint_hash, log


@pytest.mark.parametrize("model, weights", [("tiny-dense", "q4"), ("tiny-moe", "q8"), ("tiny-moe", "auto")])
def test_a_pack_answers_as_its_source_does(model, weights, tmp_path):
    source = MODELS / model
    packed = pack(source, tmp_path / "packed", "--ranks", 2, "--weights", weights)
    prompts = [c["prompt_token_ids"] for c in samples(model, "plain")[:4]]
    want, checkpoint, _ = answers(source, weights, prompts)
    got, from_pack, log = answers(packed, "auto", prompts)
    assert got == want and from_pack == checkpoint
    assert log.count("GB/s") == 2  # each rank says how fast it had its share
    r = ctl("pack", "--verify", packed)
    assert r.returncode == 0 and "as they were written" in r.stderr


def test_a_pack_of_per_layer_embeddings(tmp_path):
    packed = pack(GOLDEN / "e2b", tmp_path / "packed", "--ranks", 2, "--weights", "f32")
    assert (packed / "tables.pack").exists()
    prompts = [[2, 17, 99, 200, 5], [2, 3, 4]]
    want, _, _ = answers(GOLDEN / "e2b", "f32", prompts)
    got, _, _ = answers(packed, "f32", prompts)
    assert got == want


def test_a_pack_of_a_gguf_file(tmp_path):
    packed = pack(GGUF, tmp_path / "packed", "--ranks", 2)
    assert (packed / "metadata.gguf").stat().st_size == GGUF.stat().st_size
    assert (packed / "tables.pack").exists()  # the embedding is Q6_K, which the head has as q8
    prompts = [c["prompt"].removeprefix("<bos>") for c in samples("tiny-dense", "plain")[:3]]
    want, checkpoint, _ = answers(GGUF, "auto", prompts)
    got, from_pack, _ = answers(packed, "auto", prompts)
    assert got == want and from_pack == checkpoint


def refused(*command, code=3):
    r = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60)
    assert r.returncode == code, (r.returncode, r.stderr)
    return r.stderr


def test_what_it_is_not_for_is_refused_with_the_command(tmp_path):
    packed = pack(MODELS / "tiny-moe", tmp_path / "packed", "--ranks", 2, "--weights", "q4")
    plan = BUILD / "gemmad-shard", "plan", "--model", packed
    said = refused(*plan, "--ranks", 1)
    assert f"{packed} is packed for 2 ranks, layout tp 2 ep 2x1 group 32, weights q4" in said
    assert f"`gemmactl pack --model {MODELS / 'tiny-moe'} --ranks 1 --weights q4 --out DIR`" in said
    assert "--weights q8" in refused(*plan, "--ranks", 2, "--weights", "q8")
    assert "--expert-layout 1x2" in refused(*plan, "--ranks", 2, "--expert-layout", "1x2")
    dry = BUILD / "gemmad", "--dry-run", "--model", packed, "--json", "--ranks"
    assert "packed for 2 ranks" in refused(*dry, 4)
    r = subprocess.run([str(c) for c in (*dry, 2)], capture_output=True, text=True, timeout=60)
    sizes = [f["bytes"] for f in json.loads((packed / "pack.json").read_text())["files"]]
    assert [r["weight_bytes"] for r in json.loads(r.stdout)["per_rank"]] == sizes


def test_damage_is_named(tmp_path):
    packed = pack(MODELS / "tiny-dense", tmp_path / "packed", "--ranks", 1, "--weights", "q8")
    rank = packed / "rank-0-of-1.pack"
    whole = rank.read_bytes()
    # A byte of data: found by --verify. (The last 64 may be the gap behind the last part.)
    rank.write_bytes(whole[:-5000] + bytes([whole[-5000] ^ 1]) + whole[-4999:])
    said = refused(BUILD / "gemmactl", "pack", "--verify", packed)
    assert "rank-0-of-1.pack: the data of part layers." in said
    # A byte of the table, a short file, another config.json: found by every start.
    rank.write_bytes(whole[:700] + bytes([whole[700] ^ 1]) + whole[701:])
    assert "the table of parts does not have the SHA-256" in refused(BUILD / "gemmactl", "pack", "--verify", packed)
    rank.write_bytes(whole[:-64])
    assert f"rank-0-of-1.pack has {len(whole) - 64} bytes, its header says {len(whole)}" in refused(
        BUILD / "gemmactl", "pack", "--verify", packed)
    rank.write_bytes(whole)
    assert ctl("pack", "--verify", packed).returncode == 0
    (packed / "config.json").write_text((packed / "config.json").read_text() + "\n")
    assert "config.json is not the one" in refused(BUILD / "gemmad-shard", "plan", "--model", packed)


def test_packing_refuses(tmp_path):
    pack_to = BUILD / "gemmactl", "pack", "--model", MODELS / "tiny-dense", "--out"
    packed = pack(MODELS / "tiny-dense", tmp_path / "packed", "--weights", "q4")
    assert "holds a packed model" in refused(*pack_to, packed)
    assert "is packed already" in refused(BUILD / "gemmactl", "pack", "--model", packed, "--out", tmp_path / "again")
    assert "give --out a new or empty directory" in refused(*pack_to, MODELS / "tiny-dense")
    assert "3 ranks do not divide" in refused(*pack_to, tmp_path / "three", "--ranks", 3)
    assert not (tmp_path / "three").exists()
    assert "give --model PATH and --out DIR" in refused(BUILD / "gemmactl", "pack", code=2)
    # What an interrupted pack left is written over.
    (packed / "pack.json").unlink()
    (packed / "rank-1-of-2.pack.new").write_bytes(b"half")
    pack(MODELS / "tiny-dense", packed, "--weights", "q8")
    assert not (packed / "rank-1-of-2.pack.new").exists()
    assert json.loads((packed / "pack.json").read_text())["weights"] == "q8"
