"""gemmactl chat and ask over Chat, against a server without a model; on a terminal (a pty) and without one."""
import fcntl
import json
import os
import pty
import re
import select
import signal
import stat
import subprocess
import sys
import termios
import time

import grpc
import pytest

from fake_server import FakeGemmad, chat_answer
from support import BUILD, PATIENCE_SECONDS, ctl, eventually, samples


@pytest.fixture
def fake():
    with FakeGemmad() as server:
        server.chat = []
        yield server


def contents(request):
    """[(role, text)] of a ChatRequest."""
    return [(m.role, "".join(p.text for p in m.content)) for m in request.messages]


class Terminal:
    """gemmactl on a pseudo-terminal."""

    def __init__(self, fake, tmp_path, *options, env=()):
        self.leader, follower = pty.openpty()
        self.modes = termios.tcgetattr(follower)
        environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "HOME": str(tmp_path), "TERM": "xterm", **dict(env)}
        environment.pop("NO_COLOR", None)
        self.process = subprocess.Popen([BUILD / "gemmactl", "--server", fake.address, *map(str, options)], stdin=follower,
                                        stdout=follower, stderr=follower, env=environment, start_new_session=True,
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(follower)
        self.shown = b""

    def until(self, text, seconds=PATIENCE_SECONDS):
        """Reads until the text appears, and gives what came before and with it."""
        want, end = text.encode(), time.monotonic() + seconds
        while want not in self.shown:
            assert time.monotonic() < end, f"{text!r} does not appear in {self.shown!r}"
            if select.select([self.leader], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self.leader, 65536)
                except OSError:
                    raise AssertionError(f"{text!r} did not appear in {self.shown!r}") from None
        before, _, self.shown = self.shown.partition(want)
        return before.decode() + text

    def type(self, text):
        os.write(self.leader, text.encode())

    def leave(self):
        """Ctrl-D at the next prompt; the exit code."""
        self.until("> ")
        self.type("\x04")
        return self.close()[1]

    def close(self):
        """What is left, and the exit code. The terminal is left as it was found."""
        rest = b""
        try:
            while select.select([self.leader], [], [], 20)[0]:
                block = os.read(self.leader, 65536)
                if not block:
                    break
                rest += block
        except OSError:
            pass
        assert termios.tcgetattr(self.leader) == self.modes
        os.close(self.leader)
        return (self.shown + rest).decode(), self.process.wait(20)


@pytest.fixture
def terminal(fake, tmp_path):
    opened = []

    def make(*options, **more):
        t = Terminal(fake, tmp_path, "chat", *options, **more)
        opened.append(t)
        t.until("> ")
        return t
    yield make
    for t in opened:
        if t.process.poll() is None:
            t.process.kill()
            t.process.wait()


# ---- without a terminal ----

def test_lines_are_questions_and_the_conversation_is_sent_again(fake):
    fake.chat = [chat_answer("Hello.", reasoning="A greeting."), chat_answer("Four.")]
    r = ctl("chat", "--system", "Be brief.", "--temperature", "0", "--max-tokens", "9", stdin="Hi\n\n2 + 2?\n", server=fake.address)
    assert r.returncode == 0 and r.stdout == "Hello.\nFour.\n" and r.stderr == ""
    first, second = fake.requests
    assert contents(first) == [("system", "Be brief."), ("user", "Hi")]
    assert contents(second) == [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello."), ("user", "2 + 2?")]
    assert second.messages[2].reasoning == "A greeting." and first.HasField("enable_thinking") and not first.enable_thinking
    assert first.sampling.max_tokens == 9 and first.sampling.temperature == 0 and first.model == "tiny-dense"


def test_json_is_one_object_for_each_answer(fake):
    fake.chat = [chat_answer("Hello.", reasoning="Hm."), chat_answer("x", malformed=["call:f{"], truncated="call:g", reason="length")]
    r = ctl("chat", "--json", "--think", "on", stdin="Hi\nand?\n", server=fake.address)
    one, two = map(json.loads, r.stdout.splitlines())
    assert one["content"] == "Hello." and one["reasoning"] == "Hm." and one["tool_calls"] == [] and one["finish_reason"] == "stop"
    assert one["usage"] == {"prompt_tokens": 20, "cached_tokens": 5, "completion_tokens": 9, "reasoning_tokens": 3}
    assert one["seed"] == 7 and one["request_id"] == "fake-1" and one["malformed"] == [] and one["truncated_call"] is None
    assert two["malformed"] == ["call:f{"] and two["truncated_call"] == "call:g" and two["finish_reason"] == "length"
    assert fake.requests[0].enable_thinking and r.returncode == 0


def test_texts_of_several_lines(fake):
    typed = 'one \\\ntwo\n"""first\n\n  second\n"""\n"""a"""\nends \\\\\n//x\n"""never closed\n'
    r = ctl("chat", stdin=typed, server=fake.address)
    assert r.returncode == 0, r.stderr
    assert [contents(q)[-1][1] for q in fake.requests] == ["one \ntwo", "first\n\n  second", "a", "ends \\\\", "/x", "never closed\n"]


def test_commands(fake, tmp_path):
    note, saved = tmp_path / "note.txt", tmp_path / "talk.json"
    note.write_text("The moon is full.\n")
    fake.chat = [chat_answer("A."), chat_answer("B.", reasoning="b"), chat_answer("C."), chat_answer("D.")]
    typed = f"""/system Be kind.
one
/file {note}
/think on
two
/save {saved}
/reset
/system
/think off
three
/usage
/model tiny-dense
/model
/help
/quit
never
"""
    r = ctl("chat", stdin=typed, server=fake.address)
    assert r.returncode == 0 and r.stdout == "A.\nB.\nC.\n", r.stderr
    asked = [q for q in fake.requests if hasattr(q, "messages")]
    assert [contents(q) for q in asked] == [
        [("system", "Be kind."), ("user", "one")],
        [("system", "Be kind."), ("user", "one"), ("assistant", "A."), ("user", "The moon is full.\n\ntwo")], [("user", "three")]]
    assert [q.enable_thinking for q in asked] == [False, True, False]
    tokens = len(fake.bpe.encode("The moon is full."))
    assert f"{note}: 17 bytes, {tokens} tokens; goes with the next question" in r.stderr
    assert "3 answers: 7 tokens (1 thoughts), prompts 60 (15 from the cache)" in r.stderr and "context: 22 of 1024 tokens" in r.stderr
    assert "/file PATH" in r.stderr and "served are: tiny-dense" in r.stderr
    kept = json.loads(saved.read_text())
    assert kept["model"] == "tiny-dense" and stat.S_IMODE(saved.stat().st_mode) == 0o600
    assert kept["messages"] == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "one"},
                                {"role": "assistant", "content": "A."}, {"role": "user", "content": "The moon is full.\n\ntwo"},
                                {"role": "assistant", "content": "B.", "reasoning_content": "b"}]


@pytest.mark.parametrize("line, sentence", [
    ("/nonsense", "there is no command /nonsense"), ("/file", "needs a PATH"), ("/file /nonexistent/x", "/nonexistent/x"),
    ("/think maybe", '"maybe"'), ("/model other", "served are: tiny-dense"), ("/save", "needs a FILE"),
    ("/save /proc/self/status", "is there already"), ("/tools /nonexistent/t", "/nonexistent/t"),
])
def test_what_fails_ends_a_script(fake, line, sentence):
    r = ctl("chat", stdin=f"{line}\nnever asked\n", server=fake.address)
    assert r.returncode == 1 and sentence in r.stderr and fake.requests == []


@pytest.mark.parametrize("options, sentence", [
    (["--think", "maybe"], "on|off"), (["--n", "2"], "not for a chat"), (["--tool-command", "x"], "--tools"),
    (["--logprobs", "1", "--json"], "not for"),
])
def test_wrong_options(fake, options, sentence):
    r = ctl("chat", *options, stdin="", server=fake.address)
    assert r.returncode == 2 and sentence in r.stderr


def test_a_server_without_chat_says_so(fake):
    fake.chat = None
    r = ctl("chat", stdin="Hi\n", server=fake.address)
    assert r.returncode == 1 and "UNIMPLEMENTED" in r.stderr and r.stdout == ""


def test_text_that_is_not_utf8_is_refused(fake):
    r = subprocess.run([BUILD / "gemmactl", "--server", fake.address, "chat"], input=b"ab\xff\n", capture_output=True, timeout=20)
    assert r.returncode == 1 and b"not UTF-8 at byte 2" in r.stderr and fake.requests == []


# ---- tools ----

TOOLS = """[{"type": "function", "function": {"name": "weather", "description": "of a place",
  "parameters": {"type": "object", "properties": {"z": {"type": "number", "minimum": 0.10, "enum": [1.0, 1e2]}, "a": {}}}, "strict": true}},
  {"name": "now"}]"""


def tools_file(tmp_path, text=TOOLS):
    path = tmp_path / "tools.json"
    path.write_text(text)
    return path


def test_tools_and_results_that_are_typed(fake, tmp_path):
    fake.chat = [chat_answer("Let me see.", calls=[("weather", '{"z": 1.0}'), ("now", "{}")]), chat_answer("Sunny.")]
    r = ctl("chat", "--tools", tools_file(tmp_path), stdin="How is it?\n15 degrees\n\n", server=fake.address)
    assert r.returncode == 0 and r.stdout == "Let me see.\nSunny.\n", r.stderr
    assert '[call weather {"z": 1.0}]' in r.stderr and "[call now {}]" in r.stderr
    weather, now = fake.requests[0].tools
    assert weather.name == "weather" and weather.description == "of a place" and weather.strict and now.name == "now"
    # As it is spelled in the file: 0.10 is not 0.1 to a template.
    assert weather.parameters_json == TOOLS[TOOLS.index('{"type": "object"'):TOOLS.index(', "strict"')]
    assert not now.HasField("parameters_json")
    _, text, calls, one, two = fake.requests[1].messages
    assert contents(fake.requests[1])[1] == ("assistant", "Let me see.") and not text.tool_calls
    assert [(c.id, c.name, c.arguments_json) for c in calls.tool_calls] == [("call_0", "weather", '{"z": 1.0}'), ("call_1", "now", "{}")]
    assert [(m.role, m.tool_call_id, m.name, m.content[0].text if m.content else "") for m in (one, two)] == [
        ("tool", "call_0", "weather", "15 degrees"), ("tool", "call_1", "now", "")]


def test_a_program_answers_calls(fake, tmp_path):
    program = tmp_path / "answer.py"
    program.write_text(f"#!{sys.executable}\nimport json, sys\ncall = json.load(sys.stdin)\n"
                       "if call['name'] == 'now': sys.exit('no clock')\n"
                       "print(call['id'], call['arguments']['z'], 'x' * 100000)\n")
    program.chmod(0o755)
    fake.chat = [chat_answer(calls=[("weather", '{"z": 1.0}'), ("now", "{}")]), chat_answer("Done.")]
    r = ctl("chat", "--tools", tools_file(tmp_path), "--tool-command", program, stdin="Go\n", server=fake.address)
    assert r.returncode == 0 and r.stdout == "Done.\n", r.stderr
    first, second = (m.content[0].text for m in fake.requests[1].messages if m.role == "tool")
    assert first == "call_0 1.0 " + "x" * 100000 and second == "error: the tool ended with 1"
    assert "[result of weather: call_0 1.0 xxx" in r.stderr and "xxx…]" in r.stderr and "no clock" in r.stderr


def test_a_program_that_is_not_there_is_an_error(fake, tmp_path):
    fake.chat = [chat_answer(calls=[("now", "{}")])]
    r = ctl("chat", "--tools", tools_file(tmp_path), "--tool-command", "/nonexistent/p", stdin="Go\n", server=fake.address)
    assert r.returncode == 1 and "/nonexistent/p cannot be run" in r.stderr and len(fake.requests) == 1


def test_a_model_that_only_calls_tools_is_stopped(fake, tmp_path):
    fake.chat = [chat_answer(calls=[("now", "{}")]) for _ in range(80)]
    r = ctl("chat", "--tools", tools_file(tmp_path), "--tool-command", "true", stdin="Go\n", server=fake.address)
    assert r.returncode == 1 and "called tools 64 times" in r.stderr and len(fake.requests) == 64


@pytest.mark.parametrize("text, sentence", [
    ("{}", "no JSON array"), ("[1]", "tool 1 is no object"), ('[{"type": "function"}]', 'no "name"'), ("[", "line 1"),
    ('[{"type": "retrieval", "name": "x"}]', "retrieval"), ('[{"name": "x", "parameters": []}]', "no object"),
    ('[{"name": "x", "strict": 1}]', "strict"), ("[" + ",".join(['{"name": "x"}'] * 129) + "]", "129 tools, at most 128"),
])
def test_wrong_tools_are_refused(fake, tmp_path, text, sentence):
    r = ctl("chat", "--tools", tools_file(tmp_path, text), stdin="", server=fake.address)
    assert r.returncode == 1 and sentence in r.stderr


# ---- on a terminal ----

def test_a_session_on_a_terminal(fake, terminal, tmp_path):
    fake.chat = [chat_answer("Grüß Gott.", reasoning="Polite."), chat_answer("Bye.")]
    t = terminal("--think", "on")
    t.type("Grüß dich\n")
    shown = t.until("Gott.")
    assert "\x1b[2mPolite.\x1b[0m\r\n\r\nGrüß Gott." in shown
    t.until("> ")
    t.type("\x1b[A")  # the line before, from the history
    t.until("Grüß dich")
    t.type("!\n")
    t.until("Bye.")
    assert t.leave() == 0
    assert [contents(q)[-1][1] for q in fake.requests] == ["Grüß dich", "Grüß dich!"]
    history = tmp_path / "state" / "gemmad" / "chat_history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600 and stat.S_IMODE(history.parent.stat().st_mode) == 0o700
    again = terminal()
    again.type("\x1b[A")
    again.until("Grüß dich!")
    again.type("\x03")
    again.until("> ")
    again.type("/quit\n")
    assert again.close()[1] == 0


def test_no_history(fake, terminal, tmp_path):
    t = terminal("--no-history")
    t.type("secret\n")
    t.until("yes")
    assert t.leave() == 0 and not (tmp_path / "state").exists()


def test_a_file_that_is_no_history_is_left_alone(fake, terminal, tmp_path):
    history = tmp_path / "state" / "gemmad" / "chat_history"
    history.parent.mkdir(parents=True)
    history.write_text("somebody's\n")
    t = terminal()
    t.type("x\n")
    t.until("yes")
    t.type("/quit\n")
    t.close()
    assert history.read_text() == "somebody's\n"


def test_a_file_that_could_not_be_counted_does_not_go_along(fake, terminal, tmp_path):
    document = tmp_path / "a.txt"
    document.write_text("Text.")
    t = terminal()
    fake.fail_with = (grpc.StatusCode.UNAVAILABLE, "the engine is away")
    t.type(f"/file {document}\n")
    t.until("the engine is away")
    t.until("> ")
    fake.fail_with = None
    t.type(f"/file {document}\n")
    t.until("goes with the next question")
    t.type("Who?\n")
    t.until("yes")
    assert t.leave() == 0
    assert contents(fake.requests[-1]) == [("user", "Text.\n\nWho?")]


@pytest.mark.parametrize("before", [None, "yes"])
def test_an_end_typed_before_the_prompt_ends_the_session_there(fake, terminal, before):
    """The line editor has not set the terminal up then: with the question, and with the answer."""
    t = terminal()
    t.type("Who?\n")
    if before:
        t.until(before)
    t.type("\x04")
    t.until("> ")
    assert t.close()[1] == 0 and len(fake.requests) == 1


def test_an_end_on_a_line_that_is_empty_again(fake, terminal):
    t = terminal()
    t.type("ab")
    t.until("ab")
    t.type("\x7f\x7f\x04")
    assert t.close()[1] == 0 and not fake.requests


def test_an_interrupt_stops_the_answer_and_not_the_program(fake, terminal):
    fake.chat, fake.hang_after = [chat_answer("one two three four")], 7
    t = terminal()
    t.type("count\n")
    t.until("one two")
    t.type("\x03")
    t.until("[stopped; the answer is kept as far as it came]")
    assert fake.cancelled.wait(10)
    fake.hang_after = None
    t.type("go on\n")
    t.until("yes")
    assert t.leave() == 0
    assert contents(fake.requests[1]) == [("user", "count"), ("assistant", "one two"), ("user", "go on")]


def test_a_call_that_was_stopped_is_not_kept(fake, terminal, tmp_path):
    fake.chat, fake.hang_after = [chat_answer("Hm.", calls=[("now", "{}")])], 4
    t = terminal("--tools", tools_file(tmp_path))
    t.type("When?\n")
    t.until("Hm.")
    time.sleep(0.3)  # the call's first half has come too
    t.type("\x03")
    t.until("[stopped; the answer is kept")
    fake.hang_after = None
    t.type("go on\n")
    t.until("yes")
    assert t.leave() == 0
    assert contents(fake.requests[1]) == [("user", "When?"), ("assistant", "Hm."), ("user", "go on")]
    assert not fake.requests[1].messages[1].tool_calls


def test_an_interrupt_before_the_first_word_forgets_the_question(fake, terminal):
    fake.chat, fake.hang_after = [chat_answer("one")], 0
    t = terminal()
    t.type("count\n")
    assert eventually(lambda: fake.requests)
    t.type("\x03")
    t.until("the question is forgotten")
    fake.hang_after = None
    t.until("> ")
    t.type("half a line\x03")
    t.until("> ")
    t.type("again\n")
    t.until("yes")
    assert t.leave() == 0
    assert contents(fake.requests[1]) == [("user", "again")]


def test_what_fails_does_not_end_a_session(fake, terminal):
    t = terminal()
    t.type("/file /nonexistent/x\n")
    t.until("gemmactl: /nonexistent/x")
    fake.fail_with = (grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full\x1b[31m")
    t.type("a\n")
    assert "\x1b[31m" not in t.until("(RESOURCE_EXHAUSTED)")
    fake.fail_with = None
    t.type("b\n")
    t.until("yes")
    t.type("/quit\n")
    assert t.close()[1] == 0 and contents(fake.requests[-1]) == [("user", "b")]


def test_results_are_asked_for_and_may_be_refused(fake, terminal, tmp_path):
    fake.chat = [chat_answer(calls=[("n\x1b]0;title\x07w", '{"a": "\x1b]0;title\x07"}')]), chat_answer(calls=[("now", "{}")]),
                 chat_answer("Noon.")]
    t = terminal("--tools", tools_file(tmp_path))
    t.type("When?\n")
    assert "\x1b]0" not in t.until("w> ")
    t.type("\x03")
    t.until("the question is forgotten")
    t.until("> ")
    t.type("And now?\n")
    t.until("result of now> ")
    t.type("12:00\n")
    t.until("Noon.")
    t.type("/quit\n")
    assert t.close()[1] == 0
    assert contents(fake.requests[2]) == [("user", "And now?"), ("assistant", ""), ("tool", "12:00")]


def test_control_characters_do_not_reach_the_terminal(fake, terminal):
    fake.chat = [chat_answer("a\x1b[31mb\x9bc", reasoning="t\x1b]0;title\x07")]
    t = terminal("--think", "on")
    t.type("x\n")
    shown = t.until("c\r\n")
    assert "a\ufffd[31mb\ufffdc" in shown and "t\ufffd]0;title\ufffd" in shown
    t.type("/quit\n")
    t.close()


def test_a_terminal_without_styles_has_words(fake, terminal):
    fake.chat = [chat_answer("b", reasoning="a")]
    t = terminal("--think", "on", env={"TERM": "dumb"})
    t.type("x\n")
    assert "[thinking]\r\na\r\n[answer]\r\nb" in t.until("answer]\r\nb")
    t.type("/quit\n")
    t.close()


def test_sigterm_ends_a_session(fake, terminal):
    t = terminal()
    t.process.send_signal(signal.SIGTERM)
    assert t.close()[1] == -signal.SIGTERM


# ---- ask over Chat ----

def test_ask_uses_chat(fake, tmp_path):
    case = samples("tiny-dense", "plain")[0]
    document, _, question = case["messages"][0]["content"].rpartition("\n\n")
    path = tmp_path / "document.txt"
    path.write_text(document)
    r = ctl("ask", path, question, "--prompt-only", "--json", server=fake.address)
    assert json.loads(r.stdout)["token_ids"] == case["prompt_token_ids"]
    r = ctl("ask", path, question, "--json", "--max-tokens", "7", server=fake.address)
    out = json.loads(r.stdout)
    assert out["answer"] == case["completion"] and out["finish_reason"] == "stop" and out["reasoning"] == ""
    assert out["documents"] == [{"path": str(path), "bytes": len(document), "tokens": len(fake.bpe.encode(document))}]
    asked = fake.requests[-1]
    assert contents(asked) == [("user", f"{document}\n\n{question}")] and asked.sampling.max_tokens == 7 and not asked.enable_thinking


def test_ask_names_several_documents(fake, tmp_path):
    paths = []
    for folder, text in (("a", "One.\n"), ("b", " Two."), ("c", "Three")):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / ("three.txt" if folder == "c" else "same.txt"))
        paths[-1].write_text(text)
    r = ctl("ask", *paths, "Which?", "--system", "Be brief.", "--think", "on", "--verbose", server=fake.address)
    assert r.returncode == 0, r.stderr
    assert contents(fake.requests[-1]) == [("system", "Be brief."), ("user", (
        f"Document 1: {paths[0]}\n\nOne.\n\nDocument 2: {paths[1]}\n\nTwo.\n\nDocument 3: three.txt\n\nThree\n\nWhich?"))]
    assert fake.requests[-1].enable_thinking
    assert re.search(rf"{re.escape(str(paths[0]))}: 4 bytes, \d+ tokens\n", r.stderr) and "prompt: 20 tokens" in r.stderr


@pytest.mark.parametrize("chat", [True, False])
def test_ask_refuses_what_does_not_fit_before_sending(fake, tmp_path, chat):
    fake.chat, fake.context = [] if chat else None, 100
    path = tmp_path / "long.txt"
    path.write_text("word " * 300)
    r = ctl("ask", path, "q", server=fake.address)
    tokens = len(fake.bpe.encode(("word " * 300).strip()))
    assert r.returncode == 1 and "the model's context is 100" in r.stderr and f"{path}: 1,499 bytes, {tokens:,} tokens" in r.stderr
    assert re.search(r"the prompt has \d+ tokens", r.stderr)
    assert not any(type(q).__name__ in ("GenerateRequest",) or (hasattr(q, "messages") and q.HasField("sampling")) for q in fake.requests)
    path.write_text("short")
    r = ctl("ask", path, "q", "--max-tokens", "95", server=fake.address)
    assert r.returncode == 1 and "--max-tokens is 95" in r.stderr


def test_ask_shows_progress_on_a_terminal_only(fake, tmp_path):
    path = tmp_path / "d"
    path.write_text("d")
    t = Terminal(fake, tmp_path, "ask", path, "q")
    shown, code = t.close()
    assert code == 0 and "reading the prompt: 20 of 20 tokens" in shown and "1 bytes" in shown and "yes" in shown
    assert ctl("ask", path, "q", server=fake.address).stderr == ""
