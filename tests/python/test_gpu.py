"""GPUs as gemmad sees them: a gemmad-shard over the simulated GPU of tests/cuda_sim, and the ordinary one where none is."""
import json
import os
import pathlib
import re
import shutil
import subprocess

import grpc
import pytest

from support import BUILD, GOLDEN, MODELS, Daemon, eventually, processes_with, request, run_gemmad, samples

SIMULATED = BUILD / "tests" / "sim_gpu" / "gemmad-shard"
CASE = min(samples("tiny-dense", "plain"), key=lambda c: c["prompt_tokens"])
GPU = ("--device", "cuda", "--context", "512")
STRICT = {"CUDA_SIM_FORK": "0"}  # CUDA does not survive fork, nor may the simulator


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """A gemmad that finds the simulator's gemmad-shard beside itself."""
    if not SIMULATED.exists():
        pytest.skip(f"there is no {SIMULATED}")
    folder = tmp_path_factory.mktemp("gpu")
    for program in (BUILD / "gemmad", SIMULATED):
        shutil.copy2(program, folder)
    return folder / "gemmad"


def engine_log(daemon):
    return (daemon.dir / "state" / "engines" / "tiny-dense@0" / "engine.log").read_text()


def ask(daemon):
    return daemon.generate(CASE["prompt_token_ids"], max_tokens=len(CASE["completion_token_ids"]) + 8, temperature=0.0)


def test_one_rank_answers(simulated):
    with Daemon("tiny-dense", ranks=1, options=GPU, program=simulated, env=STRICT) as daemon:
        got = ask(daemon)
        assert got.ids == CASE["completion_token_ids"] and got.text == CASE["completion"]
        assert [r.isa for r in daemon.ranks()] == ["cuda Simulated GPU"]
        shown = daemon.ctl("status")
        assert shown.returncode == 0 and "cuda Simulated GPU" in shown.stdout, shown.stdout
        shown = daemon.ctl("status", "--json")
        assert "cuda Simulated GPU" in json.dumps(json.loads(shown.stdout))
        assert "on cuda Simulated GPU with" in engine_log(daemon)


def test_a_gpu_is_taken_where_nobody_says_what(simulated):
    with Daemon("tiny-dense", ranks=1, options=["--context", "256"], program=simulated) as daemon:
        assert [r.isa for r in daemon.ranks()] == ["cuda Simulated GPU"]
    with Daemon("tiny-dense", ranks=1, options=["--device", "cpu", "--context", "256"], program=simulated) as daemon:
        assert not daemon.ranks()[0].isa.startswith("cuda")


def test_more_ranks_than_gpus_are_refused(simulated):
    r = run_gemmad("--model", MODELS / "tiny-dense", "--ranks", 2, *GPU, program=simulated)
    assert r.returncode == 3, r.stderr
    assert "2 ranks on this machine and 1 GPU: each rank has one of its own" in r.stderr
    r = run_gemmad("--model", MODELS / "tiny-dense", "--ranks", 1, "--replicas", 3, *GPU, program=simulated,
                   env={"CUDA_SIM_DEVICES": "2"})
    assert r.returncode == 3 and "3 ranks on this machine and 2 GPUs" in r.stderr, r.stderr


def test_ranks_that_are_shown_one_gpu_each(simulated, tmp_path):
    """As Slurm does with --gpus-per-task. The simulated NCCL does not reach beyond a process: that it is asked to is what shows here."""
    for program in ("gemmad", "gemmad-shard"):
        shutil.copy2(simulated.parent / program, tmp_path / ("shard" if program == "gemmad-shard" else program))
    wrapper = tmp_path / "gemmad-shard"
    wrapper.write_text(f"""#!/bin/sh
[ "$1" = plan ] && exec env CUDA_SIM_DEVICES=2 {tmp_path}/shard "$@"
exec env CUDA_SIM_FIRST=${{OMPI_COMM_WORLD_LOCAL_RANK:-0}} {tmp_path}/shard "$@"
""")
    wrapper.chmod(0o755)
    r = run_gemmad("--model", MODELS / "tiny-dense", "--ranks", 2, *GPU, "--listen", f"unix:{tmp_path}/s", program=tmp_path / "gemmad")
    assert r.returncode == 1 and "NCCL, connecting" in r.stderr and "each rank has one of its own" not in r.stderr, r.stderr


def test_ranks_may_share_a_gpu_for_tests(simulated):
    with Daemon("tiny-dense", ranks=2, options=GPU, program=simulated, env={**STRICT, "GEMMAD_GPU_SHARE": "1"}) as daemon:
        assert "exchanges between GPUs: staged" in engine_log(daemon)
        assert [r.isa for r in daemon.ranks()] == ["cuda Simulated GPU"] * 2
        assert ask(daemon).ids == CASE["completion_token_ids"]


@pytest.mark.parametrize("what", ["decode", "prefill"])
def test_bench(simulated, what):
    """Its ranks are forked: nobody may have looked for a GPU before."""
    def bench(*options, **env):
        return subprocess.run([simulated.parent / "gemmad-shard", "bench", what, "--model", GOLDEN / "dense-realheads", "--ranks", "2",
                               "--device", "cuda", "--generate", "3", "--prompt", "20", "--repeat", "1", "--read", "1MiB", *options],
                              capture_output=True, text=True, timeout=120,
                              env={**os.environ, **STRICT, "CUDA_SIM_MEMORY": "3000000000", **env})
    r = bench("--json", GEMMAD_GPU_SHARE="1")
    assert r.returncode == 0, r.stderr
    figures = json.loads(r.stdout)
    assert figures["device"] == "cuda Simulated GPU" and figures["ranks"] == 2 and figures["bandwidth_share"] > 0
    r = bench(GEMMAD_GPU_SHARE="1")
    assert r.returncode == 0 and "share of it" in r.stdout and "cuda Simulated GPU" in r.stdout, r.stdout + r.stderr
    r = bench()
    assert r.returncode == 3 and "2 ranks on this machine and 1 GPU" in r.stderr, r.stderr


def test_doctor_measures_gpus(simulated):
    shard = simulated.parent / "gemmad-shard"

    def doctor(*options, **env):
        return subprocess.run([shard, "doctor", "--read", "1MiB", "--shape", "e2b", *options], capture_output=True, text=True,
                              timeout=120, env={**os.environ, **STRICT, "CUDA_SIM_MEMORY": "3000000000", **env})
    r = doctor("--json", "--weights", "fp8", "--ranks", "2", GEMMAD_GPU_SHARE="1")
    assert r.returncode == 0, r.stderr
    found = json.loads(r.stdout)
    assert found["device"] == "cuda Simulated GPU" and found["ranks"] == 2 and found["hand_out_us"] is None
    assert 0 < found["device_memory_free_bytes"] <= 3_000_000_000 and found["read_bandwidth_gb_per_s"] > 0
    assert set(found["gmac_per_s"]) == {"f32", "bf16", "q8", "q4", "fp8"} and all(v > 0 for v in found["gmac_per_s"].values())
    assert all(v > 0 for v in found["all_reduce_us"].values())
    [expected] = found["expected"]
    assert expected["decode_tokens_per_s"] > 0 and expected["fits"]
    # As many ranks as GPUs; what does not fit on them is said, whatever the host has.
    r = doctor("--weights", "f32")
    assert r.returncode == 0 and "1 rank on cuda Simulated GPU, " in r.stdout and "(does not fit)" in r.stdout, r.stdout + r.stderr
    r = doctor("--device", "cpu")
    assert r.returncode == 0 and re.search("threads? on cpu", r.stdout), r.stdout + r.stderr
    r = doctor("--device", "cpu", "--weights", "fp8")
    assert r.returncode == 3 and "fp8 is for GPUs" in r.stderr


def test_plan_says_what_gpus_have(simulated):
    r = run_gemmad("--dry-run", "--model", MODELS / "tiny-dense", *GPU, program=simulated, env={"CUDA_SIM_MEMORY": "3000000000"})
    assert r.returncode == 0 and "GPUs " in r.stdout, r.stdout + r.stderr
    r = run_gemmad("--dry-run", "--json", "--model", MODELS / "tiny-dense", "--device", "cpu", program=simulated)
    assert json.loads(r.stdout)["device"] == "cpu"


def test_a_gpu_that_fails_ends_its_engine_with_the_cause(simulated):
    with Daemon("tiny-dense", ranks=1, options=GPU, program=simulated, env={"CUDA_SIM_FAIL_AFTER": "150"}) as daemon:
        pids = [r.pid for r in daemon.ranks()]
        with pytest.raises(grpc.RpcError) as error:
            for _ in daemon.inference().Generate(request(CASE["prompt_token_ids"], max_tokens=380, temperature=1.0, seed=1,
                                                         ignore_eos=True), timeout=60):
                pass
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE and error.value.details()
        assert eventually(lambda: daemon.status().state == "failed", 20)
        engine = daemon.status().models[0].engines[0]
        assert engine.state == "failed"
        for text in (engine.failure, error.value.details(), daemon.log(), daemon.ctl("status").stdout):
            assert "GPU 0 (Simulated GPU, 0000:10:00.0): a step: " in text and "(cudaErrorLaunchFailure)" in text, text
        assert engine.failure.count("cudaErrorLaunchFailure") == 1, engine.failure
        assert eventually(lambda: not any(pathlib.Path(f"/proc/{p}/stat").exists() for p in pids), 20)
        assert daemon.stop() == 0
        assert eventually(lambda: not processes_with(str(daemon.dir)), 15)


@pytest.mark.parametrize("calls", [0, 1, 4, 12])
def test_a_gpu_that_fails_while_weights_are_loaded(simulated, calls):
    r = run_gemmad("--model", MODELS / "tiny-dense", "--ranks", 1, *GPU, "--listen", f"unix:{simulated.parent}/s", program=simulated,
                   env={"CUDA_SIM_FAIL_AFTER": str(calls)})
    assert r.returncode == 1, r.stderr
    said = r.stderr.splitlines()[-2]
    assert "model tiny-dense cannot be served" in said and "GPU 0" in said and "(cudaErrorLaunchFailure)" in said, r.stderr


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="this machine has a GPU")
def test_without_a_gpu():
    r = run_gemmad("--model", MODELS / "tiny-dense", "--ranks", 1, "--device", "cuda")
    assert r.returncode == 3, r.stderr
    assert "--device cuda: " in r.stderr and "--device cpu works" in r.stderr
    r = run_gemmad("--model", MODELS / "tiny-dense", "--ranks", 1, "--device", "cpu", "--weights", "fp8")
    assert r.returncode == 3 and "fp8" in r.stderr, r.stderr
    with Daemon("tiny-dense", ranks=1, options=["--context", "256"]) as daemon:
        assert not daemon.ranks()[0].isa.startswith("cuda") and ask(daemon).ids == CASE["completion_token_ids"]
