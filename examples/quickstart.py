"""The whole road in some twenty lines, on handwritten digits: python examples/quickstart.py"""

import keras

import kprune
from kprune.demo import digits_network, load_digits

(x, y), (x_test, y_test) = load_digits()  # x: (samples, 8, 8, 1) float32 in [0, 1]
model = digits_network()  # any Sequential or functional model, trained or not

masked = kprune.add_masks(model)  # same outputs, one gate per channel
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
masked.compile("adam", loss, metrics=["accuracy"], jit_compile=False)
prune = kprune.PruneCallback(kprune.Budget(macs=0.25))
masked.fit(x, y, epochs=40, validation_data=(x_test, y_test), callbacks=[prune], verbose=2)

small = kprune.slim(masked)  # same outputs, channels really gone
kprune.summary(small, baseline=model)

flatbuffer = kprune.to_tflite(small, representative_data=x[:200])
scores = kprune.run_tflite(flatbuffer, x_test, interpreter="tflm")
print(f"int8: {len(flatbuffer):,} bytes, accuracy {(scores.argmax(-1) == y_test).mean():.3f}")
kprune.write_files(kprune.to_c_array(flatbuffer, name="digits"), "firmware/tflm")
kprune.write_files(kprune.to_c(flatbuffer, name="digits"), "firmware/c")  # needs no interpreter
run = kprune.simulate("firmware/c", x_test[:10], board="stm32f405")  # in QEMU
print(f"{run.instructions:,} instructions, the same bytes: {(run.scores == scores[:10]).all()}")
