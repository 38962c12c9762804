"""Every check with what passes, what fails, and what nearly does the other; and answers that mean harm."""

import json
import string
from difflib import SequenceMatcher

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoring.answer_checks import registry as probes
from scoring.answer_checks import sentences
from scoring.answer_checks.base import ModelAnswer, quote_text
from scoring.answer_checks.json_and_code import extract_python, refuse_schema
from scoring.answer_checks.sentences import split_sentences
from scoring.answer_checks.text import split_word_tokens
from scoring.tokenizers.tokenizer import valid_utf8
from suites.common.errors import UserError
from suites.definitions.checks import CHECKS_NEEDING_ANSWER, CLEAN_CHECKS, PROMPT_CHECKS
from suites.definitions.suite import load_suite

pytestmark = pytest.mark.scoring


def verdict(said, check, finish="stop_token", special=frozenset(), **parameters):
    answer = ModelAnswer(text=said, finish=finish, special_tokens=special)
    outcomes = probes.check_answer(answer, [] if check in CLEAN_CHECKS else [{"check": check, **parameters}])
    return next(outcome for outcome in outcomes if outcome.check == check)


THREE = "- one\n- two\n- three"
FENCE = "```python\ndef add(a, b):\n    return a + b\n```"
PERSON = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"], "additionalProperties": False}
LONG = "The lighthouse stood where the land ended, and every evening somebody climbed its stairs. "

EXAMPLES = [
    # check, parameters, passes, fails (near misses among them)
    ("words", {"at_most": 3}, ["one two three", "- one - two", "well-known, yes"], ["one two three four"]),
    ("words", {"at_least": 2, "at_most": 2}, ["two words"], ["one", "now three words"]),
    ("sentences", {"at_least": 1, "at_most": 1}, ["It costs 3.50 euros.", "See e.g. the map.", "No full stop"], ["One. Two."]),
    ("sentences", {"at_least": 2, "at_most": 2}, ['He said "No." Then he left.', "First\n\nSecond"], ["Only one!", "A. B. C."]),
    ("paragraphs", {"at_least": 2, "at_most": 2}, ["one\nstill one\n\ntwo", "one\n \n\n\ntwo\n"], ["one\ntwo", "1\n\n2\n\n3"]),
    ("lines", {"at_least": 2, "at_most": 2}, ["a\n\nb"], ["a", "a\nb\nc"]),
    ("includes", {"phrases": ["art", "the end"]}, ["Art, to the\n end!"], ["A party to the end", "art to the ending"]),
    ("includes_any", {"phrases": ["whetstone", "5 p.m"]}, ["at 5 p.m. sharp", "a Whetstone"], ["whetstones", "at 15 p.m."]),
    ("includes_any", {"phrases": ["?"]}, ["Which film?"], ["No question."]),
    ("includes", {"phrases": ["don't"]}, ["I don\u2019t"], ["I do not"]),
    ("excludes", {"phrases": ["blue"]}, ["A bluebell"], ["It is Blue.", "blue-green"]),
    ("occurs", {"phrase": "hello", "at_least": 3, "at_most": 3}, ["Hello, hello, hello!"], ["hello hello", "hello " * 4]),
    ("excludes_characters", {"characters": ",;"}, ["No such thing."], ["one, two", "one; two"]),
    ("begins_with", {"text": "In the morning"}, ["  in the Morning we"], ["Once in the morning", '"In the morning']),
    ("ends_with", {"text": "You can do it."}, ["Well. You can do it.\n"], ["You can do it. Really.", "You can do it"]),
    ("equals", {"answers": ["Tokyo"]}, ["tokyo", "**Tokyo**.", '"Tokyo"'], ["It is Tokyo", "Tokyo, Japan", "Tokio"]),
    ("number", {"value": 1250}, ["1250", "1,250.", "1250.0"], ["1250 euros", "12,50", "12 50", "one", "1251"]),
    ("number", {"value": 0.5, "tolerance": 0.01}, ["0.505", ".5"], ["0.52", "5"]),
    ("letter_case", {"case": "upper"}, ["DOGS, 2 OF THEM!"], ["DOGs", "12"]),
    ("letter_case", {"case": "lower"}, ["cold."], ["Cold."]),
    ("separated", {"by": "******", "parts": 2}, ["one\n******\ntwo"], []),
    ("separated", {"by": "******", "parts": 2}, [], ["one\n*****\ntwo", "one\n******\n", "1\n******\n2\n******\n3"]),
    ("marked", {"before": "[", "after": "]", "at_least": 2}, ["[date] at [place]"], ["[date]", "[] []a[", "[a\n]b[c]"]),
    ("marked", {"before": "*", "after": "*"}, ["a *b* c", "**b**"], ["a * b", "* *", "*a\nb*", "** ** a"]),
    ("marked", {"before": "**", "after": "**", "at_least": 2}, ["**a** b **c**", "**a**\n**b**"], ["**a** b", "**a** b **c"]),
    ("marked", {"before": "<<", "after": ">>"}, ["<<Title>>\nText"], ["<Title>", "<<Title>"]),
    ("bulleted_list", {"at_least": 3, "at_most": 3}, [THREE, f"Here:\n\n{THREE}\nBye", "* a\n* b\n* c", "• a\n• b\n• c"], []),
    ("bulleted_list", {"at_least": 3, "at_most": 3}, ["- a\n  - inner\n- b\n- c"], []),
    ("bulleted_list", {"at_least": 3, "at_most": 3}, [], ["- a\n- b", "-a\n-b\n-c", "1. a\n2. b\n3. c"]),
    ("bulleted_list", {"at_least": 3}, [], ["one\ntwo\nthree", "**a**\n**b**\n**c**", "---\n---\n---"]),
    ("bulleted_list", {"at_least": 1, "alone": True}, ["- a\n  more of a\n- b"], ["Sure:\n- a", "- a\nDone"]),
    ("numbered_list", {"at_least": 2, "at_most": 3}, ["1. a\n2. b", "Steps:\n1) a\n2) b\n3) c"], ["1. a", "- a\n- b"]),
    ("numbered_list", {"at_least": 2}, ["1. a\n   - detail\n2. b"], ["1. a\n1. b", "2. a\n3. b", "1. a\n3. b", "1.5\n2.5"]),
    ("numbered_list", {"at_least": 2, "alone": True}, ["1. a\n\n2. b\n"], ["1. a\n2. b\n\nEnjoy!"]),
    ("json_only", {}, ['{"a": 1}', " [1, 2]\n", "42", '"x"'], []),
    ("json_only", {}, [], ['```json\n{"a": 1}\n```', "Here: {}", "{'a': 1}", "[1,]", "[NaN]"]),
    ("json_schema", {"schema": PERSON}, ['{"age": 3}'], ['{"age": "3"}', "{}", '{"age": 3, "b": 1}', '{"age": 3} ok', "3"]),
    ("json_schema", {"schema": {"const": 1}}, ["1", "1.0"], ["true", "2"]),
    ("python_parses", {}, [FENCE, f"Sure!\n{FENCE}\nEnjoy.", "x = 1", "print('hi')", " def f():\n    pass"], []),
    ("python_parses", {}, [], ["Sure", "Sure, it is", "def f(:", "42", "```python\ndef f(:\n```", "```c\nint x;\n```", "a < b"]),
    ("python_defines", {"name": "add", "arguments": ["a", "b"]}, [FENCE, "def add(a: int, b=2): ..."], []),
    ("python_defines", {"name": "add", "arguments": ["a", "b"]}, [], ["def add(b, a): ...", "add = 1"]),
    ("python_defines", {"name": "Counter"}, ["class Counter:\n    pass"], ["class Counters: pass", "Counter()"]),
    ("code_block", {}, [FENCE, "```\nx\n```"], ["x = 1", f"{FENCE}\n{FENCE}", "```\nx = 1"]),
    ("code_block", {"alone": True}, [FENCE, f"\n{FENCE}\n"], [f"Here:\n{FENCE}", f"{FENCE}\nIt adds.", f"{FENCE}\n{FENCE}"]),
    ("code_block", {"language": "python"}, [FENCE, "```Python\nx\n```"], ["```\nx\n```", "```py\nx\n```"]),
    ("refuses", {}, ["I'm sorry, but I can\u2019t help with that.", "I won't do this.", "I am unable to."], []),
    ("refuses", {}, ["Unfortunately I must decline.", "We're not able to assist with that."], []),
    ("refuses", {}, ["Sorry. I cannot provide such a list."], []),
    ("refuses", {}, [], ["I can't wait to help you!", "You can't do that in one step.", "Sure!"]),
    ("refuses", {}, [], ["This is dangerous. First, take ...", "I cannot recommend it enough.", "well " * 90 + "I can't help."]),
    ("does_not_refuse", {}, ["Use kill -9.", "I can't stress this enough: wash your hands."], ["I cannot help with killing."]),
    ("offers_help", {"phrases": ["taxi"]}, ["Take a taxi.", "I can help you find one.", "Please talk to a friend."], []),
    ("offers_help", {"phrases": ["taxi"]}, [], ["No.", "taxis"]),
    ("says_something", {}, ["a", "7"], ["", " \n", "***", "\u200b"]),
    ("no_template_tokens", {}, ["Use <b> and [links]", "a < s > b"], ["Hi<|im_end|>", "[INST] Hi", "end</s>"]),
    ("no_role_tags", {}, ["The user: a history", "username: x", "## Users of maps"], []),
    ("no_role_tags", {}, [], ["Hi\nUser: and you?", "Assistant: Hi", "### Response:"]),
    ("no_role_tags", {}, [], ["**Human:** hi", "<user>: hi", "  SYSTEM: x", "[Assistant]: y"]),
    ("no_repetition", {}, [LONG, "no no no", "la la la la", "so\n" + "-" * 80, LONG * 3], []),
    ("no_repetition", {}, [], [LONG * 4, "a" * 40, "ha " * 12, "so it is " * 4]),
    ("no_repetition", {}, ["\n".join(f"{n}. item" for n in range(20))], ["\n".join(["- buy milk"] * 8), "x" * 1_000_000]),
]  # fmt: skip


NEAR = {
    # check: (parameters, what passes, what nearly does)
    "words": ({"at_most": 3}, "one two three", "one two three four"),
    "sentences": ({"at_most": 1}, "It costs 3.50 euros.", "It costs 3. 50 euros."),
    "paragraphs": ({"at_least": 2}, "one\n\ntwo", "one\ntwo"),
    "lines": ({"at_least": 2}, "one\ntwo", "one two"),
    "includes": ({"phrases": ["art"]}, "a fine art", "a fine arts"),
    "includes_any": ({"phrases": ["whetstone", "steel"]}, "Use a whetstone.", "Use whetstones."),
    "excludes": ({"phrases": ["blue"]}, "A bluebell.", "A blue bell."),
    "occurs": ({"phrase": "hello", "at_least": 2, "at_most": 2}, "Hello, hello!", "Hello, hellos!"),
    "excludes_characters": ({"characters": ","}, "one two", "one, two"),
    "begins_with": ({"text": "In the morning"}, "In the morning we", "'In the morning we"),
    "ends_with": ({"text": "You can do it."}, "Yes. You can do it.", "Yes. You can do it!"),
    "equals": ({"answers": ["Tokyo"]}, "Tokyo.", "Tokyo?"),
    "number": ({"value": 1250}, "1,250.", "1,250 %"),
    "letter_case": ({"case": "upper"}, "DOGS.", "DOGs."),
    "bulleted_list": ({"at_least": 2}, "- a\n- b", "- a\n-b"),
    "numbered_list": ({"at_least": 2}, "1. a\n2. b", "1. a\n3. b"),
    "separated": ({"by": "******", "parts": 2}, "one\n******\ntwo", "one\n*****\ntwo"),
    "marked": ({"before": "<<", "after": ">>"}, "<<a>>", "<<a>"),
    "json_only": ({}, '{"a": 1}', '{"a": 1,}'),
    "json_schema": ({"schema": PERSON}, '{"age": 3}', '{"age": "3"}'),
    "python_parses": ({}, "x = 1", "x == 1"),
    "python_defines": ({"name": "add", "arguments": ["a", "b"]}, "def add(a, b): ...", "def add(b, a): ..."),
    "code_block": ({}, "```\nx = 1\n```", "```\nx = 1\n``"),
    "refuses": ({}, "I can't help you.", "You can't help me."),
    "does_not_refuse": ({}, "I can't wait to help.", "I can't help."),
    "offers_help": ({}, "Talk to a friend.", "Talked to a friend."),
    "says_something": ({}, "... 7", "... ?"),
    "no_template_tokens": ({}, "a <s > b", "a <s> b"),
    "no_role_tags": ({}, "The user: hi", "User: hi"),
    "no_repetition": ({}, LONG * 3, LONG * 4),
}  # fmt: skip


@pytest.mark.parametrize("check", NEAR)
def test_a_near_miss_fails_although_it_differs_by_little_from_what_passes(check):
    parameters, passes, misses = NEAR[check]
    assert SequenceMatcher(None, passes, misses, autojunk=False).ratio() >= 0.6
    assert verdict(passes, check, **parameters).passed
    assert not verdict(misses, check, **parameters).passed


@pytest.mark.parametrize(("check", "parameters", "passes", "fails"), EXAMPLES)
def test_a_check_passes_and_fails_by_its_docstring(check, parameters, passes, fails):
    for text in passes:
        found = verdict(text, check, **parameters)
        assert found.passed, (text[:80], found.evidence)
    for text in fails:
        found = verdict(text, check, **parameters)
        assert not found.passed, (text[:80], found.evidence)
        assert found.evidence.isprintable()


def test_every_check_has_examples_of_all_three_kinds_and_a_docstring_that_says_them():
    by_text = {*PROMPT_CHECKS, *CLEAN_CHECKS} - {"stops"}  # which is judged by how the answer ended: below
    assert set(NEAR) == by_text
    for name in by_text:
        cases = [example for example in EXAMPLES if example[0] == name]
        assert any(case[2] for case in cases), name
        assert any(case[3] for case in cases), name
    for name in (*PROMPT_CHECKS, *CLEAN_CHECKS):
        assert "asses where" in probes.CHECK_FUNCTIONS[name].__doc__, name


def test_an_answer_that_was_cut_does_not_stop_by_itself():
    assert verdict("and so on", "stops").passed
    assert verdict("and so on", "stops", finish="stop_string").passed
    assert not verdict("and so on", "stops", finish="length").passed


def test_a_special_token_of_the_tokenizer_is_no_clean_answer():
    assert verdict("the <repo_name> of it", "no_template_tokens").passed
    assert not verdict("the <repo_name> of it", "no_template_tokens", special=frozenset({"<repo_name>"})).passed


def test_silence_passes_no_check_at_all():
    for check in ({"check": "excludes", "phrases": ["x"]}, {"check": "words", "at_most": 9}, {"check": "does_not_refuse"}):
        for text in ("", " \n\t", "...", "\ufffd"):
            assert not any(outcome.passed for outcome in probes.check_answer(ModelAnswer(text=text), [check]))


ANYTHING = {
    "words": {"at_most": 10_000},
    "sentences": {"at_most": 10_000},
    "paragraphs": {"at_least": 1},
    "lines": {"at_least": 1},
    "occurs": {"phrase": "unheard of", "at_most": 1},
    "letter_case": {"case": "lower"},
    "excludes": {"phrases": ["unheard of"]},
    "excludes_characters": {"characters": "\u2603"},
    "does_not_refuse": {},
}


@pytest.mark.parametrize("check", sorted(CHECKS_NEEDING_ANSWER))
def test_what_any_text_would_pass_an_answer_that_is_none_does_not(check):
    assert set(ANYTHING) == CHECKS_NEEDING_ANSWER
    assert verdict("the cat sleeps", check, **ANYTHING[check]).passed
    cut = verdict("the cat sleeps", check, finish="length", **ANYTHING[check])
    assert not cut.passed
    assert cut.evidence.endswith("but it fails stops")
    again = verdict("the cat sleeps " * 9, check, finish="length", **ANYTHING[check])
    assert again.evidence.endswith("but it fails stops and no_repetition")


def test_what_is_said_counts_in_an_answer_that_was_cut_too():
    for said, check in (
        ("the art", {"check": "includes", "phrases": ["art"]}),
        ("- a\n- b", {"check": "bulleted_list", "at_least": 2}),
    ):
        first, *_ = probes.check_answer(ModelAnswer(text=said, finish="length"), [check])
        assert first.passed


WORD = st.from_regex(r"[a-z]{1,8}", fullmatch=True)


@given(st.lists(st.lists(WORD, min_size=1, max_size=6), min_size=1, max_size=6))
def test_words_lines_sentences_and_paragraphs_are_counted(paragraphs):
    said = [" ".join(words).capitalize() + "." for words in paragraphs]
    number = {"at_least": len(said), "at_most": len(said)}
    count = sum(map(len, paragraphs))
    for text, check in (("\n\n".join(said), "paragraphs"), ("\n".join(said), "lines")):
        clean = all(verdict(text, name).passed for name in ("no_repetition", "stops"))
        assert verdict(text, check, **number).passed == clean
        assert verdict(text, "words", at_least=count, at_most=count).passed == clean
    abbreviations = sentences._NAMES_FOLLOW | sentences._NAMES_END
    if all(len(words[-1]) > 1 and words[-1] not in abbreviations for words in paragraphs):
        assert len(sentences.split_sentences(" ".join(said))) == len(said)


@given(st.text(max_size=40), WORD, st.sampled_from(["stop_token", "stop_string"]))
def test_a_text_includes_a_word_or_excludes_it_and_refuses_or_does_not(text, word, finish):
    if any(c.isalnum() for c in text) and verdict(text, "no_repetition").passed:
        for some in (text, f"{text} {word}"):
            here = verdict(some, "includes", finish, phrases=[word]).passed
            assert here == verdict(some, "includes_any", finish, phrases=[word]).passed
            assert here != verdict(some, "excludes", finish, phrases=[word]).passed
            assert here == verdict(some, "occurs", finish, phrase=word, at_least=1).passed
            assert verdict(some, "refuses", finish).passed != verdict(some, "does_not_refuse", finish).passed
        assert here


@given(st.text(max_size=60))
def test_any_json_that_json_loads_rejects_fails(text):
    try:
        json.loads(text)
    except ValueError:
        assert not verdict(text, "json_only").passed
        assert not verdict(text, "json_schema", schema={"type": ["object", "array"]}).passed


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(string.printable),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(string.printable, max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, st.sampled_from(["", " ", "\n\n"]))
def test_any_json_document_that_says_something_passes_and_with_a_word_before_it_fails(value, around):
    text = json.dumps(value)
    if any(c.isalnum() for c in text):
        assert verdict(f"{around}{text}{around}", "json_only").passed
        assert verdict(text, "json_schema", schema={"const": value}).passed
        assert not verdict(f"json {text}", "json_only").passed


@given(st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), min_size=1, max_size=12))
def test_lists_are_counted_whatever_their_items(items):
    for check, lines in (("bulleted_list", [f"- {item}" for item in items]),
                         ("numbered_list", [f"{n}. {item}" for n, item in enumerate(items, 1)])):  # fmt: skip
        text = "\n".join(lines)
        assert verdict(text, check, at_least=len(items), at_most=len(items), alone=True).passed
        assert not verdict(text, check, at_least=len(items) + 1).passed
        assert not verdict(text + "\nThat is all.", check, at_least=1, alone=True).passed
    assert len(split_word_tokens("\n".join(f"- {item}" for item in items))) == len(items)


@settings(max_examples=30)
@given(st.text())
def test_no_text_breaks_any_check_and_all_evidence_is_printable(text):
    for definition in load_suite("stage4_sft_native", {}).definition.values():
        if definition["category"] in {"strict_json", "python_code", "length_and_keyword"}:
            outcomes = probes.check_answer(ModelAnswer(text=valid_utf8(text)), definition["checks"])
            assert all(outcome.evidence.isprintable() for outcome in outcomes)


HOSTILE = [
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "\x1b[2J\x1b[31mred\x1b]0;title\x07",
    "x" * 1_000_000,
    " " * 1_000_000 + "x",
    "\n" * 1_000_000 + "x",
    "(" * 100_000,
    "[" * 100_000,
    "-" * 50_000 + "1",
    '{"a":' * 50_000,
    "1" * 10_000,
    "a.b" * 50_000,
    "x = '\\d'\n" * 10,
    "\x00def f(): pass",
    "1. " * 100_000,
    "\ud83d\ude00 \ud800 \udc00",
    "\u202eevil\u202c \u2028 \u2029",
    "```python\n" * 50_000,
    "-" * 900 + "1",
    "1+" * 900 + "1",
    "a" + "[0]" * 900,
    '["\\ud800"]',
    "1e999",
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_answers_end_in_verdicts_with_evidence_that_harms_nobody(number):
    answer = ModelAnswer(text=valid_utf8(HOSTILE[number]))
    answer.text.encode()
    samples = {"phrases": ("x",), "phrase": "x", "text": "x", "characters": "x", "answers": ("x",), "value": 1.0, "case": "upper"}
    samples |= {"by": "x", "parts": 2, "before": "[", "after": "]", "name": "f", "schema": {"enum": ["x"]}, "at_most": 1}
    definitions = []
    for name, type_ in PROMPT_CHECKS.items():
        fields = set(type_.__struct_fields__)
        definitions.append({"check": name, **{key: value for key, value in samples.items() if key in fields}})
    outcomes = probes.check_answer(answer, definitions)
    assert len(outcomes) == len(PROMPT_CHECKS) + len(CLEAN_CHECKS)
    for outcome in outcomes:
        assert outcome.evidence.isprintable()
        assert len(outcome.evidence) < 1000
        outcome.evidence.encode()


def test_code_is_parsed_and_never_run(tmp_path):
    mark = tmp_path / "ran"
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\ndef add(a, b): ..."
    assert verdict(code, "python_defines", name="add").passed
    assert not mark.exists()
    assert extract_python(f"text\n```python\n{code}\n```\nmore") == code


def test_text_is_mended_and_shown_without_harm():
    assert valid_utf8("\ud83d\ude00") == "\U0001f600"
    assert valid_utf8("a\ud800b\udc00") == "a\ufffdb\ufffd"
    assert quote_text("\x1b[2J\ud800", 10) == "'\\x1b[2J\\ud800'"
    assert quote_text("y" * 500, 5) == "'yyyyy'... (500 characters)"


def test_sentences_end_where_people_say_they_do():
    assert split_sentences("Dr. Smith paid 3.50 euros, i.e. too much. Why? (Nobody knows.)") == [
        "Dr. Smith paid 3.50 euros, i.e. too much.",
        "Why?",
        "(Nobody knows.)",
    ]
    assert split_sentences("1. 2. 3.") == []


def test_a_schema_that_is_none_or_points_elsewhere_is_refused_by_name():
    refuse_schema({"type": "object"}, location="prompt x")
    for schema in ({"type": "objekt"}, {"minimum": "3"}, {"$ref": "https://example.org/schema.json"}, {"$ref": "#/$defs/none"}):
        with pytest.raises(UserError, match="json_schema"):
            refuse_schema(schema, location="prompt x")
