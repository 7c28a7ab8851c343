"""Literals: what the compiler reads back is what was meant."""

import re
import subprocess

import numpy as np
from conftest import require
from hypothesis import given
from hypothesis import strategies as st

from kprune.c.text import c_float, c_string

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(FLOATS)
def test_a_float_literal_gives_back_exactly_the_float32(value):
    literal = c_float(np.float32(value))

    assert re.fullmatch(r"-?\d+(\.\d+)?(e[+-]\d+)?f", literal)
    assert re.search(r"[.e]", literal), "an integer with the suffix f is no C"
    assert np.float32(literal[:-1]) == np.float32(value)


def test_the_compiler_reads_string_literals_back_byte_for_byte(tmp_path):
    require("gcc")
    texts = [
        "",
        "plain",
        'quo"te',
        "back\\slash",
        "??/ trigraph",
        "0\x001",
        "\x7f9",
        "größe µ",
        "a\nb",
    ]
    literals = ",\n".join(f"{{{c_string(t)}, sizeof {c_string(t)} - 1}}" for t in texts)
    (tmp_path / "main.c").write_text(
        "#include <stdio.h>\n"
        f"static const struct {{ const char *text; unsigned size; }} all[] = {{{literals}}};\n"
        "int main(void)\n{\n"
        "    unsigned i;\n"
        "    for (i = 0; i < sizeof all / sizeof all[0]; i++)\n"
        '        printf("%u:", all[i].size), fwrite(all[i].text, 1, all[i].size, stdout);\n'
        "    return 0;\n}\n"
    )
    flags = ["-std=c99", "-trigraphs", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]

    subprocess.run(["gcc", *flags, "main.c", "-o", "main"], cwd=tmp_path, check=True)
    printed = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, check=True).stdout

    assert printed == b"".join(b"%d:%s" % (len(t.encode()), t.encode()) for t in texts)
