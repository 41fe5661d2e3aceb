#!/usr/bin/env python3
"""Writes the options of the manual pages from the programs' own tables, between lines of

    .\\" options of gemmad          or: options of gemmactl COMMAND
    .\\" end of options

    docs/man.py BUILD             writes them
    docs/man.py --check BUILD     says which pages are not as the programs in BUILD have it, and ends 1
"""
import difflib
import pathlib
import re
import subprocess
import sys

DOCS = pathlib.Path(__file__).resolve().parent
REGION = re.compile(r'(^\.\\" options of (\S+)(?: (\S+))?\n).*?(^\.\\" end of options$)', re.MULTILINE | re.DOTALL)


def options_of(build, program, command):
    words = ["completion", "man", command] if command else ["--completion", "man"]
    return subprocess.run([build / program, *words], capture_output=True, text=True, check=True).stdout


def written(page, build):
    return REGION.sub(lambda m: m[1] + options_of(build, m[2], m[3]) + m[4], page)


def main():
    arguments = [a for a in sys.argv[1:] if a != "--check"]
    if len(arguments) != 1:
        sys.exit(__doc__)
    build, wrong = pathlib.Path(arguments[0]).resolve(), False
    for path in sorted(DOCS.glob("*.1")):
        old = path.read_text()
        new = written(old, build)
        if old == new:
            continue
        if "--check" in sys.argv:
            wrong = True
            print(*difflib.unified_diff(old.split("\n"), new.split("\n"), str(path), "the program", lineterm="", n=0), sep="\n")
        else:
            path.write_text(new)
    if wrong:
        sys.exit("the pages are not as the programs have it; run: docs/man.py build")


if __name__ == "__main__":
    main()
