#!/usr/bin/env python3
"""What a reader minds: sizes, white space, marks of unfinished work. See CONTRIBUTING.md."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CODE = (".c", ".h", ".py", ".sh", ".proto", ".cmake")
LINES_MAX, COLUMNS_MAX = 700, 140   # about 600 and 110; the slack is for the odd table
MARKS = re.compile(r"\b(TODO|FIXME|XXX)\b")


def tracked():
    """Files of the repository and new ones that are not ignored; data of the tests aside."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in out.stdout.splitlines() if (ROOT / name).is_file()]


def problems(path):
    name = path.relative_to(ROOT)
    text = path.read_text()
    lines = text.split("\n")
    if text and not text.endswith("\n"):
        yield f"{name}: the last line does not end"
    if len(lines) - 1 > LINES_MAX:
        yield f"{name}: {len(lines) - 1} lines, at most {LINES_MAX}: is there a second thing in it?"
    for number, line in enumerate(lines, 1):
        where = f"{name}:{number}"
        if line.rstrip() != line:
            yield f"{where}: white space at the end"
        if "\t" in line:
            yield f"{where}: a tab"
        if len(line) > COLUMNS_MAX:
            yield f"{where}: {len(line)} columns, at most {COLUMNS_MAX}"
        if path != pathlib.Path(__file__).resolve() and MARKS.search(line):
            yield f"{where}: unfinished work ({MARKS.search(line).group()})"


def main():
    found = [p for path in tracked() if path.suffix in CODE and path.stat().st_size for p in problems(path)]
    print("\n".join(found) or "style: nothing to say")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
