"""TLS for gRPC and HTTP with stock clients: who trusts whom, versions, and certificates that change while it runs."""
import json
import re
import shutil
import signal
import socket
import ssl

import grpc
import pytest
import requests
from grpc_health.v1 import health_pb2, health_pb2_grpc

from secure import Certificates, bearer, make_key
from support import MODELS, PATIENCE_SECONDS, Daemon, collect, ctl, eventually, free_port, pb, request, rpc, run_gemmad

SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


class Encrypted:
    def __init__(self, folder, certificates, *options):
        self.keys = folder / "keys"
        self.key = make_key(self.keys, "alice")
        self.tcp, self.web = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        self.certificates, self.dir = certificates, folder
        self.use("server")
        self.daemon = Daemon("tiny-dense", ranks=1, listen=[self.tcp],
                             options=["--keys", self.keys, "--http", self.web, "--tls-cert", folder / "server.pem",
                                      "--tls-key", folder / "server.key", *options])

    def use(self, name):
        for kind in ("key", "pem"):
            shutil.copy(self.certificates.path(f"{name}.{kind}"), self.dir / f"server.{kind}")
        (self.dir / "server.key").chmod(0o600)

    def reload(self, says):
        before = self.daemon.log().count(says)
        self.daemon.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: self.daemon.log().count(says) > before), self.daemon.log()[-2000:]


@pytest.fixture(scope="module")
def encrypted(certificates, tmp_path_factory):
    e = Encrypted(tmp_path_factory.mktemp("tls"), certificates)
    with e.daemon:
        yield e


@pytest.fixture(scope="module")
def mutual(certificates, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mtls")
    shutil.copy(certificates.path("ca.pem"), folder / "clients.pem")
    e = Encrypted(folder, certificates, "--tls-client-ca", folder / "clients.pem")
    with e.daemon:
        yield e


def models(channel, key):
    with channel:
        answer = rpc.InferenceStub(channel).ListModels(pb.ListModelsRequest(), metadata=bearer(key), timeout=10)
        return [m.name for m in answer.models]


def is_refused(channel, key):
    with pytest.raises(grpc.RpcError) as e:
        models(channel, key)
    return e.value.code() == grpc.StatusCode.UNAVAILABLE


def web_models(e, **more):
    answer = requests.get(f"https://{e.web}/v1/models", headers={"Authorization": f"Bearer {e.key}"}, timeout=PATIENCE_SECONDS,
                          **{"verify": e.certificates.path("ca.pem"), **more})
    assert answer.status_code == 200, answer.text
    return [m["id"] for m in answer.json()["data"]]


def test_grpc_over_tls(encrypted):
    channel = encrypted.certificates.channel(encrypted.tcp)
    inference = rpc.InferenceStub(channel)
    result = collect(inference.Generate(request("The seller is", max_tokens=5, temperature=0), metadata=bearer(encrypted.key),
                                        timeout=PATIENCE_SECONDS))
    assert result.ids == encrypted.daemon.generate("The seller is", max_tokens=5, temperature=0).ids
    assert next(health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=10)).status == SERVING
    with pytest.raises(grpc.RpcError) as e:
        inference.ListModels(pb.ListModelsRequest(), timeout=10)
    assert e.value.code() == grpc.StatusCode.UNAUTHENTICATED, "encryption alone lets nobody in"
    text = "a" * (16 << 20)
    with pytest.raises(grpc.RpcError) as e:
        inference.Tokenize(pb.TokenizeRequest(text=text), metadata=bearer(encrypted.key), timeout=PATIENCE_SECONDS)
    assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT and str(16 << 20) in e.value.details()
    with pytest.raises(grpc.RpcError) as e:
        collect(inference.Generate(request("The seller is", max_tokens=4000, ignore_eos=True), metadata=bearer(encrypted.key),
                                   timeout=0.3))
    assert e.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    channel.close()


def test_a_client_that_trusts_another_authority_leaves(encrypted):
    assert is_refused(encrypted.certificates.channel(encrypted.tcp, ca="other-ca"), encrypted.key)
    with pytest.raises(requests.exceptions.SSLError):
        web_models(encrypted, verify=encrypted.certificates.path("other-ca.pem"))


def test_plaintext_is_not_answered(encrypted):
    with grpc.insecure_channel(encrypted.tcp, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        with pytest.raises(grpc.RpcError) as e:
            rpc.InferenceStub(channel).ListModels(pb.ListModelsRequest(), metadata=bearer(encrypted.key), timeout=5)
        assert e.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(f"http://{encrypted.web}/health", timeout=10)


def versions(address, certificates):
    """Those that a handshake succeeds with."""
    found = []
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=certificates.path("ca.pem"))
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.set_alpn_protocols(["h2", "http/1.1"])
        context.minimum_version = context.maximum_version = version
        try:
            with socket.create_connection(address.split(":"), timeout=10) as s, \
                    context.wrap_socket(s, server_hostname="127.0.0.1") as t:
                found.append(t.version())
        except (ssl.SSLError, ConnectionError):
            pass
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tls_is_1_2_or_later(encrypted):
    assert versions(encrypted.tcp, encrypted.certificates) == ["TLSv1.2", "TLSv1.3"]
    assert versions(encrypted.web, encrypted.certificates) == ["TLSv1.2", "TLSv1.3"]


def test_https(encrypted):
    assert web_models(encrypted) == ["tiny-dense"]
    answer = requests.get(f"https://{encrypted.web}/v1/models", verify=encrypted.certificates.path("ca.pem"), timeout=10)
    assert answer.status_code == 401
    assert requests.get(f"https://{encrypted.web}/health", verify=encrypted.certificates.path("ca.pem"), timeout=10).ok


def test_certificates_change_while_it_runs(encrypted):
    certificates = encrypted.certificates
    certificates.sign("next", "other-ca", "subjectAltName=IP:127.0.0.1")
    old = certificates.channel(encrypted.tcp)
    stub = rpc.InferenceStub(old)
    assert stub.ListModels(pb.ListModelsRequest(), metadata=bearer(encrypted.key), timeout=10).models

    (encrypted.dir / "server.pem").write_text("nonsense")
    encrypted.reload("the certificate stays as it was")
    assert models(certificates.channel(encrypted.tcp), encrypted.key) == ["tiny-dense"]
    assert web_models(encrypted) == ["tiny-dense"]

    encrypted.use("next")
    encrypted.reload("is good until")
    assert stub.ListModels(pb.ListModelsRequest(), metadata=bearer(encrypted.key), timeout=10).models, "open connections stay"
    assert models(certificates.channel(encrypted.tcp, ca="other-ca"), encrypted.key) == ["tiny-dense"]
    assert is_refused(certificates.channel(encrypted.tcp), encrypted.key)
    assert web_models(encrypted, verify=certificates.path("other-ca.pem")) == ["tiny-dense"]
    encrypted.use("server")
    encrypted.reload("is good until")
    assert models(certificates.channel(encrypted.tcp), encrypted.key) == ["tiny-dense"]
    old.close()


def test_clients_show_a_certificate_where_they_must(mutual):
    certificates = mutual.certificates
    assert models(certificates.channel(mutual.tcp, client="client"), mutual.key) == ["tiny-dense"]
    assert is_refused(certificates.channel(mutual.tcp), mutual.key)
    assert is_refused(certificates.channel(mutual.tcp, client="stranger"), mutual.key)
    with certificates.channel(mutual.tcp, client="client") as channel, pytest.raises(grpc.RpcError) as e:
        rpc.InferenceStub(channel).ListModels(pb.ListModelsRequest(), timeout=10)
    assert e.value.code() == grpc.StatusCode.UNAUTHENTICATED, "a certificate is no key"

    def pair(name):
        return certificates.path(f"{name}.pem"), certificates.path(f"{name}.key")

    def refusals():
        text = requests.get(f"https://{mutual.web}/metrics", headers={"Authorization": f"Bearer {mutual.key}"}, cert=pair("client"),
                            verify=certificates.path("ca.pem"), timeout=10).text
        return float(re.search(r"^gemmad:auth_failures_total (\S+)$", text, re.M)[1])

    assert web_models(mutual, cert=pair("client")) == ["tiny-dense"]
    before = refusals()
    for cert in (None, pair("stranger")):
        try:
            answer = requests.get(f"https://{mutual.web}/health", verify=certificates.path("ca.pem"), cert=cert, timeout=10)
        except requests.exceptions.ConnectionError:
            continue
        assert answer.status_code == 403, "even what needs no key"
    assert refusals() == before + 2
    assert "a client's certificate is needed" in mutual.daemon.log()


def test_who_signs_clients_changes_while_it_runs(mutual):
    def may(name):
        files = mutual.certificates.path(f"{name}.pem"), mutual.certificates.path(f"{name}.key")
        try:
            return web_models(mutual, cert=files) == ["tiny-dense"]
        except (requests.exceptions.ConnectionError, AssertionError):
            return False

    assert (may("client"), may("stranger")) == (True, False)
    shutil.copy(mutual.certificates.path("other-ca.pem"), mutual.dir / "clients.pem")
    mutual.reload("is good until")
    assert (may("client"), may("stranger")) == (False, True)
    assert models(mutual.certificates.channel(mutual.tcp, client="stranger"), mutual.key) == ["tiny-dense"]
    shutil.copy(mutual.certificates.path("ca.pem"), mutual.dir / "clients.pem")
    mutual.reload("is good until")
    assert (may("client"), may("stranger")) == (True, False)


def test_gemmactl_over_tls(encrypted, mutual, tmp_path):
    for e, more in ((encrypted, []), (mutual, ["--tls-cert", e_path(mutual, "client.pem"), "--tls-key", e_path(mutual, "client.key")])):
        file = tmp_path / e.tcp
        file.write_text(e.key)
        file.chmod(0o600)
        done = ctl("models", "--json", "--key-file", file, "--tls-ca", e_path(e, "ca.pem"), *more, server=e.tcp)
        assert done.returncode == 0 and json.loads(done.stdout)["models"][0]["name"] == "tiny-dense", done.stderr
        assert ctl("models", "--key-file", file, "--tls-ca", e_path(e, "other-ca.pem"), *more, server=e.tcp).returncode == 1


def e_path(e, name):
    return e.certificates.path(name)


def test_gemmad_refuses_certificates_that_do_not_fit(certificates, tmp_path):
    model, path = MODELS / "tiny-dense", certificates.path
    open_key = tmp_path / "open.key"
    shutil.copy(path("server.key"), open_key)
    open_key.chmod(0o644)
    for cert, key, more, says in [
            (path("server.pem"), path("client.key"), [], "server.pem with the key"),
            (path("server.key"), path("server.key"), [], "no certificates in PEM"),
            (path("none.pem"), path("server.key"), [], "No such file"),
            (path("server.pem"), open_key, [], "others could read the private key"),
            (path("server.pem"), path("server.key"), ["--tls-client-ca", path("server.key")], "server.key: ")]:
        done = run_gemmad("--model", model, "--listen", f"127.0.0.1:{free_port()}", "--tls-cert", cert, "--tls-key", key, *more)
        assert done.returncode == 2 and says in done.stderr, (says, done.stderr)


def test_a_port_that_is_taken(certificates, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run_gemmad("--model", MODELS / "tiny-dense", "--listen", f"127.0.0.1:{taken.getsockname()[1]}",
                          "--tls-cert", certificates.path("server.pem"), "--tls-key", certificates.path("server.key"))
        assert done.returncode == 4 and "Address already in use" in done.stderr, done.stderr


def test_two_daemons_do_not_share_a_port(encrypted, certificates):
    done = run_gemmad("--model", MODELS / "tiny-dense", "--listen", encrypted.tcp, "--tls-cert", certificates.path("server.pem"),
                      "--tls-key", certificates.path("server.key"))
    assert done.returncode == 4, done.stderr
