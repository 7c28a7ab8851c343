"""Pieces of C that every generated file has."""

import re
from collections.abc import Sequence


def guarded(stem: str, lines: Sequence[str]) -> list[str]:
    guard = f"{stem.upper()}_H"
    return [f"#ifndef {guard}", f"#define {guard}", "", *lines, "#endif"]


def c_linkage(declarations: Sequence[str]) -> list[str]:
    return [
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "",
        *declarations,
        "",
        "#ifdef __cplusplus",
        "}",
        "#endif",
        "",
    ]


def c_float(value: float) -> str:
    """A literal that gives back exactly this float32."""
    text = f"{float(value):.9g}"
    return text + ("f" if re.search("[.e]", text) else ".0f")


def c_string(text: str) -> str:
    """A literal of these UTF-8 bytes; octal, because a hexadecimal escape has no end in C."""
    safe = re.compile(rb"[A-Za-z0-9 _.,:;!()+=<>/*&%@|~^{}\[\]'#$-]")
    codes = (bytes([byte]) for byte in text.encode())
    return '"' + "".join(c.decode() if safe.match(c) else f"\\{c[0]:03o}" for c in codes) + '"'
