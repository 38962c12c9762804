"""Reads documents of other processes, within limits of kind, size and depth.

Whatever this process did not write itself is read here: anybody with access may leave a pipe, a sparse file of terabytes
or a thousand nested lists. ``DamagedDocument`` is what no repetition mends; an OSError may pass by itself.
"""

import errno
import io
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from stat import S_ISBLK, S_ISCHR, S_ISFIFO, S_ISREG
from typing import Any, TypeVar

import msgspec
import yaml

_Struct = TypeVar("_Struct")

MAX_DOCUMENT_BYTES = 1 << 26
"""Bytes of the largest document: tier files of thousands of prompts have a few MB."""

MAX_DEPTH = 64
"""Levels of nesting; our own documents have fewer than ten."""

MAX_LINE_BYTES = 1 << 16
"""Bytes of a small text such as a claim, an id or a lock."""

MAX_YAML_EVENTS = 200_000
"""Scalars and brackets of a YAML document; a training config has some hundreds."""

MAX_NUMBER_DIGITS = 4000
"""Digits of a number in YAML: parsing longer ones takes quadratic time."""

_LONG_NUMBER = re.compile(rb"[0-9]{300}")

_YAML_NUMBER = re.compile(r"[-+0-9a-fA-Fx_:.]+")

_OTHER_KINDS = ((S_ISFIFO, "a pipe"), (S_ISCHR, "a device"), (S_ISBLK, "a device"))

_NOT_A_FILE_ERRNOS = frozenset({errno.EINVAL, errno.ENXIO, errno.EISDIR, errno.ELOOP, errno.ENODEV, errno.EOVERFLOW})


class DamagedDocument(ValueError):  # noqa: N818  a state of a file
    """A document that stays unusable until somebody replaces it.

    The message names file and reason in one line.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        self.reason = " ".join(reason.split())[:300]
        super().__init__(f"{path}: {self.reason}")


class OversizedDocument(DamagedDocument):
    """A document with more bytes than anything that belongs there."""


class AmbiguousDocument(DamagedDocument):
    """A document in which an object has a key twice: readers differ in which value counts."""


class RepeatedKeyError(ValueError):
    """An object has a key twice. The message names the key."""


def open_without_blocking(path: Path) -> io.BufferedReader:
    """Open a regular file for reading.

    Never waits for the writer of a pipe.
    Raises OSError, also for anything but a regular file.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY))  # noqa: SIM115  the caller closes it
    mode = os.fstat(file.fileno()).st_mode
    if not S_ISREG(mode):
        file.close()
        kind = next((name for is_kind, name in _OTHER_KINDS if is_kind(mode)), "something else")
        raise OSError(errno.EINVAL, f"Not a regular file but {kind}", str(path))
    os.set_blocking(file.fileno(), True)  # files on tape would raise EAGAIN
    return file


def is_not_a_file(error: OSError) -> bool:
    """Whether a path leads to no regular file, which no repetition changes."""
    return error.errno in _NOT_A_FILE_ERRNOS


def read_content(path: Path, max_bytes: int = MAX_DOCUMENT_BYTES) -> bytes:
    """All bytes of a regular file.

    Raises OSError where it is missing or cannot be read, and DamagedDocument for another kind of file or a larger one.
    """
    try:
        with open_without_blocking(path) as file:
            # The size decides before anything is read: a sparse file holds nothing, and read(n) allocates n at once.
            size_bytes = os.fstat(file.fileno()).st_size
            content = file.read(size_bytes + 1) if size_bytes <= max_bytes else b""
    except OSError as error:
        if not is_not_a_file(error):
            raise
        raise DamagedDocument(path, f"not a regular file ({error.strerror})") from error
    except ValueError as error:  # a NUL in its path, or a lone surrogate
        raise DamagedDocument(repr(str(path)), f"no path ({error})") from error
    if max(size_bytes, len(content)) > max_bytes:
        raise OversizedDocument(path, f"larger than {max_bytes:,} bytes")
    return content


def read_tail(path: Path, max_bytes: int) -> bytes:
    """The last bytes of a regular file. Raises OSError."""
    with open_without_blocking(path) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - max_bytes))
        return file.read(max_bytes)


def read_line(path: Path) -> str:
    """A small text file, such as a claim, without outer white space.

    Raises OSError where it is missing or cannot be read, and DamagedDocument as ``read_content`` does.
    """
    return read_content(path, MAX_LINE_BYTES).decode(errors="replace").strip()


def parse_json(content: bytes, path: Path | str) -> Any:
    """JSON content of ``path``. Raises DamagedDocument.

    A number beyond floats becomes an infinity, however it is written.
    """
    try:
        # Python's integers have no limit, and one that no float can hold breaks whatever computes with it.
        parse_int = _parse_integer if _LONG_NUMBER.search(content) else None
        document = json.loads(content, parse_int=parse_int, object_pairs_hook=refuse_repeated_keys)
    except RepeatedKeyError as error:
        raise AmbiguousDocument(path, str(error)) from error
    except (ValueError, RecursionError) as error:
        raise DamagedDocument(path, f"not JSON: {error}") from error
    if is_too_deep(document):
        raise DamagedDocument(path, f"nested more than {MAX_DEPTH} deep")
    return document


def refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of its keys and values, for json's ``object_pairs_hook``. Raises RepeatedKeyError."""
    document = dict(pairs)
    if len(document) != len(pairs):
        refuse_repeated_names([name for name, _ in pairs])
    return document


def refuse_repeated_names(names: Iterable[str]) -> None:
    """Raise RepeatedKeyError where the keys of an object are not different ones."""
    repeated = next((name for name, count in Counter(names).items() if count > 1), None)
    if repeated is not None:
        raise RepeatedKeyError(f"it has the key {repeated[:60]!r} twice")


def _parse_integer(text: str) -> float:
    return int(text) if len(text) < 300 else float(text)  # noqa: PLR2004  floats end at 1.8e308


def is_too_deep(document: Any) -> bool:
    """Whether a JSON document has more than ``MAX_DEPTH`` levels."""
    level, depth = [document], 0
    while level := [
        child
        for container in level
        if isinstance(container, dict | list)
        for child in (container.values() if isinstance(container, dict) else container)
        if isinstance(child, dict | list)
    ]:
        depth += 1
        if depth >= MAX_DEPTH:
            return True
    return False


def read_json(path: Path, max_bytes: int = MAX_DOCUMENT_BYTES) -> Any:
    """The document at ``path``; None where there is no file.

    Raises OSError where it cannot be read, and DamagedDocument (a ValueError) where it is no usable JSON.
    """
    try:
        content = read_content(path, max_bytes)
    except FileNotFoundError:
        return None
    return parse_json(content, path)


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object at ``path``.

    Empty where there is none, or something else. Raises OSError.
    """
    try:
        document = read_json(path)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def read_json_object_if_readable(path: Path) -> dict[str, Any]:
    """``read_json_object``; also empty where the file cannot be read."""
    try:
        return read_json_object(path)
    except OSError:
        return {}


def read_struct(path: Path, type_: type[_Struct], max_bytes: int = MAX_DOCUMENT_BYTES) -> _Struct:
    """The document at ``path`` as a msgspec type.

    Raises OSError where it is missing or cannot be read, and DamagedDocument where it is something else.
    """
    document = parse_json(read_content(path, max_bytes), path)
    try:
        return msgspec.convert(document, type_)
    except (ValueError, OverflowError, RecursionError) as error:  # msgspec's ValidationError is a ValueError
        raise DamagedDocument(path, str(error)) from error


def may_be_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder; True where that cannot be seen.

    Then its own reader names it, and the listing of all others goes on.
    """
    try:
        return entry.is_dir()
    except OSError:
        return True


def is_utf8(text: str) -> bool:
    """Whether the text has no lone surrogates, which no file and no path can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def select_finite_numbers(document: Mapping[str, Any], names: Iterable[str]) -> dict[str, float]:
    """The values under ``names`` that are finite numbers; booleans are none."""
    numbers = {}
    for name in names:
        value = document.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            numbers[name] = value
    return numbers


def check_yaml_limits(content: bytes | str) -> None:
    """Raise ValueError, or yaml.YAMLError, for YAML that no loader should build.

    The C loader recurses without a limit and would crash the process; numbers like 1:1:1... take quadratic time.
    """
    depth = 0
    for count, event in enumerate(yaml.parse(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
        if count > MAX_YAML_EVENTS:
            raise ValueError(f"more than {MAX_YAML_EVENTS:,} values")
        text = event.value if isinstance(event, yaml.ScalarEvent) else ""
        if len(text) > MAX_NUMBER_DIGITS and _YAML_NUMBER.fullmatch(text):
            raise ValueError(f"a number of {len(text)} digits")
