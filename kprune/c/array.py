"""Flatbuffer → the same bytes as a C array, for TensorFlow Lite Micro."""

import dataclasses
import hashlib
import re
from collections.abc import Sequence

from kprune import flatbuffer as _flatbuffer
from kprune.c.names import check_name


@dataclasses.dataclass(frozen=True)
class _Style:
    """How others call the files and symbols; `{}` stands for the name."""

    stem: str
    source: str
    array: str
    length: str
    length_type: str


_STYLES = {
    # tflite-micro's generate_cc_arrays.py
    "tflm": _Style(
        "{}_model_data", ".cc", "g_{}_model_data", "g_{}_model_data_size", "unsigned int"
    ),
    # The Arduino examples: with the name "model", exactly their model.h and g_model
    "arduino": _Style("{}", ".cpp", "g_{}", "g_{}_len", "int"),
    # xxd -i gesture.tflite
    "xxd": _Style("{}_tflite", ".c", "{}_tflite", "{}_tflite_len", "unsigned int"),
}


def to_c_array(
    flatbuffer: bytes, name: str, style: str = "tflm", labels: Sequence[str] = ()
) -> dict[str, str]:
    """Write a flatbuffer as a C array, with what a program around it needs to know.

    The array is `const` and lies at a multiple of 16 bytes. The files compile as C99, C11 and
    C++11 or later; the same arguments give the same text.

    Args:
        flatbuffer: The content of a `.tflite` file.
        name: Begins every symbol, macro and file name; a C identifier.
        style: Whose names of files and symbols: `"tflm"` (TensorFlow Lite Micro's generator),
            `"arduino"` (the Arduino examples) or `"xxd"` (`xxd -i`).
        labels: One text per value of the output, in order, for the macro `NAME_LABELS`.

    Returns:
        Text by file name: a header and a source.

    Raises:
        FlatbufferError: `flatbuffer` is no sound TensorFlow Lite flatbuffer.
        ValueError: `name` is no C identifier, `style` is unknown, or there are not as many
            labels as output values.

    Example:
        >>> from ai_edge_litert import schema_py_generated as schema
        >>> empty = schema.ModelT(version=3, subgraphs=[schema.SubGraphT()])
        >>> files = to_c_array(_flatbuffer.pack(empty), name="gesture")
        >>> list(files)
        ['gesture_model_data.h', 'gesture_model_data.cc']
        >>> print(files["gesture_model_data.cc"])
        /* gesture: a TensorFlow Lite flatbuffer of 48 bytes, sha256
        ...
        ALIGNED_16 const unsigned char g_gesture_model_data[48] = {
            0x14, 0x00, 0x00, 0x00, 0x54, 0x46, 0x4c, 0x33, 0x00, 0x00, 0x0a, 0x00,
        ...
    """
    check_name(name)
    if style not in _STYLES:
        raise ValueError(f"style must be one of {', '.join(_STYLES)}, got {style!r}.")
    network = _flatbuffer.read(flatbuffer)
    _check_labels(labels, network)
    names = _Style(*(field.format(name) for field in dataclasses.astuple(_STYLES[style])))
    return {
        f"{names.stem}.h": _header(flatbuffer, network, name, names, labels),
        f"{names.stem}{names.source}": _source(flatbuffer, name, names),
    }


def _check_labels(labels: Sequence[str], network: _flatbuffer.Network) -> None:
    if not labels:
        return
    if isinstance(labels, str):
        raise TypeError(f"labels must be a sequence of texts, got the single text {labels!r}.")
    count = network.tensors[network.outputs[0]].size if network.outputs else 0
    if len(labels) != count:
        raise ValueError(
            f"got {len(labels)} labels for {count} output values, expected one for each."
        )


def _header(
    flatbuffer: bytes,
    network: _flatbuffer.Network,
    name: str,
    names: _Style,
    labels: Sequence[str],
) -> str:
    guard = f"{names.stem.upper()}_H"
    prefix = name.upper()
    lines = [
        *_title(flatbuffer, name),
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "",
        "/* At a multiple of 16 bytes. */",
        f"extern const unsigned char {names.array}[{len(flatbuffer)}];",
        f"extern const {names.length_type} {names.length};",
        "",
        "#ifdef __cplusplus",
        "}",
        "#endif",
        "",
        *_tensor_macros(f"{prefix}_INPUT", network, network.inputs),
        *_tensor_macros(f"{prefix}_OUTPUT", network, network.outputs),
        *_label_macros(prefix, labels),
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def _source(flatbuffer: bytes, name: str, names: _Style) -> str:
    lines = [
        *_title(flatbuffer, name),
        f'#include "{names.stem}.h"',
        "",
        "#if defined(__cplusplus)",
        "#define ALIGNED_16 alignas(16)",
        "#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L",
        "#define ALIGNED_16 _Alignas(16)",
        "#else",
        "#define ALIGNED_16 __attribute__((aligned(16)))",
        "#endif",
        "",
        f"ALIGNED_16 const unsigned char {names.array}[{len(flatbuffer)}] = {{",
        *_byte_lines(flatbuffer),
        "};",
        f"const {names.length_type} {names.length} = {len(flatbuffer)};",
    ]
    return "\n".join(lines) + "\n"


def _title(flatbuffer: bytes, name: str) -> list[str]:
    return [
        f"/* {name}: a TensorFlow Lite flatbuffer of {len(flatbuffer)} bytes, sha256",
        f" * {hashlib.sha256(flatbuffer).hexdigest()}.",
        " * Generated by kprune. Do not edit: run `kprune to-c-array` again. */",
    ]


def _byte_lines(data: bytes) -> list[str]:
    text = [f"0x{byte:02x}" for byte in range(256)]
    return [
        f"    {', '.join([text[byte] for byte in data[i : i + 12]])},"
        for i in range(0, len(data), 12)
    ]


def _tensor_macros(prefix: str, network: _flatbuffer.Network, indices: Sequence[int]) -> list[str]:
    lines = []
    for place, index in enumerate(indices):
        # Most networks have one input and one output, which then need no number.
        this = prefix if len(indices) == 1 else f"{prefix}_{place}"
        lines += _macros(this, network.tensors[index])
    return lines


def _macros(prefix: str, tensor: _flatbuffer.Tensor) -> list[str]:
    shape = tensor.shape or (1,)
    lines = [
        f"#define {prefix}_SIZE {tensor.size} /* {tensor.dtype}, {' x '.join(map(str, shape))} */",
        f"#define {prefix}_SHAPE {{{', '.join(map(str, shape))}}}",
    ]
    if len(tensor.scale) == 1:
        lines += [
            f"#define {prefix}_SCALE {_c_float(tensor.scale[0])} /* real = SCALE * (q - ZERO) */",
            f"#define {prefix}_ZERO ({tensor.zero_point[0]})",
        ]
    return [*lines, ""]


def _label_macros(prefix: str, labels: Sequence[str]) -> list[str]:
    if not labels:
        return []
    return [
        f"/* static const char *const labels[] = {prefix}_LABELS; */",
        f"#define {prefix}_LABELS {{ \\",
        *(f"    {_c_string(label)}, \\" for label in labels),
        "}",
        "",
    ]


def _c_float(value: float) -> str:
    """A literal that gives back exactly this float32."""
    text = f"{float(value):.9g}"
    return text + ("f" if re.search("[.e]", text) else ".0f")


def _c_string(text: str) -> str:
    """A literal of these UTF-8 bytes; octal, because a hexadecimal escape has no end in C."""
    safe = re.compile(rb"[A-Za-z0-9 _.,:;!()+=<>/*&%@|~^{}\[\]'#$-]")
    codes = (bytes([byte]) for byte in text.encode())
    return '"' + "".join(c.decode() if safe.match(c) else f"\\{c[0]:03o}" for c in codes) + '"'
