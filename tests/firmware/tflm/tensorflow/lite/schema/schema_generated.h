#pragma once

#define TFLITE_SCHEMA_VERSION 3

namespace tflite {

struct Model {
    const void *bytes;
    int version() const { return 3; }
};

inline const Model *GetModel(const void *bytes)
{
    static Model model;
    model.bytes = bytes;
    return &model;
}

} // namespace tflite
