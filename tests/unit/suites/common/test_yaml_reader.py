import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suites.common.errors import UserError
from suites.common.variables import expand_variables
from suites.common.yaml_reader import Duration, convert_document, parse_plain_scalar, parse_yaml, read_yaml, suggest_name


class Inner(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    tokenizer: str | None = None
    count: int = 1
    every: Duration | None = None


class Outer(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: str
    inner: Inner | None = None
    many: dict[str, Inner] = msgspec.field(default_factory=dict)
    steps: tuple[int, ...] = ()
    listed: list[Inner] = msgspec.field(default_factory=list)


def loaded(text, environ=None):
    return convert_document(parse_yaml(text, "w.yaml", environ or {}), Outer)


def test_a_document_becomes_the_type_it_is_asked_for():
    outer = loaded("name: a\ninner: {count: 3, every: 15m}\nmany:\n  x: {tokenizer: t}\nsteps: [1, 2]\nlisted: [{count: 4}]\n")
    assert outer.inner == Inner(count=3, every=Duration(900))
    assert outer.many == {"x": Inner(tokenizer="t")}
    assert outer.steps == (1, 2)
    assert outer.listed == [Inner(count=4)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nnme: b\n", "w.yaml:2: unknown key 'nme'; did you mean 'name'?"),
        ("name: a\ninner:\n  tokeniser: b\n", "w.yaml:3: inner: unknown key 'tokeniser'; did you mean 'tokenizer'?"),
        ("name: a\nmany:\n  s:\n    cuont: 2\n", "w.yaml:4: many.s: unknown key 'cuont'; did you mean 'count'?"),
        (
            "name: a\nlisted:\n- {count: 1}\n- {zzz: 1}\n",
            "w.yaml:4: listed.1: unknown key 'zzz'; use one of: tokenizer, count, every",
        ),
        ("name: a\nmany:\n  s:\n    count: x\n", "w.yaml:4: many.s.count: expected `int`, got `str`; write a value of that type"),
        ("name: a\nsteps:\n- 1\n- x\n", "w.yaml:4: steps.1: expected `int`, got `str`; write a value of that type"),
        ("name: 12\n", "w.yaml:1: name: expected `str`, got `int`; put it in quotes"),
        ("name: no\n", "w.yaml:1: name: expected `str`, got `bool`; put it in quotes"),
        ("name: a\ninner: {every: soon}\n", "w.yaml:2: inner.every: 'soon' is not a duration; write 90s, 15m or 2h"),
        ("steps: []\n", "w.yaml:1: has no name; write name: ..."),
        ("name: a\nname: b\n", "w.yaml:2: name: occurs twice; keep one of the two"),
        ("name: a\nmany:\n  s: {count: 1}\n  s: {}\n", "w.yaml:4: many.s: occurs twice; keep one of the two"),
        ("name: a\n? [x]\n: y\n", "w.yaml:1: a key must be plain text; write it as KEY: value"),
        ("name: [a\n", "w.yaml:2: not YAML: did not find expected ',' or ']'; correct the syntax there"),
        ("name: !!python/name:os.system x\n", "w.yaml:1: name: tag 'tag:yaml.org,2002:python/name:os.system' is not supported"),
        ("name: ${NAME}\n", "w.yaml:1: name: ${NAME} is not set; export NAME, or write ${NAME:-default}"),
        ("name: ${NAME\n", "w.yaml:1: name: ${NAME is not followed by } or :-; write ${VAR} or ${VAR:-default}"),
        ("name: ${1}\n", "w.yaml:1: name: ${ is not followed by the name of a variable"),
        ("- 1\n", "w.yaml:1: expected `object`, got `array`"),
        ("", "w.yaml: expected `object`, got `null`"),
        ("name: \x00\n", "w.yaml: not YAML: "),
        ('"na\\nme": a\n', "w.yaml:1: unknown key 'na\\nme'; did you mean 'name'?"),
    ],
)
def test_a_mistake_is_one_line_with_file_line_and_what_to_do(text, message):
    with pytest.raises(UserError) as caught:
        loaded(text)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


BOMB = "b0: &b0 [x,x,x,x,x,x,x,x,x]\n" + "".join(f"b{i}: &b{i} [{','.join([f'*b{i - 1}'] * 9)}]\n" for i in range(1, 9))


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "[" * 3000, BOMB], ids=["alias of itself", "deep", "aliases of aliases"])
def test_a_hostile_document_is_refused_in_one_line_and_no_time(text):
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "w.yaml", {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12:00:00", "12:00:00"),  # YAML 1.1 would make 43200 of it, which sbatch takes for minutes
        ("2023-11-01", "2023-11-01"),
        ("20231101.en", "20231101.en"),
        ("0", 0),
        ("007", "007"),
        ("5_000", 5000),
        ("1e5", 1e5),
        (".5", 0.5),
        (".nan", ".nan"),
        ("yes", True),
        ("", None),
        ("null", None),
        ("9" * 50, "9" * 50),
    ],
)
def test_an_unquoted_value_is_what_it_looks_like(text, value):
    assert parse_plain_scalar(text) == value
    assert type(parse_plain_scalar(text)) is type(value)
    assert parse_yaml(f"x: {text}\n", "w", {}).data == {"x": value}
    assert parse_yaml(f'x: "{text}"\n', "w", {}).data == {"x": text}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("${A}/x", "1/x"),
        ("${B:-two}", "two"),
        ("${EMPTY:-two}", "two"),
        ("${B:-}", ""),
        ("${B:-${A}/y}", "1/y"),
        ("${B:-${C:-${A}}}-", "1-"),
        ("${A:-${NOT_SET}}", "1"),  # what a variable that is set hides need not be there
        ("$${A}", "${A}"),
        ("$A and $1 and {x} and }", "$A and $1 and {x} and }"),
        ("{${A}}", "{1}"),
    ],
)
def test_variables(text, expanded):
    assert expand_variables(text, {"A": "1", "EMPTY": ""})[0] == expanded


def test_what_a_variable_holds_is_not_read_as_yaml_or_expanded_again():
    data = parse_yaml("x: ${X}\ny: ${Y}\n", "w", {"X": "a: [b] #c", "Y": "${X}"}).data
    assert data == {"x": "a: [b] #c", "y": "${X}"}


def test_a_variable_has_the_type_of_what_it_stands_for():
    assert parse_yaml("step: ${S:-50000}\nnone: ${N:-}\n", "w", {}).data == {"step": 50000, "none": None}


def test_an_empty_variable_is_as_good_as_none():
    with pytest.raises(UserError, match=r"w:1: x: \$\{SCRATCH\} is not set"):
        parse_yaml("x: ${SCRATCH}/ckpts\n", "w", {"SCRATCH": ""})


def test_shell_keeps_its_own_variables():
    document = parse_yaml("setup:\n- echo ${HOME}\nx: ${HOME}\n", "w", {"HOME": "/h"}, verbatim=("setup",))
    assert document.data == {"setup": ["echo ${HOME}"], "x": "/h"}


def test_it_is_known_which_values_are_defaults():
    document = parse_yaml("a: ${A:-x}\nb: ${B:-x}\n", "w", {"A": "1"})
    assert document.defaulted_locations == {("b",)}


@given(st.text())
def test_any_text_is_a_document_or_a_problem_of_one_line(text):
    try:
        parse_yaml(text, "w", {})
    except UserError as problem:
        assert len(str(problem).split("\n")) == 1  # noqa: PT017  either outcome is fine, a crash is not


@given(st.text(alphabet="${}:-AB_ x"))
def test_any_use_of_dollars_and_braces_is_text_or_one_of_two_errors(text):
    try:
        expanded, _ = expand_variables(text, {"A": "1", "B": "2"})
    except (ValueError, LookupError) as error:
        assert error.args  # noqa: PT017  either outcome is fine, a crash is not
    else:
        assert len(expanded) <= len(text)


@pytest.mark.parametrize(
    ("written", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86400), ("1.5h", 5400), (30, 30), ("0", 0)]
)
def test_durations(written, seconds):
    assert Duration.parse(written) == seconds


@pytest.mark.parametrize("written", ["", "s", "-5s", "1w", True, None, "1 2", "inf", "1e3"])
def test_what_is_no_duration(written):
    with pytest.raises(ValueError, match="is not a duration"):
        Duration.parse(written)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read \(No such file or directory\)"):
        read_yaml(tmp_path / "none.yaml", {})
    (tmp_path / "latin.yaml").write_bytes(b"x: \xe9\n")
    with pytest.raises(UserError, match=r"latin\.yaml: is not UTF-8 text"):
        read_yaml(tmp_path / "latin.yaml", {})
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfx: 1\n")
    assert read_yaml(tmp_path / "bom.yaml", {}).data == {"x": 1}


def test_the_nearest_name_or_all_of_them():
    assert suggest_name("stge1", ["stage1", "other"]) == "did you mean 'stage1'?"
    assert suggest_name("zzz", ["stage1", "other"]) == "use one of: stage1, other"
