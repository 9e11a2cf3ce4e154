"""Secrets in files, as people make them: with a BOM, with CRLF, in UTF-16, in quotes, with `Bearer ` in front.

What can be meant in one way only is read; of anything else one sentence says what stands there instead. No sentence
repeats the value.
"""

from __future__ import annotations

import codecs
import errno
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Literal

SecretKind = Literal["password", "token", "cookie"]
"""A password is taken as it stands but for the line's end; a token has no spaces, quotes or letters beyond ASCII."""

LONGEST = 1 << 16
"""Bytes of a secret's file beyond which it is none."""

RESERVED_HEADERS = frozenset(
    {
        *("host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection", "accept"),
        *("accept-encoding", "expect", "range", "if-match", "if-none-match", "if-modified-since", "te", "upgrade"),
    }
)
"""Headers that the request itself sets or that change what is answered, in lower case: people copy all of a browser's,
which says that it understands compressions that we don't."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SCHEME = re.compile(r"(?:authorization\s*:\s*)?bearer\s+", re.IGNORECASE)
_BASIC = re.compile(r"(?:authorization\s*:\s*)?basic\s+", re.IGNORECASE)
_VARIABLE = re.compile(r"(?:export\s+)?[A-Z][A-Z0-9_]*=\S")
_TOKEN = re.compile(r"[\x21-\x7e]+", re.ASCII)
_QUOTED = re.compile(r"""(["'])(.*)\1""")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*:\s*(.*)", re.ASCII)
_VALUE = re.compile(r"[\x20-\x7e]+", re.ASCII)


def read_secret(path: Path, kind: SecretKind) -> str:
    """Return the secret of a file. Raises ValueError with what is wrong, without the path: it may be the secret."""
    text = _read(path).strip()
    if not text:
        raise ValueError("the file is empty: it must hold one line and nothing else")
    if _is_json(text):
        raise ValueError("the file holds JSON: put the secret alone into it, as one line")
    if len(text.splitlines()) != 1:
        raise ValueError("the file must hold one line and nothing else")
    if "\0" in text:
        raise ValueError("the file holds NUL characters: write it anew as text in UTF-8")
    return _token(text) if kind == "token" else _cookie(text) if kind == "cookie" else text


def read_headers(path: Path) -> Mapping[str, str]:
    """Return the headers of a file, `Name: value` in each line; empty lines and those that begin with # are left out.

    Raises ValueError with what is wrong, by the number of the line.
    """
    headers: dict[str, str] = {}
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _HEADER.fullmatch(line.strip())
        if match is None or not _VALUE.fullmatch(match[2].strip()):
            raise ValueError(f"line {number} of the file is no header: write Name: value, in ASCII")
        name = match[1]
        if name.lower() == "authorization":
            raise ValueError(
                f"line {number} of the file sets {name}, which is Airflow's own login: give that by its own key; "
                "gateways take Proxy-Authorization or a header of their own"
            )
        if name.lower() in RESERVED_HEADERS:
            raise ValueError(f"line {number} of the file sets {name}, which is the request's own: leave it away")
        if name.lower() in {known.lower() for known in headers}:
            raise ValueError(f"line {number} of the file sets {name} again: leave one of them away")
        headers[name] = match[2].strip()
    if not headers:
        raise ValueError("the file holds no header: write Name: value in each line")
    return MappingProxyType(headers)


def opened(path: Path) -> BinaryIO:
    """Open a file without waiting for anybody: one that is a pipe, which gives what it holds only once, is none.

    Raises OSError, or ValueError for what is no path.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "it is no file, but a pipe or a device")


def is_quoted(text: str) -> bool:
    """Whether a password stands in quotes, which are then a part of it."""
    return _QUOTED.fullmatch(text) is not None


def unprefixed(text: str) -> str:
    """Return a token without `Bearer` before it and without quotes around it."""
    quoted = _QUOTED.fullmatch(text)
    bare = quoted[2].strip() if quoted else text
    bare = _SCHEME.sub("", bare, count=1)
    quoted = _QUOTED.fullmatch(bare)
    return quoted[2].strip() if quoted else bare


def why_no_token(text: str) -> str | None:
    """Return what is wrong with a token, None if it can be one."""
    if _BASIC.match(text):
        return "holds a Basic login: give username and passwordFile instead"
    if _VARIABLE.match(text):
        return "holds NAME=value: put the value alone into it"
    if not _TOKEN.fullmatch(text):
        return "holds characters that no token has, such as spaces or letters beyond ASCII"
    return None


def _token(text: str) -> str:
    bare = unprefixed(text)
    wrong = why_no_token(bare)
    if wrong is not None:
        raise ValueError(f"the file {wrong}")
    return bare


def _cookie(text: str) -> str:
    quoted = _QUOTED.fullmatch(text)
    bare = quoted[2].strip() if quoted else text
    if not _VALUE.fullmatch(bare):
        raise ValueError("the file holds characters that no cookie has, such as letters beyond ASCII")
    return bare


def _read(path: Path) -> str:
    try:
        with opened(path) as file:
            raw = file.read(LONGEST + 1)
    except OSError as error:
        raise ValueError(f"can't read the file that it names: {error.strerror}") from None
    except ValueError:  # a NUL in the path
        raise ValueError("can't read the file that it names: that is no path") from None
    if len(raw) > LONGEST:
        raise ValueError(f"the file is longer than {LONGEST >> 10} KiB: it holds no secret alone")
    for bom, encoding in _BOMS:
        if raw.startswith(bom):
            return _decode(raw[len(bom) :], encoding)
    if b"\0" in raw[:4]:
        raise ValueError("the file is text in UTF-16 without a mark of it, or no text: write it anew in UTF-8")
    return _decode(raw, "utf-8")


def _decode(raw: bytes, encoding: str) -> str:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        raise ValueError(f"the file is not text in {encoding.upper()}: write it anew in UTF-8") from None


def _is_json(text: str) -> bool:
    if text[0] not in "{[":
        return False
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False
