// Stand-in: the outputs are the first inputs.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "tensorflow/lite/schema/schema_generated.h"

enum TfLiteStatus { kTfLiteOk, kTfLiteError };

struct TfLiteTensor {
    union {
        int8_t *int8;
    } data;
};

namespace tflite {

class MicroInterpreter
{
  public:
    template <class Resolver>
    MicroInterpreter(const Model *model, const Resolver &resolver, uint8_t *arena, size_t size)
        : ready_(model->bytes && resolver.Complete() && size >= 256)
    {
        input_.data.int8 = reinterpret_cast<int8_t *>(arena);
        output_.data.int8 = input_.data.int8;
    }

    TfLiteStatus AllocateTensors() { return ready_ ? kTfLiteOk : kTfLiteError; }
    TfLiteTensor *input(int) { return &input_; }
    TfLiteTensor *output(int) { return &output_; }

    TfLiteStatus Invoke() { return kTfLiteOk; }

  private:
    bool ready_;
    TfLiteTensor input_, output_;
};

} // namespace tflite
