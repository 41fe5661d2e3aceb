"""What the tests share: where things are, stubs made from proto/gemmad.proto by stock grpcio-tools, a gemmad to talk to."""
import atexit
import collections
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

# The tests start processes while gRPC threads run in this one.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
import grpc  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("GEMMAD_BUILD", ROOT / "build"))
MODELS = ROOT / "tests" / "models"
GOLDEN = ROOT / "tests" / "golden"
START_SECONDS = float(os.environ.get("GEMMAD_TEST_START_SECONDS", "90"))
# Longest that a test waits for something that must happen; the machine may be busy with other builds.
PATIENCE_SECONDS = 60
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def _make_stubs():
    out = pathlib.Path(tempfile.mkdtemp(prefix="gemmad-stubs-"))
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"--python_out={out}",
                    f"--grpc_python_out={out}", "gemmad.proto"], check=True)
    sys.path.insert(0, str(out))
    import gemmad_pb2
    import gemmad_pb2_grpc
    return gemmad_pb2, gemmad_pb2_grpc


pb, rpc = _make_stubs()


def samples(model, *kinds):
    """The held-out conversations of a bundled model."""
    cases = json.loads((MODELS / model / "samples.json").read_text())
    return [c for c in cases if not kinds or c["kind"] in kinds]


def ctl(*args, server=None, stdin=None, timeout=PATIENCE_SECONDS, env=None):
    """Runs gemmactl; never on a terminal."""
    command = [str(BUILD / "gemmactl")] + (["--server", server] if server else []) + [str(a) for a in args]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout,
                          env={**os.environ, **(env or {})})


def eventually(condition, seconds=PATIENCE_SECONDS, every=0.05):
    """The first true value of condition(), or None when it stays false."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            return None
        time.sleep(every)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def process_exists(pid):
    """A zombie does not count: it waits for its parent and runs no more."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def processes_with(text):
    """Ids of the processes whose command line or environment holds `text`, this one aside."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        for part in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                if text.encode() in (entry / part).read_bytes() and process_exists(int(entry.name)):
                    found.append(int(entry.name))
                    break
    return found


Result = collections.namedtuple("Result", "ids text logprobs prompt_logprobs started finished deltas")


def collect(events):
    """All of one Generate stream. The contract's order is checked on the way: started, then the rest, finished last."""
    ids, text, logprobs, prompt_logprobs, started, finished, deltas = [], "", [], [], None, None, 0
    for event in events:
        kind = event.WhichOneof("event")
        assert finished is None, f"{kind} after finished"
        assert (kind == "started") == (started is None), f"{kind} before or beside started"
        if kind == "started":
            started = event.started
        elif kind == "delta":
            deltas += 1
            ids += event.delta.token_ids
            text += event.delta.text
            logprobs += event.delta.logprobs
        elif kind == "prompt_logprobs":
            assert event.prompt_logprobs.first_position == len(prompt_logprobs) + 1
            prompt_logprobs += event.prompt_logprobs.logprobs
        elif kind == "finished":
            finished = event.finished
    assert finished is not None, "the stream ended without finished"
    return Result(ids, text, logprobs, prompt_logprobs, started, finished, deltas)


def request(prompt, model=None, **sampling):
    """A GenerateRequest: prompt is text or a list of token ids; the rest are fields of Sampling."""
    r = pb.GenerateRequest()
    if model:
        r.model = model
    if isinstance(prompt, str):
        r.text = prompt
    else:
        r.token_ids.ids.extend(prompt)
    for name, value in sampling.items():
        if isinstance(value, (list, tuple)):
            getattr(r.sampling, name).extend(value)
        elif isinstance(value, dict):
            for token_id, bias in value.items():
                r.sampling.logit_bias.add(token_id=token_id, bias=bias)
        else:
            setattr(r.sampling, name, value)
    return r


class Daemon:
    """A gemmad of the test's own: Unix socket and state in a short temporary directory, a log that failures show."""

    def __init__(self, *models, ranks=2, options=(), listen=(), wait=True, program=BUILD / "gemmad", env=None):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="gemmad-test-"))
        self.address = f"unix:{self.dir}/s"
        self.log_path = self.dir / "log"
        self.env = {**os.environ, **(env or {})}
        self.command = [str(program)]
        for m in models:
            self.command += ["--model", str(m if "/" in str(m) else MODELS / m)]
        self.command += ["--ranks", str(ranks), "--state", str(self.dir / "state"), "--listen", self.address]
        for address in listen:
            self.command += ["--listen", address]
        self.command += [str(o) for o in options]
        self.channels = []
        self.process = None
        try:
            self.start()
            if wait:
                self.wait_ready()
        except BaseException:
            self.close()
            raise

    def start(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                            start_new_session=True, env=self.env)

    def log(self):
        return self.log_path.read_text(errors="replace")

    def wait_ready(self):
        def ready():
            assert self.process.poll() is None, f"gemmad ended with {self.process.returncode}:\n{self.log()[-3000:]}"
            with contextlib.suppress(grpc.RpcError):
                state = self.status().state
                assert state != "failed", self.log()[-3000:]
                return state == "ready"
        assert eventually(ready, START_SECONDS), f"not ready in {START_SECONDS} s:\n{self.log()[-3000:]}"

    def channel(self, address=None):
        # A connection of its own: tests close, break and flood them.
        channel = grpc.insecure_channel(address or self.address, options=UNLIMITED + [
            ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)])
        self.channels.append(channel)
        return channel

    def inference(self, address=None):
        return rpc.InferenceStub(self.channel(address))

    def status(self):
        with grpc.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            return rpc.ControlStub(channel).GetStatus(pb.GetStatusRequest(), timeout=10)

    def ranks(self):
        return [r for m in self.status().models for e in m.engines for r in e.ranks]

    def generate(self, prompt, timeout=PATIENCE_SECONDS, model=None, **sampling):
        return collect(self.inference().Generate(request(prompt, model, **sampling), timeout=timeout))

    def ctl(self, *args, **more):
        return ctl(*args, server=self.address, **more)

    def stop(self, seconds=30):
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(seconds)

    def close(self):
        for channel in self.channels:
            channel.close()
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        # What a broken daemon may have left: everything that names this directory was started by it.
        for pid in processes_with(str(self.dir)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def run_gemmad(*args, timeout=PATIENCE_SECONDS, env=None, program=BUILD / "gemmad"):
    """Runs gemmad to its end: for what it must refuse. A state directory of its own unless one is named."""
    with tempfile.TemporaryDirectory(prefix="gemmad-test-") as state:
        own = [] if "--state" in args else ["--state", state]
        command = [str(program), *map(str, args), *own]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
                              env={**os.environ, **(env or {})})
