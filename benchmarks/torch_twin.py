"""The same network in PyTorch, for rivals that live there: same layers, same initial weights."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import torch
from keras import layers
from torch import nn

from kprune.graph import read_graph


class Twin(nn.Module):
    """What `model` computes, channels first. Raises KeyError for a kind of layer not known here."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        graph = read_graph(model)
        self.parts = nn.ModuleList(_TWINS[type(c.operation)](c.operation, c) for c in graph.calls)
        numbers = {id(keras.tree.flatten(graph.inputs)[0]): 0}
        self.reads = []
        for call in graph.calls:
            self.reads.append([numbers[id(t)] for t in call.inputs])
            numbers[id(call.outputs[0])] = len(numbers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tensors = [x]
        for part, reads in zip(self.parts, self.reads, strict=True):
            tensors.append(part(*(tensors[n] for n in reads)))
        return tensors[-1]


class _Add(nn.Module):
    def forward(self, *x: torch.Tensor) -> torch.Tensor:
        return torch.stack(x).sum(0) if len(x) > 2 else x[0] + x[1]


def _convolution(layer: Any, call: Any) -> nn.Module:
    kernel, *bias = layer.get_weights()
    depthwise = type(layer) is layers.DepthwiseConv2D
    # Keras: (height, width, in, out), or (height, width, in, 1); PyTorch: (out, in or 1, ...).
    kernel = kernel.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
    channels = call.inputs[0].shape[-1]
    made = nn.Conv2d(
        channels,
        kernel.shape[0],
        layer.kernel_size,
        layer.strides,
        groups=channels if depthwise else 1,
        bias=bool(bias),
    )
    _give(made.weight, kernel)
    if bias:
        _give(made.bias, bias[0])
    if layer.padding == "valid":
        return made
    sides = []
    for length, size, stride in zip(
        call.inputs[0].shape[1:3], layer.kernel_size, layer.strides, strict=True
    ):
        total = max((-(-length // stride) - 1) * stride + size - length, 0)
        sides = [total // 2, total - total // 2, *sides]  # PyTorch counts from the last axis.
    return nn.Sequential(nn.ZeroPad2d(tuple(sides)), made)


def _normalization(layer: layers.BatchNormalization, call: Any) -> nn.Module:
    made = nn.BatchNorm2d(call.inputs[0].shape[-1], layer.epsilon, 1 - layer.momentum)
    for target, value in zip(
        (made.weight, made.bias, made.running_mean, made.running_var),
        layer.get_weights(),
        strict=True,
    ):
        _give(target, value)
    return made


def _dense(layer: layers.Dense, call: Any) -> nn.Module:
    kernel, bias = layer.get_weights()
    made = nn.Linear(*kernel.shape)
    _give(made.weight, kernel.T)
    _give(made.bias, bias)
    return made


def _give(target: torch.Tensor, value: np.ndarray) -> None:
    with torch.no_grad():
        target.copy_(torch.from_numpy(np.ascontiguousarray(value)))


_TWINS: dict[type, Callable[[Any, Any], nn.Module]] = {
    layers.Conv2D: _convolution,
    layers.DepthwiseConv2D: _convolution,
    layers.BatchNormalization: _normalization,
    layers.Dense: _dense,
    layers.ReLU: lambda layer, call: nn.ReLU(),
    layers.Add: lambda layer, call: _Add(),
    layers.Dropout: lambda layer, call: nn.Dropout(layer.rate),
    layers.MaxPooling2D: lambda layer, call: nn.MaxPool2d(layer.pool_size, layer.strides),
    layers.AveragePooling2D: lambda layer, call: nn.AvgPool2d(layer.pool_size, layer.strides),
    layers.GlobalAveragePooling2D: lambda layer, call: nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ),
    # Only behind a pooling to one pixel, where the order of the axes makes no difference.
    layers.Flatten: lambda layer, call: nn.Flatten(),
}


def macs_of(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one sample, counted as kprune counts them."""
    found = []

    def count(part: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        places = output[0, 0].numel() if output.ndim == 4 else 1
        found.append(part.weight.numel() * places)

    weighted = [p for p in model.modules() if isinstance(p, nn.Conv2d | nn.Linear)]
    hooks = [p.register_forward_hook(count) for p in weighted]
    predict(model, np.zeros((1, *shape), "float32"))
    for hook in hooks:
        hook.remove()
    return sum(found)


def to_torch(x: np.ndarray) -> torch.Tensor:
    """Samples with their channels first."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def predict(model: nn.Module, x: np.ndarray) -> np.ndarray:
    model.eval()
    with torch.no_grad():
        parts = [model(to_torch(part)) for part in np.array_split(x, -(-len(x) // 250))]
    return torch.cat(parts).numpy()
