// Stand-in for TensorFlow Lite Micro: enough to compile the adapter and see what it calls.
#pragma once

// A library built without error strings, as a release is, has no such function.
#ifdef TF_LITE_STRIP_ERROR_STRINGS
#define MicroPrintf(...)
#else
void MicroPrintf(const char *format, ...);
#endif

namespace tflite {

template <int kCount>
class MicroMutableOpResolver
{
  public:
    volatile int added = 0; // so that no compiler proves the complaint below unneeded
    int AddAdd() { return ++added; }
    int AddConv2D() { return ++added; }
    int AddDepthwiseConv2D() { return ++added; }
    int AddFullyConnected() { return ++added; }
    int AddMean() { return ++added; }
    int AddSoftmax() { return ++added; }
    bool Complete() const
    {
        if (added != kCount) {
            MicroPrintf("%d operators of %d", added, kCount);
        }
        return added == kCount;
    }
};

} // namespace tflite
