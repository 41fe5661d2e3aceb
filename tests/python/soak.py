#!/usr/bin/env python3
"""Soak: both bundled models under mixed load for a while, then everything must be as it was.

    soak.py [SECONDS] [--long] [--clients N]      # default 30 s, --long 10 minutes, 200 clients

Clients stream at once: they ask right questions, sample with seeds, ask for several samples, read slowly, cancel, disconnect in the
middle, set short deadlines and send nonsense. Wrong is: a greedy answer that differs from the sample, a long one that differs from the run
that was alone, a seed that gives two answers, an error nobody asked for, a request or KV page still held at the end, memory or
descriptors that grow, an engine that restarted. The last line says what was done.
"""
import argparse
import asyncio
import collections
import contextlib
import os
import pathlib
import random
import sys
import time

import grpc

from support import UNLIMITED, Daemon, eventually, request, rpc, samples

MODELS = ("tiny-dense", "tiny-moe")
SLOW_AT_ONCE = 4
CONNECTIONS = 20  # kept ones, shared by the clients; those that disconnect make their own
PATIENCE = 120
# Growth that is none: caches and arenas fill in the first seconds.
RESIDENT_GROWTH_MAX = 64 << 20
DESCRIPTOR_GROWTH_MAX = 32
LONG_PROMPT = [2, 30, 40]
LONG_TOKENS, LOUD_TOKENS = 300, 1000


def channel(address):
    return grpc.aio.insecure_channel(address, options=UNLIMITED + [("grpc.use_local_subchannel_pool", 1)])


async def read(call, pause=None):
    """{sample: token ids} of a stream."""
    ids = collections.defaultdict(list)
    async for event in call:
        if event.WhichOneof("event") == "delta":
            ids[event.delta.index] += event.delta.token_ids
            if pause:
                await asyncio.sleep(pause)
    return ids


class Soak:
    def __init__(self, daemon, end, cases, alone):
        self.daemon, self.end, self.cases, self.alone = daemon, end, cases, alone
        self.slow_now = asyncio.Semaphore(SLOW_AT_ONCE)
        self.done, self.problems, self.drawn = collections.Counter(), [], {}

    async def client(self, number, stub):
        numbers = random.Random(number)
        whats = [self.greedy] * 5 + [self.sampled] * 3 + [self.samples] + [self.long] * 2 + [self.cancel] * 2 + [
            self.disconnect] * 2 + [self.slow, self.deadline, self.nonsense]
        while time.monotonic() < self.end and len(self.problems) < 20:
            what, model = numbers.choice(whats), numbers.choice(MODELS)
            try:
                await what(stub, model, numbers.choice(self.cases[model]), numbers)
            except grpc.aio.AioRpcError as error:
                self.problems.append(f"{what.__name__}: {error.code()}: {error.details()}")
            self.done[what.__name__] += 1

    def differs(self, what, got, want):
        if got != want:
            self.problems.append(f"{what}: {got}, not {want}")

    async def greedy(self, stub, model, case, _):
        want = case["completion_token_ids"]
        got = await read(stub.Generate(request(case["prompt_token_ids"], model, max_tokens=len(want), temperature=0), timeout=PATIENCE))
        self.differs(f"{model} {case['id']}", got[0], want)

    def again(self, key, got):
        self.differs(key, got, self.drawn.setdefault(key, got))

    async def sampled(self, stub, model, case, numbers, n=1):
        seed = numbers.randrange(4)
        r = request(case["prompt_token_ids"], model, max_tokens=20, temperature=1.3, top_p=0.9, top_k=50, seed=seed,
                    ignore_eos=True, n=n)
        got = await read(stub.Generate(r, timeout=PATIENCE))
        for sample in range(n):
            self.again(("sampled", model, case["id"], seed, sample), tuple(got[sample]))

    async def samples(self, stub, model, case, numbers):
        await self.sampled(stub, model, case, numbers, n=numbers.randrange(2, 5))

    async def long(self, stub, model, _, __, n=LONG_TOKENS, pause=None, **more):
        r = request(LONG_PROMPT, model, max_tokens=n, temperature=0, ignore_eos=True, **more)
        got = await read(stub.Generate(r, timeout=PATIENCE), pause)
        self.differs(f"{model} long", got[0], self.alone[model][:n])

    async def slow(self, stub, model, case, numbers):
        """Log-probabilities make more of it than buffers take, and the engine is told to pause. Few at a time: all is read here."""
        if self.slow_now.locked():
            return await self.long(stub, model, case, numbers)
        async with self.slow_now:
            await self.long(stub, model, case, numbers, n=LOUD_TOKENS, pause=0.002, logprobs=1024)

    async def some_events(self, call, numbers):
        for _ in range(numbers.randrange(6)):
            if await call.read() is grpc.aio.EOF:
                return

    def endless(self, stub, model, case, timeout=PATIENCE):
        return stub.Generate(request(case["prompt_token_ids"], model, max_tokens=900, temperature=1, ignore_eos=True), timeout=timeout)

    async def cancel(self, stub, model, case, numbers):
        call = self.endless(stub, model, case)
        await self.some_events(call, numbers)
        call.cancel()

    async def disconnect(self, _, model, case, numbers):
        async with channel(self.daemon.address) as own:
            call = self.endless(rpc.InferenceStub(own), model, case)
            await self.some_events(call, numbers)
            await own.close(None)

    async def deadline(self, stub, model, case, numbers):
        with contextlib.suppress(asyncio.CancelledError):
            try:
                await read(self.endless(stub, model, case, timeout=numbers.random() / 2))
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise

    async def nonsense(self, stub, model, case, numbers):
        bad = numbers.choice([request([], model), request([1 << 30], model, max_tokens=1), request("x", "no such model"),
                              request([5], model, temperature=float("nan")), request([5], model, max_tokens=1 << 30),
                              request([5], model, n=65)])
        try:
            await read(stub.Generate(bad, timeout=PATIENCE))
            self.problems.append(f"accepted: {bad}")
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND):
                raise


def measure(daemon):
    """{pid: (resident bytes, descriptors)} of gemmad and the ranks."""
    out = {}
    for pid in [daemon.process.pid] + [r.pid for r in daemon.ranks()]:
        pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
        out[pid] = pages * os.sysconf("SC_PAGESIZE"), len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))
    return out


async def load(soak, clients, seconds):
    """Runs the clients; what was measured when the arenas were warm and everybody connected."""
    async with contextlib.AsyncExitStack() as stack:
        stubs = [rpc.InferenceStub(await stack.enter_async_context(channel(soak.daemon.address))) for _ in range(CONNECTIONS)]
        tasks = [asyncio.create_task(soak.client(n, stubs[n % CONNECTIONS])) for n in range(clients)]
        await asyncio.sleep(min(20, seconds / 2))
        warm = await asyncio.to_thread(measure, soak.daemon)
        await asyncio.gather(*tasks)
        return warm


def is_idle(daemon):
    """Pages that only the prefix cache holds are free for whoever needs them."""
    with contextlib.suppress(grpc.RpcError):
        s = daemon.status()
        return s.requests_running == s.requests_waiting == s.requests_paused == 0 and all(
            e.kv_pages_used <= e.cached_pages and e.requests_running == e.requests_waiting == 0 for m in s.models for e in m.engines)


def check_growth(soak, before, after):
    if after.keys() != before.keys():
        soak.problems.append(f"other processes than at the beginning: {sorted(before)} and {sorted(after)}")
    for pid in before.keys() & after.keys():
        if after[pid][0] - before[pid][0] > RESIDENT_GROWTH_MAX or after[pid][1] - before[pid][1] > DESCRIPTOR_GROWTH_MAX:
            soak.problems.append(f"process {pid} grew from {before[pid]} to {after[pid]} (bytes, descriptors)")


def run(seconds, clients):
    cases = {m: [c for c in samples(m) if c["min_margin"] > 1e-3] for m in MODELS}
    with Daemon(*MODELS, options=["--weights", "f32", "--kv", "f32", "--queue-per-client", "4096", "--queue", "4096"]) as daemon:
        alone = {m: daemon.generate(LONG_PROMPT, model=m, max_tokens=LOUD_TOKENS, temperature=0, ignore_eos=True).ids for m in MODELS}
        idle = measure(daemon)
        began = time.monotonic()
        soak = Soak(daemon, began + seconds, cases, alone)
        warm = asyncio.run(load(soak, clients, seconds))
        took = time.monotonic() - began
        if not eventually(lambda: is_idle(daemon), 30):
            soak.problems.append(f"not idle after the load: {daemon.status()}")
        after = measure(daemon)
        check_growth(soak, warm, after)
        for pid in idle.keys() & after.keys():  # nobody is connected any more
            if after[pid][1] - idle[pid][1] > DESCRIPTOR_GROWTH_MAX:
                soak.problems.append(f"process {pid} has {after[pid][1]} descriptors, and had {idle[pid][1]} before the load")
        restarts = [e.restarts for m in daemon.status().models for e in m.engines]
        if any(restarts):
            soak.problems.append(f"engines restarted: {restarts}")
        if daemon.stop() != 0:
            soak.problems.append(f"gemmad ended with {daemon.process.returncode}")
    if sum(soak.done.values()) < clients:
        soak.problems.append(f"only {sum(soak.done.values())} requests in {took:.0f} s")
    for text in soak.problems:
        print("wrong:", text)
    done = ", ".join(f"{n} {name}" for name, n in sorted(soak.done.items()))
    print(f"soak: {took:.0f} s, {clients} clients, {done}; {len(soak.problems)} problems")
    return bool(soak.problems)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("seconds", nargs="?", type=float)
    parser.add_argument("--long", action="store_true", help="ten minutes")
    parser.add_argument("--clients", type=int, default=200)
    given = parser.parse_args()
    sys.exit(run(given.seconds or (600 if given.long else 30), given.clients))
