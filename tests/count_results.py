#!/usr/bin/env python3
"""Counts JUnit files (ctest and pytest both write them): prints one line "PASSED FAILED SKIPPED", then a line for each test
that was skipped or failed, with the reason."""
import sys
import xml.etree.ElementTree as ElementTree


def last_line(text):
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def skip_reason(case, skipped):
    """ctest keeps the reason in the output ("skipped: why"), pytest in the message."""
    output = "".join(e.text or "" for e in case.iter("system-out"))
    said = [line.partition("skipped:")[2].strip() for line in output.splitlines() if "skipped:" in line]
    return said[-1] if said else skipped.get("message") or last_line(skipped.text) or "no reason given"


def main(paths):
    passed = failed = skipped_count = 0
    notes = []
    for path in paths:
        for case in ElementTree.parse(path).iter("testcase"):
            name = "::".join(filter(None, [case.get("classname"), case.get("name")]))
            name = case.get("name") if case.get("classname") == case.get("name") else name
            skipped, wrong = case.find("skipped"), case.find("failure")
            wrong = case.find("error") if wrong is None else wrong
            if wrong is not None:
                failed += 1
                message = (wrong.get("message") or "").splitlines() or [""]
                notes.append(f"FAILED  {name}: {message[0]}")
            elif skipped is not None or case.get("status") in ("notrun", "disabled"):
                skipped_count += 1
                notes.append(f"skipped {name}: {skip_reason(case, skipped) if skipped is not None else 'not run'}")
            else:
                passed += 1
    print(passed, failed, skipped_count)
    for note in notes:
        print("  " + note)


if __name__ == "__main__":
    main(sys.argv[1:])
