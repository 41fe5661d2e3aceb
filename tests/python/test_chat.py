"""Chat and ParseChat: the bundled models' conversations, streamed, sampled, cut and broken off."""
import json
import os
import re
import threading
from random import Random

import grpc
import pytest

from support import MODELS, collect, eventually, pb, request, samples
from test_chat_render import chat

INVALID, UNIMPLEMENTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED


class Answer:
    """One sample of a Chat stream; the contract is checked on the way."""

    def __init__(self):
        self.reasoning = self.content = ""
        self.calls, self.ids, self.logprobs, self.finished, self.deltas = [], [], [], None, 0

    def add(self, delta):
        assert self.finished is None
        self.deltas += 1
        self.reasoning += delta.reasoning
        self.content += delta.content
        for call in delta.tool_calls:
            if call.HasField("id"):
                assert call.index == len(self.calls)
                self.calls.append({"id": call.id, "name": call.name, "arguments": ""})
            self.calls[call.index]["arguments"] += call.arguments_json
        self.ids += delta.token_ids
        self.logprobs += delta.logprobs


def answers(events):
    """The samples by their index, and started."""
    found, started = {}, None
    for event in events:
        kind = event.WhichOneof("event")
        assert (kind == "started") == (started is None)
        if kind == "started":
            started = event.started
        elif kind == "delta":
            found.setdefault(event.delta.index, Answer()).add(event.delta)
        elif kind == "finished":
            a = found.setdefault(event.finished.index, Answer())
            assert a.finished is None
            a.finished = event.finished
    assert all(a.finished is not None for a in found.values())
    return [found[i] for i in range(len(found))], started


def ask(stub, r, timeout=60, **sampling):
    for name, value in sampling.items():
        if isinstance(value, list):
            getattr(r.sampling, name).extend(value)
        else:
            setattr(r.sampling, name, value)
    return answers(stub.Chat(r, timeout=timeout))


def one(stub, r, **sampling):
    [a], _ = ask(stub, r, **sampling)
    return a


def question(name="tiny-dense", text=None):
    document = (MODELS / name / "document.txt").read_text()
    return chat([{"role": "user", "content": document.strip() + "\n\n" + (text or (MODELS / name / "question.txt").read_text().strip())}])


def sample_chat(case):
    return chat(case["messages"], case.get("tools"), enable_thinking=case["enable_thinking"])


def test_the_document_is_asked(either):
    name, daemon = either
    a = one(daemon.inference(), question(name), temperature=0)
    assert a.content == (MODELS / name / "answer.txt").read_text().strip() and a.reasoning == "" and not a.calls
    assert a.finished.finish_reason == "stop" and a.finished.usage.completion_tokens == len(a.ids)


def test_samples_of_every_kind(either):
    """Reasoning, content and calls of every kind of conversation, with exactly the recorded tokens."""
    name, daemon = either
    stub, kinds = daemon.inference(), set()
    cases = samples(name)
    for case in [c for c in cases if c["kind"] != "plain"] + [c for c in cases if c["kind"] == "plain"][:4]:
        a, text = one(stub, sample_chat(case), temperature=0), case["completion"]
        assert a.ids == case["completion_token_ids"], case["id"]
        call = re.fullmatch(r'<\|tool_call>call:(\w+)\{(\w+):<\|"\|>(.*)<\|"\|>\}<tool_call\|>', text)
        thought = re.fullmatch(r"<\|channel>thought\n(.*?)\n?<channel\|>(.*)", text, re.S)
        kinds.add("call" if call else "thought" if thought and thought[1] else "plain")
        if call:
            [found] = a.calls
            assert found["name"] == call[1] and json.loads(found["arguments"]) == {call[2]: call[3]}
            assert found["id"].startswith("call_") and a.finished.finish_reason == "tool_calls" and a.content == ""
        else:
            assert not a.calls and a.finished.finish_reason == "stop"
            assert (a.reasoning, a.content) == ((thought[1], thought[2]) if thought else ("", text)), case["id"]
        assert (a.finished.usage.reasoning_tokens > 0) == bool(thought) and not a.finished.malformed
        assert a.finished.usage.prompt_tokens == len(case["prompt_token_ids"])
    assert kinds == {"call", "thought", "plain"}


def test_parse_chat_says_the_same(dense):
    stub = dense.inference()
    for case in samples("tiny-dense", "think", "call", "result", "json"):
        r = pb.ParseChatRequest(token_ids=case["completion_token_ids"], enable_thinking=case["enable_thinking"])
        r.starts_in_thought = stub.RenderChat(sample_chat(case)).starts_in_thought
        m, a = stub.ParseChat(r), one(stub, sample_chat(case), temperature=0)
        assert m.finish_reason == a.finished.finish_reason and m.message.role == "assistant"
        assert m.message.reasoning == a.reasoning and "".join(p.text for p in m.message.content) == a.content
        assert [(c.name, c.arguments_json) for c in m.message.tool_calls] == [(c["name"], c["arguments"]) for c in a.calls]


def test_parse_chat_refuses(dense):
    stub = dense.inference()
    for r, part in ((pb.ParseChatRequest(token_ids=[1280]), "token_ids[0] is 1280"),
                    (pb.ParseChatRequest(token_ids=[5], finish_reason="done"), "finish_reason")):
        with pytest.raises(grpc.RpcError) as error:
            stub.ParseChat(r)
        assert error.value.code() == INVALID and part in error.value.details()


def test_a_tool_is_called_and_its_result_answered(dense):
    """The whole round: the call's own id and arguments go back with the result."""
    stub = dense.inference()
    call_case = samples("tiny-dense", "call")[0]
    a = one(stub, sample_chat(call_case), temperature=0)
    [call] = a.calls
    result_case = next(c for c in samples("tiny-dense") if c["id"].endswith("result"))
    tool = next(m for m in result_case["messages"] if m["role"] == "tool")
    r = sample_chat(call_case)
    r.messages.add(role="assistant").tool_calls.add(id=call["id"], name=call["name"], arguments_json=call["arguments"])
    r.messages.add(role="tool", tool_call_id=call["id"]).content.add().text = tool["content"]
    b = one(stub, r, temperature=0)
    assert b.finished.finish_reason == "stop" and b.content and not b.calls and not b.finished.malformed


def test_tool_choice_none_and_limits(dense):
    stub, case = dense.inference(), samples("tiny-dense", "call")[0]
    r = sample_chat(case)
    r.tool_choice.mode = "none"
    a = one(stub, r, temperature=0, max_tokens=20)  # it would call, and may not
    assert not a.calls and a.content and a.ids[0] != case["completion_token_ids"][0] and not a.finished.malformed
    a = one(stub, sample_chat(case), temperature=0, max_tokens=5)
    assert not a.calls and a.content == "" and a.finished.finish_reason == "length" and not a.finished.malformed
    assert case["completion"].startswith(a.finished.truncated_call) and a.finished.truncated_call


def test_samples_of_a_chat(dense):
    stub = dense.inference()
    case = samples("tiny-dense", "think")[0]
    found, _ = ask(stub, sample_chat(case), n=4, temperature=0, logprobs=2)
    assert len(found) == 4 and len({a.content for a in found}) == 1
    assert [a.finished.HasField("usage") for a in found].count(True) == 1
    usage = next(a.finished.usage for a in found if a.finished.HasField("usage"))
    assert usage.completion_tokens == sum(len(a.ids) for a in found) and usage.reasoning_tokens % 4 == 0 < usage.reasoning_tokens
    for a in found:
        assert [p.token_id for p in a.logprobs] == a.ids and all(len(p.top) == 2 for p in a.logprobs)


def test_streams_in_pieces_and_stops(dense):
    stub = dense.inference()
    a = one(stub, question(), temperature=0)
    assert a.deltas > 2
    b = one(stub, question(), temperature=0, stop=[" eu"])
    assert b.content == "772" and b.finished.finish_reason == "stop" and a.ids[:len(b.ids)] == b.ids
    c = one(stub, question(), temperature=0, max_tokens=2)
    assert a.content.startswith(c.content) and c.finished.finish_reason == "length"
    # A stop string is nothing to a thought.
    case = samples("tiny-dense", "think")[0]
    whole = one(stub, sample_chat(case), temperature=0)
    word = whole.reasoning.split()[0]
    assert word not in whole.content
    d = one(stub, sample_chat(case), temperature=0, stop=[word])
    assert (d.reasoning, d.content) == (whole.reasoning, whole.content)


def test_chat_and_generate_agree(dense):
    """The same prompt, seed and tokens; prompt log-probabilities too."""
    stub, case = dense.inference(), samples("tiny-dense", "plain")[0]
    r = request(case["prompt_token_ids"], seed=5, temperature=1.5, top_k=0, top_p=1, max_tokens=20, want_prompt_logprobs=True)
    g = collect(stub.Generate(r, timeout=60))
    r = sample_chat(case)
    for name, value in dict(seed=5, temperature=1.5, top_k=0, top_p=1, max_tokens=20, want_prompt_logprobs=True).items():
        setattr(r.sampling, name, value)
    events = list(stub.Chat(r, timeout=60))
    [a], started = answers(events)
    told = [p for e in events for p in e.prompt_logprobs.logprobs]
    assert [(p.token_id, p.logprob) for p in told] == [(p.token_id, p.logprob) for p in g.prompt_logprobs] and told
    assert a.ids == g.ids and started.seed == 5 and started.prompt_tokens == len(case["prompt_token_ids"])


def soup(random, tools):
    """A request whose answer is a mess of markup, and the tokens that it leans to."""
    ids = [7, 8, 11, 13, 14, 15, 5, 0] + random.sample(range(24, 280), 12) + random.sample(range(280, 1280), 12)
    r = question()
    for i in ids:
        r.sampling.logit_bias.add(token_id=i, bias=random.uniform(20, 60))
    r.sampling.temperature, r.sampling.top_p, r.sampling.top_k, r.sampling.seed = 2, 1, 0, random.getrandbits(32)
    r.sampling.max_tokens, r.sampling.logprobs, r.sampling.n = random.randint(1, 80), 1, random.randint(1, 2)
    r.sampling.ignore_eos = random.random() < 0.5
    r.enable_thinking = random.random() < 0.5
    if tools:
        parameters = {"type": "object", "properties": {"a": {"type": "string"}}}
        r.tools.add(name="f", parameters_json=json.dumps(parameters), strict=random.random() < 0.5)
    else:
        r.tool_choice.mode = "auto"
    return r


@pytest.mark.parametrize("tools", (False, True))
def test_soup(dense, tools):
    """Whatever a model writes, the stream and ParseChat of its tokens say the same."""
    stub, random, marked = dense.inference(), Random(7), 0
    for _ in range(int(os.environ.get("GEMMAD_TEST_SOUP", "3"))):
        r = soup(random, tools)
        for a in ask(stub, r)[0]:
            p = pb.ParseChatRequest(token_ids=a.ids, enable_thinking=r.enable_thinking)
            p.finish_reason = "length" if a.finished.finish_reason == "length" else "stop"
            m = stub.ParseChat(p)
            assert (a.content, a.reasoning) == ("".join(x.text for x in m.message.content), m.message.reasoning)
            assert [(c["name"], c["arguments"]) for c in a.calls] == [(c.name, c.arguments_json) for c in m.message.tool_calls]
            assert list(a.finished.malformed) == list(m.malformed) and a.finished.truncated_call == m.truncated_call
            assert a.finished.finish_reason == m.finish_reason and [x.token_id for x in a.logprobs] == a.ids
            assert not tools or not m.malformed
            marked += len(a.calls) + len(m.malformed) + len(a.finished.truncated_call) + len(a.reasoning)
    assert marked > 0


def idle(daemon):
    s = daemon.status()
    return s.requests_running == s.requests_waiting == 0


def test_cancel_and_deadline(dense):
    stub, r = dense.inference(), question()
    r.sampling.ignore_eos = True
    r.sampling.n = 3
    stream = stub.Chat(r, timeout=60)
    for event in stream:
        if event.WhichOneof("event") == "delta":
            break
    stream.cancel()
    assert eventually(lambda: idle(dense))
    with pytest.raises(grpc.RpcError) as error:
        for _ in stub.Chat(r, timeout=0.3):
            pass
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert eventually(lambda: idle(dense))


def test_many_at_once(dense):
    """Chats and Generates side by side: every one gets its own answer."""
    stub, cases, wrong = dense.inference(), samples("tiny-dense"), []

    def chat_of(case):
        if one(stub, sample_chat(case), temperature=0).ids != case["completion_token_ids"]:
            wrong.append(case["id"])

    def generate_of(case):
        if collect(stub.Generate(request(case["prompt_token_ids"], temperature=0), timeout=60)).ids != case["completion_token_ids"]:
            wrong.append(case["id"])
    threads = [threading.Thread(target=f, args=(case,)) for case in cases[::3] for f in (chat_of, generate_of)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_answers_of_a_form(dense):
    stub = dense.inference()

    def of(**form):
        r = question(text="Who moved item 12?")
        r.response_format.CopyFrom(pb.ResponseFormat(**form))
        return one(stub, r, temperature=1, seed=3, max_tokens=60)
    def schema(name, of):
        return json.dumps({"type": "object", "properties": {name: of}, "required": [name], "additionalProperties": False})
    a = of(json_schema=schema("n", {"type": "integer", "minimum": 0, "maximum": 9}))
    assert 0 <= json.loads(a.content)["n"] <= 9 and a.finished.finish_reason == "stop"
    assert of(choices=pb.Choices(choices=["yes", "no"])).content in ("yes", "no")
    assert re.fullmatch("[ab]{3}", of(regex="[ab]{3}").content)
    case = samples("tiny-dense", "plain")[0]
    r = sample_chat(case)
    r.tools.add(name="look", parameters_json=schema("q", {"enum": ["x", "y"]}), strict=True)
    r.tool_choice.mode = "required"
    r.parallel_tool_calls = False
    a = one(stub, r, temperature=1, seed=3, max_tokens=60)
    [call] = a.calls
    assert call["name"] == "look" and json.loads(call["arguments"])["q"] in ("x", "y") and a.finished.finish_reason == "tool_calls"
    g = request(case["prompt_token_ids"], temperature=1, seed=3, max_tokens=60, ignore_eos=True)
    g.response_format.regex = "[0-9]{2}"
    result = collect(stub.Generate(g, timeout=60))
    assert re.fullmatch("[0-9]{2}", result.text) and result.finished.finish_reason == "stop"


def test_what_is_not_built_is_refused_by_name(dense):
    stub = dense.inference()

    def refused(r, code, *parts):
        with pytest.raises(grpc.RpcError) as error:
            list(stub.Chat(r, timeout=60))
        assert error.value.code() == code and all(p in error.value.details() for p in parts), error.value.details()
    r = question()
    r.resume_from = 3
    refused(r, UNIMPLEMENTED, "resume_from")
    refused(pb.ChatRequest(), INVALID, "messages")
    r = question()
    r.sampling.temperature = 3
    refused(r, INVALID, "temperature")
    r = question()
    r.response_format.json_schema = '{"type":"odd"}'
    refused(r, INVALID, "response_format.json_schema")
