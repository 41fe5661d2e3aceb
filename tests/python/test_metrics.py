"""What an operator sees: /metrics with vLLM's names and buckets, the log's line for each request, and the dashboard and
rules in deploy/ that stand on them."""
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from support import ROOT, Daemon, collect, eventually, free_port, request, samples

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
LATENCY = [0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680]
BUCKETS = {
    "time_to_first_token_seconds": [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40,
                                    80, 160, 640, 2560],
    "inter_token_latency_seconds": [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80],
    "e2e_request_latency_seconds": LATENCY, "request_queue_time_seconds": LATENCY, "request_prefill_time_seconds": LATENCY,
    "request_decode_time_seconds": LATENCY, "request_params_n": [1, 2, 5, 10, 20],
    "request_prompt_tokens": [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000],
}
TYPES = {
    "num_requests_running": "gauge", "num_requests_waiting": "gauge", "kv_cache_usage_perc": "gauge",
    "weight_bytes_per_second": "gauge", "collective_seconds": "histogram", "prompt_tokens": "counter",
    "generation_tokens": "counter", "prefix_cache_queries": "counter", "prefix_cache_hits": "counter",
    "num_preemptions": "counter", "request_success": "counter", "engine_restarts": "counter",
    **dict.fromkeys(BUCKETS, "histogram"),
}


class Metrics:
    def __init__(self, text):
        assert text.endswith("\n")
        self.families = {f.name: f for f in text_string_to_metric_families(text)}
        self.samples = {}
        for family in self.families.values():
            for s in family.samples:
                series = (s.name, tuple(sorted(s.labels.items())))
                assert series not in self.samples, f"{series} twice"
                self.samples[series] = s.value

    def value(self, name, **labels):
        """The sum over all series of the name that have these labels."""
        found = [v for (n, have), v in self.samples.items() if n == f"gemmad:{name}" and labels.items() <= dict(have).items()]
        assert found, f"no {name} {labels}"
        return sum(found)


@pytest.fixture(scope="module")
def web():
    """A daemon with HTTP and a log of JSON; its address stands in .http."""
    port = free_port()
    with Daemon("tiny-dense", options=("--http", f"127.0.0.1:{port}", "--log-format", "json")) as daemon:
        daemon.http = f"http://127.0.0.1:{port}"
        yield daemon


def get(url):
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as answer:
        return answer.headers, answer.read().decode()


def metrics_of(daemon):
    headers, text = get(daemon.http + "/metrics")
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Metrics(text)


def prompt():
    return samples("tiny-dense", "plain")[0]["prompt_token_ids"]


def test_names_types_and_buckets(web):
    metrics = metrics_of(web)
    for name, kind in TYPES.items():
        family = metrics.families[f"gemmad:{name}"]
        assert family.type == kind and family.documentation, name
        assert all(s.labels["model_name"] == "tiny-dense" and s.labels["engine"] == "0" for s in family.samples), name
    for name, bounds in BUCKETS.items():
        family = metrics.families[f"gemmad:{name}"]
        got = [s.labels["le"] for s in family.samples if s.name.endswith("_bucket")]
        assert got[-1] == "+Inf" and got[:len(bounds)] == [repr(float(b)) for b in bounds], name


def test_requests_are_counted(web):
    before = metrics_of(web)
    done = web.generate(prompt(), max_tokens=20, ignore_eos=True, temperature=0)
    with pytest.raises(grpc.RpcError):
        web.generate(prompt(), model="nobody", max_tokens=1)
    with pytest.raises(urllib.error.HTTPError):
        get(web.http + "/nothing")

    def settled():
        """Engines tell of their steps once a second."""
        now = metrics_of(web)
        return now if now.value("engine_steps_total") - before.value("engine_steps_total") >= 20 else None
    after = eventually(settled)
    assert after, "the engine has told of no steps"

    def more(name, **labels):
        return after.value(name, **labels) - before.value(name, **labels)
    assert more("prompt_tokens_total") == len(prompt()) and more("generation_tokens_total") == 20
    assert more("time_to_first_token_seconds_count") == 1 and more("inter_token_latency_seconds_count") == 19
    assert more("e2e_request_latency_seconds_count") == 1 and more("request_success_total", finished_reason="length") == 1
    assert more("request_decode_time_seconds_sum") == pytest.approx(done.finished.timings.decode_ms / 1000, rel=1e-3)
    assert after.value("requests_refused_total", model_name="", status="NOT_FOUND") >= 1
    assert after.value("http_responses_total", code="404") >= 1 and more("http_responses_total", code="200") >= 1
    # Two ranks exchange sums in every step, and every step reads all of the matrices.
    steps = more("engine_steps_total")
    assert more("collective_seconds_count") == steps and 0 < more("collective_seconds_sum") < more("step_seconds_total")
    assert more("prefix_cache_queries_total") == len(prompt())
    matrices = 4 * sum_of_matrices()
    assert 0.4 * matrices * steps < more("weight_bytes_total") < 1.1 * matrices * steps


def sum_of_matrices():
    """Elements of the checkpoint's matrices: each is read once a step, the embedding as the output head."""
    path = ROOT / "tests/models/tiny-dense/model.safetensors"
    with open(path, "rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
    shapes = [t["shape"] for name, t in header.items() if name != "__metadata__"]
    return sum(s[0] * s[1] for s in shapes if len(s) == 2)


def lines_of(daemon, request_id, field="request_id"):
    """A client may see the end of its stream before the line is there."""
    return eventually(lambda: [line for line in map(json.loads, daemon.log().splitlines()) if line.get(field) == request_id]) or []


def test_a_request_leaves_one_line(web):
    r = request("a text of no other", max_tokens=3, ignore_eos=True)
    metadata = [("traceparent", f"00-{TRACE}-{PARENT}-01"), ("x-request-id", "proxy.7")]
    got = collect(web.inference().Generate(r, metadata=metadata, timeout=30))
    assert got.started.request_id == "proxy.7"
    (line,) = lines_of(web, "proxy.7")
    assert line["message"] == "request finished" and line["level"] == "info" and line["status"] == "OK"
    assert line["model"] == "tiny-dense" and line["client"].startswith("uid ") and line["finish_reason"] == "length"
    assert line["prompt_tokens"] == got.started.prompt_tokens and line["completion_tokens"] == 3
    assert line["trace_id"] == TRACE and line["parent_id"] == PARENT and re.fullmatch("[0-9a-f]{16}", line["span_id"])
    assert line["rpc"] == "/gemmad.v1.Inference/Generate" and line["total_ms"] >= line["first_token_ms"] > 0
    assert "no other" not in web.log()


def test_http_is_traced_too(web):
    call = urllib.request.Request(web.http + "/v1/completions", method="POST", headers={
        "Content-Type": "application/json", "traceparent": f"00-{TRACE}-{PARENT}-00", "x-request-id": "over-http"},
        data=json.dumps({"model": "tiny-dense", "prompt": prompt(), "max_tokens": 2}).encode())
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(call, timeout=30) as answer:
        assert answer.headers["x-request-id"] == "over-http"
    (line,) = lines_of(web, "over-http", "x_request_id")
    assert line["rpc"] == "/v1/completions" and line["trace_id"] == TRACE and line["parent_id"] == PARENT


def test_a_traceparent_that_is_none_begins_a_trace(web):
    r = request(prompt(), max_tokens=1)
    r.request_id = "untraced"
    collect(web.inference().Generate(r, metadata=[("traceparent", f"00-{TRACE.upper()}-{PARENT}-01")], timeout=30))
    (line,) = lines_of(web, "untraced")
    assert re.fullmatch("[0-9a-f]{32}", line["trace_id"]) and line["trace_id"] != TRACE and "parent_id" not in line


def test_prompts_are_logged_when_asked_for():
    with Daemon("tiny-dense", ranks=1, options=("--log-prompts",)) as daemon:
        daemon.generate("a text of \"no\" other", max_tokens=1)
        assert 'prompt="a text of \\"no\\" other"' in daemon.log()


# ---- what stands on the names ----

def expressions():
    dashboard = json.loads((ROOT / "deploy/grafana/gemmad.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]
    rules = (ROOT / "deploy/prometheus/gemmad.rules.yml").read_text()
    for expression in re.findall(r"^ +expr: (.*)$", rules, re.MULTILINE):
        yield "rules", expression


def test_dashboard_and_rules_use_what_there_is(web):
    text = get(web.http + "/metrics")[1]
    known = set(re.findall(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)[{ ]", text, re.MULTILINE))
    known |= set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    found = list(expressions())
    used = {name for _, e in found for name in re.findall(r"gemmad:[a-z0-9_]+", e)}
    assert len(found) > 30 and len(used) > 20
    assert used <= known, used - known
    for where, e in found:
        assert e.count("(") == e.count(")") and e.count("{") == e.count("}"), f"{where}: {e}"
    ids = [p["id"] for p in json.loads((ROOT / "deploy/grafana/gemmad.json").read_text())["panels"]]
    assert len(ids) == len(set(ids))


@pytest.mark.skipif(not shutil.which("promtool"), reason="there is no promtool (Debian's package prometheus)")
def test_promtool_finds_nothing(web):
    text = get(web.http + "/metrics")[1]
    # Colons in names are for recording rules, says its lint; they are vLLM's.
    plain = text.replace("gemmad:", "gemmad_")
    lint = subprocess.run(["promtool", "check", "metrics"], input=plain, capture_output=True, text=True, timeout=60)
    assert "error while linting" not in lint.stdout + lint.stderr, lint.stderr
    rules = subprocess.run(["promtool", "check", "rules", ROOT / "deploy/prometheus/gemmad.rules.yml"], capture_output=True,
                           text=True, timeout=60)
    assert rules.returncode == 0, rules.stdout + rules.stderr
