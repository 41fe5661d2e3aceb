"""A prefix that the engine knows already, in memory or on disk: said in cached_tokens, and the same answer."""
import json
import random
import shutil

from support import MODELS, Daemon, eventually, run_gemmad

PAGE = 64
ANSWER = 12


def document(number, tokens):
    """Ordinary tokens, with the beginning that every prompt has."""
    return [2] + random.Random(number).choices(range(300, 1200), k=tokens - 1)


def reusable(prompt):
    """Whole pages of it; the last token is always computed."""
    return (len(prompt) - 1) // PAGE * PAGE


def ask(daemon, prompt, **more):
    return daemon.generate(prompt, max_tokens=ANSWER, temperature=0, ignore_eos=True, logprobs=2, **more)


def same(a, b):
    return a.ids == b.ids and list(a.logprobs) == list(b.logprobs)


def cached(result):
    assert result.started.cached_tokens == result.finished.usage.cached_tokens
    return result.finished.usage.cached_tokens


def engine(daemon):
    return daemon.status().models[0].engines[0]


def test_the_second_time_is_found_and_the_same(either):
    _, daemon = either
    prompt = document(1, 1500)
    first = ask(daemon, prompt)
    again = ask(daemon, prompt)
    assert cached(first) == 0 and cached(again) == reusable(prompt) == 1472
    assert same(first, again)
    # A conversation goes on behind its answer; another question parts from the document.
    longer = prompt + first.ids + document(2, 40)[1:]
    assert cached(ask(daemon, longer)) >= reusable(prompt)
    other = prompt[:1400] + document(3, 100)[1:]
    alone = ask(daemon, other)
    assert cached(alone) == 1216  # the point before a question of the first prompt
    assert cached(ask(daemon, other)) == reusable(other)
    assert cached(ask(daemon, prompt[:1400] + document(4, 100)[1:])) == 1344
    # Log-probabilities of the prompt need its rows.
    whole = ask(daemon, prompt, want_prompt_logprobs=True)
    assert cached(whole) == 0 and whole.ids == first.ids and len(whole.prompt_logprobs) == len(prompt) - 1
    assert eventually(lambda: engine(daemon).prefix_hit_tokens >= 1472 + reusable(other))
    assert engine(daemon).cached_pages > 0


def test_a_new_engine_reads_what_the_last_one_wrote(tmp_path):
    prompt, folder = document(5, 2000), tmp_path / "pages"
    options = ("--spill", f"{folder}:1GiB")
    with Daemon("tiny-dense", options=options) as daemon:
        first = ask(daemon, prompt)
        assert cached(first) == 0
        assert eventually(lambda: engine(daemon).spilled_bytes > 0)
        daemon.stop()
    files = [f for f in folder.rglob("*") if f.is_file()]
    assert files and all(f.stat().st_mode & 0o077 == 0 for f in files)
    with Daemon("tiny-dense", options=options) as daemon:
        again = ask(daemon, prompt)
        assert cached(again) == reusable(prompt) and same(first, again)
        shutil.rmtree(folder)  # it may be deleted at any time
        other = document(6, 700)
        assert same(ask(daemon, other), ask(daemon, other)) and same(ask(daemon, prompt), first)
    with Daemon("tiny-dense", ranks=1, options=options) as daemon:
        assert cached(ask(daemon, prompt)) == 0  # another layout has other bits
        daemon.stop()
    for f in (f for f in folder.rglob("*") if f.is_file()):
        f.write_bytes(f.read_bytes()[:-7])
    with Daemon("tiny-dense", ranks=1, options=options) as daemon:
        assert cached(ask(daemon, prompt)) == 0


def test_eight_documents_in_memory_for_six(tmp_path):
    """Eight clients in turn, each with a document of its own and new questions: what memory gave up comes from disk."""
    clients, rounds, length = 8, 3, 3900
    plan = json.loads(run_gemmad("--dry-run", "--json", "--model", MODELS / "tiny-dense").stdout)
    rank = plan["per_rank"][0]
    memory = rank["weight_bytes"] + rank["activation_bytes"] + 6 * plan["kv_request_slabs"] * rank["kv_slab_bytes"]
    reused = could = 0
    with Daemon("tiny-dense", ranks=1, options=("--memory", memory, "--spill", tmp_path / "pages")) as daemon:
        for turn in range(rounds):
            for client in range(clients):
                paper = document(client, length)
                got = cached(ask(daemon, paper + document(100 * turn + client, 21)[1:]))
                if turn:
                    reused += min(got, length // PAGE * PAGE)
                    could += length // PAGE * PAGE
    print(f"{reused} of {could} reusable tokens were found: {100 * reused / could:.1f} %")
    assert reused >= 0.9 * could
