"""A prompt of many chunks: progress and log-probabilities of all its tokens stream while it is read, with memory that does not
grow with its length beyond the KV that was planned."""
import json
import random
import subprocess

from support import BUILD, GOLDEN, Daemon, request

MODEL, VOCAB, TOKENS, SHORT, TOPS = GOLDEN / "dense", 320, 12000, 600, 5
OPTIONS = ["--weights", "f32", "--kv", "f32", "--context", str(TOKENS + 8)]
EVENT_BYTES_MAX = 2 << 20  # LIMIT_EVENT_BYTES, which is of about an event's size
GROWTH_MAX = 8 << 20  # all logits at once would be 15 MB


def peak_bytes(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith("VmHWM"))


def run(daemon, prompt):
    """(log-probabilities, progress, how many log-probabilities had come when each progress came)."""
    rows, progress, beside = [], [], []
    stream = daemon.inference().Generate(
        request(prompt, max_tokens=2, temperature=0, want_prompt_logprobs=True, prompt_logprobs=TOPS), timeout=300)
    for event in stream:
        kind = event.WhichOneof("event")
        if kind == "progress":
            assert event.progress.prompt_tokens == len(prompt)
            progress.append(event.progress.prefilled_tokens)
            beside.append(len(rows))
        elif kind == "prompt_logprobs":
            assert event.ByteSize() <= EVENT_BYTES_MAX and event.prompt_logprobs.first_position == len(rows) + 1
            rows += [(p.token_id, p.logprob, tuple((t.token_id, t.logprob) for t in p.top))
                     for p in event.prompt_logprobs.logprobs]
        elif kind == "delta":
            assert len(rows) == len(prompt) - 1  # the prompt's come before the answer
    return rows, progress, beside


def test_a_prompt_of_many_chunks():
    draw = random.Random(3)
    prompt = [draw.randrange(3, VOCAB) for _ in range(TOKENS)]
    plan = json.loads(subprocess.run([BUILD / "gemmad", "--dry-run", "--json", "--model", MODEL, "--ranks", "2", *OPTIONS],
                                     capture_output=True, text=True, timeout=60, check=True).stdout)
    with Daemon(MODEL, ranks=2, options=OPTIONS) as daemon:
        short, _, _ = run(daemon, prompt[:SHORT])
        processes = {daemon.process.pid: 0, **{r.pid: plan["kv_bytes_total"] // 2 for r in daemon.ranks()}}
        before = {pid: peak_bytes(pid) for pid in processes}
        rows, progress, beside = run(daemon, prompt)
        for pid, kv in processes.items():
            grown = peak_bytes(pid) - before[pid]
            print(f"process {pid}: {before[pid] >> 20} MiB before, {grown / 2**20:.1f} MiB more, {kv / 2**20:.1f} MiB of it KV at most")
            assert grown < kv + GROWTH_MAX
    assert [r[0] for r in rows] == prompt[1:] and all(len(r[2]) == TOPS for r in rows)
    assert rows[:SHORT - 1] == short  # the same bits in whatever chunks
    assert progress == sorted(set(progress)) and len(progress) >= 10 and progress[-1] < TOKENS
    assert 0 < beside[1] and beside[-1] >= TOKENS / 2  # they came while the prompt was read
