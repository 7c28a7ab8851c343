// Stand-in for TensorFlow Lite Micro: enough to compile the adapter and see what it calls.
#pragma once

namespace tflite {

template <int kCount>
class MicroMutableOpResolver
{
  public:
    int added = 0;
    int AddAdd() { return ++added; }
    int AddConv2D() { return ++added; }
    int AddDepthwiseConv2D() { return ++added; }
    int AddFullyConnected() { return ++added; }
    int AddMean() { return ++added; }
    int AddSoftmax() { return ++added; }
    bool Complete() const { return added == kCount; }
};

} // namespace tflite
