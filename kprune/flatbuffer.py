"""Flatbuffer → Network: a `.tflite` file as plain data.

The fields come through the schema's generated classes (ai-edge-litert). Those trust every offset
and length, and a file may be cut short or damaged; so whatever they say is checked here, and
whatever they raise becomes one `FlatbufferError`.
"""

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from kprune.errors import FlatbufferError
from kprune.network import Network, Operator, Tensor, check

# Metadata in which a file tells TensorFlow Lite Micro where its tensors are to lie.
PLAN = b"OfflineMemoryAllocation"

_IDENTIFIER = b"TFL3"
_SCHEMA_VERSION = 3
_INT32_MAX = 2**31 - 1

# A handle to a resource variable is an int32 in TFLite Micro (TfLiteTypeSizeOf).
_DTYPES: dict[str, np.dtype] = {
    "FLOAT32": np.dtype("float32"),
    "FLOAT16": np.dtype("float16"),
    "FLOAT64": np.dtype("float64"),
    "INT8": np.dtype("int8"),
    "INT16": np.dtype("int16"),
    "INT32": np.dtype("int32"),
    "INT64": np.dtype("int64"),
    "UINT8": np.dtype("uint8"),
    "UINT16": np.dtype("uint16"),
    "UINT32": np.dtype("uint32"),
    "UINT64": np.dtype("uint64"),
    "BOOL": np.dtype("bool"),
    "RESOURCE": np.dtype("int32"),
}


def _names(enum: type) -> dict[int, str]:
    return {value: name for name, value in vars(enum).items() if isinstance(value, int)}


_OPERATORS = _names(schema.BuiltinOperator)
_TENSOR_TYPES = _names(schema.TensorType)


def read(flatbuffer: bytes) -> Network:
    """Read a TensorFlow Lite flatbuffer.

    Every index, length, shape, size and scale is checked, so the parts of the result fit
    together: each operator reads tensors that exist and are computed before, and each constant
    has the bytes that its shape and type ask for.

    Args:
        flatbuffer: The content of a `.tflite` file.

    Returns:
        The network. Its constants are views into `flatbuffer`.

    Raises:
        FlatbufferError: The bytes are no TensorFlow Lite flatbuffer, are damaged, or hold what
            no microcontroller runs (sparse constants, strings, more than 2 GiB).

    Example:
        >>> read(b"<!DOCTYPE html>")
        Traceback (most recent call last):
        ...
        kprune.errors.FlatbufferError: not a TensorFlow Lite flatbuffer: ...
    """
    flatbuffer = bytes(flatbuffer)
    if flatbuffer[4:8] != _IDENTIFIER:
        raise FlatbufferError(
            f"not a TensorFlow Lite flatbuffer: bytes 4 to 8 are {flatbuffer[4:8]!r}, expected "
            f"{_IDENTIFIER!r}. Pass the content of a .tflite file."
        )
    with damage_reported():
        networks = _Reader(flatbuffer).networks()
    return dataclasses.replace(networks[0], subgraphs=tuple(networks[1:]))


@contextlib.contextmanager
def damage_reported() -> Iterator[None]:
    """Around whatever reads a file through the generated classes: one error for all damage."""
    try:
        yield
    except FlatbufferError as error:
        raise FlatbufferError(f"not a sound TensorFlow Lite flatbuffer: {error}") from None
    except Exception as error:
        # The generated classes follow damaged offsets out of the file, and then raise whatever
        # struct, NumPy or Python raise there.
        raise FlatbufferError(
            "not a sound TensorFlow Lite flatbuffer: the file is damaged or cut short "
            f"({type(error).__name__}: {error})"
        ) from error


class AlignedBuffer(schema.BufferT):
    """A constant's bytes, at a multiple of 16 in the file.

    The schema asks for it (`force_align: 16`) and kernels with wide loads need it; Python's
    FlatBuffers library does not know the attribute.
    """

    def Pack(self, builder: flatbuffers.Builder) -> int:
        if self.data is not None:
            builder.Prep(16, len(self.data))
        return super().Pack(builder)


def pack(model: schema.ModelT, builder: flatbuffers.Builder | None = None) -> bytes:
    """Write a schema object as a flatbuffer: the reverse of reading."""
    builder = builder or flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


class _Reader:
    """Walks one flatbuffer once, within a bounded number of steps."""

    def __init__(self, flatbuffer: bytes) -> None:
        self._model = schema.Model.GetRootAs(flatbuffer, 0)
        # Parts may be shared, so damaged offsets can describe far more than the file holds: a
        # thousand tables that are all the same one with a thousand elements. A sound file names
        # each byte about once.
        self._steps_left = 16 * len(flatbuffer)

    def networks(self) -> list[Network]:
        model = self._model
        if model.Version() != _SCHEMA_VERSION:
            raise FlatbufferError(f"schema version {model.Version()}, expected {_SCHEMA_VERSION}")
        self._buffers = [self._buffer(i) for i in self._range(model.BuffersLength())]
        self._codes = [self._code(i) for i in self._range(model.OperatorCodesLength())]
        description = self._text(model.Description())
        networks = [
            self._network(model.Subgraphs(i), description)
            for i in self._range(model.SubgraphsLength())
        ]
        if not networks:
            raise FlatbufferError("it has no subgraph")
        return [dataclasses.replace(networks[0], offsets=self._offsets(networks)), *networks[1:]]

    def _offsets(self, networks: list[Network]) -> tuple[int, ...]:
        """The plan of the arena, if the file brings one; for the tensors of all subgraphs."""
        model = self._model
        for entry in map(model.Metadata, self._range(model.MetadataLength())):
            if entry.Name() == PLAN:
                if not entry.Buffer() < len(self._buffers):
                    raise FlatbufferError(f"{PLAN.decode()} is in buffer {entry.Buffer()}")
                # Version, subgraph, number of offsets, offsets.
                words = self._buffers[entry.Buffer()].view("<i4").tolist()
                count = sum(len(network.tensors) for network in networks)
                if len(words) != 3 + count or words[2] != count or min(words[3:]) < -1:
                    raise FlatbufferError(
                        f"{PLAN.decode()} must have an offset, or -1, for each of {count} tensors"
                    )
                return tuple(words[3:])
        return ()

    def _range(self, length: int) -> range:
        self._steps_left -= length
        if self._steps_left < 0:
            raise FlatbufferError("its parts claim more elements than the file can hold")
        return range(length)

    def _vector(self, values: Any) -> np.ndarray:
        # An absent vector is the integer 0 to the generated classes.
        if isinstance(values, int):
            return np.empty(0, np.int64)
        self._range(len(values))
        return values

    def _indices(self, values: Any) -> tuple[int, ...]:
        return tuple(self._vector(values).tolist())

    def _text(self, text: bytes | None) -> str:
        self._range(len(text or b""))
        return (text or b"").decode("utf-8", "replace")

    def _buffer(self, index: int) -> np.ndarray:
        buffer = self._model.Buffers(index)
        if buffer.Offset() > 1 or buffer.Size() > 1:
            raise FlatbufferError(
                f"buffer {index} lies outside the flatbuffer, as in files above 2 GiB"
            )
        return self._vector(buffer.DataAsNumpy())

    def _code(self, index: int) -> tuple[str, int, str]:
        code = self._model.OperatorCodes(index)
        # Files before schema 3a keep the operator in the old one-byte field; newer ones fill it
        # with a placeholder that is never above the true code.
        number = max(code.DeprecatedBuiltinCode(), code.BuiltinCode())
        if number not in _OPERATORS:
            raise FlatbufferError(f"operator code {index} is {number}, which the schema lacks")
        return _OPERATORS[number], code.Version(), self._text(code.CustomCode())

    def _network(self, graph: Any, description: str) -> Network:
        tensors = tuple(
            self._tensor(i, graph.Tensors(i)) for i in self._range(graph.TensorsLength())
        )
        operators = tuple(
            self._operator(graph.Operators(i)) for i in self._range(graph.OperatorsLength())
        )
        inputs = self._indices(graph.InputsAsNumpy())
        outputs = self._indices(graph.OutputsAsNumpy())
        network = Network(tensors, operators, inputs, outputs, description)
        check(network)
        return network

    def _tensor(self, index: int, tensor: Any) -> Tensor:
        label = f"tensor {index}"
        kind = _TENSOR_TYPES.get(tensor.Type(), str(tensor.Type()))
        if kind not in _DTYPES:
            raise FlatbufferError(f"{label} has elements of type {kind}, which kprune cannot read")
        if tensor.Sparsity() is not None:
            raise FlatbufferError(f"{label} is stored sparse, which no microcontroller reads")
        dtype = _DTYPES[kind]
        shape = self._indices(tensor.ShapeAsNumpy())
        if any(dim < 0 for dim in shape) or math.prod(shape) * dtype.itemsize > _INT32_MAX:
            raise FlatbufferError(f"{label} has the impossible shape {shape}")
        scale, zero_point, axis = self._quantization(label, tensor.Quantization(), shape, dtype)
        data = self._data(label, tensor.Buffer(), shape, dtype)
        if data is None and not scale.all():
            raise FlatbufferError(f"{label} has a scale of zero")
        return Tensor(
            index=index,
            name=self._text(tensor.Name()),
            shape=shape,
            dtype=dtype,
            scale=scale,
            zero_point=zero_point,
            quantized_axis=axis,
            data=data,
            is_variable=tensor.IsVariable(),
        )

    def _data(
        self, label: str, buffer: int, shape: tuple[int, ...], dtype: np.dtype
    ) -> np.ndarray | None:
        if not buffer < len(self._buffers):
            raise FlatbufferError(f"{label} is in buffer {buffer} of {len(self._buffers)}")
        data = self._buffers[buffer]
        if not data.size:
            return None
        if data.nbytes != math.prod(shape) * dtype.itemsize:
            raise FlatbufferError(
                f"{label} of shape {shape} and type {dtype} has {data.nbytes} bytes of data"
            )
        return data.view(dtype).reshape(shape)

    def _quantization(
        self, label: str, quantization: Any, shape: tuple[int, ...], dtype: np.dtype
    ) -> tuple[np.ndarray, np.ndarray, int]:
        if quantization is None:
            return np.empty(0, np.float32), np.empty(0, np.int64), 0
        scale = self._vector(quantization.ScaleAsNumpy()).astype(np.float32, copy=False)
        zero_point = self._vector(quantization.ZeroPointAsNumpy()).astype(np.int64, copy=False)
        axis = quantization.QuantizedDimension()
        if not (np.isfinite(scale).all() and (scale >= 0).all()):
            raise FlatbufferError(f"{label} has a scale that is negative or not finite")
        if len(scale) and len(zero_point) != len(scale):
            raise FlatbufferError(
                f"{label} has {len(scale)} scales and {len(zero_point)} zero points"
            )
        if len(scale) > 1 and not (0 <= axis < len(shape) and shape[axis] == len(scale)):
            raise FlatbufferError(
                f"{label} of shape {shape} has {len(scale)} scales along axis {axis}"
            )
        if dtype.kind in "iu" and len(zero_point):
            limits = np.iinfo(dtype)
            if zero_point.min() < limits.min or zero_point.max() > limits.max:
                raise FlatbufferError(f"{label} has a zero point that {dtype} cannot hold")
        return scale, zero_point, axis

    def _operator(self, operator: Any) -> Operator:
        index = operator.OpcodeIndex()
        if not index < len(self._codes):
            raise FlatbufferError(f"an operator has code {index} of {len(self._codes)}")
        name, version, custom_code = self._codes[index]
        options = self._options(operator)
        if name == "CUSTOM":
            options["custom_code"] = custom_code
        return Operator(
            name=name,
            version=version,
            inputs=self._indices(operator.InputsAsNumpy()),
            outputs=self._indices(operator.OutputsAsNumpy()),
            options=options,
        )

    def _options(self, operator: Any) -> dict[str, Any]:
        options = schema.BuiltinOptionsCreator(
            operator.BuiltinOptionsType(), operator.BuiltinOptions()
        )
        if options is None:
            options = schema.BuiltinOptions2Creator(
                operator.BuiltinOptions2Type(), operator.BuiltinOptions2()
            )
        if options is None:
            return {}
        return {_snake_case(name): self._plain(value) for name, value in vars(options).items()}

    def _plain(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return self._indices(value)
        if isinstance(value, bytes):
            return self._text(value)
        return value


def _snake_case(name: str) -> str:
    return re.sub("([A-Z])", lambda match: "_" + match[0].lower(), name)
