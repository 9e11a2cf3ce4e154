"""Secrets in files as people make them: what can mean one thing only is read, anything else told in one sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from healer.config.secret_files import SecretKind, is_quoted, read_headers, read_secret

SECRET = "eyJhbGciOi.JIUzUxMiJ9-s3cr3t.x_y=="
UTF8_BOM, UTF16 = b"\xef\xbb\xbf", "utf-16"

READ: dict[str, tuple[bytes, SecretKind, str]] = {
    "as it is": (SECRET.encode(), "token", SECRET),
    "a line": (f"{SECRET}\n".encode(), "token", SECRET),
    "a line of Windows": (f"{SECRET}\r\n".encode(), "token", SECRET),
    "empty lines around it": (f"\n\n {SECRET}\t\n\n".encode(), "token", SECRET),
    "a BOM": (UTF8_BOM + f"{SECRET}\n".encode(), "token", SECRET),
    "PowerShell's UTF-16": (f"{SECRET}\r\n".encode(UTF16), "token", SECRET),
    "UTF-16 the other way": (b"\xfe\xff" + SECRET.encode("utf-16-be"), "token", SECRET),
    "its scheme": (f"Bearer {SECRET}".encode(), "token", SECRET),
    "its scheme in small letters": (f"bearer   {SECRET}\n".encode(), "token", SECRET),
    "the whole header": (f"Authorization: Bearer {SECRET}\n".encode(), "token", SECRET),
    "quotes": (f'"{SECRET}"\n'.encode(), "token", SECRET),
    "quotes around the scheme": (f"'Bearer {SECRET}'".encode(), "token", SECRET),
    "quotes behind the scheme": (f'Bearer "{SECRET}"'.encode(), "token", SECRET),
    "a password": (b"correct horse\n", "password", "correct horse"),
    "a password of Windows": (UTF8_BOM + b"correct horse\r\n", "password", "correct horse"),
    "a password in quotes, which may be a part of it": (b'"horse"\n', "password", '"horse"'),
    "a password with an umlaut": ("käse\n".encode(), "password", "käse"),
    "a password that begins as JSON does": (b"{horse\n", "password", "{horse"),
    "a password with the word": (b"Bearer x\n", "password", "Bearer x"),
    "a session": (b'"session=.eJw_x; Path=/"\n', "cookie", "session=.eJw_x; Path=/"),
}


@pytest.mark.parametrize("name", READ)
def test_read(name: str, tmp_path: Path) -> None:
    raw, kind, expected = READ[name]
    path = tmp_path / "secret"
    path.write_bytes(raw)
    assert read_secret(path, kind) == expected


TOLD: dict[str, tuple[bytes, SecretKind, str]] = {
    "nothing": (b"", "token", "the file is empty: it must hold one line and nothing else"),
    "lines and a BOM": (
        UTF8_BOM + b"\r\n\r\n",
        "password",
        "the file is empty: it must hold one line and nothing else",
    ),
    "two lines": (b"user\nsecret\n", "password", "the file must hold one line and nothing else"),
    "JSON": (
        json.dumps({"access_token": SECRET}).encode(),
        "token",
        "the file holds JSON: put the secret alone into it, as one line",
    ),
    "JSON over lines": (
        json.dumps({"password": SECRET}, indent=2).encode(),
        "password",
        "the file holds JSON: put the secret alone into it, as one line",
    ),
    "UTF-16 without a mark": (
        SECRET.encode("utf-16-le"),
        "token",
        "the file is text in UTF-16 without a mark of it, or no text: write it anew in UTF-8",
    ),
    "half of a character in UTF-16": (
        SECRET.encode(UTF16)[:-1],
        "password",
        "the file is not text in UTF-16-LE: write it anew in UTF-8",
    ),
    "Latin-1": (b"k\xe4se\n", "password", "the file is not text in UTF-8: write it anew in UTF-8"),
    "NUL": (b"secret-\0-secret\n", "password", "the file holds NUL characters: write it anew as text in UTF-8"),
    "a Basic login": (b"Basic dXNlcjpwdw==\n", "token", "a Basic login: give username and passwordFile instead"),
    "a variable": (b"AIRFLOW_TOKEN=abc\n", "token", "the file holds NAME=value: put the value alone into it"),
    "a variable of a shell": (b"export TOKEN=abc\n", "token", "the file holds NAME=value: put the value alone into it"),
    "a sentence": (b"my secret token\n", "token", "characters that no token has, such as spaces or letters beyond"),
    "typographic quotes": ("“abc”\n".encode(), "token", "characters that no token has"),
    "a cookie with an umlaut": ("session=kä\n".encode(), "cookie", "characters that no cookie has"),
    "a film": (b"x" * 70_000, "token", "the file is longer than 64 KiB: it holds no secret alone"),
}


@pytest.mark.parametrize("name", TOLD)
def test_told(name: str, tmp_path: Path) -> None:
    raw, kind, says = TOLD[name]
    path = tmp_path / "secret"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"^(?!.*(s3cr3t|horse|dXNl|abc))") as caught:
        read_secret(path, kind)
    assert says in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("what", ["absent", "folder", "nul", "pipe", "device"])
@pytest.mark.timeout(60)
def test_a_file_that_cannot_be_read(what: str, tmp_path: Path) -> None:
    path = {"folder": tmp_path, "nul": Path("a\0b"), "device": Path("/dev/zero")}.get(what, tmp_path / "secret")
    if what == "pipe":
        os.mkfifo(path)
    with pytest.raises(ValueError, match=r"^can't read the file that it names: ") as caught:
        read_secret(path, "token")
    assert str(path) not in str(caught.value)


def test_a_password_in_quotes_is_noticed() -> None:
    assert [is_quoted(text) for text in ('"horse"', "'horse'", "horse", '"horse', "\"horse'")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_headers(tmp_path: Path) -> None:
    path = tmp_path / "headers"
    path.write_bytes(
        UTF8_BOM + b"# Cloudflare Access\r\nCF-Access-Client-Id: abc.access\r\n\r\nCF-Access-Client-Secret:s\r\n"
    )
    assert read_headers(path) == {"CF-Access-Client-Id": "abc.access", "CF-Access-Client-Secret": "s"}


BAD_HEADERS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"# nothing\n", "the file holds no header: write Name: value in each line"),
    "no colon": (b"X-Key s3cr3t\n", "line 1 of the file is no header: write Name: value, in ASCII"),
    "no value": (b"X-A: b\nX-Key:\n", "line 2 of the file is no header"),
    "a name with a space": (b"X Key: s3cr3t\n", "line 1 of the file is no header"),
    "an umlaut": ("X-Key: kä\n".encode(), "line 1 of the file is no header"),
    "a control character": (b"X-Key: a\x01b\n", "line 1 of the file is no header"),
    "JSON": (b'{"X-Key": "s3cr3t"}', "line 1 of the file is no header"),
    "Airflow's own login": (
        b"Authorization: Bearer s3cr3t\n",
        "which is Airflow's own login: give that by its own key",
    ),
    "the host": (b"Host: other\n", "line 1 of the file sets Host, which is the request's own: leave it away"),
    "compressions of a browser": (
        b"accept-encoding: gzip, deflate, br, zstd\n",
        "line 1 of the file sets accept-encoding, which is the request's own: leave it away",
    ),
    "a part alone": (b"Range: bytes=0-10\n", "line 1 of the file sets Range, which is the request's own"),
    "a condition": (b"X-A: b\nIf-None-Match: *\n", "line 2 of the file sets If-None-Match, which is the request's own"),
    "a name twice": (b"X-Key: a\nx-key: b\n", "line 2 of the file sets x-key again: leave one of them away"),
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_headers_that_are_none(name: str, tmp_path: Path) -> None:
    raw, says = BAD_HEADERS[name]
    path = tmp_path / "headers"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"^(?!.*s3cr3t)") as caught:
        read_headers(path)
    assert says in str(caught.value)
