"""Schemas as grammars against the official JSON-Schema-Test-Suite, which Python's jsonschema carries in its source package.

For every schema that is accepted, random documents of the grammar must be valid, and no instance that the suite calls invalid
may be admitted. Every schema that is refused must be refused for a keyword, named by its JSON pointer.
"""
import decimal
import json
import re
import subprocess

import jsonschema
import pytest
import support

SUITE = support.ROOT / ".venv" / "json-schema-suite"
DRAFTS = {"draft2020-12": jsonschema.Draft202012Validator, "draft7": jsonschema.Draft7Validator}
SAMPLES = 16
decimal.getcontext().prec = 100


class Checker:
    """One schema_check, asked line by line."""

    def __init__(self):
        self.process = subprocess.Popen([support.BUILD / "tests" / "schema_check"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, encoding="utf-8")

    def __call__(self, schema, documents=(), samples=SAMPLES, seed=1):
        text = schema if isinstance(schema, str) else json.dumps(schema)
        request = {"schema": text, "documents": list(documents), "samples": samples, "seed": seed}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"schema_check ended {self.process.wait()} on {text}"
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(timeout=10) == 0


@pytest.fixture(scope="module")
def check():
    checker = Checker()
    yield checker
    checker.close()


def exact(text):
    """Numbers as they are written: a double would round what multipleOf and the bounds are compared with."""
    return json.loads(text, parse_float=decimal.Decimal)


def schemas(draft):
    folder = SUITE / "tests" / draft
    if not folder.is_dir():
        pytest.skip(f"no JSON-Schema-Test-Suite in {SUITE}: tests/run.sh --only venv fetches it")
    for path in sorted(folder.glob("*.json")):
        for group in json.loads(path.read_text()):
            yield f"{path.stem}: {group['description']}", group["schema"], group["tests"]


def named(sentence, schema):
    """The sentence begins with a pointer to a keyword that the schema has."""
    if "no document that ends fits" in sentence:
        return True
    pointer = re.match(r"(/[^:]*): ", sentence) or re.match(r"(/.*?): ", sentence)
    if not pointer:
        return False
    keyword = pointer[1].rsplit("/", 1)[-1]
    return keyword == "" or keyword.isdigit() or json.dumps(keyword) in json.dumps(schema)


@pytest.mark.parametrize("draft", DRAFTS)
def test_suite(check, draft, capsys):
    accepted = refused = produced = instances = missed = 0
    why = {}
    for name, schema, tests in schemas(draft):
        documents = [json.dumps(t["data"], ensure_ascii=False) for t in tests]
        answer = check(schema, documents)
        if "refused" in answer:
            assert named(answer["refused"], schema), f"{name}: {answer['refused']}"
            keyword = re.sub(r".*/", "", answer["refused"].split(": ")[0]) or answer["refused"]
            why[keyword] = why.get(keyword, 0) + 1
            refused += 1
            continue
        accepted += 1
        validator = DRAFTS[draft](exact(json.dumps(schema)))
        for document in answer["samples"]:
            try:
                validator.validate(exact(document))
            except jsonschema.ValidationError as e:
                pytest.fail(f"{name}: {document!r} of {json.dumps(schema)}: {e.message}")
            produced += 1
        for t, document, verdict in zip(tests, documents, answer["verdicts"]):
            assert t["valid"] or not verdict, f"{name}: {document} is admitted, and not valid: {t['description']}"
            instances += t["valid"]
            missed += t["valid"] and not verdict
    with capsys.disabled():
        print(f"\n{draft}: {accepted} schemas accepted, {produced} documents produced and valid; {refused} refused by name; "
              f"of {instances} valid instances {missed} are not in our form")
        print("  refused for: " + ", ".join(f"{k} {n}" for k, n in sorted(why.items(), key=lambda x: -x[1])))
    assert accepted > 100 and produced > 1000 and refused > 10


# What the suite has few of: schemas as people send them, all of whose valid instances must be admitted.
PEOPLE = [
    ({"type": "object", "properties": {"box_2d": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 1000},
                                                  "minItems": 4, "maxItems": 4}, "label": {"type": "string"}},
      "required": ["box_2d", "label"], "additionalProperties": False},
     [{"box_2d": [1, 20, 300, 1000], "label": "a cat"}]),
    ({"$defs": {"Step": {"type": "object", "properties": {"explanation": {"type": "string"}, "output": {"type": "string"}},
                         "required": ["explanation", "output"], "additionalProperties": False, "title": "Step"}},
      "type": "object", "properties": {"steps": {"type": "array", "items": {"$ref": "#/$defs/Step"}}, "final_answer": {"type": "string"}},
      "required": ["steps", "final_answer"], "additionalProperties": False},
     [{"steps": [], "final_answer": "x"}, {"steps": [{"explanation": "a", "output": "b"}], "final_answer": "y"}]),
    ({"type": "object", "properties": {"name": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "title": "Name"},
                                       "kind": {"enum": ["a", "b"], "type": "string"}, "when": {"type": "string", "format": "date-time"},
                                       "price": {"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.01}}, "required": ["kind"]},
     [{"kind": "a"}, {"name": None, "kind": "b"}, {"kind": "a", "when": "2024-02-29T12:00:00Z", "price": 19.99}]),
    ({"$defs": {"Node": {"type": "object", "properties": {"value": {"type": "integer"},
                                                          "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}}},
                         "required": ["value", "children"], "additionalProperties": False}}, "$ref": "#/$defs/Node"},
     [{"value": 1, "children": [{"value": 2, "children": []}]}]),
    ({"oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}], "discriminator": {"propertyName": "pet"},
      "$defs": {"Cat": {"type": "object", "required": ["pet", "lives"],
                        "properties": {"pet": {"const": "cat", "type": "string"}, "lives": {"type": "integer"}}},
                "Dog": {"type": "object", "required": ["pet"],
                        "properties": {"pet": {"const": "dog", "type": "string"}, "good": {"type": "boolean"}}}}},
     [{"pet": "cat", "lives": 9}, {"pet": "dog"}, {"pet": "dog", "good": True}]),
    ({"type": "object", "additionalProperties": {"type": "array", "items": {"type": "number"}}}, [{}, {"a": [1, 2.5], "b": []}]),
    ({"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "minItems": 2, "maxItems": 2}, [["a", 1]]),
]


@pytest.mark.parametrize("schema,instances", PEOPLE)
def test_people(check, schema, instances):
    jsonschema.Draft202012Validator.check_schema(schema)
    documents = [json.dumps(i, indent=indent) for i in instances for indent in (None, 2, 4)]
    answer = check(schema, documents + [json.dumps(i, separators=(",", ":")) for i in instances], samples=200)
    assert "refused" not in answer, answer
    assert all(answer["verdicts"]), answer["verdicts"]
    validator = jsonschema.Draft202012Validator(exact(json.dumps(schema)))
    for document in answer["samples"]:
        validator.validate(exact(document))


def test_formats(check):
    """Every produced string keeps to its format, as Python reads it."""
    import datetime
    import ipaddress
    import uuid
    read = {"date": datetime.date.fromisoformat, "uuid": uuid.UUID, "ipv4": ipaddress.IPv4Address, "ipv6": ipaddress.IPv6Address,
            "date-time": lambda s: datetime.datetime.strptime(re.sub(r"\.\d+", "", s).replace("Z", "+00:00"), "%Y-%m-%dT%H:%M:%S%z"),
            "time": lambda s: datetime.datetime.strptime(re.sub(r"\.\d+", "", s).replace("Z", "+00:00"), "%H:%M:%S%z"),
            "email": lambda s: re.fullmatch(r"[^@\s]+@([a-zA-Z0-9-]+\.)+[a-zA-Z]+", s).group(),
            "hostname": lambda s: re.fullmatch(r"(?=.{1,253}$)([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.?)+", s).group(),
            "uri": lambda s: re.fullmatch(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^\s]+", s).group(),
            "duration": lambda s: re.fullmatch(r"P(?=.)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=.)(\d+H)?(\d+M)?(\d+S)?)?)", s).group()}
    for name, reader in read.items():
        answer = check({"type": "string", "format": name}, samples=100)
        assert "refused" not in answer, answer
        for document in answer["samples"]:
            reader(json.loads(document))


def test_regex_as_python_reads_it(check):
    """Strings of a pattern are found by Python's re as well, which reads these expressions alike."""
    patterns = [r"^[a-z]{2,5}\d+$", r"foo|ba[rz]", r"^(\+\d{1,3} )?\(?\d{3}\)?-\d{4}$", r"x.y", r"^[^\s@]+@[a-z]+\.(com|org)$",
                r"^(?:a|b){3,}c?$", r"^\u00e9+\x41?$", r"(^a|b$)"]
    for pattern in patterns:
        for more in ({}, {"minLength": 3, "maxLength": 12}):
            answer = check({"type": "string", "pattern": pattern, **more}, samples=60)
            assert "refused" not in answer, answer
            for document in answer["samples"]:
                text = json.loads(document)
                assert re.search(pattern, text), (pattern, text)
                assert not more or 3 <= len(text) <= 12, (pattern, text)
