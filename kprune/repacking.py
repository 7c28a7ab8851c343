"""Flatbuffer → the same network in fewer bytes."""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from kprune import flatbuffer as _flatbuffer
from kprune.flatbuffer import AlignedBuffer, Network, Tensor

# Metadata that TensorFlow Lite Micro acts upon, besides the plan of the arena.
_METADATA_KEPT = (b"COMPRESSION_METADATA",)
_PLAN_VERSION = 1

# Kernels that take the scale of the biases to be input times weights, as the specification says.
# FULLY_CONNECTED checks it when its weights have one scale.
_BIAS_SCALES_UNREAD = ("CONV_2D", "DEPTHWISE_CONV_2D")


def repack(
    flatbuffer: bytes,
    names: Mapping[int, str] = MappingProxyType({}),
    offsets: Sequence[int] | None = None,
) -> bytes:
    """Drop from a flatbuffer what no runtime reads.

    Gone are the names of inner tensors, ranges seen in training, signatures, descriptions,
    metadata, buffers that are there twice or belong to nothing, and the scales of convolutions'
    biases, which follow from those of input and weights. Equal vectors, such as the zero points
    of all weights, are written once.

    Outputs are bit for bit the same in TensorFlow Lite Micro and in LiteRT's reference kernels.
    LiteRT's default, XNNPACK, leaves convolutions without those scales to other kernels, which
    may round the last bit otherwise.

    Args:
        flatbuffer: The content of a `.tflite` file, of any origin.
        names: Index of a tensor -> the name that it gets. Inner tensors that are not in it lose
            theirs, inputs and outputs keep it.
        offsets: Where in the arena each tensor is to lie, -1 for those that the interpreter places;
            empty for none. By default, a plan that the file has stays.

    Returns:
        The smaller flatbuffer. Repacking it again changes
        nothing.

    Raises:
        FlatbufferError: `flatbuffer` is no sound TensorFlow Lite flatbuffer.
    """
    flatbuffer = bytes(flatbuffer)
    network = _flatbuffer.read(flatbuffer)
    if offsets is not None:
        network = dataclasses.replace(network, offsets=tuple(offsets))
    with _flatbuffer.damage_reported():
        model = _Repacker(schema.Model.GetRootAs(flatbuffer, 0), names).model(network)
        return _flatbuffer.pack(model, _SharingBuilder())


class _SharingBuilder(flatbuffers.Builder):
    """Writes equal vectors once: every table that has one may point to the same bytes."""

    def __init__(self) -> None:
        super().__init__(1024)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        # Constants are bytes; they are aligned apart, and shared by their index already.
        if x.itemsize == 1:
            return super().CreateNumpyVector(x)
        key = (x.dtype.str, x.tobytes())
        if key not in self._written:
            self._written[key] = super().CreateNumpyVector(x)
        return self._written[key]


class _Repacker:
    """Builds the new file from the checked network, and from the old one what only it has."""

    def __init__(self, old: Any, names: Mapping[int, str]) -> None:
        self._old = old
        self._names = names
        self._codes: dict[int, int] = {}
        # By convention, buffer 0 is empty and belongs to every tensor without data.
        self._buffers: dict[bytes, int] = {b"": 0}

    def model(self, network: Network) -> schema.ModelT:
        graphs = [
            self._graph(self._old.Subgraphs(i), graph, {} if i else self._names)
            for i, graph in enumerate((network, *network.subgraphs))
        ]
        metadata = self._metadata(network.offsets)
        codes = [self._old.OperatorCodes(i) for i in self._codes]
        return schema.ModelT(
            version=self._old.Version(),
            operatorCodes=[schema.OperatorCodeT.InitFromObj(code) for code in codes],
            subgraphs=graphs,
            buffers=[
                AlignedBuffer(data=np.frombuffer(data, np.uint8) if data else None)
                for data in self._buffers
            ],
            metadata=metadata or None,
        )

    def _graph(self, old: Any, network: Network, given: Mapping[int, str]) -> schema.SubGraphT:
        ends = {*network.inputs, *network.outputs}
        names = {t.index: t.name for t in network.tensors if t.index in ends} | dict(given)
        unread = _tensors_without_scales(network)
        return schema.SubGraphT(
            tensors=[
                self._tensor(old.Tensors(t.index), t, names.get(t.index), t.index not in unread)
                for t in network.tensors
            ],
            inputs=np.array(network.inputs, np.int32),
            outputs=np.array(network.outputs, np.int32),
            operators=[self._operator(old.Operators(i)) for i in range(len(network.operators))],
        )

    def _tensor(self, old: Any, tensor: Tensor, name: str | None, has_scales: bool) -> Any:
        quantization = None
        if len(tensor.scale) and has_scales:
            quantization = schema.QuantizationParametersT(
                scale=tensor.scale,
                zeroPoint=tensor.zero_point,
                quantizedDimension=tensor.quantized_axis,
            )
        data = b"" if tensor.data is None else tensor.data.tobytes()
        return schema.TensorT(
            shape=np.array(tensor.shape, np.int32),
            type=old.Type(),
            buffer=self._buffers.setdefault(data, len(self._buffers)),
            name=name,
            quantization=quantization,
            isVariable=tensor.is_variable,
        )

    def _operator(self, old: Any) -> schema.OperatorT:
        operator = schema.OperatorT.InitFromObj(old)
        operator.opcodeIndex = self._codes.setdefault(operator.opcodeIndex, len(self._codes))
        operator.debugMetadataIndex = -1
        if operator.mutatingVariableInputs is not None and not any(operator.mutatingVariableInputs):
            operator.mutatingVariableInputs = None
        return operator

    def _metadata(self, offsets: Sequence[int]) -> list[schema.MetadataT]:
        kept = []
        if offsets:
            plan = np.array([_PLAN_VERSION, 0, len(offsets), *offsets], "<i4").tobytes()
            index = self._buffers.setdefault(plan, len(self._buffers))
            kept.append(schema.MetadataT(name=_flatbuffer.PLAN.decode(), buffer=index))
        for i in range(self._old.MetadataLength()):
            entry = self._old.Metadata(i)
            if entry.Name() in _METADATA_KEPT:
                data = self._old.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
                index = self._buffers.setdefault(data, len(self._buffers))
                kept.append(schema.MetadataT(name=entry.Name().decode(), buffer=index))
        return kept


def _tensors_without_scales(network: Network) -> set[int]:
    """Biases whose scales no kernel reads."""
    biases = {
        operator.inputs[2]
        for operator in network.operators
        if operator.name in _BIAS_SCALES_UNREAD and len(operator.inputs) > 2
    }
    return {i for i in biases if i != -1 and network.tensors[i].data is not None}
