"""The networks that people bring, untrained, with logits as outputs: what the benchmarks build.

The MLPerf Tiny networks are written after https://github.com/mlcommons/tiny, benchmark/training.
"""

import keras
from keras import applications, layers


def keyword_spotting(words: int = 12) -> keras.Model:
    """MLPerf Tiny: DS-CNN on 49 x 10 cepstral coefficients, 12 words."""
    x = inputs = keras.Input((49, 10, 1), name="coefficients")
    x = _conv(x, 64, (10, 4), strides=2, name="stem")
    x = layers.Dropout(0.2, name="stem_dropout")(x)
    for i in range(4):
        x = _depthwise_separable(x, 64, 1, f"block{i}")
    x = layers.Dropout(0.4, name="dropout")(x)
    x = layers.AveragePooling2D(x.shape[1:3], name="mean")(x)
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, layers.Dense(words, name="scores")(x), name="keyword_spotting")


def image_classification() -> keras.Model:
    """MLPerf Tiny: ResNet-8 on CIFAR-10."""
    x = inputs = keras.Input((32, 32, 3), name="image")
    x = _conv(x, 16, 3, name="stem")
    for i, (filters, strides) in enumerate([(16, 1), (32, 2), (64, 2)]):
        y = _conv(x, filters, 3, strides=strides, name=f"block{i}_1")
        y = layers.Conv2D(filters, 3, padding="same", name=f"block{i}_2")(y)
        y = layers.BatchNormalization(name=f"block{i}_2_bn")(y)
        if strides > 1:
            x = layers.Conv2D(filters, 1, strides=strides, name=f"block{i}_shortcut")(x)
        x = layers.ReLU(name=f"block{i}_relu")(layers.Add(name=f"block{i}_add")([x, y]))
    x = layers.AveragePooling2D(8, name="mean")(x)
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, layers.Dense(10, name="scores")(x), name="image_classification")


def small_vgg() -> keras.Model:
    """After VGG: 3 x 3 convolutions and pooling, twice as wide at half the size; 28 x 28 images."""
    x = inputs = keras.Input((28, 28, 1), name="image")
    for i, widths in enumerate([(16,), (32,), (64, 64)]):
        x = layers.MaxPooling2D(2, name=f"pool{i}")(x) if i else x
        for j, filters in enumerate(widths):
            x = _conv(x, filters, 3, name=f"conv{i}_{j}")
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(inputs, layers.Dense(10, name="scores")(x), name="small_vgg")


def visual_wake_words() -> keras.Model:
    """MLPerf Tiny: MobileNet V1, a quarter as wide, 96 x 96, person or not."""
    x = inputs = keras.Input((96, 96, 3), name="image")
    x = _conv(x, 8, 3, strides=2, name="stem")
    widths = [16, 32, 32, 64, 64, 128, 128, 128, 128, 128, 128, 256, 256]
    for i, filters in enumerate(widths):
        x = _depthwise_separable(x, filters, 2 if i in (1, 3, 5, 11) else 1, f"block{i}")
    x = layers.AveragePooling2D(x.shape[1:3], name="mean")(x)
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, layers.Dense(2, name="scores")(x), name="visual_wake_words")


def anomaly_detection() -> keras.Model:
    """MLPerf Tiny: an autoencoder of dense layers on 5 frames of 128 mel bands."""
    x = inputs = keras.Input((640,), name="frames")
    for i, units in enumerate([128, 128, 128, 128, 8, 128, 128, 128, 128]):
        x = layers.Dense(units, name=f"dense{i}")(x)
        x = layers.BatchNormalization(name=f"dense{i}_bn")(x)
        x = layers.ReLU(name=f"dense{i}_relu")(x)
    return keras.Model(inputs, layers.Dense(640, name="frames_again")(x), name="anomaly_detection")


def streaming_wake_word() -> keras.Model:
    """MLPerf Tiny: separable convolutions along 30 frames of 40 mel bands; one word, or none."""
    x = inputs = keras.Input((30, 1, 40), name="frames")
    for i, (frames, filters) in enumerate([(3, 128), (5, 128), (10, 128), (15, 32)]):
        size, name = (frames, 1), f"block{i}"
        x = layers.DepthwiseConv2D(size, use_bias=False, name=f"{name}_depthwise")(x)
        x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_pointwise")(x)
        x = layers.BatchNormalization(name=f"{name}_bn")(x)
        x = layers.ReLU(name=f"{name}_relu")(x)
        x = layers.Dropout(0.2, name=f"{name}_dropout")(x)
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, layers.Dense(3, name="scores")(x), name="streaming_wake_word")


def wrist_motion() -> keras.Model:
    """Two seconds of a 3-axis accelerometer, 52 samples: convolutions along time, 4 activities."""
    x = inputs = keras.Input((52, 1, 3), name="motion")
    for i, filters in enumerate([24, 32, 48, 64]):
        x = _conv(x, filters, (5, 1), strides=(2, 1) if i else 1, name=f"conv{i}")
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(inputs, layers.Dense(4, name="scores")(x), name="wrist_motion")


def time_series() -> keras.Model:
    """Gestures from a 6-axis sensor: causal and separable 1-D convolutions, then a GRU."""
    x = inputs = keras.Input((128, 6), name="motion")
    for i, filters in enumerate([32, 48, 64]):
        x = layers.Conv1D(filters, 5, padding="causal", dilation_rate=2**i, name=f"conv{i}")(x)
        x = layers.BatchNormalization(name=f"conv{i}_bn")(x)
        x = layers.ReLU(name=f"conv{i}_relu")(x)
    x = layers.SeparableConv1D(64, 5, padding="same", activation="relu", name="separable")(x)
    x = layers.MaxPooling1D(4, name="pool")(x)
    x = layers.GRU(32, unroll=True, name="gru")(x)
    x = layers.Dense(32, activation="relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(6, name="scores")(x), name="time_series")


def unet() -> keras.Model:
    """Segmentation: concatenations across the levels, transposed convolutions upwards."""
    x = inputs = keras.Input((64, 64, 1), name="image")
    across = []
    for i, filters in enumerate([16, 32, 64]):
        x = _conv(_conv(x, filters, 3, name=f"down{i}_1"), filters, 3, name=f"down{i}_2")
        across.append(x)
        x = layers.MaxPooling2D(name=f"down{i}_pool")(x)
    x = _conv(x, 96, 3, name="bottom")
    for i, filters in enumerate([64, 32, 16]):
        x = layers.Conv2DTranspose(filters, 2, strides=2, name=f"up{i}")(x)
        x = layers.Concatenate(name=f"up{i}_concat")([x, across.pop()])
        x = _conv(_conv(x, filters, 3, name=f"up{i}_1"), filters, 3, name=f"up{i}_2")
    return keras.Model(inputs, layers.Conv2D(3, 1, name="scores")(x), name="unet")


def autoencoder() -> keras.Model:
    """Images through a code of 32 numbers: Flatten, Dense, Reshape."""
    x = inputs = keras.Input((32, 32, 1), name="image")
    for i, filters in enumerate([16, 32]):
        x = _conv(x, filters, 3, strides=2, name=f"encode{i}")
    x = layers.Dense(32, name="code")(layers.Flatten(name="flatten")(x))
    x = layers.Dense(8 * 8 * 32, activation="relu", name="decode")(x)
    x = layers.Reshape((8, 8, 32), name="unflatten")(x)
    for i, filters in enumerate([32, 16]):
        x = layers.Conv2DTranspose(filters, 3, strides=2, padding="same", name=f"decode{i}")(x)
        x = layers.ReLU(name=f"decode{i}_relu")(layers.BatchNormalization(name=f"decode{i}_bn")(x))
    x = layers.Conv2D(1, 3, padding="same", name="image_again")(x)
    return keras.Model(inputs, x, name="autoencoder")


def vgg16(width: float = 1.0) -> keras.Model:
    """VGG-16 with BatchNorm for CIFAR-10: 13 convolutions and one dense layer."""
    x = inputs = keras.Input((32, 32, 3), name="image")
    for stage, (filters, count) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]):
        for i in range(count):
            x = _conv(x, round(filters * width), 3, name=f"conv{stage}_{i}")
        x = layers.MaxPooling2D(name=f"pool{stage}")(x)
    x = layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, layers.Dense(10, name="scores")(x), name="vgg16")


def resnet(depth: int, width: float = 1.0) -> keras.Model:
    """ResNet for CIFAR-10, with 1 x 1 convolutions where a shortcut changes its shape."""
    x = inputs = keras.Input((32, 32, 3), name="image")
    x = _conv(x, round(16 * width), 3, name="stem")
    for stage, base in enumerate((16, 32, 64)):
        for block in range((depth - 2) // 6):
            name, filters = f"block{stage}_{block}", round(base * width)
            strides = 2 if stage and not block else 1
            y = _conv(x, filters, 3, strides=strides, name=f"{name}_1")
            y = layers.Conv2D(filters, 3, padding="same", name=f"{name}_2")(y)
            y = layers.BatchNormalization(name=f"{name}_2_bn")(y)
            if strides == 2:
                x = layers.Conv2D(filters, 1, strides=2, name=f"{name}_shortcut")(x)
            x = layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, y]))
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(inputs, layers.Dense(10, name="scores")(x), name=f"resnet{depth}")


def _conv(
    x: keras.KerasTensor, filters: int, size: int | tuple, name: str, strides: int | tuple = 1
) -> keras.KerasTensor:
    x = layers.Conv2D(filters, size, strides=strides, padding="same", name=name)(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def _depthwise_separable(
    x: keras.KerasTensor, filters: int, strides: int, name: str
) -> keras.KerasTensor:
    x = layers.DepthwiseConv2D(3, strides=strides, padding="same", name=f"{name}_depthwise")(x)
    x = layers.BatchNormalization(name=f"{name}_depthwise_bn")(x)
    x = layers.ReLU(name=f"{name}_depthwise_relu")(x)
    return _conv(x, filters, 1, name=f"{name}_pointwise")


# The least input that each accepts is 32, 71 or 75 pixels; these are a little above.
APPLICATIONS = {
    "VGG16": (applications.VGG16, 64),
    "ResNet50": (applications.ResNet50, 64),
    "ResNet50V2": (applications.ResNet50V2, 64),
    "DenseNet121": (applications.DenseNet121, 64),
    "InceptionV3": (applications.InceptionV3, 96),
    "Xception": (applications.Xception, 96),
    "MobileNet": (applications.MobileNet, 64),
    "MobileNetV2": (applications.MobileNetV2, 64),
    "MobileNetV3Small": (applications.MobileNetV3Small, 64),
    "MobileNetV3Large": (applications.MobileNetV3Large, 64),
    "EfficientNetB0": (applications.EfficientNetB0, 64),
    "EfficientNetV2B0": (applications.EfficientNetV2B0, 64),
    "NASNetMobile": (applications.NASNetMobile, 64),
    "ConvNeXtTiny": (applications.ConvNeXtTiny, 64),
}

MLPERF_TINY = {
    "MLPerf Tiny KWS (DS-CNN)": keyword_spotting,
    "MLPerf Tiny IC (ResNet-8)": image_classification,
    "MLPerf Tiny VWW (MobileNet V1)": visual_wake_words,
    "MLPerf Tiny AD (autoencoder)": anomaly_detection,
    "MLPerf Tiny SWW (1-D separable)": streaming_wake_word,
}

OTHERS = {
    **MLPERF_TINY,
    "Time series (1-D CNN, GRU)": time_series,
    "U-Net": unet,
    "Convolutional autoencoder": autoencoder,
}

NAMES = [*APPLICATIONS, *OTHERS]


def build(name: str) -> keras.Model:
    """A fresh network of that name."""
    if name in OTHERS:
        return OTHERS[name]()
    make, pixels = APPLICATIONS[name]
    return make(
        weights=None, input_shape=(pixels, pixels, 3), classes=10, classifier_activation=None
    )
