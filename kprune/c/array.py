"""Flatbuffer → the same bytes as a C array, for TensorFlow Lite Micro."""

import dataclasses
import hashlib
from collections.abc import Sequence

from kprune import arena as _arena
from kprune import flatbuffer as _flatbuffer
from kprune.arena import Arena
from kprune.c.names import check_name, numbered
from kprune.c.resolver import op_resolver
from kprune.c.testdata import Arrays, c_test_data
from kprune.c.text import c_float, c_linkage, c_string, guarded
from kprune.errors import UnsupportedOpError
from kprune.flatbuffer import Network, Tensor


@dataclasses.dataclass(frozen=True)
class _Style:
    """A style by its name, and how others call the files and symbols; `{}`: the network's name."""

    style: str
    stem: str
    source: str
    array: str
    length: str
    length_type: str
    resolver: str


_RESOLVER = "{}_gen_micro_mutable_op_resolver.h"
_STYLES = {
    style.style: style
    for style in (
        # tflite-micro's generate_cc_arrays.py
        _Style(
            style="tflm",
            stem="{}_model_data",
            source=".cc",
            array="g_{}_model_data",
            length="g_{}_model_data_size",
            length_type="unsigned int",
            resolver=_RESOLVER,
        ),
        # The Arduino examples: with the name "model", exactly their model.h and g_model
        _Style(
            style="arduino",
            stem="{}",
            source=".cpp",
            array="g_{}",
            length="g_{}_len",
            length_type="int",
            resolver=_RESOLVER,
        ),
        # xxd -i gesture.tflite
        _Style(
            style="xxd",
            stem="{}_tflite",
            source=".c",
            array="{}_tflite",
            length="{}_tflite_len",
            length_type="unsigned int",
            resolver="",
        ),
    )
}


def to_c_array(
    flatbuffer: bytes,
    name: str,
    style: str = "tflm",
    labels: Sequence[str] = (),
    *,
    arena: Arena | None = None,
    test_data: tuple[Arrays, Arrays] | None = None,
) -> dict[str, str]:
    """Write a flatbuffer as a C array, with what a program around it needs to know.

    The array is `const` and lies at a multiple of 16 bytes. Beside it are macros for the size,
    shape, scale and zero point of each input and output and for the arena, and a resolver with
    exactly the operators that the network uses. The files compile as C99, C11 and C++11 or later
    (the resolver as C++ only); the same arguments give the same text.

    Args:
        flatbuffer: The content of a `.tflite` file.
        name: Begins every symbol, macro and file name; a C identifier.
        style: Whose names of files and symbols: `"tflm"` (TensorFlow Lite Micro's generator),
            `"arduino"` (the Arduino examples) or `"xxd"` (`xxd -i`; plain C, no resolver).
        labels: One text per value of the output, in order, for the macro `NAME_LABELS`.
        arena: The RAM to reserve, as `kprune.tflm.measure_arena` measures it. By default it is
            predicted, without running the network.
        test_data: Inputs and the outputs that a device must give for them, as
            `kprune.tflm.golden_vectors` makes them, for a self-check at boot.

    Returns:
        Text by file name: header and source, the resolver, header and source of the test data.

    Raises:
        FlatbufferError: `flatbuffer` is no sound TensorFlow Lite flatbuffer.
        UnsupportedOpError: TensorFlow Lite Micro lacks an operator of the network.
        ValueError: `name` is no C identifier, `style` is unknown, there are not as many labels
            as output values, or the test data do not have the network's shapes.

    Example:
        >>> from ai_edge_litert import schema_py_generated as schema
        >>> empty = schema.ModelT(version=3, subgraphs=[schema.SubGraphT()])
        >>> files = to_c_array(_flatbuffer.pack(empty), name="gesture", style="xxd")
        >>> list(files)
        ['gesture_tflite.h', 'gesture_tflite.c']
        >>> print(files["gesture_tflite.c"])
        /* gesture: a TensorFlow Lite flatbuffer of 48 bytes, sha256
        ...
        ALIGNED_16 const unsigned char gesture_tflite[48] = {
            0x14, 0x00, 0x00, 0x00, 0x54, 0x46, 0x4c, 0x33, 0x00, 0x00, 0x0a, 0x00,
        ...
    """
    flatbuffer = bytes(flatbuffer)
    check_name(name)
    if style not in _STYLES:
        raise ValueError(f"style must be one of {', '.join(_STYLES)}, got {style!r}.")
    network = _flatbuffer.read(flatbuffer)
    _check_labels(labels, network)
    names = _Style(*(field.format(name) for field in dataclasses.astuple(_STYLES[style])))
    macros = [
        *_arena_macros(name, network, arena),
        *_tensor_macros(f"{name.upper()}_INPUT", network, network.inputs),
        *_tensor_macros(f"{name.upper()}_OUTPUT", network, network.outputs),
        *_label_macros(name, labels),
    ]
    files = {
        f"{names.stem}.h": _header(flatbuffer, name, names, macros),
        f"{names.stem}{names.source}": _source(flatbuffer, name, names),
    }
    if names.resolver:
        files[names.resolver] = op_resolver(network, name)
    if test_data:
        files |= c_test_data(name, names.style, names.source, network, *test_data)
    return files


def _check_labels(labels: Sequence[str], network: Network) -> None:
    if not labels:
        return
    if isinstance(labels, str):
        raise TypeError(f"labels must be a sequence of texts, got the single text {labels!r}.")
    count = network.tensors[network.outputs[0]].size if network.outputs else 0
    if len(labels) != count:
        raise ValueError(
            f"got {len(labels)} labels for {count} output values, expected one for each."
        )


def _header(flatbuffer: bytes, name: str, names: _Style, macros: Sequence[str]) -> str:
    declarations = [
        "/* At a multiple of 16 bytes. */",
        f"extern const unsigned char {names.array}[{len(flatbuffer)}];",
        f"extern const {names.length_type} {names.length};",
    ]
    lines = [
        *_title(flatbuffer, name, names),
        *guarded(names.stem, [*c_linkage(declarations), *macros]),
    ]
    return "\n".join(lines) + "\n"


def _source(flatbuffer: bytes, name: str, names: _Style) -> str:
    lines = [
        *_title(flatbuffer, name, names),
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


def _title(flatbuffer: bytes, name: str, names: _Style) -> list[str]:
    command = f"kprune to-c-array --style {names.style}"  # any other makes files of other names
    return [
        f"/* {name}: a TensorFlow Lite flatbuffer of {len(flatbuffer)} bytes, sha256",
        f" * {hashlib.sha256(flatbuffer).hexdigest()}.",
        f" * Generated by kprune. Do not edit: run `{command}` again. */",
    ]


def _byte_lines(data: bytes) -> list[str]:
    text = [f"0x{byte:02x}" for byte in range(256)]
    return [
        f"    {', '.join([text[byte] for byte in data[i : i + 12]])},"
        for i in range(0, len(data), 12)
    ]


def _arena_macros(name: str, network: Network, arena: Arena | None) -> list[str]:
    try:
        arena = arena or _arena.arena(network)
    except UnsupportedOpError:
        # Only a measurement tells.
        return []
    return [
        "/* RAM for tflite::MicroInterpreter on a 32-bit core, in bytes:",
        f" * {arena.low} for its start, then the activations, {arena.tail} for its records,",
        f" * {arena.margin} for CMSIS-NN; {arena.source}.",
        " * Reserve it at a multiple of 16 bytes. */",
        f"#define {name.upper()}_TENSOR_ARENA_SIZE {arena.total}",
        "",
    ]


def _tensor_macros(prefix: str, network: Network, indices: Sequence[int]) -> list[str]:
    names = zip(numbered(prefix, len(indices)), indices, strict=True)
    return [line for name, index in names for line in _macros(name, network.tensors[index])]


def _macros(prefix: str, tensor: Tensor) -> list[str]:
    shape = tensor.shape or (1,)
    lines = [
        f"#define {prefix}_SIZE {tensor.size} /* {tensor.dtype}, {' x '.join(map(str, shape))} */",
        f"#define {prefix}_SHAPE {{{', '.join(map(str, shape))}}}",
    ]
    if len(tensor.scale) == 1:
        lines += [
            f"#define {prefix}_SCALE {c_float(tensor.scale[0])} /* real = SCALE * (q - ZERO) */",
            f"#define {prefix}_ZERO ({tensor.zero_point[0]})",
        ]
    return [*lines, ""]


def _label_macros(name: str, labels: Sequence[str]) -> list[str]:
    if not labels:
        return []
    macro = f"{name.upper()}_LABELS"
    return [
        f"/* static const char *const labels[] = {macro}; */",
        f"#define {macro} {{ \\",
        *(f"    {c_string(label)}, \\" for label in labels),
        "}",
        "",
    ]
