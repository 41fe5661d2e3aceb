"""RenderChat: the prompts of chats over gRPC, and models that serve none."""
import hashlib
import json
import shutil

import grpc
import pytest

from support import MODELS, ROOT, Daemon, pb, samples

VECTORS = ROOT / "tests" / "tokenizer" / "gemma4"
ROLES = ("system", "developer", "user", "assistant", "tool")


def chat(messages, tools=None, **fields):
    """A ChatRequest of messages and tools as transformers takes them."""
    r = pb.ChatRequest(**{k: v for k, v in fields.items() if v is not None})
    for m in messages:
        x = r.messages.add(role=m["role"], reasoning=(m.get("reasoning") or m.get("reasoning_content") or "").encode())
        content = m.get("content")
        for text in [content] if isinstance(content, str) else [p["text"] for p in content or []]:
            x.content.add().text = text
        x.tool_call_id, x.name = m.get("tool_call_id") or "", m.get("name") or ""
        for call in m.get("tool_calls") or []:
            x.tool_calls.add(id=call.get("id", ""), name=call["function"]["name"], arguments_json=json.dumps(call["function"]["arguments"]))
    for t in tools or []:
        f = t["function"]
        r.tools.add(name=f["name"], description=f.get("description", ""),
                    parameters_json=json.dumps(f["parameters"]) if "parameters" in f else "")
    return r


def sayable(v):
    """Whether a ChatRequest can hold the vector."""
    if v.get("error") or not v["add_generation_prompt"] or v["preserve_thinking"]:
        return False
    if any("response" in t["function"] for t in v["tools"] or []):
        return False
    for m in v["messages"]:
        content = m.get("content")
        if m["role"] not in ROLES or "tool_responses" in m or (m["role"] == "tool" and content is None):
            return False
        if isinstance(content, list) and any(p.get("type") != "text" for p in content):
            return False
    return True


def refused(stub, request, code, *parts):
    with pytest.raises(grpc.RpcError) as error:
        stub.RenderChat(request, timeout=60)
    assert error.value.code() == code and all(p in error.value.details() for p in parts), error.value.details()


INVALID, UNIMPLEMENTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED


def test_samples_of_the_bundled_models(either):
    name, daemon = either
    stub = daemon.inference()
    for case in samples(name):
        r = stub.RenderChat(chat(case["messages"], case.get("tools"), enable_thinking=case["enable_thinking"]), timeout=60)
        assert r.text == case["prompt"] and list(r.token_ids) == case["prompt_token_ids"], case["id"]
        assert r.starts_in_thought == r.text.endswith("<|channel>thought\n")


def test_vectors(dense):
    stub = dense.inference()
    vectors = [v for v in map(json.loads, open(VECTORS / "chat.jsonl")) if sayable(v)]
    assert len(vectors) == 59
    for v in vectors:
        r = stub.RenderChat(chat(v["messages"], v["tools"], enable_thinking=v["enable_thinking"]), timeout=60)
        assert r.text == v["prompt"], v["id"]


def test_refusals(dense):
    stub = dense.inference()
    user = {"role": "user", "content": "x"}
    tool = {"type": "function", "function": {"name": "f", "description": "d"}}
    refused(stub, chat([]), INVALID, "messages is empty")
    refused(stub, chat([user, {"role": "critic", "content": "x"}]), INVALID, "messages[1]", "critic", "developer")
    refused(stub, chat([user], [tool, tool]), INVALID, 'tools[1].name "f"')
    r = chat([user, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}])
    r.messages[1].tool_calls[0].arguments_json = '"{}"'
    refused(stub, r, INVALID, "messages[1] (assistant)", "tool_calls[0]", "a string", "object")
    r = chat([user])
    r.messages[0].content.add().image.url = "http://127.0.0.1/x.png"
    refused(stub, r, UNIMPLEMENTED, "messages[0]", "image")
    r = chat([user], [tool])
    r.tool_choice.mode, r.tool_choice.name = "named", "g"
    refused(stub, r, INVALID, "tool_choice", '"g"')
    refused(stub, chat([{"role": "user", "content": "x" * (9 << 20)}]), INVALID, "8388608")
    refused(stub, chat([{"role": "user", "content": "x" * (20 << 20)}]), INVALID, "16777216")
    refused(stub, chat([user], model="nobody"), grpc.StatusCode.NOT_FOUND, "nobody")


def test_models_without_a_template_and_with_another(tmp_path):
    unknown = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    for name, template in (("none", None), ("unknown", unknown), ("told", unknown), ("spaces", "the same, but for the end")):
        copy = shutil.copytree(MODELS / "tiny-dense", tmp_path / name)
        if name == "spaces":
            (copy / "chat_template.jinja").write_bytes((MODELS / "tiny-dense" / "chat_template.jinja").read_bytes().rstrip())
        elif template:
            (copy / "chat_template.jinja").write_text(template)
        else:
            (copy / "chat_template.jinja").unlink()
    config = tmp_path / "gemmad.conf"
    config.write_text("[model told]\nchat-template = gemma4-small\n")
    with Daemon(*(tmp_path / n for n in ("none", "unknown", "told", "spaces")), ranks=1, options=["--config", config]) as daemon:
        stub = daemon.inference()
        models = {m.name: m.has_chat for m in stub.ListModels(pb.ListModelsRequest()).models}
        assert models == {"none": False, "unknown": False, "told": True, "spaces": True}
        hello = [{"role": "user", "content": "Hello"}]
        refused(stub, chat(hello, model="none"), UNIMPLEMENTED, "model none serves no chat", "no chat template", "--chat-template")
        refused(stub, chat(hello, model="unknown"), UNIMPLEMENTED, hashlib.sha256(unknown.encode()).hexdigest(), "--chat-template")
        assert stub.RenderChat(chat(hello, model="told")).text == "<bos><|turn>user\nHello<turn|>\n<|turn>model\n"
        assert stub.RenderChat(chat(hello, model="spaces")).text.endswith("<|turn>model\n<|channel>thought\n<channel|>")
        assert "model unknown serves no chat" in daemon.log()
