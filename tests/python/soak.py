#!/usr/bin/env python3
"""Soak: both bundled models under mixed load for a while, then everything must be as it was.

    soak.py [SECONDS]

Clients ask right questions, sample with seeds, cancel, send nonsense and leave in the middle. Wrong is: a greedy answer that
differs from the sample, a seed that gives two answers, an error nobody asked for, a request or KV page still held at the end,
memory or descriptors that grow, an engine that restarted. The last line says what was done.
"""
import collections
import contextlib
import os
import pathlib
import random
import sys
import threading
import time

import grpc

from support import Daemon, collect, eventually, request, samples

MODELS = ("tiny-dense", "tiny-moe")
CLIENTS = 12
# Growth that is none: caches and arenas fill in the first seconds.
RESIDENT_GROWTH_MAX = 64 << 20
DESCRIPTOR_GROWTH_MAX = 32


class Soak:
    def __init__(self, daemon, end):
        self.daemon, self.end = daemon, end
        self.lock = threading.Lock()
        self.done, self.problems, self.drawn = collections.Counter(), [], {}

    def problem(self, text):
        with self.lock:
            self.problems.append(text)

    def client(self, number):
        numbers = random.Random(number)
        stub = self.daemon.inference()
        cases = {m: [c for c in samples(m) if c["min_margin"] > 1e-3] for m in MODELS}
        while time.monotonic() < self.end and len(self.problems) < 20:
            what = numbers.choice([self.greedy] * 4 + [self.sampled] * 3 + [self.cancel, self.nonsense])
            model = numbers.choice(MODELS)
            try:
                what(stub, model, numbers.choice(cases[model]), numbers)
            except grpc.RpcError as error:
                self.problem(f"{what.__name__}: {error.code()}: {error.details()}")
            with self.lock:
                self.done[what.__name__] += 1

    def greedy(self, stub, model, case, _):
        limit = len(case["completion_token_ids"])
        got = collect(stub.Generate(request(case["prompt_token_ids"], model, max_tokens=limit, temperature=0), timeout=60))
        if got.ids != case["completion_token_ids"]:
            self.problem(f"{model} {case['id']}: {got.ids}, not {case['completion_token_ids']}")

    def sampled(self, stub, model, case, numbers):
        seed = numbers.randrange(4)
        r = request(case["prompt_token_ids"], model, max_tokens=20, temperature=1.3, top_p=0.9, top_k=50, seed=seed,
                    ignore_eos=True)
        got = tuple(collect(stub.Generate(r, timeout=60)).ids)
        with self.lock:
            before = self.drawn.setdefault((model, case["id"], seed), got)
        if before != got:
            self.problem(f"{model} {case['id']} seed {seed}: {got}, and before {before}")

    def cancel(self, stub, model, case, numbers):
        call = stub.Generate(request(case["prompt_token_ids"], model, max_tokens=900, temperature=1, ignore_eos=True),
                             timeout=60)
        for _, __ in zip(range(numbers.randrange(6)), call):
            pass
        call.cancel()

    def nonsense(self, stub, model, case, numbers):
        bad = numbers.choice([request([], model), request([1 << 30], model, max_tokens=1), request("x", "no such model"),
                              request([5], model, temperature=float("nan")), request([5], model, max_tokens=1 << 30)])
        try:
            list(stub.Generate(bad, timeout=60))
            self.problem(f"accepted: {bad}")
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND):
                raise


def measure(daemon):
    """{pid: (resident bytes, descriptors)} of gemmad and the ranks."""
    out = {}
    for pid in [daemon.process.pid] + [r.pid for r in daemon.ranks()]:
        pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
        out[pid] = pages * os.sysconf("SC_PAGESIZE"), len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))
    return out


def run(seconds):
    with Daemon(*MODELS, options=["--weights", "f32", "--kv", "f32"]) as daemon:
        began = time.monotonic()
        soak = Soak(daemon, began + seconds)
        threads = [threading.Thread(target=soak.client, args=[n]) for n in range(CLIENTS)]
        for thread in threads:
            thread.start()
        time.sleep(min(10, seconds / 3))  # until the arenas are warm
        before = measure(daemon)
        for thread in threads:
            thread.join()
        took = time.monotonic() - began

        def idle():
            with contextlib.suppress(grpc.RpcError):
                s = daemon.status()
                return s.requests_running == s.requests_waiting == 0 and not any(
                    e.kv_pages_used for m in s.models for e in m.engines)
        if not eventually(idle, 20):
            soak.problem(f"not idle after the load: {daemon.status()}")
        after = measure(daemon)
        if after.keys() != before.keys():
            soak.problem(f"other processes than at the beginning: {sorted(before)} and {sorted(after)}")
        for pid in before.keys() & after.keys():
            if after[pid][0] - before[pid][0] > RESIDENT_GROWTH_MAX or after[pid][1] - before[pid][1] > DESCRIPTOR_GROWTH_MAX:
                soak.problem(f"process {pid} grew from {before[pid]} to {after[pid]} (bytes, descriptors)")
        restarts = [e.restarts for m in daemon.status().models for e in m.engines]
        if any(restarts):
            soak.problem(f"engines restarted: {restarts}")
        if daemon.stop() != 0:
            soak.problem(f"gemmad ended with {daemon.process.returncode}")
    if sum(soak.done.values()) < CLIENTS:
        soak.problem(f"only {sum(soak.done.values())} requests in {took:.0f} s")
    for text in soak.problems:
        print("wrong:", text)
    done = ", ".join(f"{n} {name}" for name, n in sorted(soak.done.items()))
    print(f"soak: {took:.0f} s, {done}; {len(soak.problems)} problems")
    return bool(soak.problems)


if __name__ == "__main__":
    sys.exit(run(float(sys.argv[1]) if len(sys.argv) > 1 else 30))
