"""Documents with something wrong in one to three places: a value, a key, or bytes."""

import copy
import json
import random

ODD_VALUES = (
    *(None, True, False, 0, -1, 0.5, 1e308, -1e308, 1e999, float("nan"), 10**18, 10**19, 10**40, 10**400, -(10**400)),
    *("", " ", "x", "/", "..", "../../../etc", "/etc/passwd", "a\0b", "\x1b[2J", "\u202e", "x" * 5000, "٣", "\udcff", "NaN"),
    *([], [None], [[[]]], {}, {"x": None}, [1] * 2000, {"event": "created"}, "(prefill)", "stage1/(prefill)", "stage1/step_1"),
)


def _list_places(document, path=()):
    yield path
    if isinstance(document, dict):
        for key, value in document.items():
            yield from _list_places(value, (*path, key))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from _list_places(value, (*path, index))


def mutate(document, chooser: random.Random):
    """A copy with an odd value, a missing key, a renamed key, or one value in another's place."""
    document = copy.deepcopy(document)
    for _ in range(chooser.choice((1, 1, 2, 3))):
        places = [place for place in _list_places(document) if place]
        if not places:
            return chooser.choice(ODD_VALUES)
        *path, last = chooser.choice(places)
        parent = document
        for key in path:
            parent = parent[key]
        kind = chooser.randrange(5)
        if kind == 0 or (kind == 1 and isinstance(parent, list)):
            del parent[last]
        elif kind == 1:
            parent[str(chooser.choice(ODD_VALUES))[:300]] = parent.pop(last)
        elif kind == 2:
            other = document
            for key in chooser.choice(places):
                if not isinstance(other, dict | list) or (key not in other if isinstance(other, dict) else key >= len(other)):
                    break
                other = other[key]
            parent[last] = copy.deepcopy(other)
        else:
            parent[last] = copy.deepcopy(chooser.choice(ODD_VALUES))
    return document


def encode(document) -> bytes:
    """JSON as careless programs write it: NaN, infinities and lone surrogates included."""
    return json.dumps(document).encode()


def damage(content: bytes, chooser: random.Random) -> bytes:
    """Bytes that were cut, doubled, overwritten or mixed up."""
    content = bytearray(content)
    for _ in range(chooser.choice((1, 1, 2, 4))):
        at, end = sorted(chooser.randrange(len(content) + 1) for _ in range(2))
        end = min(end, at + 400)
        kind = chooser.randrange(5)
        if kind == 0:
            del content[at:]
        elif kind == 1:
            content[at:at] = content[at:end]
        elif kind == 2:
            content[at:end] = bytes(end - at)
        elif kind == 3:
            content[at:at] = chooser.choice((b"\n", b"\0", b"[" * 3000, b'{"a":' * 3000, b"9" * 5000, b"\xff\xfe", b'"', b"}"))
        else:
            del content[at:end]
    return bytes(content)
