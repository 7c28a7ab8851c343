"""Names in C: what a person may choose, and what tensor names become."""

import re
from collections.abc import Iterable

# C99 to C23, then C++11 to C++23.
_KEYWORDS = """
auto break case char const continue default do double else enum extern float for goto if inline int
long register restrict return short signed sizeof static struct switch typedef union unsigned void
volatile while alignas alignof bool constexpr false nullptr static_assert thread_local true typeof
typeof_unqual

and and_eq asm bitand bitor catch char8_t char16_t char32_t class co_await co_return co_yield compl
concept consteval constinit const_cast decltype delete dynamic_cast explicit export friend mutable
namespace new noexcept not not_eq operator or or_eq private protected public reinterpret_cast
requires static_cast template this throw try typeid typename using virtual wchar_t xor xor_eq
"""

# A file of the name would be found by `#include <time.h>` of whoever has its folder on the path.
_HEADERS = """
assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign
stdarg stdatomic stdbit stdbool stdckdint stddef stdint stdio stdlib stdnoreturn string tgmath
threads time uchar wchar wctype
"""

# A layer `kp` would have constants such as `kp_window`, which is a type. A network `kp_nn` would
# have the files of the runtime, and so would `KP_NN` where file systems do not tell them apart.
_RUNTIME = re.compile(r"kp(_|$)", re.IGNORECASE)


def numbered(word: str, count: int) -> list[str]:
    """What each of several inputs or outputs is called: most networks have one, without a number.

    Example:
        >>> numbered("input", 1), numbered("input", 2)
        (['input'], ['input_0', 'input_1'])
    """
    return [word] if count == 1 else [f"{word}_{place}" for place in range(count)]


def check_name(name: str) -> str:
    """Refuse a name that cannot begin the symbols, macros and file names of generated C.

    Args:
        name: The network's name, such as `"gesture"`.

    Returns:
        `name`.

    Raises:
        ValueError: `name` is no identifier of C, is a keyword of C or C++ or a standard header,
            or is reserved (an underscore in front, or two in a row; `kp_`, as the runtime's
            symbols and files begin). The message proposes another.

    Example:
        >>> check_name("keyword-spotting")
        Traceback (most recent call last):
        ...
        ValueError: 'keyword-spotting' cannot be used as a name in C: it is not a letter followed
        by letters, digits and underscores. Use for example 'keyword_spotting'.
    """
    fault = _fault(name)
    if fault:
        raise ValueError(
            f"{name!r} cannot be used as a name in C: it {fault}. "
            f"Use for example {_proposal(name)!r}."
        )
    return name


def unique_names(names: Iterable[str]) -> list[str]:
    """Turn any texts into C identifiers, each different from all others, in order.

    Example:
        >>> unique_names(["conv/BiasAdd", "conv/BiasAdd", "7x7", "int"])
        ['conv_BiasAdd', 'conv_BiasAdd_2', 'model_7x7', 'int_model']
    """
    taken: set[str] = set()
    result = []
    for name in names:
        base = unique = _proposal(name) if _fault(name) else name
        count = 1
        while unique in taken:
            count += 1
            unique = f"{base}_{count}"
        taken.add(unique)
        result.append(unique)
    return result


def _fault(name: str) -> str:
    """What is wrong with `name`, as the rest of a sentence that begins with "it"; or nothing."""
    if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name):
        return "is not a letter followed by letters, digits and underscores"
    if _RUNTIME.match(name):
        return "begins as the symbols and files of the runtime kp_nn do"
    if "__" in name:
        return "has two underscores in a row, which C++ reserves"
    if name in _KEYWORDS.split():
        return "is a keyword of C or C++"
    if name.lower() in _HEADERS.split():
        return f"would hide the standard header <{name.lower()}.h>"
    return ""


def _proposal(name: str) -> str:
    proposal = re.sub("[^A-Za-z0-9]+", "_", name).strip("_") or "model"
    if not proposal[0].isalpha() or _RUNTIME.match(proposal):
        return f"model_{proposal}"
    return f"{proposal}_model" if _fault(proposal) else proposal
