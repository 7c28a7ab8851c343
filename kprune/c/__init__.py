"""Flatbuffer in, C text out. Nothing in this folder imports Keras or TensorFlow."""
