"""Answers that have a form, through the daemon with stock clients: schemas, expressions, choices, strict tool calls."""
import json
import re

import grpc
import jsonschema
import pytest
from support import pb

SEEDS = range(4)
SCHEMA = {"type": "object",
          "properties": {"name": {"type": "string", "maxLength": 20}, "n": {"type": "integer"},
                         "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3}},
          "required": ["name", "n", "tags"], "additionalProperties": False}
BOXES = {"type": "array", "maxItems": 2, "items": {
    "type": "object", "required": ["box_2d", "label"], "additionalProperties": False,
    "properties": {"box_2d": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 1000}, "minItems": 4, "maxItems": 4},
                   "label": {"type": "string", "pattern": "^[a-z]{1,12}$"}}}}
TOOL = pb.Tool(name="book", strict=True, parameters_json=json.dumps(
    {"type": "object", "properties": {"seats": {"type": "integer", "minimum": 1, "maximum": 9}, "class": {"enum": ["first", "second"]},
                                      "note": {"type": "string", "maxLength": 10}},
     "required": ["seats", "class"], "additionalProperties": False}))


def chat(daemon, form=None, seed=1, max_tokens=300, **fields):
    """(content, tool calls as (name, arguments), finish reason, reasoning) of one answer."""
    request = pb.ChatRequest(messages=[pb.Message(role="user", content=[pb.Part(text="What is the penalty in clause 3.2?")])],
                             sampling=pb.Sampling(temperature=1.0, seed=seed, max_tokens=max_tokens), **fields)
    if form is not None:
        request.response_format.CopyFrom(form)
    content, reasoning, calls, finish = "", "", {}, None
    for event in daemon.inference().Chat(request, timeout=120):
        if event.WhichOneof("event") == "delta":
            content += event.delta.content
            reasoning += event.delta.reasoning
            for call in event.delta.tool_calls:
                name, arguments = calls.get(call.index, ("", ""))
                calls[call.index] = (name or call.name, arguments + call.arguments_json)
        elif event.WhichOneof("event") == "finished":
            finish = event.finished
    assert not finish.malformed and not finish.truncated_call
    return content, list(calls.values()), finish.finish_reason, reasoning


@pytest.mark.parametrize("schema", [SCHEMA, BOXES])
def test_schema(dense, schema):
    for seed in SEEDS:
        content, _, reason, _ = chat(dense, pb.ResponseFormat(json_schema=json.dumps(schema)), seed)
        assert reason == "stop", content
        jsonschema.validate(json.loads(content), schema)


def test_greedy_keeps_to_the_schema(dense):
    request = pb.GenerateRequest(text="The", sampling=pb.Sampling(temperature=0, max_tokens=300),
                                 response_format=pb.ResponseFormat(json_schema=json.dumps(SCHEMA)))
    events = list(dense.inference().Generate(request, timeout=120))
    text = "".join(e.delta.text for e in events)
    assert events[-1].finished.finish_reason == "stop"
    jsonschema.validate(json.loads(text), SCHEMA)


def test_generate_from_ids(dense):
    request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[2, 300, 301]), sampling=pb.Sampling(seed=3, temperature=1.0, max_tokens=60),
                                 response_format=pb.ResponseFormat(regex=r"[A-Z][a-z]{2,9}, \d{1,3}"))
    text = "".join(e.delta.text for e in dense.inference().Generate(request, timeout=120))
    assert re.fullmatch(r"[A-Z][a-z]{2,9}, \d{1,3}", text), text


def test_regex_choices_and_samples(dense):
    for seed in SEEDS:
        content, _, reason, _ = chat(dense, pb.ResponseFormat(regex=r"(\d{1,3}\.){3}\d{1,3}"), seed)
        assert reason == "stop" and re.fullmatch(r"(\d{1,3}\.){3}\d{1,3}", content), content
        content, _, reason, _ = chat(dense, pb.ResponseFormat(choices=pb.Choices(choices=["yes", "no", "perhaps, or not"])), seed)
        assert reason == "stop" and content in ("yes", "no", "perhaps, or not"), content
    request = pb.GenerateRequest(text="The", sampling=pb.Sampling(seed=5, temperature=1.0, max_tokens=40, n=6),
                                 response_format=pb.ResponseFormat(choices=pb.Choices(choices=["red", "green", "blue"])))
    texts = {}
    for event in dense.inference().Generate(request, timeout=120):
        texts[event.delta.index] = texts.get(event.delta.index, "") + event.delta.text
    assert len(texts) == 6 and set(texts.values()) <= {"red", "green", "blue"}, texts


def test_json_object(dense):
    content, _, reason, _ = chat(dense, pb.ResponseFormat(json_object=True), max_tokens=400)
    assert content.startswith("{")
    if reason == "stop":
        assert isinstance(json.loads(content), dict)


def test_tool_calls(dense):
    schema = json.loads(TOOL.parameters_json)
    for seed in SEEDS:
        for mode in (pb.ToolChoice(mode="required"), pb.ToolChoice(mode="named", name="book")):
            _, calls, reason, _ = chat(dense, seed=seed, tools=[TOOL], tool_choice=mode, parallel_tool_calls=False)
            assert reason == "tool_calls" and len(calls) == 1 and calls[0][0] == "book", (reason, calls)
            jsonschema.validate(json.loads(calls[0][1]), schema)
        content, calls, reason, _ = chat(dense, seed=seed, tools=[TOOL], tool_choice=pb.ToolChoice(mode="none"))
        assert not calls and reason in ("stop", "length")
        content, calls, reason, _ = chat(dense, pb.ResponseFormat(json_schema=json.dumps(SCHEMA)), seed, tools=[TOOL])
        if calls:
            assert all(jsonschema.validate(json.loads(a), schema) is None for _, a in calls) and not content
        else:
            jsonschema.validate(json.loads(content), SCHEMA)


@pytest.mark.parametrize("fields,sentence", [
    ({"form": pb.ResponseFormat(json_schema='{"type":"object","properties":{"a":{"not":{}}}}')},
     "response_format.json_schema: /properties/a/not: is not supported"),
    ({"form": pb.ResponseFormat(json_schema="{")}, "response_format.json_schema: no JSON: byte 1"),
    ({"form": pb.ResponseFormat(regex="(?=a)")}, "response_format.regex: byte 0: look-ahead"),
    ({"form": pb.ResponseFormat(choices=pb.Choices())}, "response_format.choices has 0 choices"),
    ({"form": pb.ResponseFormat(regex="((a{100}){100}){100}")}, "at most 16384"),
    ({"tools": [pb.Tool(name="f", strict=True, parameters_json='{"type":"object","if":{}}')]}, "tools[0].parameters_json: /if: "),
    ({"tools": [TOOL], "tool_choice": pb.ToolChoice(mode="named", name="g")}, "g"),
])
def test_refused(dense, fields, sentence):
    with pytest.raises(grpc.RpcError) as e:
        chat(dense, **fields)
    assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT and sentence in e.value.details(), e.value.details()
