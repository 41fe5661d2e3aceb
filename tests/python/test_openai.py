"""OpenAI's API over HTTP: the official openai package, requests as lm-eval makes them, and bare HTTP where a package hides it."""
import concurrent.futures
import http.client
import json
import re
import socket

import jsonschema
import openai
import pytest

from support import Daemon, eventually, free_port, samples

EXACT = ("--weights", "f32", "--kv", "f32")


@pytest.fixture(scope="module")
def server():
    port = free_port()
    with Daemon("tiny-dense", ranks=1, options=(*EXACT, "--http", f"127.0.0.1:{port}")) as daemon:
        daemon.port = port
        yield daemon


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0, timeout=60) as c:
        yield c


def ask(server, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    if isinstance(body, (dict, list)):
        body, headers = json.dumps(body), {"Content-Type": "application/json", **(headers or {})}
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, answer.headers, text


def conversation(case):
    """Messages as OpenAI's clients send them."""
    messages = []
    for m in case["messages"]:
        m = dict(m)
        if m.get("tool_calls"):
            m["tool_calls"] = [{**c, "type": "function", "function": {
                **c["function"], "arguments": json.dumps(c["function"]["arguments"])
                if not isinstance(c["function"]["arguments"], str) else c["function"]["arguments"]}} for c in m["tool_calls"]]
            m["tool_calls"] = [{"id": f"call_{i}", **c} for i, c in enumerate(m["tool_calls"])]
        messages.append(m)
    return messages


def plain(n=0):
    return samples("tiny-dense", "plain")[n]


# ---- chat ----

def test_models(client):
    models = client.models.list().data
    assert [m.id for m in models] == ["tiny-dense"] and models[0].object == "model" and models[0].created > 1.7e9
    assert client.models.retrieve("tiny-dense").id == "tiny-dense"
    with pytest.raises(openai.NotFoundError) as e:
        client.models.retrieve("none")
    assert e.value.code == "model_not_found"


def test_chat_whole_and_streamed(client):
    case = plain()
    ask_for = dict(model="tiny-dense", messages=case["messages"], temperature=0, max_completion_tokens=64)
    whole = client.chat.completions.create(**ask_for)
    choice = whole.choices[0]
    assert (choice.message.content, choice.finish_reason) == (case["answer"], "stop")
    assert whole.usage.prompt_tokens == case["prompt_tokens"]
    assert whole.usage.completion_tokens == len(case["completion_token_ids"])
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = list(client.chat.completions.create(**ask_for, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == case["answer"]
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0  # it was read a moment ago
    assert len({c.id for c in chunks}) == 1


def test_content_lists_and_the_developer(client):
    case = plain(1)
    text = case["messages"][0]["content"]
    parts = [{"type": "text", "text": text}]
    answer = client.chat.completions.create(model="", messages=[{"role": "user", "content": parts}], temperature=0)
    assert answer.choices[0].message.content == case["answer"] and answer.model == "tiny-dense"
    counts = [client.chat.completions.create(model="", max_tokens=1, messages=[
        {"role": role, "content": "Be short."}, {"role": "user", "content": "Hi"}]).usage.prompt_tokens
        for role in ("system", "developer")]
    assert counts[0] == counts[1] > 10


def test_logprobs(client):
    case = plain()
    ask_for = dict(model="tiny-dense", messages=case["messages"], temperature=0, logprobs=True, top_logprobs=3)
    whole = client.chat.completions.create(**ask_for).choices[0].logprobs.content
    assert len(whole) == len(case["completion_token_ids"])
    for token in whole:
        assert len(token.top_logprobs) == 3 and token.top_logprobs[0].logprob == token.logprob <= 0
        assert bytes(token.bytes).decode() == token.token == token.top_logprobs[0].token
    assert "".join(t.token for t in whole[:-1]) == case["answer"]
    chunks = client.chat.completions.create(**ask_for, stream=True)
    streamed = [t for c in chunks if c.choices and c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert streamed == whole


def test_several_samples_stop_and_seed(client):
    ask_for = dict(model="tiny-dense", messages=[{"role": "user", "content": "Tell me."}], temperature=1.5, seed=7, n=3,
                   max_tokens=12)
    first, second = (client.chat.completions.create(**ask_for) for _ in range(2))
    texts = [c.message.content for c in first.choices]
    assert [c.index for c in first.choices] == [0, 1, 2] and len(set(texts)) == 3
    assert texts == [c.message.content for c in second.choices]
    assert first.usage.completion_tokens <= 36
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**ask_for, stream=True):
        for c in chunk.choices:
            streamed[c.index] += c.delta.content or ""
    assert streamed == texts
    case = plain()
    answer = client.chat.completions.create(model="tiny-dense", messages=case["messages"], temperature=0,
                                            stop=[case["answer"][-3:]])
    assert answer.choices[0].message.content == case["answer"][:-3]
    biased = client.chat.completions.create(model="tiny-dense", messages=case["messages"], max_tokens=3, temperature=0,
                                            logit_bias={"364": 100})
    assert biased.choices[0].message.content == "uuu"


def test_thinking(client):
    case = samples("tiny-dense", "think")[0]
    ask_for = dict(model="tiny-dense", messages=conversation(case), temperature=0, reasoning_effort="high")
    whole = client.chat.completions.create(**ask_for)
    message = whole.choices[0].message
    assert message.reasoning_content and message.content == case["answer"]
    assert 0 < whole.usage.completion_tokens_details.reasoning_tokens < whole.usage.completion_tokens
    deltas = [c.choices[0].delta for c in client.chat.completions.create(**ask_for, stream=True)]
    assert "".join(getattr(d, "reasoning_content", None) or "" for d in deltas) == message.reasoning_content
    kwargs = {"chat_template_kwargs": {"enable_thinking": True}}
    again = client.chat.completions.create(**{**ask_for, "reasoning_effort": openai.NOT_GIVEN}, extra_body=kwargs)
    assert again.choices[0].message.reasoning_content == message.reasoning_content


def test_tools_there_and_back(client):
    case = samples("tiny-dense", "call")[0]
    ask_for = dict(model="tiny-dense", messages=conversation(case), tools=case["tools"], temperature=0)
    choice = client.chat.completions.create(**ask_for).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    calls = choice.message.tool_calls
    assert calls and all(c.type == "function" and c.id for c in calls) and len({c.id for c in calls}) == len(calls)
    names = [t["function"]["name"] for t in case["tools"]]
    assert all(c.function.name in names and isinstance(json.loads(c.function.arguments), dict) for c in calls)
    grown = {}
    for chunk in client.chat.completions.create(**ask_for, stream=True):
        for d in chunk.choices[0].delta.tool_calls or []:
            call = grown.setdefault(d.index, {"id": d.id, "name": d.function.name, "arguments": ""})
            call["arguments"] += d.function.arguments or ""
    assert [(c["name"], c["arguments"]) for c in grown.values()] == [(c.function.name, c.function.arguments) for c in calls]
    answer = client.chat.completions.create(**{**ask_for, "messages": ask_for["messages"] + [
        choice.message, *({"role": "tool", "tool_call_id": c.id, "content": "42"} for c in calls)]}, max_tokens=40)
    assert answer.choices[0].finish_reason in ("stop", "length", "tool_calls")
    assert answer.usage.prompt_tokens > case["prompt_tokens"]


def test_formats(client):
    say = dict(model="tiny-dense", messages=[{"role": "user", "content": "Tell me."}], temperature=1, seed=3, max_tokens=200)
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "t": {"enum": ["a", "b"]}}, "required": ["n", "t"],
              "additionalProperties": False}
    whole = client.chat.completions.create(**say, response_format={
        "type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}).choices[0]
    jsonschema.validate(json.loads(whole.message.content), schema)
    assert whole.finish_reason == "stop"
    wholes = client.responses.create(model="tiny-dense", input="Tell me.", text={
        "format": {"type": "json_schema", "name": "x", "schema": schema}})
    jsonschema.validate(json.loads(wholes.output_text), schema)
    choices = ["yes", "no", "maybe"]
    for extra in ({"response_format": {"type": "choice", "choices": choices}}, {"guided_choice": choices},
                  {"structured_outputs": {"choice": choices}}):
        assert client.chat.completions.create(**say, extra_body=extra).choices[0].message.content in choices
    text = client.completions.create(model="tiny-dense", prompt="It is", temperature=1, max_tokens=20,
                                     extra_body={"guided_regex": "[a-c]{3}-[0-9]{2}"}).choices[0].text
    assert re.fullmatch("[a-c]{3}-[0-9]{2}", text)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**say, extra_body={"guided_regex": "(" })


# ---- errors ----

@pytest.mark.parametrize("fault, field", [
    ({"temperature": -3}, "temperature"), ({"max_tokens": -1}, "max_tokens"), ({"max_tokens": 1.5}, "max_tokens"),
    ({"top_p": "x"}, "top_p"), ({"n": 0}, "n"), ({"messages": []}, "messages"), ({"messages": [{}]}, "messages[0]"),
    ({"stop": [""]}, "stop"), ({"top_logprobs": 2}, "top_logprobs"), ({"max_tokens": 100000}, "max_tokens"),
    ({"logit_bias": {"x": 1}}, "logit_bias"), ({"tool_choice": "maybe"}, "tool_choice"), ({"colour": 1}, "colour"),
    ({"response_format": {"type": "xml"}}, "response_format"), ({"functions": [{"name": "f"}]}, "functions"),
    ({"best_of": 2}, "best_of"), ({"chat_template_kwargs": {"x": 1}}, "chat_template_kwargs.x"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
     "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": "sampling.top_p is"}, {"role": "elf", "content": "x"}]}, "messages[1]"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0]"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}},
     "response_format.json_schema")])
def test_a_refusal_names_the_field(server, fault, field):
    code, headers, text = ask(server, "POST", "/v1/chat/completions",
                              {"messages": [{"role": "user", "content": "Hi"}], **fault})
    error = json.loads(text)["error"]
    assert (code, error["param"]) == (400, field) and set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error" and headers["x-request-id"]
    assert (error["code"] == "context_length_exceeded") == (fault.get("max_tokens") == 100000)


def test_errors_of_the_transport(server):
    def refused(*request):
        code, headers, text = ask(server, *request)
        error = json.loads(text)["error"]
        assert error["message"] and error["type"]
        return code, error["code"], headers
    assert refused("GET", "/nowhere")[:2] == (404, "unknown_url")
    code, word, headers = refused("GET", "/v1/chat/completions")
    assert (code, word, headers["Allow"]) == (405, "method_not_allowed", "POST")
    assert refused("POST", "/v1/completions", "{", {"Content-Type": "application/json"})[:2] == (400, "invalid_json")
    assert refused("POST", "/v1/completions", "[]", {"Content-Type": "application/json"})[:2] == (400, "invalid_json")
    assert refused("POST", "/v1/completions", "a=b")[:2] == (415, "unsupported_media_type")
    for media, want in (("application/jsonl", 415), ("application/json-seq", 415), ("Application/JSON ; charset=utf-8", 400)):
        assert refused("POST", "/v1/completions", "{", {"Content-Type": media})[0] == want, media
    assert refused("POST", "/v1/completions", {"model": "none", "prompt": "x"})[:2] == (404, "model_not_found")
    code, _, text = ask(server, "POST", "/v1/completions", {"prompt": "x" * (5 << 20), "n": 64, "echo": True})
    assert code == 400 and "the answer has more than 268435456 bytes" in json.loads(text)["error"]["message"]
    for path in ("/v1/files", "/v1/batches", "/v1/messages", "/v1/embeddings", "/v1/batches/b/cancel"):
        code, word, _ = refused("POST", path, {})
        assert (code, word) == (501, "not_implemented"), path
    assert ask(server, "HEAD", "/v1/models")[0] == 200
    assert ask(server, "GET", "/health", None, {"x-request-id": "mine-7"})[1]["x-request-id"] == "mine-7"


def test_a_body_that_is_too_long(server):
    with socket.create_connection(("127.0.0.1", server.port), 30) as s:
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 70000000\r\n\r\n" + b"x" * 100000)
        answer = s.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 413 ") and b"67108864" in answer


# ---- completions ----

def test_completions(client):
    case = plain()
    answer = client.completions.create(model="tiny-dense", prompt=case["prompt"].removeprefix("<bos>"), temperature=0, max_tokens=64)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (case["answer"], "stop")
    ids = client.completions.create(model="tiny-dense", prompt=case["prompt_token_ids"], temperature=0, max_tokens=64)
    assert ids.choices[0].text == case["answer"] and ids.usage.prompt_tokens == case["prompt_tokens"]
    several = client.completions.create(model="tiny-dense", prompt=["One", "Two", "Three"], n=2, max_tokens=3, seed=1)
    assert [c.index for c in several.choices] == list(range(6)) and several.usage.completion_tokens <= 18
    streamed = [""] * 6
    for chunk in client.completions.create(model="tiny-dense", prompt=["One", "Two", "Three"], n=2, max_tokens=3, seed=1, stream=True):
        for c in chunk.choices:
            streamed[c.index] += c.text
    assert streamed == [c.text for c in several.choices]
    with pytest.raises(openai.BadRequestError) as e:
        client.completions.create(model="tiny-dense", prompt="x", suffix="y")
    assert e.value.param == "suffix"


def test_echo_and_logprobs(client, server):
    case = plain()
    ids = case["prompt_token_ids"]
    ask_for = dict(model="tiny-dense", prompt=[ids, ids[:5]], temperature=0, echo=True, logprobs=2)
    for n in (0, 4):
        for choice, want in zip(client.completions.create(**ask_for, max_tokens=n).choices, (ids, ids[:5])):
            l = choice.logprobs
            count = len(want) + n
            assert len(l.tokens) == len(l.token_logprobs) == len(l.top_logprobs) == len(l.text_offset) == count
            assert l.token_logprobs[0] is None and l.top_logprobs[0] is None and max(l.token_logprobs[1:]) <= 0
            assert all(l.token_logprobs[i] == l.top_logprobs[i][l.tokens[i]] for i in range(1, count))
            for token, offset in zip(l.tokens[1:], l.text_offset[1:]):
                assert choice.text[offset:].startswith(token) or not token.isprintable() or token == case["stop_token"]
    whole = client.completions.create(**{**ask_for, "prompt": case["prompt"].removeprefix("<bos>")}, max_tokens=4)
    chunks = list(client.completions.create(**{**ask_for, "prompt": ids}, max_tokens=4, stream=True))
    l = [c.choices[0].logprobs for c in chunks if c.choices and c.choices[0].logprobs]
    assert sum((x.token_logprobs for x in l), []) == whole.choices[0].logprobs.token_logprobs
    assert "".join(c.choices[0].text for c in chunks) == whole.choices[0].text
    # The same figures as gRPC's.
    grpc = server.generate(ids, max_tokens=1, temperature=0, want_prompt_logprobs=True, prompt_logprobs=2)
    assert [pytest.approx(p.logprob) for p in grpc.prompt_logprobs] == whole.choices[0].logprobs.token_logprobs[1:len(ids)]


def test_a_loglikelihood_task_of_lm_eval(server):
    """What lm-eval's local-completions model sends and how it reads the answer (tokenised requests, batches)."""
    case = plain()
    good = case["prompt_token_ids"] + case["completion_token_ids"]
    bad = case["prompt_token_ids"] + case["completion_token_ids"][::-1]
    context = len(case["prompt_token_ids"])
    code, _, text = ask(server, "POST", "/v1/completions", {
        "model": "tiny-dense", "prompt": [good, bad], "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True})
    assert code == 200
    results = []
    for choice in sorted(json.loads(text)["choices"], key=lambda c: c["index"]):
        tokens = choice["logprobs"]["token_logprobs"][context:-1]
        tops = choice["logprobs"]["top_logprobs"][context:-1]
        results.append((sum(tokens), all(t == max(top.values()) for t, top in zip(tokens, tops)), len(tokens)))
    assert results[0][1] and not results[1][1] and results[0][0] > results[1][0] + 5
    assert results[0][2] == results[1][2] == len(case["completion_token_ids"])


# ---- responses ----

def test_responses(client):
    case = plain()
    text = case["messages"][0]["content"]
    whole = client.responses.create(model="tiny-dense", input=text, temperature=0)
    assert (whole.output_text, whole.status, whole.error) == (case["answer"], "completed", None)
    assert whole.usage.input_tokens == case["prompt_tokens"] and whole.usage.output_tokens == len(case["completion_token_ids"])
    events = list(client.responses.create(model="tiny-dense", input=[{"role": "user", "content": [
        {"type": "input_text", "text": text}]}], temperature=0, stream=True))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    kinds = [e.type for e in events]
    deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
    assert kinds[:4] == ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    assert kinds[-4:] == ["response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed"]
    assert "".join(deltas) == case["answer"] == events[-1].response.output_text
    with client.responses.stream(model="tiny-dense", input=text, temperature=0) as stream:
        assert stream.until_done().get_final_response().output_text == case["answer"]
    short = client.responses.create(model="tiny-dense", input=text, max_output_tokens=1)
    assert (short.status, short.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_responses_think_and_call(client):
    case = samples("tiny-dense", "think")[0]
    answer = client.responses.create(model="tiny-dense", input=conversation(case), temperature=0, reasoning={"effort": "high"})
    assert [i.type for i in answer.output] == ["reasoning", "message"] and answer.output[0].content[0].text
    assert answer.output_text == case["answer"] and answer.usage.output_tokens_details.reasoning_tokens > 0
    case = samples("tiny-dense", "call")[0]
    tools = [{"type": "function", **t["function"]} for t in case["tools"]]
    ask_for = dict(model="tiny-dense", input=conversation(case), tools=tools, temperature=0)
    called = client.responses.create(**ask_for)
    calls = [i for i in called.output if i.type == "function_call"]
    assert calls and all(isinstance(json.loads(c.arguments), dict) and c.call_id for c in calls)
    events = list(client.responses.create(**ask_for, stream=True))
    done = [e for e in events if e.type == "response.function_call_arguments.done"]
    assert [e.arguments for e in done] == [c.arguments for c in calls]
    back = client.responses.create(**{**ask_for, "input": ask_for["input"] + called.output + [
        {"type": "function_call_output", "call_id": c.call_id, "output": "42"} for c in calls]}, max_output_tokens=40)
    assert back.usage.input_tokens > called.usage.input_tokens
    for fault in ({"previous_response_id": "resp_1"}, {"store": True}, {"background": True}):
        with pytest.raises(openai.BadRequestError) as e:
            client.responses.create(model="tiny-dense", input="x", **fault)
        assert e.value.param == next(iter(fault))


# ---- tokens ----

def test_tokenize(server):
    case = plain()
    _, _, text = ask(server, "POST", "/tokenize", {"messages": case["messages"]})
    assert json.loads(text)["tokens"] == case["prompt_token_ids"]
    _, _, text = ask(server, "POST", "/tokenize", {"prompt": "clause", "add_special_tokens": False})
    answer = json.loads(text)
    assert answer["count"] == len(answer["tokens"]) >= 1 and answer["max_model_len"] == 4096
    _, _, text = ask(server, "POST", "/detokenize", {"tokens": answer["tokens"]})
    assert json.loads(text) == {"prompt": "clause"}


# ---- connections ----

def test_a_client_that_leaves_stops_the_work(server, client):
    idle = lambda: server.status().requests_running == 0
    stream = client.completions.create(model="tiny-dense", prompt="Go on", max_tokens=3800, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    assert server.status().requests_running == 1
    stream.close()
    assert eventually(idle, 5)
    # And one that waits for a whole answer: nothing is being written that could fail.
    body = json.dumps({"prompt": "Go on", "max_tokens": 3800, "ignore_eos": True, "n": 8}).encode()
    s = socket.create_connection(("127.0.0.1", server.port), 30)
    s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
              b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert eventually(lambda: server.status().requests_running > 0, 5, every=0.005)
    s.close()
    assert eventually(idle, 5)


def test_many_clients_and_one_connection(server, client):
    cases = samples("tiny-dense", "plain")[:4]
    def one(i):
        case = cases[i % 4]
        answer = client.chat.completions.create(model="tiny-dense", messages=case["messages"], temperature=0)
        return answer.choices[0].message.content == case["answer"]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(32)))
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    for path, code in (("/health", 200), ("/nowhere", 404), ("/v1/models", 200), ("/v1/models/x", 404)) * 3:
        connection.request("GET", path)
        sock = connection.sock
        answer = connection.getresponse()
        answer.read()
        assert answer.status == code and connection.sock is sock, "the connection lives on"
    connection.close()


def test_large_bodies_are_read_beside_the_loop(server):
    code, _, text = ask(server, "POST", "/v1/completions", {"prompt": "a " * 200000, "max_tokens": 1})
    assert code == 400 and "context" in json.loads(text)["error"]["message"]
    code, _, text = ask(server, "POST", "/tokenize", {"prompt": "a " * 50000})
    assert code == 200 and json.loads(text)["count"] > 50000


def test_stopping_ends_streams(server):
    port = free_port()
    with Daemon("tiny-dense", ranks=1, options=("--http", f"127.0.0.1:{port}")) as daemon:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        stream = client.completions.create(model="", prompt="Go on", max_tokens=300, stream=True, extra_body={"ignore_eos": True})
        first = next(iter(stream))
        daemon.process.terminate()
        rest = list(stream)
        assert first.choices and rest[-1].choices[0].finish_reason == "length"
        assert daemon.process.wait(20) == 0
