"""Random bytes, half-open and slow connections on every port, while real clients are served. A few seconds; a minute with
`pytest --long` or GEMMAD_TEST_LONG."""
import contextlib
import os
import pathlib
import random
import socket
import ssl
import struct
import threading
import time

import grpc
import pytest
import requests

from secure import Certificates, bearer, make_key
from support import BUILD, Daemon, collect, eventually, free_port, pb, request, rpc

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HOLD = 60          # silent connections a port: of the 1024 that all ports have together
PATIENCE = 60      # of a real client: sanitizers and a busy machine are slow, a daemon that hangs is slower
ROUND = 60         # connections of noise a port for each answer that the real client gets: noise is tested here, no flood


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def noise(dice, most=3000):
    return dice.randbytes(dice.randint(1, most))


def http2(dice):
    """A greeting, and then anything but a conversation."""
    settings = frame(4)
    kinds = [lambda: noise(dice), lambda: settings * 300, lambda: settings + frame(6, payload=b"12345678") * 300,
             lambda: settings + frame(1, 4, 1, noise(dice, 200)),                                     # a header block of noise
             lambda: settings + frame(0, 0, 1, b"x" * 100) + frame(3, 0, 1, b"\0\0\0\x08"),           # data of no stream
             lambda: settings + b"".join(frame(1, 4, i, b"\x82") + frame(3, 0, i, b"\0\0\0\x08") for i in range(1, 200, 2)),
             lambda: settings + frame(1, 0, 1, b"\x82") + frame(9, 0, 1, b"\x82" * 100) * 50,         # a header without end
             lambda: b"\xff\xff\xff" + noise(dice), lambda: settings + frame(8, 0, 0, b"\x7f\xff\xff\xff") * 20]
    return PREFACE[:dice.choice((len(PREFACE), len(PREFACE), dice.randint(1, 23)))] + dice.choice(kinds)()


def http1(dice):
    line = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n"
    post = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\n"
    kinds = [lambda: noise(dice), lambda: b"G" + noise(dice), lambda: line + b"X: " + b"a" * 100000 + b"\r\n\r\n",
             lambda: line + b"".join(b"X-%d: 1\r\n" % i for i in range(5000)) + b"\r\n",
             lambda: b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n\r\n", lambda: line + noise(dice) + b"\r\n\r\n",
             lambda: post + b"Content-Length: 99999999999999999999\r\n\r\n", lambda: post + b"Content-Length: -1\r\n\r\nx",
             lambda: post + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
             lambda: post + b"Transfer-Encoding: chunked\r\n\r\n" + noise(dice),
             lambda: post + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n" + noise(dice),
             lambda: (line + b"\r\n") * 200, lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    return dice.choice(kinds)()


def link(dice):
    return dice.randbytes(32) + struct.pack("<I", dice.choice((0, 5, 65536, 2**31, 2**32 - 1))) + noise(dice, 300)


def tls(dice):
    hello = b"\x16\x03\x01" + struct.pack(">H", dice.choice((10, 200, 16384))) + b"\x01" + noise(dice)
    return dice.choice((noise(dice), b"\x16" + noise(dice), hello, hello[:6], PREFACE))


class Port:
    def __init__(self, name, address, speak, encrypted=None):
        self.name, self.address, self.speak, self.encrypted = name, address, speak, encrypted

    def dial(self):
        if self.address.startswith("/"):
            s = socket.socket(socket.AF_UNIX)
            s.settimeout(2)
            s.connect(self.address)
        else:
            host, port = self.address.rsplit(":", 1)
            s = socket.create_connection((host, int(port)), timeout=2)
        return s

    def dial_within(self):
        """Through the encryption, where there is one."""
        s = self.dial()
        return self.encrypted.wrap_socket(s, server_hostname="127.0.0.1") if self.encrypted else s


class Attack:
    """Threads that mean no good, until the end of `with`."""

    def __init__(self, ports):
        self.ports, self.over, self.count = ports, threading.Event(), dict.fromkeys((p.name for p in ports), 0)
        self.allowed, self.threads = ROUND, []
        for i, port in enumerate(ports):
            for what in (self.throw_noise, self.hold, self.drip):
                self.threads.append(threading.Thread(target=what, args=(port, random.Random(f"{i} {what.__name__}"))))

    def go_on(self):
        self.allowed += ROUND

    def throw_noise(self, port, dice):
        while not self.over.is_set():
            if self.count[port.name] >= self.allowed:
                self.over.wait(0.005)
                continue
            with contextlib.suppress(OSError):
                with port.dial_within() if port.encrypted and dice.random() < 0.5 else port.dial() as s:
                    within = isinstance(s, ssl.SSLSocket)
                    s.sendall((http2(dice) if "grpc" in port.name else http1(dice)) if within else port.speak(dice))
                    self.count[port.name] += 1
                    how = dice.random()
                    if how < 0.3:
                        s.settimeout(0.05)
                        s.recv(65536)
                    elif how < 0.5:  # a reset
                        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    elif how < 0.6 and not within:
                        s.shutdown(socket.SHUT_WR)
            self.over.wait(0.005)

    def hold(self, port, dice):
        held = []
        while not self.over.wait(0.05):
            with contextlib.suppress(OSError):
                s = port.dial()
                held.append(s)
                if dice.random() < 0.5:
                    s.sendall(port.speak(dice)[:dice.randint(1, 40)])
            if len(held) > HOLD:
                held.pop(dice.randrange(HOLD)).close()
        for s in held:
            s.close()

    def drip(self, port, dice):
        """One byte at a time, for ever."""
        while not self.over.is_set():
            text = {"grpc": PREFACE, "http": b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: "}.get(
                port.name[:4], b"\x16\x03\x01\x02\x00\x01")
            with contextlib.suppress(OSError), port.dial() as s:
                for byte in text + b"a" * 10000:
                    s.sendall(bytes([byte]))
                    if self.over.wait(0.05):
                        break

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for t in self.threads:
            t.join(30)
            assert not t.is_alive()


def descriptors(daemon):
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def resident_mb(daemon):
    text = pathlib.Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def endure(daemon, ports, ask, seconds):
    expected = ask()
    daemon.status()
    time.sleep(0.2)
    descriptors_before, memory_before, log_before = descriptors(daemon), resident_mb(daemon), len(daemon.log())
    with Attack(ports) as attack:
        end, asked = time.monotonic() + seconds, 0
        while time.monotonic() < end or asked < 3 or min(attack.count.values()) <= 10:
            assert ask() == expected
            asked += 1
            attack.go_on()
            time.sleep(0.2)
    assert ask() == expected
    assert daemon.process.poll() is None
    status = daemon.status()
    assert status.state == "ready" and all(e.restarts == 0 for m in status.models for e in m.engines)
    assert eventually(lambda: descriptors(daemon) <= descriptors_before + 2, 30), (descriptors_before, descriptors(daemon))
    # AddressSanitizer keeps what was freed.
    assert resident_mb(daemon) < memory_before + (1000 if "asan" in str(BUILD) else 200)
    lines = [line for line in daemon.log()[log_before:].splitlines() if " warn " in line or " error " in line]
    assert len(lines) < 8 * (seconds + 20), "what strangers send must not fill the disk with log lines"


@pytest.fixture(scope="module")
def seconds(request):
    return 60 if request.config.getoption("--long") or os.environ.get("GEMMAD_TEST_LONG") else 3


def test_every_plain_port(seconds):
    tcp, web = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    with Daemon("tiny-dense", ranks=1, listen=[tcp], options=["--http", web]) as daemon:
        ports = [Port("grpc unix", str(daemon.dir / "s"), http2), Port("grpc tcp", tcp, http2), Port("http", web, http1),
                 Port("link", str(daemon.dir / "state/engines/tiny-dense@0/link.sock"), link)]
        channels = [daemon.channel(), daemon.channel(tcp)]

        def ask():
            said = [collect(rpc.InferenceStub(c).Generate(request("The seller is", max_tokens=4, temperature=0), timeout=PATIENCE)).ids
                    for c in channels]
            with grpc.insecure_channel(tcp, options=[("grpc.use_local_subchannel_pool", 1)]) as new:  # and who comes only now
                said.append([m.name for m in rpc.InferenceStub(new).ListModels(pb.ListModelsRequest(), timeout=PATIENCE).models])
            said.append(requests.get(f"http://{web}/v1/models", timeout=PATIENCE).json()["data"][0]["id"])
            return said

        endure(daemon, ports, ask, seconds)


def test_every_encrypted_port(seconds, tmp_path):
    certificates = Certificates(tmp_path)
    key, tcp, web = make_key(tmp_path / "keys", "alice"), f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    with Daemon("tiny-dense", ranks=1, listen=[tcp],
                options=["--http", web, "--keys", tmp_path / "keys", "--tls-cert", tmp_path / "server.pem",
                         "--tls-key", tmp_path / "server.key"]) as daemon:
        speaks_h2, plain = (ssl.create_default_context(cafile=certificates.path("ca.pem")) for _ in range(2))
        speaks_h2.set_alpn_protocols(["h2"])
        ports = [Port("tls grpc", tcp, tls, speaks_h2), Port("tls web", web, tls, plain)]

        def ask():
            with certificates.channel(tcp) as channel:
                ids = collect(rpc.InferenceStub(channel).Generate(request("The seller is", max_tokens=4, temperature=0),
                                                                  metadata=bearer(key), timeout=PATIENCE)).ids
            answer = requests.get(f"https://{web}/v1/models", headers={"Authorization": f"Bearer {key}"},
                                  verify=certificates.path("ca.pem"), timeout=PATIENCE)
            return ids, answer.json()["data"][0]["id"]

        endure(daemon, ports, ask, seconds)
