"""Who is let in, over which door, and how much they may do; with stock clients."""
import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys

import grpc
import pytest
import requests
from grpc_health.v1 import health_pb2, health_pb2_grpc

from secure import bearer, key_command, make_key
from support import MODELS, PATIENCE_SECONDS, Daemon, collect, ctl, eventually, free_port, pb, request, rpc, run_gemmad

Code = grpc.StatusCode


class Keyed:
    """A daemon with two names for one small model, which asks for keys on a Unix socket, TCP and HTTP."""

    def __init__(self, folder):
        self.keys = folder / "keys.json"
        self.key = {"alice": make_key(self.keys, "alice"),
                    "one": make_key(self.keys, "one", "--model", "second"),
                    "root": make_key(self.keys, "root", "--admin")}
        self.tcp, self.web = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        model = MODELS / "tiny-dense"
        self.daemon = Daemon(f"first={model}", f"second={model}", ranks=1, listen=[self.tcp],
                             options=["--keys", self.keys, "--http", self.web, "--threads", 1])

    def channel(self, address=None):
        return self.daemon.channel(address or self.tcp)

    def add(self, name, *options):
        self.key[name] = make_key(self.keys, name, *options)
        self.reload()
        return self.key[name]

    def reload(self):
        before = self.daemon.log().count("keys: ") + self.daemon.log().count("the keys stay")
        self.daemon.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: self.daemon.log().count("keys: ") + self.daemon.log().count("the keys stay") > before)

    def get(self, path, key=None, **headers):
        if key:
            headers["Authorization"] = f"Bearer {key}"
        return requests.get(f"http://{self.web}{path}", headers=headers, timeout=PATIENCE_SECONDS)

    def post(self, path, key, **body):
        return requests.post(f"http://{self.web}{path}", json=body, headers={"Authorization": f"Bearer {key}"},
                             timeout=PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    k = Keyed(tmp_path_factory.mktemp("keys"))
    with k.daemon:
        yield k


def refusal(call):
    with pytest.raises(grpc.RpcError) as e:
        call()
    return e.value.code(), e.value.details()


def list_models(channel, key=None, header=None):
    metadata = bearer(key) if key else (("authorization", header),) if header else None
    answer = rpc.InferenceStub(channel).ListModels(pb.ListModelsRequest(), metadata=metadata, timeout=PATIENCE_SECONDS)
    return [m.name for m in answer.models]


def generate(channel, key, prompt="The seller is", **more):
    return collect(rpc.InferenceStub(channel).Generate(request(prompt, **more), metadata=bearer(key), timeout=PATIENCE_SECONDS))


def test_a_key_lets_in_and_nothing_else_does(keyed):
    channel = keyed.channel()
    assert list_models(channel, keyed.key["alice"]) == ["first", "second"]
    code, text = refusal(lambda: list_models(channel))
    assert code == Code.UNAUTHENTICATED and "a key is needed" in text
    right = keyed.key["alice"]
    wrong = [right[:-1], right + "0", right.upper(), "gemmad-" + "0" * 64, "x" * 5000]
    for header in [f"Bearer {w}" for w in wrong] + [f"Basic {right}", right, "Bearer", ""]:
        code, text = refusal(lambda: list_models(channel, header=header or " "))
        assert code == Code.UNAUTHENTICATED, header
        assert right not in text
    assert right not in keyed.daemon.log()


def test_every_method_but_health_asks_for_a_key(keyed):
    channel = keyed.channel()
    inference, control, jobs = rpc.InferenceStub(channel), rpc.ControlStub(channel), rpc.JobsStub(channel)
    calls = [lambda: list(inference.Generate(request("Hello", max_tokens=1), timeout=10)),
             lambda: list(inference.Chat(pb.ChatRequest(), timeout=10)),
             lambda: inference.Tokenize(pb.TokenizeRequest(text="x"), timeout=10),
             lambda: inference.Detokenize(pb.DetokenizeRequest(token_ids=[2]), timeout=10),
             lambda: inference.RenderChat(pb.ChatRequest(), timeout=10),
             lambda: inference.ParseChat(pb.ParseChatRequest(), timeout=10),
             lambda: control.GetStatus(pb.GetStatusRequest(), timeout=10),
             lambda: list(control.WatchStatus(pb.GetStatusRequest(), timeout=10)),
             lambda: control.Drain(pb.DrainRequest(), timeout=10),
             lambda: jobs.List(pb.ListJobsRequest(), timeout=10),
             lambda: channel.unary_unary("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")(b"", timeout=10),
             lambda: channel.unary_unary("/no.such/Method")(b"", timeout=10)]
    for i, call in enumerate(calls):
        assert refusal(call)[0] == Code.UNAUTHENTICATED, i
    health = health_pb2_grpc.HealthStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == health_pb2.HealthCheckResponse.SERVING
    watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=10)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


def test_the_own_user_needs_no_key_on_the_socket(keyed):
    assert list_models(keyed.channel(keyed.daemon.address)) == ["first", "second"]
    assert list_models(keyed.channel(keyed.daemon.address), keyed.key["one"]) == ["second"]
    assert refusal(lambda: list_models(keyed.channel(keyed.daemon.address), "wrong"))[0] == Code.UNAUTHENTICATED


def test_models_that_a_key_may_not_use_are_not_there(keyed):
    channel, key = keyed.channel(), keyed.key["one"]
    assert list_models(channel, key) == ["second"]
    code, text = refusal(lambda: generate(channel, key, model="first", max_tokens=1))
    assert code == Code.NOT_FOUND and "there are the models second;" in text
    assert refusal(lambda: rpc.InferenceStub(channel).Tokenize(pb.TokenizeRequest(model="first", text="x"), metadata=bearer(key),
                                                               timeout=10))[0] == Code.NOT_FOUND
    assert len(generate(channel, key, max_tokens=2).ids) == 2, "without a name: the first that it may use"
    status = rpc.ControlStub(channel).GetStatus(pb.GetStatusRequest(), metadata=bearer(key), timeout=10)
    assert [m.name for m in status.models] == ["second"]
    assert [m["id"] for m in keyed.get("/v1/models", key).json()["data"]] == ["second"]
    answer = keyed.post("/v1/completions", key, prompt="x", max_tokens=1).json()
    assert answer["model"] == "second", "nor is another named in an answer"


def test_without_a_name_it_is_the_first_that_the_key_may_use(keyed):
    headers = {"Authorization": f"Bearer {keyed.key['one']}"}
    asked = {"max_tokens": 1}
    for path, body in (("completions", {**asked, "prompt": "a"}), ("responses", {"input": "a", "max_output_tokens": 16}),
                       ("chat/completions", {**asked, "messages": [{"role": "user", "content": "a"}]})):
        answer = requests.post(f"http://{keyed.web}/v1/{path}", json=body, headers=headers, timeout=PATIENCE_SECONDS)
        assert answer.json()["model"] == "second", (path, answer.text)


def test_only_an_administrator_may_drain(keyed):
    control = rpc.ControlStub(keyed.channel())
    code, text = refusal(lambda: control.Drain(pb.DrainRequest(), metadata=bearer(keyed.key["alice"]), timeout=10))
    assert code == Code.PERMISSION_DENIED and "alice" in text
    assert list_models(keyed.channel(), keyed.key["alice"])


def test_requests_a_minute_count_over_all_transports(keyed):
    key = keyed.add("few", "--requests-per-minute", 2)
    channel = keyed.channel()
    assert generate(channel, key, max_tokens=1).ids
    inference = rpc.InferenceStub(channel)
    assert inference.Tokenize(pb.TokenizeRequest(text="x"), metadata=bearer(key), timeout=10).token_ids
    with pytest.raises(grpc.RpcError) as e:
        generate(channel, key, max_tokens=1)
    assert e.value.code() == Code.RESOURCE_EXHAUSTED and "2 requests a minute" in e.value.details()
    wait_ms = int(dict(e.value.trailing_metadata())["retry-after-ms"])
    assert 20_000 < wait_ms <= 30_000, "the next of two a minute"
    assert list_models(channel, key), "what costs nothing is not counted"
    answer = requests.post(f"http://{keyed.web}/v1/completions", headers={"Authorization": f"Bearer {key}"},
                           json={"prompt": "x", "max_tokens": 1, "model": "first"}, timeout=PATIENCE_SECONDS)
    if answer.status_code != 404:  # where HTTP serves completions
        assert answer.status_code == 429 and int(answer.headers["retry-after-ms"]) > 15_000, answer.text


def test_tokens_a_minute_count_prompt_and_answer(keyed):
    key = keyed.add("sparing", "--tokens-per-minute", 60)
    channel = keyed.channel()
    first = generate(channel, key, prompt="The seller is " * 20, max_tokens=5, ignore_eos=True)
    used = first.started.prompt_tokens + 5
    assert used > 60
    with pytest.raises(grpc.RpcError) as e:
        generate(channel, key, max_tokens=1)
    assert e.value.code() == Code.RESOURCE_EXHAUSTED and "60 tokens a minute" in e.value.details()
    wait_s = int(dict(e.value.trailing_metadata())["retry-after-ms"]) / 1000
    assert used - 60 - 20 < wait_s <= used - 60 + 1, "one token a second flows back"


def test_requests_at_the_same_time(keyed):
    key = keyed.add("lonely", "--concurrent", 1)
    inference = rpc.InferenceStub(keyed.channel())
    running = inference.Generate(request("The seller is", max_tokens=4000, ignore_eos=True), metadata=bearer(key), timeout=60)
    next(running)
    code, text = refusal(lambda: generate(keyed.channel(), key, max_tokens=1))
    assert code == Code.RESOURCE_EXHAUSTED and "1 requests under way, at most 1" in text
    assert generate(keyed.channel(), keyed.key["alice"], max_tokens=1).ids, "others are not held up"
    running.cancel()

    def again():
        with contextlib.suppress(grpc.RpcError):
            return generate(keyed.channel(), key, max_tokens=1).ids
    assert eventually(again)


def test_keys_change_while_it_runs(keyed):
    key, channel = keyed.add("guest"), keyed.channel()
    assert list_models(channel, key)
    done = key_command("rotate", "guest", "--keys", keyed.keys)
    assert done.returncode == 0 and list_models(channel, key), "not before it is told"
    keyed.reload()
    assert refusal(lambda: list_models(channel, key))[0] == Code.UNAUTHENTICATED
    assert list_models(channel, done.stdout.strip())
    running = rpc.InferenceStub(channel).Generate(request("The seller is", max_tokens=200, ignore_eos=True),
                                                  metadata=bearer(done.stdout.strip()), timeout=60)
    assert key_command("remove", "guest", "--keys", keyed.keys).returncode == 0
    keyed.reload()
    assert refusal(lambda: list_models(channel, done.stdout.strip()))[0] == Code.UNAUTHENTICATED
    assert len(collect(running).ids) == 200, "a request under way is finished"

    good = keyed.keys.read_text()
    keyed.keys.write_text(good[:-20])
    keyed.reload()
    assert list_models(channel, keyed.key["alice"]), "a broken file changes nothing"
    assert "the keys stay as they were" in keyed.daemon.log()
    keyed.keys.write_text(good)
    keyed.keys.chmod(0o644)
    keyed.reload()
    assert "others could read the keys" in keyed.daemon.log()
    keyed.keys.chmod(0o600)
    keyed.reload()
    assert keyed.daemon.status().state == "ready"


def test_an_expired_key(keyed):
    key, channel = keyed.add("brief", "--expires", "1h"), keyed.channel()
    assert list_models(channel, key)
    text = json.loads(keyed.keys.read_text())
    [entry] = [k for k in text["keys"] if k["name"] == "brief"]
    entry["expires"] = "2020-01-01T00:00:00Z"
    keyed.keys.write_text(json.dumps(text))
    keyed.reload()
    code, said = refusal(lambda: list_models(channel, key))
    assert code == Code.UNAUTHENTICATED and "has expired, on 2020-01-01T00:00:00Z" in said


def test_http_asks_for_keys(keyed):
    answer = keyed.get("/v1/models")
    assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert keyed.get("/v1/models", "wrong").status_code == 401
    assert len(keyed.get("/v1/models", keyed.key["alice"]).json()["data"]) == 2
    assert keyed.get("/health").status_code == 200
    assert keyed.get("/metrics").status_code in (401, 404)
    with socket.create_connection(keyed.web.split(":"), timeout=10) as s:
        s.sendall(f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {keyed.key['alice']}\r\n"
                  "Authorization: Bearer wrong\r\nConnection: close\r\n\r\n".encode())
        assert s.recv(4096).startswith(b"HTTP/1.1 401"), "two keys are none"


def test_gemmactl_shows_a_key(keyed, tmp_path):
    file = tmp_path / "key"
    file.write_text(keyed.key["one"] + "\n")
    file.chmod(0o644)
    refused = ctl("models", "--key-file", file, server=keyed.tcp)
    assert refused.returncode == 1 and "chmod 600" in refused.stderr
    file.chmod(0o600)
    done = ctl("models", "--key-file", file, "--json", server=keyed.tcp)
    assert done.returncode == 0 and [m["name"] for m in json.loads(done.stdout)["models"]] == ["second"]
    assert ctl("models", server=keyed.tcp, env={"GEMMACTL_KEY": keyed.key["alice"]}).returncode == 0
    without = ctl("models", server=keyed.tcp, env={"GEMMACTL_KEY": ""})
    assert without.returncode == 1 and "UNAUTHENTICATED" in without.stderr
    for elsewhere in ("192.0.2.1:50051", "127.example.invalid:50051"):
        away = ctl("models", "--key-file", file, server=elsewhere)
        assert away.returncode == 1 and "would be readable on its way" in away.stderr


def test_key_files(tmp_path):
    path = tmp_path / "keys"
    key = make_key(path, "alice", "--concurrent", 3, "--model", "a", "--model", "b", "--expires", "2999-01-01")
    assert path.stat().st_mode & 0o777 == 0o600 and key not in path.read_text()
    listed = json.loads(key_command("list", "--keys", path, "--json").stdout)["keys"]
    assert listed[0]["expires"] == "2999-01-01T00:00:00Z" and listed[0]["models"] == ["a", "b"] and "sha256" not in listed[0]
    for args, code, says in [
            (["add", "alice"], 1, "there is a key with the name alice"), (["remove", "bob"], 1, "no key with the name"),
            (["rotate", "bob"], 1, "no key with the name"), (["add", "a/b"], 2, "byte 0x2f"), (["list", "x"], 2, "needs one of"),
            (["list", "--admin"], 2, "go with key add"), (["add", "bob", "--expires", "2020-01-01"], 2, "is past"),
            (["add", "bob", "--expires", "soon"], 2, "is none of"), (["add", "bob", "--concurrent", "0"], 2, "concurrent")]:
        done = key_command(*args, "--keys", path)
        assert done.returncode == code and says in done.stderr, (args, done.stderr)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        names = [f"user{i}" for i in range(16)]
        assert all(d.returncode == 0 for d in pool.map(lambda n: key_command("add", n, "--keys", path), names))
    assert len(json.loads(path.read_text())["keys"]) == 17, "none of the writers took another's key away"
    assert os.listdir(tmp_path) == ["keys"]


def test_gemmad_refuses_what_is_not_safe(tmp_path):
    model, keys = MODELS / "tiny-dense", tmp_path / "keys"
    for args, says in [(["--listen", "0.0.0.0:1234"], "--keys and --tls-cert with --tls-key are missing"),
                       (["--listen", "0.0.0.0:1234", "--keys", keys], "--tls-cert and --tls-key are missing"),
                       (["--http", "[::]:1234"], "--keys and --tls-cert"), (["--socket-mode", "0666"], "needs --keys"),
                       (["--keys", keys], "No such file")]:
        done = run_gemmad("--model", model, *args)
        assert done.returncode == 2 and says in done.stderr, (args, done.stderr)
    make_key(keys, "alice")
    keys.chmod(0o644)
    done = run_gemmad("--model", model, "--keys", keys)
    assert done.returncode == 2 and "chmod 600" in done.stderr


AS_NOBODY = """
import sys, grpc
sys.path.insert(0, {stubs!r})
import gemmad_pb2 as pb, gemmad_pb2_grpc as rpc
channel = grpc.insecure_channel({address!r})
try:
    rpc.InferenceStub(channel).ListModels(pb.ListModelsRequest(), metadata={metadata!r}, timeout=10)
    print("OK")
except grpc.RpcError as e:
    print(e.code().name)
"""


def as_nobody(address, key=None):
    """What a second local user is told."""
    import gemmad_pb2
    stubs = os.path.dirname(gemmad_pb2.__file__)
    os.chmod(stubs, 0o755)
    code = AS_NOBODY.format(stubs=stubs, address=address, metadata=bearer(key) if key else None)
    done = subprocess.run(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", sys.executable, "-c", code],
                          capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_second_local_user(tmp_path):
    keys = tmp_path / "keys"
    key = make_key(keys, "alice")
    with Daemon("tiny-dense", ranks=1) as daemon:
        daemon.dir.chmod(0o755)
        assert as_nobody(daemon.address) == "UNAVAILABLE", "the socket's mode keeps them out"
        (daemon.dir / "s").chmod(0o666)
        assert as_nobody(daemon.address) == "UNAVAILABLE", "and so does gemmad"
        assert "a connection of user 65534" in daemon.log()
    with Daemon("tiny-dense", ranks=1, options=["--keys", keys, "--socket-mode", "0666"]) as daemon:
        daemon.dir.chmod(0o755)
        assert as_nobody(daemon.address) == "UNAUTHENTICATED"
        assert as_nobody(daemon.address, "wrong") == "UNAUTHENTICATED"
        assert as_nobody(daemon.address, key) == "OK"


def test_what_a_browser_may_be_made_to_send(keyed):
    """A page from anywhere: by a name of its own that it has pointed at this machine, and from its own origin."""
    web = f"127.0.0.1:{free_port()}"
    with Daemon("tiny-dense", ranks=1, options=["--http", web]) as daemon:
        assert f"{web} is open to every user of this machine" in daemon.log()

        def ask(method="GET", path="/v1/models", **headers):
            return requests.request(method, f"http://{web}{path}", headers=headers, timeout=PATIENCE_SECONDS)

        assert ask().status_code == 200
        rebound = ask(Host="evil.example")
        assert rebound.status_code == 403 and "evil.example" in rebound.json()["error"]["message"]
        assert ask(Host="localhost:1").status_code == 200
        assert ask("POST", "/tokenize", Origin="http://evil.example").status_code == 403
        assert ask("POST", "/tokenize", Origin="null").status_code == 403
        assert ask("POST", "/tokenize", Origin=f"http://{web}").status_code != 403
        preflight = ask("OPTIONS", "/v1/models", Origin="http://evil.example")
        assert not [h for h in (*ask(Origin="http://evil.example").headers, *preflight.headers) if h.lower().startswith("access-control")]
    # With keys a page without one gets nothing, whatever name it calls us by.
    assert keyed.get("/v1/models", keyed.key["alice"], Host="models.example.org").status_code == 200
    assert keyed.get("/v1/models", Host="models.example.org").status_code == 401
