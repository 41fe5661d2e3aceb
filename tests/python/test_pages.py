"""The status page and the chat page in headless Chromium. take_pictures.py makes the documentation's pictures of them."""
import json
import urllib.request

import pytest

import browser
from support import MODELS, Daemon, ctl, eventually, free_port

pytestmark = pytest.mark.skipif(not browser.PROGRAM, reason="there is no Chromium")

DOCUMENT = (MODELS / "tiny-dense/document.txt").read_text()
QUESTION = (MODELS / "tiny-dense/question.txt").read_text().strip()
ANSWER = (MODELS / "tiny-dense/answer.txt").read_text().strip()


@pytest.fixture(scope="module")
def web():
    port = free_port()
    with Daemon("tiny-dense", options=("--http", f"127.0.0.1:{port}", "--weights", "f32", "--kv", "f32")) as daemon:
        daemon.http = f"http://127.0.0.1:{port}"
        yield daemon


@pytest.fixture(scope="module")
def chromium():
    with browser.Browser() as b:
        yield b


@pytest.fixture
def tab(chromium):
    """A tab whose page shall say nothing to the console and ask nobody else for anything."""
    chromium.problems.clear()
    chromium.requests.clear()
    chromium.screen(1200, 900)
    yield chromium
    assert not chromium.problems, chromium.problems


def check_own(tab, web):
    others = [u for u in tab.requests if not u.startswith((web.http + "/", "data:"))]
    assert tab.requests and not others, others


def open_status(tab, web):
    tab.open(web.http + "/")
    tab.wait("document.querySelectorAll('tbody tr').length === 2")


def open_chat(tab, web):
    tab.open(web.http + "/chat")
    tab.wait("document.querySelector('#model').value === 'tiny-dense'")


def drop(tab, name, text):
    """A file dropped onto the page."""
    tab.run(f"""(() => {{
      const data = new DataTransfer();
      data.items.add(new File([{json.dumps(text)}], {json.dumps(name)}));
      document.body.dispatchEvent(new DragEvent("drop", {{ dataTransfer: data, bubbles: true, cancelable: true }}));
    }})()""")


def ask(tab, question, **settings):
    for name, value in settings.items():
        tab.run(f"document.querySelector('#{name}').value = {json.dumps(str(value))}")
    tab.run(f"document.querySelector('#question').value = {json.dumps(question)}")
    tab.run("document.querySelector('#send').click()")


def answered(tab, n=1):
    tab.wait(f"document.querySelectorAll('article .meta').length >= {n} && document.querySelector('#stop').hidden")
    return tab.run("[...document.querySelectorAll('article .text')].at(-1).innerText")


def has_no_side_scroll(tab):
    return tab.run("document.documentElement.scrollWidth <= innerWidth && document.body.scrollWidth <= innerWidth")


def test_status_shows_the_ranks(tab, web):
    open_status(tab, web)
    pids = {str(r.pid) for r in web.ranks()}
    assert set(tab.run("[...document.querySelectorAll('td[data-label=Process]')].map(e => e.textContent)")) == pids
    assert tab.run("document.querySelector('#state').textContent") == "ready"
    web.generate("tokens to count", max_tokens=400, ignore_eos=True)
    tab.wait("Number(document.querySelector('#written-most').textContent.replace(/[^0-9.]/g, '')) > 0")
    assert tab.run("document.querySelector('.written .stroke').getAttribute('d').length") > 5
    assert "tiny-dense/0" in tab.run("document.querySelector('#models').innerText")
    check_own(tab, web)


def test_headers_allow_nothing_else(web):
    for path in ("/", "/chat"):
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(web.http + path, timeout=10) as answer:
            policy, html = answer.headers["Content-Security-Policy"], answer.read().decode()
        assert policy.startswith("default-src 'none';") and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert html.count("<script") == 1 and "innerHTML" not in html and "src=" not in html


def test_the_policy_is_enforced(tab, web):
    open_status(tab, web)
    tab.run("""(() => { const s = document.createElement("script"); s.textContent = "window.broken = 1";
                        document.body.append(s); })()""")
    assert tab.run("window.broken === undefined")
    # A round trip, so that the complaint has come.
    assert eventually(lambda: tab.run("1") and any("Content Security Policy" in p for p in tab.problems))
    tab.problems.clear()


def test_chat_answers_about_a_document(tab, web):
    open_chat(tab, web)
    drop(tab, "lease.txt", DOCUMENT)
    tab.wait("document.querySelector('#documents').innerText.includes('lease.txt')")
    assert f"{len(DOCUMENT.encode()) / 1024:.1f} KiB" in tab.run("document.querySelector('#documents').innerText")
    ask(tab, QUESTION, temperature=0)
    assert answered(tab) == ANSWER
    assert tab.run("document.querySelector('article .thought').hidden")
    meta = tab.run("document.querySelector('article .meta').innerText")
    assert "tokens/s" in meta and "written" in meta
    check_own(tab, web)
    # What the conversation holds goes along with the next question.
    ask(tab, QUESTION)
    assert answered(tab, 2)
    tab.run("document.querySelector('#clear').click()")
    assert tab.run("document.querySelectorAll('.turn').length") == 0


def test_markup_is_text(tab, web):
    open_chat(tab, web)
    bad = "<img src=x onerror='window.broken = 1'><script>window.broken = 1</script>"
    drop(tab, bad + ".txt", bad)
    tab.wait("document.querySelectorAll('#documents .chip').length === 1")
    ask(tab, bad, max_tokens=5)
    answered(tab)
    tab.run(f"render(document.querySelector('article .text'), {json.dumps(bad + ' **bold** `code`')})")
    assert tab.run("document.querySelector('article .text').innerText").startswith(bad)
    assert tab.run("document.querySelector('article strong').textContent") == "bold"
    assert tab.run("window.broken === undefined && document.querySelectorAll('#log img, #log script').length === 0")


def test_markdown_is_light(tab, web):
    open_chat(tab, web)
    text = "# Head\n\nfirst\nsecond\n\n- a\n- b\n\n1. x\n\n```c\nint *p;\n**no**\n```\nafter"
    tab.run(f"window.box = document.createElement('div'); render(box, {json.dumps(text)})")
    assert tab.run("[...box.children].map(e => e.tagName)") == ["H4", "P", "UL", "OL", "PRE", "P"]
    assert tab.run("box.querySelector('pre').textContent") == "int *p;\n**no**"
    assert tab.run("box.querySelectorAll('li').length") == 3


def test_thoughts_are_folded_and_tools_are_the_persons(tab, web):
    """Against a server that says what the tiny model would not: the page's own fetch is replaced."""
    open_chat(tab, web)
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": '}}
    rest = {"index": 0, "function": {"arguments": '"<b>Bern</b>"}'}}
    turns = [[({"reasoning_content": "I look "}, None), ({"reasoning_content": "outside"}, None), ({"tool_calls": [call]}, None),
              ({"tool_calls": [rest]}, None), ({}, "tool_calls")],
             [({"content": "It "}, None), ({"content": "rains."}, "stop")]]
    bodies = ["".join("data: " + json.dumps({"choices": [{"index": 0, "delta": d, "finish_reason": f}]}) + "\n\n" for d, f in turn) +
              'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}}\n\ndata: [DONE]\n\n' for turn in turns]
    tab.run(f"""(() => {{
      window.sent = [];
      const bodies = {json.dumps(bodies)};
      window.fetch = (path, o) => {{ sent.push(JSON.parse(o.body)); return Promise.resolve(new Response(bodies[sent.length - 1])); }};
    }})()""")
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    tab.run("document.querySelector('#thinking').checked = true")
    ask(tab, "How is the weather?", tools=json.dumps(tools), system="Be brief.")
    answered(tab)
    first = tab.run("sent[0]")
    assert first["tools"] == tools and first["chat_template_kwargs"] == {"enable_thinking": True} and first["stream"] is True
    assert [m["role"] for m in first["messages"]] == ["system", "user"]
    assert not tab.run("document.querySelector('details.thought').open || document.querySelector('details.thought').hidden")
    assert tab.run("document.querySelector('details.thought div').textContent") == "I look outside"
    assert tab.run("document.querySelector('details.thought summary').textContent").startswith("Thought for")
    assert json.loads(tab.run("document.querySelector('.call code').textContent")) == {"city": "<b>Bern</b>"}
    assert "weather" in tab.run("document.querySelector('.call').innerText")
    assert "9 written" in tab.run("document.querySelector('.meta').innerText")
    tab.run("document.querySelector('.call textarea').value = 'rain'")
    tab.run("[...document.querySelectorAll('article button')].find(b => b.textContent === 'Send results').click()")
    assert answered(tab, 2) == "It rains."
    second = tab.run("sent[1].messages")
    assert [m["role"] for m in second] == ["system", "user", "assistant", "tool"]
    assert second[2]["tool_calls"][0]["function"]["arguments"] == '{"city": "<b>Bern</b>"}'
    assert second[2]["reasoning_content"] == "I look outside"
    assert second[3] == {"role": "tool", "tool_call_id": "call_1", "content": "rain"}


def test_an_answer_can_be_stopped(tab, web):
    open_chat(tab, web)
    # Words that lead nowhere: without a limit the tiny model may go on for its whole context.
    ask(tab, "x", temperature=2, max_tokens=3000, seed=1)
    tab.wait("document.querySelector('#stop').hidden === false || document.querySelectorAll('article .meta span').length > 0")
    tab.run("document.querySelector('#stop').click()")
    tab.wait("document.querySelector('#stop').hidden && !document.querySelector('#send').hidden")
    assert eventually(lambda: web.status().requests_running == 0)


def test_errors_stand_where_they_happen(tab, web):
    open_chat(tab, web)
    ask(tab, "hello", max_tokens=999999)
    tab.wait("document.querySelector('article .problem')")
    assert "max" in tab.run("document.querySelector('article .problem').innerText")
    drop(tab, "picture.bin", "\x00\x01")
    tab.wait("!document.querySelector('#problem').hidden")
    assert "picture.bin is not text" in tab.run("document.querySelector('#problem').innerText")
    # Once the cause is gone the same question goes through.
    tab.run("document.querySelector('#max_tokens').value = 4")
    tab.run("[...document.querySelectorAll('article .problem button')].at(-1).click()")
    assert answered(tab) is not None
    # A question that another one has followed is not to be tried again.
    ask(tab, "hello", max_tokens=999999)
    tab.wait("document.querySelector('article .problem button')")
    ask(tab, "bye", max_tokens=4)
    assert tab.run("document.querySelectorAll('article .problem').length") == 1
    assert tab.run("document.querySelectorAll('article .problem button').length") == 0
    # The browser itself reports the answer that was no success.
    tab.problems[:] = [p for p in tab.problems if "status of 400" not in p]


@pytest.mark.parametrize("path", ["/", "/chat"])
def test_fits_a_phone(tab, web, path):
    for dark in (False, True):
        tab.screen(360, 740, dark)
        (open_status if path == "/" else open_chat)(tab, web)
        assert has_no_side_scroll(tab)
        if path == "/chat":
            ask(tab, "w" * 300 + "\n```\n" + "x" * 300 + "\n```", max_tokens=8)
            answered(tab)
            tab.run("document.querySelector('#open-settings').click()")
            assert has_no_side_scroll(tab)


def test_controls_have_names(tab, web):
    for open_page in (open_status, open_chat):
        open_page(tab, web)
        nameless = tab.run("""[...document.querySelectorAll("input, textarea, select, button, a")].filter(e =>
            !(e.textContent.trim() || e.getAttribute("aria-label") || (e.labels && e.labels.length))).map(e => e.outerHTML)""")
        assert nameless == []


def test_a_key_is_asked_for(tab, tmp_path):
    port, keys = free_port(), tmp_path / "keys"
    made = ctl("key", "add", "page", "--keys", keys)
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    with Daemon("tiny-dense", ranks=1, options=("--http", f"127.0.0.1:{port}", "--keys", keys)) as daemon:
        tab.open(f"http://127.0.0.1:{port}/")
        tab.wait("!document.querySelector('#keyform').hidden")
        for given, shown in (("wrong", "does not take"), (key, None)):
            tab.run(f"document.querySelector('#key').value = {json.dumps(given)}")
            tab.run("document.querySelector('#keyform button').click()")
            if shown:
                tab.wait(f"document.querySelector('#note').textContent.includes('{shown}')")
            else:
                tab.wait("document.querySelectorAll('tbody tr').length === 1")
        tab.open(f"http://127.0.0.1:{port}/chat")
        tab.wait("document.querySelector('#model').value === 'tiny-dense'")
        assert daemon.process.poll() is None
    tab.run("sessionStorage.clear()")
    tab.problems[:] = [p for p in tab.problems if "status of 401" not in p]


def test_a_lost_server_is_shown(tab):
    port = free_port()
    with Daemon("tiny-dense", ranks=1, options=("--http", f"127.0.0.1:{port}")):
        tab.open(f"http://127.0.0.1:{port}/")
        tab.wait("document.querySelectorAll('tbody tr').length === 1")
    tab.wait("document.querySelector('#state').textContent === 'lost' && !document.querySelector('#note').hidden")
    tab.problems.clear()
