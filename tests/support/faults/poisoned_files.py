"""Files as anybody with access may leave them: by name, what puts one at a path."""

import json
import os
import socket
from pathlib import Path


def _write(content):
    return lambda path: path.write_bytes(content)


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 42)


def _unix_socket(path: Path) -> None:
    """A socket, bound by a short relative name: the kernel takes 107 bytes."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


DEEP = {"deep": [[[]]]}
for _ in range(400):
    DEEP = {"deep": [DEEP]}

KINDS_OF_FILE = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "socket": _unix_socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "circle": lambda path: path.symlink_to(path.name),
    "dangling link": lambda path: path.symlink_to("nothing"),
    "link into a locked folder": lambda path: path.symlink_to("/proc/1/root/x"),
    "sparse": _sparse,
}
"""What is no file, or holds nothing although it is huge."""

CONTENTS = {
    "empty": _write(b""),
    "white space": _write(b" \n"),
    "zeros": _write(bytes(4096)),
    "torn": _write(b'{"schema": 1, "step'),
    "not utf-8": _write(b'{"schema": "\xff\xfe"}'),
    "utf-16": _write('{"schema": 1}'.encode("utf-16")),
    "binary": _write(bytes(range(256)) * 16),
    "null": _write(b"null"),
    "text": _write(b'"x"'),
    "number": _write(b"7"),
    "list": _write(b"[1, {}, []]"),
    "object": _write(b"{}"),
    "nested 401 deep": _write(json.dumps(DEEP).encode()),
    "nested 100,000 deep": _write(b"[" * 100_000),
    "objects 100,000 deep": _write(b'{"a":' * 100_000),
    "integer of 400 digits": _write(b'{"schema": ' + b"9" * 400 + b', "at": ' + b"9" * 400 + b"}"),
    "integer of 5,000 digits": _write(b'{"schema": ' + b"9" * 5000 + b"}"),
    "float beyond floats": _write(b'{"schema": 1e999, "at": -1e999, "step": NaN}'),
    "text of 3 MB": _write(b'{"schema": "' + b"x" * 3_000_000 + b'"}'),
    "nul": _write(b'{"schema": 1, "id": "a\\u0000b", "checkpoint": "/x\\u0000y", "run_id": "\\u0000"}'),
    "lone surrogate": _write(b'{"schema": 1, "id": "\\ud800", "checkpoint": "/\\ud800", "reason": "\\udfff"}'),
    "terminal codes": _write(b'{"schema": 1, "reason": "\\u001b[2J\\u202e", "id": "\\u0007"}'),
}
"""Regular files with content that nobody expects."""

POISONS = {**KINDS_OF_FILE, **CONTENTS}


def remove(path: Path) -> None:
    """Take away what lies there, whatever it is."""
    if path.is_symlink():
        path.unlink()
    elif path.is_dir():
        for child in path.iterdir():
            remove(child)
        path.rmdir()
    elif path.exists():
        path.unlink()


def poison(path: Path, name: str) -> None:
    """Put the poison of that name at ``path``, in place of what is there."""
    remove(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    POISONS[name](path)
