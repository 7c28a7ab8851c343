"""Flatbuffer → everything that is known before anything is flashed."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kprune import arena as _arena
from kprune import flatbuffer as _flatbuffer
from kprune.arena import Arena, Plan
from kprune.boards import BOARDS, TFLM_FLASH_BYTES, TFLM_RAM_BYTES, Board
from kprune.flatbuffer import Network, Operator, Tensor

# The same for MLPerf Tiny's autoencoder, which has no convolutions (32,237 bytes).
_DENSE_RUNTIME_BYTES = 32 * 1024

_BAR_WIDTH = 10


@dataclasses.dataclass(frozen=True)
class Step:
    """One operator of the network.

    Attributes:
        operator: Its kind, such as `"CONV_2D"`.
        name: Of the tensor it makes, as the converter called it.
        shape: Of the tensor it makes.
        macs: Multiply-accumulates of one run.
        weight_bytes: Its constants.
        alive_bytes: RAM that tensors and scratch buffers hold while it runs.
    """

    operator: str
    name: str
    shape: tuple[int, ...]
    macs: int
    weight_bytes: int
    alive_bytes: int


@dataclasses.dataclass(frozen=True)
class Fit:
    """What a board would hold, its program included, and what it has."""

    board: Board
    ram_bytes: int
    flash_bytes: int

    @property
    def is_enough(self) -> bool:
        return self.ram_bytes <= self.board.ram_bytes and self.flash_bytes <= self.board.flash_bytes


@dataclasses.dataclass(frozen=True, eq=False)
class Inspection:
    """What `inspect` found; `str()` of it is the report.

    Attributes:
        file_bytes: Size of the flatbuffer.
        network: Its tensors and operators.
        steps: One per operator, in the order in which they run.
        plan: Who holds memory when.
        arena: RAM for TensorFlow Lite Micro on a 32-bit core.
        flash: Bytes of the file by part; they add up to `file_bytes`.
        runtime_bytes: Flash allowed for TensorFlow Lite Micro and CMSIS-NN.
        fits: One per board of the table.
    """

    file_bytes: int
    network: Network
    steps: tuple[Step, ...]
    plan: Plan
    arena: Arena
    flash: dict[str, int]
    runtime_bytes: int
    fits: tuple[Fit, ...]

    @property
    def macs(self) -> int:
        return sum(step.macs for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain data, for JSON."""
        ends = {"inputs": self.network.inputs, "outputs": self.network.outputs}
        return {
            "file_bytes": self.file_bytes,
            "macs": self.macs,
            "operators": dict(Counter(step.operator for step in self.steps)),
            **{end: [_tensor_dict(self.network.tensors[i]) for i in ends[end]] for end in ends},
            "steps": [dataclasses.asdict(step) for step in self.steps],
            "arena": {**dataclasses.asdict(self.arena), "total": self.arena.total},
            "buffers": [
                {**dataclasses.asdict(buffer), "offset": offset, "tensor": tensor}
                for buffer, offset, tensor in zip(
                    self.plan.buffers, self.plan.offsets, self.plan.tensors, strict=True
                )
            ],
            "flash": self.flash,
            "runtime_bytes": self.runtime_bytes,
            "boards": [
                {
                    "board": fit.board.name,
                    "fits": fit.is_enough,
                    "ram_bytes": fit.ram_bytes,
                    "flash_bytes": fit.flash_bytes,
                }
                for fit in self.fits
            ],
        }

    def __str__(self) -> str:
        sections = [
            _ends_text(self),
            _steps_text(self),
            _arena_text(self),
            _flash_text(self),
            _boards_text(self),
        ]
        return "\n\n".join("\n".join(lines) for lines in sections)


def inspect(flatbuffer: bytes) -> Inspection:
    """Tell what a flatbuffer needs: computation, RAM over time, flash, and which boards have it.

    Nothing is run. RAM is that of TensorFlow Lite Micro: activations exactly, its records within
    a bound (see `kprune.arena`).

    Args:
        flatbuffer: The content of a `.tflite` file.

    Returns:
        The figures; print them, or take `to_dict()`.

    Raises:
        FlatbufferError: `flatbuffer` is no sound TensorFlow Lite flatbuffer.
        UnsupportedOpError: The network has further subgraphs.
    """
    network = _flatbuffer.read(flatbuffer)
    plan = _arena.plan(network)
    arena = _arena.arena(network)
    runtime_bytes = _runtime_bytes(network)
    # The host has no limits worth a bar.
    boards = [board for board in BOARDS.values() if board.ram_bytes]
    return Inspection(
        file_bytes=len(flatbuffer),
        network=network,
        steps=tuple(_step(place, network, plan) for place in range(len(network.operators))),
        plan=plan,
        arena=arena,
        flash=_flash_parts(network, len(flatbuffer)),
        runtime_bytes=runtime_bytes,
        fits=tuple(
            Fit(
                board=board,
                ram_bytes=board.reserve.ram_bytes + TFLM_RAM_BYTES + arena.total,
                flash_bytes=board.reserve.flash_bytes + runtime_bytes + len(flatbuffer),
            )
            for board in boards
        ),
    )


def plot_arena(inspection: Inspection, path: Path | str) -> None:
    """Draw who holds the arena when: operators to the right, bytes upwards.

    Args:
        inspection: As from `inspect`.
        path: The picture to write; the suffix chooses the format (.png, .svg, .pdf).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plan, steps = inspection.plan, inspection.steps
    figure = Figure(figsize=(max(6.0, 0.4 * len(steps) + 2), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for buffer, offset, index in zip(plan.buffers, plan.offsets, plan.tensors, strict=True):
        axes.bar(
            (buffer.first + buffer.last) / 2,
            buffer.size,
            width=buffer.last - buffer.first + 0.9,
            bottom=offset,
            color="lightgray" if index is None else f"C{index % 10}",
            edgecolor="white",
        )
    axes.axhline(plan.peak, color="black", linewidth=0.8, linestyle="--")
    axes.annotate(f"{plan.peak:,} bytes", (0, plan.peak), xytext=(0, 3), textcoords="offset points")
    axes.set_xticks(range(len(steps) + 1), ["input", *(s.operator for s in steps)], rotation=90)
    axes.set_ylabel("bytes from the start of the arena")
    axes.set_ylim(0, 1.1 * max(plan.peak, 1))
    figure.savefig(path)


def macs(operator: Operator, network: Network) -> int:
    """Multiply-accumulates of one run of an operator: convolutions and dense layers."""
    rule = _MACS.get(operator.name)
    return rule(operator, network) if rule else 0


def _convolution_macs(operator: Operator, network: Network) -> int:
    output, weights = network.tensors[operator.outputs[0]], network.tensors[operator.inputs[1]]
    return output.size * math.prod(weights.shape[1:])


def _depthwise_macs(operator: Operator, network: Network) -> int:
    output, weights = network.tensors[operator.outputs[0]], network.tensors[operator.inputs[1]]
    return output.size * math.prod(weights.shape[1:3])


def _transposed_macs(operator: Operator, network: Network) -> int:
    source, weights = network.tensors[operator.inputs[2]], network.tensors[operator.inputs[1]]
    return source.size * math.prod(weights.shape[:3])


_MACS = {
    "CONV_2D": _convolution_macs,
    "DEPTHWISE_CONV_2D": _depthwise_macs,
    "FULLY_CONNECTED": _convolution_macs,
    "TRANSPOSE_CONV": _transposed_macs,
}


def _step(place: int, network: Network, plan: Plan) -> Step:
    operator = network.operators[place]
    read = [network.tensors[i] for i in operator.inputs if i != -1]
    made = network.tensors[operator.outputs[0]] if operator.outputs else None
    return Step(
        operator=operator.options.get("custom_code") or operator.name,
        name=made.name if made else "",
        shape=made.shape if made else (),
        macs=macs(operator, network),
        weight_bytes=sum(t.num_bytes for t in read if t.data is not None),
        alive_bytes=sum(b.size for b in plan.buffers if b.first <= place + 1 <= b.last),
    )


def _flash_parts(network: Network, file_bytes: int) -> dict[str, int]:
    """Bytes of the file by what they are for; what several tensors share counts once."""
    graphs = (network, *network.subgraphs)
    tensors = [tensor for graph in graphs for tensor in graph.tensors]
    constants = [t.data for t in tensors if t.data is not None]
    parts: dict[str, list[np.ndarray]] = {
        "weights": [data for data in constants if data.itemsize == 1],
        "biases and other constants": [data for data in constants if data.itemsize > 1],
        "scales": [t.scale for t in tensors],
        "zero points": [t.zero_point for t in tensors],
    }
    sizes = {part: _distinct_bytes(arrays) for part, arrays in parts.items()}
    sizes["names"] = sum(len(t.name.encode()) for t in tensors)
    return {**sizes, "structure": file_bytes - sum(sizes.values())}


def _distinct_bytes(arrays: list[np.ndarray]) -> int:
    # All are views into the file, so an address tells what is stored once.
    return sum({a.__array_interface__["data"][0]: a.nbytes for a in arrays if a.size}.values())


def _runtime_bytes(network: Network) -> int:
    has_convolution = any("CONV" in operator.name for operator in network.operators)
    return TFLM_FLASH_BYTES if has_convolution else _DENSE_RUNTIME_BYTES


def _tensor_dict(tensor: Tensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype),
        "scale": [float(scale) for scale in tensor.scale],
        "zero_point": [int(zero) for zero in tensor.zero_point],
    }


# --- The report ---------------------------------------------------------------------------------


def _ends_text(inspection: Inspection) -> list[str]:
    network = inspection.network
    lines = []
    for end, indices in (("input", network.inputs), ("output", network.outputs)):
        for tensor in (network.tensors[i] for i in indices):
            quantized = ""
            if len(tensor.scale) == 1:
                quantized = f", scale {tensor.scale[0]:.6g}, zero point {tensor.zero_point[0]}"
            lines.append(f"{end:7} {_dims(tensor.shape)} {tensor.dtype}{quantized}")
    return lines


def _steps_text(inspection: Inspection) -> list[str]:
    rows = [("", "operator", "output", "MACs", "weights", "RAM in use")]
    for place, step in enumerate(inspection.steps):
        macs, weights, alive = (
            f"{number:,}" for number in (step.macs, step.weight_bytes, step.alive_bytes)
        )
        rows.append((str(place), step.operator, _dims(step.shape), macs, weights, alive))
    weight_bytes = sum(step.weight_bytes for step in inspection.steps)
    rows.append(("", "all", "", f"{inspection.macs:,}", f"{weight_bytes:,}", ""))
    return _aligned_rows(rows, "><<>>>")


def _arena_text(inspection: Inspection) -> list[str]:
    plan, network = inspection.plan, inspection.network
    rows = [("RAM over time", "bytes", "at", "from", "to")]
    order = sorted(range(len(plan.buffers)), key=lambda i: (plan.buffers[i].first, i))
    for i in order:
        buffer, index = plan.buffers[i], plan.tensors[i]
        name = "scratch" if index is None else network.tensors[index].name or f"tensor {index}"
        ends = (_moment(inspection, buffer.first), _moment(inspection, buffer.last))
        rows.append((_shortened(name), f"{buffer.size:,}", f"{plan.offsets[i]:,}", *ends))
    arena = inspection.arena
    return [
        *_aligned_rows(rows, "<>><<"),
        f"arena: {arena.low:,} activations{_start_text(arena)}"
        f" + {arena.tail:,} records of TensorFlow Lite Micro"
        f" + {arena.margin:,} for CMSIS-NN = {arena.total:,} bytes",
    ]


def _start_text(arena: Arena) -> str:
    return f" ({arena.head:,}) and the start before" if arena.start > arena.head else ""


def _flash_text(inspection: Inspection) -> list[str]:
    rows = [("flash by part", "bytes", "")]
    for part, size in inspection.flash.items():
        rows.append((part, f"{size:,}", f"{size / inspection.file_bytes:.1%}"))
    rows.append(("file", f"{inspection.file_bytes:,}", ""))
    return _aligned_rows(rows, "<>>")


def _boards_text(inspection: Inspection) -> list[str]:
    rows = [("board", "RAM", "Flash", "")]
    for fit in inspection.fits:
        ram = _bar(fit.ram_bytes, fit.board.ram_bytes)
        flash = _bar(fit.flash_bytes, fit.board.flash_bytes)
        rows.append((fit.board.name, ram, flash, "fits" if fit.is_enough else "too small"))
    return [
        *_aligned_rows(rows, "<<<<"),
        f"with the program of each board and {inspection.runtime_bytes:,} bytes for TensorFlow"
        " Lite Micro and CMSIS-NN",
    ]


def _bar(used: int, total: int) -> str:
    """PlatformIO's bar: `[====      ]  41.3% (used 13,533 of 32,768)`."""
    share = used / total
    filled = min(round(share * _BAR_WIDTH), _BAR_WIDTH)
    bar = "=" * filled + " " * (_BAR_WIDTH - filled)
    return f"[{bar}] {share:6.1%} (used {used:,} of {total:,})"


def _moment(inspection: Inspection, step: int) -> str:
    if step < 0:
        return "never"
    return f"{step - 1} {inspection.steps[step - 1].operator}" if step else "input"


def _dims(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _shortened(name: str, width: int = 40) -> str:
    name = "".join(c if c.isprintable() else "?" for c in name)
    return name if len(name) <= width else f"…{name[1 - width :]}"


def _aligned_rows(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{c:{s}{w}}" for c, s, w in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    ]
