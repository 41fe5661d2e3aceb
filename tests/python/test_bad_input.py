"""Everything wrong that a user, a client or the network can send: refused with a message that says what, and nothing else
happens."""
import contextlib
import math
import os
import pathlib
import random
import select
import shutil
import socket
import subprocess
import time

import grpc
import pytest

from support import (MODELS, PATIENCE_SECONDS, Daemon, eventually, free_port, pb, processes_with, request, run_gemmad,
                     samples)

NAN, INF = math.nan, math.inf


# ---- The command line of gemmad -------------------------------------------------------------------------------------

def test_no_such_model_directory(tmp_path):
    r = run_gemmad("--model", tmp_path / "nothing", "--listen", f"unix:{tmp_path}/s")
    assert r.returncode == 3, r.stderr
    assert str(tmp_path / "nothing") in r.stderr


def test_a_directory_that_is_no_model(tmp_path):
    (tmp_path / "m").mkdir()
    r = run_gemmad("--model", tmp_path / "m", "--listen", f"unix:{tmp_path}/s")
    assert r.returncode == 3 and "config.json" in r.stderr, r.stderr


@pytest.mark.parametrize("ranks", [3, 5, 8])
def test_a_rank_count_that_cannot_be_is_refused_before_weights_are_read(tmp_path, ranks):
    # There are no weights to read here, and still the message is about ranks: 4 query heads.
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        shutil.copy(MODELS / "tiny-dense" / name, tmp_path)
    r = run_gemmad("--model", tmp_path, "--ranks", ranks, "--listen", f"unix:{tmp_path}/s")
    assert r.returncode == 3, r.stderr
    assert str(ranks) in r.stderr and "1, 2, 4" in r.stderr.replace(" and ", ", "), r.stderr


@pytest.mark.parametrize("options, sentence", [
    (["--ranks", "0"], "ranks"), (["--ranks", "two"], "two"), (["--ranks", "-1"], "-1"), (["--nonsense"], "--nonsense"),
    (["--weights", "q99"], "q99"), (["--context", "1e9x"], "1e9x"), (["--listen", "nowhere"], "nowhere"),
    (["--listen", "0.0.0.0:50999"], "--insecure"), (["--listen", "127.0.0.1:0"], "127.0.0.1:0"),
])
def test_usage_errors_of_gemmad(options, sentence):
    r = run_gemmad("--model", MODELS / "tiny-dense", *options)
    assert r.returncode == 2, f"{r.returncode}: {r.stderr}"
    assert sentence in r.stderr


def test_no_model_is_a_usage_error():
    r = run_gemmad()
    assert r.returncode == 2 and "--model" in r.stderr


def test_a_socket_path_that_is_too_long_is_refused(tmp_path):
    path = tmp_path / ("x" * 120)
    r = run_gemmad("--model", MODELS / "tiny-dense", "--listen", f"unix:{path}")
    assert r.returncode != 0 and "x" * 120 in r.stderr and not path.exists()


# A full disk without the right to mount one: bind() of a Unix socket fails as it does when no inode is left.
FULL_DISK_C = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>
int bind(int fd, const struct sockaddr *a, socklen_t n) {
    if (a->sa_family == AF_UNIX && n > sizeof(sa_family_t) && ((const struct sockaddr_un *)a)->sun_path[0]) {
        errno = ENOSPC;
        return -1;
    }
    int (*real)(int, const struct sockaddr *, socklen_t);
    *(void **)&real = dlsym(RTLD_NEXT, "bind");
    return real(fd, a, n);
}
"""


@contextlib.contextmanager
def full_disk(tmp_path):
    """(folder in which no file can be made, environment that makes it so)"""
    folder = tmp_path / "full"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=1", "tmpfs", folder], capture_output=True)
    if mounted.returncode == 0:
        try:
            yield folder, {}
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
        return
    source, library = tmp_path / "full_disk.c", tmp_path / "full_disk.so"
    source.write_text(FULL_DISK_C)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    yield folder, {"LD_PRELOAD": str(library)}


def test_full_disk_for_the_socket(tmp_path):
    with full_disk(tmp_path) as (folder, environment):
        r = run_gemmad("--model", MODELS / "tiny-dense", "--listen", f"unix:{folder}/s", env=environment)
    assert r.returncode == 1, f"{r.returncode}: {r.stderr}"
    assert "No space left on device" in r.stderr and f"{folder}/s" in r.stderr


@pytest.mark.parametrize("reuse_port", [False, True])
def test_a_port_in_use(reuse_port):
    with socket.socket() as taken:
        if reuse_port:  # gRPC's own listener would share such a port without a word
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        r = run_gemmad("--model", MODELS / "tiny-dense", "--listen", f"127.0.0.1:{port}")
    assert r.returncode == 4, f"{r.returncode}: {r.stderr}"
    assert str(port) in r.stderr


def test_a_socket_that_a_live_gemmad_holds(dense):
    path = dense.address.removeprefix("unix:")
    r = run_gemmad("--model", MODELS / "tiny-dense", "--listen", dense.address)
    assert r.returncode == 4 and path in r.stderr, f"{r.returncode}: {r.stderr}"
    assert dense.status().state == "ready"


def test_a_socket_file_that_nobody_holds_is_replaced():
    with Daemon("tiny-dense", ranks=1, wait=False) as daemon:
        daemon.process.kill()
        daemon.process.wait()
        path = pathlib.Path(daemon.address.removeprefix("unix:"))
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        daemon.start()
        daemon.wait_ready()
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_no_socket_is_left_alone(tmp_path):
    path = tmp_path / "s"
    path.write_text("mine")
    r = run_gemmad("--model", MODELS / "tiny-dense", "--listen", f"unix:{path}")
    assert r.returncode in (1, 4) and str(path) in r.stderr and path.read_text() == "mine"


# ---- Requests -------------------------------------------------------------------------------------------------------

def refuse(daemon, r, *sentences, code=grpc.StatusCode.INVALID_ARGUMENT):
    with pytest.raises(grpc.RpcError) as error:
        list(daemon.inference().Generate(r, timeout=PATIENCE_SECONDS))
    assert error.value.code() == code, f"{error.value.code()}: {error.value.details()}"
    for sentence in sentences:
        assert sentence in error.value.details(), error.value.details()


def test_empty_prompts(dense):
    refuse(dense, request(""), "text")
    refuse(dense, request([]), "token_ids")
    refuse(dense, pb.GenerateRequest(token_ids=pb.TokenIds()), "token_ids")
    refuse(dense, pb.GenerateRequest(), "prompt")


@pytest.mark.parametrize("bad", [1280, 262144, (1 << 32) - 1])
def test_token_ids_outside_the_vocabulary(dense, bad):
    refuse(dense, request([2, bad, 5], max_tokens=1), str(bad), "1280", "token_ids")
    refuse(dense, request([2, 5], max_tokens=1, stop_token_ids=[bad]), str(bad), "stop_token_ids")
    refuse(dense, request([2, 5], max_tokens=1, logit_bias={bad: 1.0}), str(bad), "logit_bias")
    with pytest.raises(grpc.RpcError) as error:
        dense.inference().Detokenize(pb.DetokenizeRequest(token_ids=[bad]))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT and str(bad) in error.value.details()


def test_prompts_longer_than_the_context(dense):
    context = dense.inference().ListModels(pb.ListModelsRequest()).models[0].context_tokens
    refuse(dense, request([5] * (context + 1)), str(context + 1), str(context))
    refuse(dense, request([5] * 10, max_tokens=context), "10", str(context))
    refuse(dense, request("word " * (2 * context)), str(context))


def test_a_prompt_of_ten_megabytes(dense):
    n = 10 << 20
    started = time.monotonic()
    refuse(dense, request("x" * n), str(n), str(8 << 20))
    refuse(dense, request([5] * (3 << 20), max_tokens=1), str(3 << 20))
    assert time.monotonic() - started < 20
    with pytest.raises(grpc.RpcError) as error:
        dense.inference().Tokenize(pb.TokenizeRequest(text="x" * n))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT and str(n) in error.value.details()
    # Beyond the message limit the transport answers; the daemon must live.
    with pytest.raises(grpc.RpcError) as error:
        dense.inference().Tokenize(pb.TokenizeRequest(text="x" * (65 << 20)))
    assert error.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT)
    still_works(dense)


@pytest.mark.parametrize("field, values", [
    ("temperature", [NAN, INF, -INF, -0.1, 2.1]), ("top_p", [NAN, 0, -1, 1.1, INF]), ("min_p", [NAN, -0.1, 1.1]),
    ("repetition_penalty", [NAN, INF, 0, -1]), ("presence_penalty", [NAN, INF]), ("frequency_penalty", [NAN, -INF]),
    ("max_tokens", [0]), ("logprobs", [1025]), ("prompt_logprobs", [1025]), ("top_k", [(1 << 32) - 1]),
])
def test_sampling_values_out_of_range(dense, field, values):
    for value in values:
        refuse(dense, request([2, 5], **{"max_tokens": 1, field: value}), field)


def test_logit_bias_and_stop_out_of_range(dense):
    for value in (NAN, INF):
        refuse(dense, request([2, 5], max_tokens=1, logit_bias={7: value}), "logit_bias")
    refuse(dense, request([2, 5], max_tokens=1, logit_bias={i: 1.0 for i in range(1025)}), "logit_bias", "1024")
    refuse(dense, request([2, 5], max_tokens=1, stop=["x"] * 17), "stop", "16")
    refuse(dense, request([2, 5], max_tokens=1, stop=[""]), "stop")
    refuse(dense, request([2, 5], max_tokens=1, stop=["x" * 257]), "stop", "256")
    refuse(dense, request([2, 5], max_tokens=1, stop_token_ids=[5] * 65), "stop_token_ids", "64")
    r = request([2, 5], max_tokens=1)
    r.request_id = "x" * 257
    refuse(dense, r, "request_id", "256")


def test_a_live_request_id_is_refused(dense):
    r = request([2, 5], max_tokens=2000, ignore_eos=True)
    r.request_id = "twice"
    first = dense.inference().Generate(r)
    assert next(first).WhichOneof("event") == "started"
    refuse(dense, r, "twice", code=grpc.StatusCode.ALREADY_EXISTS)
    first.cancel()


def field(number, wire_type, payload):
    """One protobuf field; lengths below 128 only."""
    body = bytes([len(payload)]) + payload if wire_type == 2 else payload
    return bytes([number << 3 | wire_type]) + body


def send_raw(daemon, method, payload):
    call = daemon.channel().unary_stream(method, request_serializer=None, response_deserializer=None)
    with pytest.raises(grpc.RpcError) as error:
        list(call(payload, timeout=PATIENCE_SECONDS))
    return error.value


@pytest.mark.parametrize("bad", [b"ab\xff", b"ab\xc3", b"ab\xed\xa0\x80", b"ab\xf4\x90\x80\x80", b"ab\xc0\x80"])
def test_invalid_utf8(dense, bad):
    """grpcio refuses to send it, so the messages are made by hand."""
    for number, name in ((1, "model"), (2, "request_id"), (3, "text")):
        prompt = b"" if number == 3 else field(3, 2, b"x")
        error = send_raw(dense, "/gemmad.v1.Inference/Generate", field(number, 2, bad) + prompt)
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error.details()
        assert name in error.details() and "UTF-8" in error.details() and "byte 2" in error.details(), error.details()
    stop = field(5, 2, field(7, 2, bad))
    error = send_raw(dense, "/gemmad.v1.Inference/Generate", field(3, 2, b"x") + stop)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and "stop" in error.details()
    error = send_raw(dense, "/gemmad.v1.Inference/Tokenize", field(2, 2, bad))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and "text" in error.details()


def test_messages_that_are_no_messages(dense):
    numbers = random.Random(1)
    for method in ("Generate", "Tokenize", "Detokenize", "Chat"):
        for n in (1, 2, 7, 100, 5000):
            payload = b"\xff" + numbers.randbytes(n)  # a tag that cannot be
            error = send_raw(dense, f"/gemmad.v1.Inference/{method}", payload)
            assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED), error.details()
    assert send_raw(dense, "/gemmad.v1.Inference/Nothing", b"").code() == grpc.StatusCode.UNIMPLEMENTED
    still_works(dense)


# ---- Bytes on ports -------------------------------------------------------------------------------------------------

def still_works(daemon):
    case = samples("tiny-dense", "plain")[0]
    assert daemon.generate(case["prompt_token_ids"], max_tokens=64, temperature=0).ids == case["completion_token_ids"]


def listeners(pids):
    """Addresses on which the processes listen: ("tcp", (host, port)) and ("unix", path or @name)."""
    inodes = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    inodes.add(os.readlink(fd).removeprefix("socket:[").rstrip("]"))
    found = []
    for name in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            part = line.split()
            if part[3] == "0A" and part[9] in inodes:
                host = "127.0.0.1" if name == "tcp" else "::1"
                found.append(("tcp", (host, int(part[1].rpartition(":")[2], 16))))
    for line in pathlib.Path("/proc/net/unix").read_text().splitlines()[1:]:
        part = line.split(maxsplit=7)
        if len(part) == 8 and int(part[3], 16) & 0x10000 and part[6] in inodes:  # flag: it listens
            found.append(("unix", part[7]))
    return found


def connect(kind, address):
    if kind == "unix":
        s = socket.socket(socket.AF_UNIX)
        address = "\0" + address[1:] if address.startswith("@") else address
    else:
        s = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    s.settimeout(2)
    with contextlib.suppress(OSError):
        s.connect(address)
    return s


def send_garbage(addresses, payloads):
    """Each payload on a connection of its own to each address, and two seconds for all of them to be answered or closed."""
    sockets = []
    for kind, address in addresses:
        for payload in payloads:
            s = connect(kind, address)
            sockets.append(s)
            with contextlib.suppress(OSError):
                s.sendall(payload)
    waiting, deadline = list(sockets), time.monotonic() + 2
    while waiting and time.monotonic() < deadline:
        for s in select.select(waiting, [], [], 0.1)[0]:
            with contextlib.suppress(OSError):
                s.recv(65536)
            waiting.remove(s)
    for s in sockets:
        s.close()


NOISE = random.Random(2)
GARBAGE = [NOISE.randbytes(1), NOISE.randbytes(64), NOISE.randbytes(1 << 16), b"\0" * 4096, b"\xff" * 4096,
           b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + NOISE.randbytes(4096)]


@pytest.fixture(scope="module")
def listening():
    with Daemon("tiny-dense", listen=[f"127.0.0.1:{free_port()}"]) as daemon:
        yield daemon


def ours(pid):
    with contextlib.suppress(OSError):
        return os.path.basename(os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")) in ("gemmad", "gemmad-shard")
    return False


def test_random_bytes_on_every_port(listening):
    """Every socket on which a process of ours listens, the engine link's and MPI's included."""
    pids = [p for p in processes_with(str(listening.dir)) if ours(p)]
    addresses = listeners(pids)
    assert len([a for a in addresses if a[0] == "tcp"]) >= 1 and len(addresses) >= 2, addresses
    held = []
    send_garbage(addresses, GARBAGE)
    for kind, address in addresses:
        # Some say nothing and stay.
        held += [connect(kind, address) for _ in range(8)]
    still_works(listening)
    for s in held:
        s.close()
    still_works(listening)
    assert listening.status().state == "ready" and listening.process.poll() is None
    assert [e.restarts for m in listening.status().models for e in m.engines] == [0]


def test_connections_are_bounded_and_freed(listening):
    """More silent connections than are allowed: refused, and the daemon serves again once they are gone."""
    path = listening.address.removeprefix("unix:")
    held = []
    for _ in range(1100):
        s = socket.socket(socket.AF_UNIX)
        s.setblocking(False)
        with contextlib.suppress(OSError):
            s.connect(path)
        held.append(s)
    time.sleep(0.5)
    for s in held:
        s.close()

    def answers():
        with contextlib.suppress(grpc.RpcError):
            return listening.status().state == "ready"
    assert eventually(answers)
    still_works(listening)
