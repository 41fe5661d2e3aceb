#!/usr/bin/env python3
"""Holds the layering: which folder may include which, and which libraries, by the one table in ARCHITECTURE.md.

    tests/check_layering.py               checks the tree
    tests/check_layering.py --self-test   checks that this check finds what is wrong
"""
import pathlib
import re
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]', re.MULTILINE)
ROW = re.compile(r"^\|([^|]*)\|([^|]*)\|([^|]*)\|", re.MULTILINE)
# How a library shows in an include; what is in none of these is the C library or the system.
LIBRARIES = [("grpc", r"grpc/.*"), ("libuv", r"uv(/.*)?\.h"), ("libmicrohttpd", r"microhttpd.*\.h"), ("gnutls", r"gnutls/.*"),
             ("libsystemd", r"systemd/.*"), ("editline", r"(editline|readline|histedit).*"), ("MPI", r"mpi\.h"),
             ("protobuf-c", r"protobuf-c/.*"), ("jansson", r"jansson.*\.h"), ("CUDA", r"(cuda|cublas|nvrtc|cub/|mma).*"),
             ("NCCL", r"nccl.*\.h")]


class Row:
    def __init__(self, folder, may, libraries):
        self.folder, self.may, self.libraries = folder, set(may), set(libraries)

    def allows(self, header):
        """A row names folders, folders with what is below ("shard/…"), or single headers."""
        folder = header.rpartition("/")[0]
        return (folder == self.folder or folder in self.may or header in self.may or
                any(m.endswith("/…") and (folder + "/").startswith(m[:-1]) for m in self.may))


def read_table(text):
    begin, end = text.find("<!-- layering -->"), text.find("<!-- end of layering -->")
    if begin < 0 or end < begin:
        raise SystemExit("ARCHITECTURE.md: the layering table is not between its two marks")
    rows = {}
    for folder, may, libraries in ROW.findall(text[begin:end]):
        folder = folder.strip().strip("`")
        if folder == "folder" or set(folder) <= set("-: "):
            continue
        if folder in rows:
            raise SystemExit(f"ARCHITECTURE.md: two rows for {folder}")
        rows[folder] = Row(folder, *([w.strip().strip("`") for w in cell.split(",") if w.strip() not in ("", "–")]
                                     for cell in (may, libraries)))
    if not rows:
        raise SystemExit("ARCHITECTURE.md: the layering table has no rows")
    return rows


def cycles(rows):
    """A table in which two folders may include each other holds nothing apart."""
    def reach(folder, seen):
        for m in rows[folder].may & rows.keys() if folder in rows else ():
            if m not in seen:
                seen.add(m)
                reach(m, seen)
        return seen
    return [f"ARCHITECTURE.md: {f} may include itself by a detour" for f in rows if f in reach(f, set())]


def check_file(root, path, rows):
    name = path.relative_to(root).as_posix()
    folder = name.rpartition("/")[0]
    if folder not in rows:
        yield f"{name}: {folder} has no row in the layering table of ARCHITECTURE.md"
        return
    for kind, header in INCLUDE.findall(path.read_text()):
        if kind == '"':
            if header.startswith(".") or (root / folder / header).is_file() and "/" not in header:
                yield f'{name}: includes "{header}": write the path from the root'
            elif "/" in header and not rows[folder].allows(header):
                yield f'{name}: includes "{header}", and {folder} may include {", ".join(sorted(rows[folder].may)) or "nothing"}'
        for library, pattern in LIBRARIES:
            if re.fullmatch(pattern, header) and library not in rows[folder].libraries:
                yield f"{name}: includes <{header}>, and {folder} does not use {library}"


def check(root):
    rows = read_table((root / "ARCHITECTURE.md").read_text())
    problems = cycles(rows)
    count = 0
    for top in sorted({folder.partition("/")[0] for folder in rows}):
        for path in sorted((root / top).rglob("*")):
            if path.suffix in (".c", ".h", ".cu", ".cuh"):
                count += 1
                problems += check_file(root, path, rows)
    if count == 0:
        problems.append("no source was found: nothing is shown")
    return problems, count


TABLE = """<!-- layering -->
| folder | may include | libraries |
|---|---|---|
| `low` | – | – |
| `mid` | low, high/limits.h | libuv |
| `high` | mid/…, low | – |
| `high/in` | low | – |
<!-- end of layering -->
"""


def self_test():
    """Each line: a file, what it holds, and whether that is wrong."""
    cases = [
        ("low/a.c", '#include "low/b.h"\n#include <stdio.h>\n', False), ("low/a.c", '#include "mid/b.h"\n', True),
        ("mid/a.c", '#include "high/limits.h"\n', False), ("mid/a.c", '#include "high/other.h"\n', True),
        ("mid/a.c", "  #  include <uv.h>\n", False), ("low/a.c", "#include <uv.h>\n", True),
        ("low/a.h", "#include <grpc/grpc.h>\n", True), ("high/a.c", '#include "mid/deep/er.h"\n', False),
        ("high/in/a.c", '#include "mid/b.h"\n', True), ("high/in/a.c", '#include "high/b.h"\n', True),
        ("high/out/a.c", "", True), ("low/a.c", '#include "../mid/b.h"\n', True), ("low/a.c", '#include "build_id.h"\n', False),
        ("low/a.c", "#include <mpi.h>\n", True), ("low/a.c", "/* nothing */\n", False),
    ]
    wrong = []
    for name, text, bad in cases:
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "ARCHITECTURE.md").write_text(TABLE)
            (root / name).parent.mkdir(parents=True)
            (root / name).write_text(text)
            found = check(root)[0]
            if bool(found) != bad:
                wrong.append(f"{name} with {text!r}: {found or 'nothing found'}")
    circle = TABLE.replace("| `low` | –", "| `low` | high")
    if not cycles(read_table(circle)):
        wrong.append("a circle in the table was not found")
    print("\n".join(wrong) or f"{len(cases) + 1} cases right")
    return bool(wrong)


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    problems, count = check(ROOT)
    print("\n".join(problems) or f"layering: {count} files keep to the table")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
