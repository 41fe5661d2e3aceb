#!/usr/bin/env python3
"""Takes the documentation's pictures of the pages: docs/pictures/status.png and chat.png.

    .venv/bin/python tests/python/take_pictures.py
"""
import time

import browser
from support import MODELS, ROOT, Daemon, free_port
from test_pages import DOCUMENT, QUESTION, answered, ask, drop, open_chat, open_status

FOLDER = ROOT / "docs" / "pictures"


def take(tab, web):
    tab.screen(1080, 880)
    open_status(tab, web)
    for i in range(40):
        web.generate(DOCUMENT[:400 + 60 * i], max_tokens=150 + 60 * (i % 5), ignore_eos=True)
        time.sleep(0.3)
    tab.picture(FOLDER / "status.png")
    tab.screen(900, 640)
    open_chat(tab, web)
    drop(tab, "document.txt", (MODELS / "tiny-dense/document.txt").read_text())
    tab.wait("document.querySelector('#documents').innerText.includes('document.txt')")
    ask(tab, QUESTION, temperature=0)
    answered(tab)
    tab.picture(FOLDER / "chat.png")


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    port = free_port()
    options = ("--http", f"127.0.0.1:{port}", "--weights", "f32", "--kv", "f32")
    with Daemon("tiny-dense", options=options) as web, browser.Browser() as tab:
        web.http = f"http://127.0.0.1:{port}"
        take(tab, web)


if __name__ == "__main__":
    main()
