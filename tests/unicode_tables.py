#!/usr/bin/env python3
"""Writes daemon/text/unicode_tables.c from this Python's own Unicode data: how str.lower, str.upper and str.isprintable see
characters, which is what chat templates were rendered with when models were trained."""
import sys
import unicodedata

POINTS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]


def ranges(mapping):
    """(first, last, step, delta): runs of code points, each the last one's + step, that move by delta."""
    runs = []
    for c, to in sorted(mapping.items()):
        if runs:
            first, last, step, delta = runs[-1]
            if to - c == delta and (c - last == step or (first == last and c - last <= 2)):
                runs[-1] = (first, c, c - last, delta)
                continue
        runs.append((c, c, 1, to - c))
    return runs


def rows(items, per_line):
    return "\n".join("    " + " ".join(items[i : i + per_line]) for i in range(0, len(items), per_line))


def table(name, method):
    single = {c: ord(method(chr(c))) for c in POINTS if len(method(chr(c))) == 1 and method(chr(c)) != chr(c)}
    found = ranges(single)
    return (f"const unicode_range {name}[] = {{\n" + rows([f"{{0x{a:X}, 0x{b:X}, {s}, {d}}}," for a, b, s, d in found], 4)
            + f"\n}};\nconst size_t {name}_count = sizeof {name} / sizeof *{name};\n")


def special(name, method):
    many = [(c, method(chr(c))) for c in POINTS if len(method(chr(c))) > 1]
    cells = ["{0x%X, {%s}}," % (c, ", ".join("0x%X" % ord(x) for x in to)) for c, to in many]
    return (f"const unicode_special {name}[] = {{\n" + rows(cells, 3)
            + f"\n}};\nconst size_t {name}_count = sizeof {name} / sizeof *{name};\n")


def printable():
    edges, now = [], False
    for c in range(0x110000):
        is_so = not 0xD800 <= c <= 0xDFFF and chr(c).isprintable()
        if is_so != now:
            edges.append(c)
            now = is_so
    return ("const uint32_t unicode_printable[] = {\n" + rows(["0x%X," % c for c in edges], 14)
            + "\n};\nconst size_t unicode_printable_count = sizeof unicode_printable / sizeof *unicode_printable;\n")


print(f"""/* Written by tests/unicode_tables.py from the data of Unicode {unicodedata.unidata_version}. */
/* clang-format off */
#include "daemon/text/unicode_tables.h"
""")
print(table("unicode_lower", str.lower))
print(special("unicode_lower_special", str.lower))
print(table("unicode_upper", str.upper))
print(special("unicode_upper_special", str.upper))
sys.stdout.write(printable())
