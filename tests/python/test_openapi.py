"""docs/openapi.json is true to the server: requests made of it and against it, by schemathesis."""
import json
import re

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi import checks as openapi

from support import ROOT, Daemon, free_port

FILE = ROOT / "docs" / "openapi.json"
CHECKS = [openapi.status_code_conformance, openapi.content_type_conformance, openapi.response_schema_conformance,
          openapi.negative_data_rejection]
SEEN = []  # (path, code) of every request
schema = schemathesis.openapi.from_path(FILE)
schema.config.phases.coverage.enabled = False  # every combination of fifty fields takes minutes


@pytest.fixture(scope="module")
def url():
    port = free_port()
    # A small context: examples that leave their limit out shall end soon.
    with Daemon("tiny-dense", ranks=1, options=("--http", f"127.0.0.1:{port}", "--context", "256")) as daemon:
        yield f"http://127.0.0.1:{port}"
        assert daemon.process.poll() is None


def test_the_file_is_served(url):
    assert requests.get(url + "/openapi.json", timeout=10).json() == json.loads(FILE.read_text())


def operation(path, method):
    @schema.include(path=path, method=method).parametrize()
    @settings(max_examples=12, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate],
              suppress_health_check=list(HealthCheck))
    def test(case, url):
        answer = case.call(base_url=url, timeout=60)
        # What is not built says 501 and is declared so; no other failure is the server's.
        SEEN.append((case.operation.path, answer.status_code))
        assert answer.status_code < 500 or answer.status_code == 501
        case.validate_response(answer, checks=CHECKS)
    return test


# A test of its own for each operation: of tests with one name, as schemathesis gives to all of its own, xdist runs one.
for at, operations in json.loads(FILE.read_text())["paths"].items():
    for verb in operations:
        globals()["test_" + re.sub(r"\W+", "_", verb + at).rstrip("_")] = operation(at, verb.upper())


def test_both_kinds_were_made():
    """Requests that are answered and requests that are refused, of every endpoint that takes a body."""
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize", "/detokenize"):
        codes = {code for p, code in SEEN if p == path}
        assert 400 in codes and (200 in codes or path.startswith("/v1")), (path, codes)
