"""TensorFlow and Keras, set up in one place. Import them from here."""

import os
import random
import sys
import threading
from contextlib import contextmanager

if "tensorflow" not in sys.modules:  # TensorFlow reads these once, when it is imported
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # faster kernels, off by default on some processors
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")


@contextmanager
def private_random(seed=None):
    """Keras draws the seeds of new layers from Python's global stream, which stays the caller's."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


stderr = os.dup(2)
try:  # TensorFlow's C++ writes to the file itself while it starts, before its log level holds
    with open(os.devnull, "w") as nowhere, private_random():
        os.dup2(nowhere.fileno(), 2)
        import keras
        import tensorflow as tf
        from keras import ops
        from tensorflow.python.framework import config  # what switches determinism off again is not exported

        tf.transpose(tf.constant([[0]]))  # the first operation says what the processor lacks
except (ImportError, ValueError) as error:
    raise ImportError(f"Keras and TensorFlow cannot be imported ({error}); KERAS_BACKEND is {os.environ.get('KERAS_BACKEND')!r}: set it "
                      "to tensorflow, or if it is that: pip install -e . -c constraints.txt") from error
finally:
    os.dup2(stderr, 2)
    os.close(stderr)
for name, needed in dict(backend="tensorflow", image_data_format="channels_last", floatx="float32", max_epochs=None,
                         max_steps_per_epoch=None).items():
    if (value := getattr(keras.config, name)()) != needed:
        raise ImportError(f"Keras' {name} is {value!r}, and shapeseg needs {needed!r}: see KERAS_{name.upper()}, ~/.keras/keras.json")

LOCK, BEFORE = threading.Lock(), []  # what each block in force found


@contextmanager
def deterministic():
    """Same seed, same weights to the bit, within this block, also in several threads; SHAPESEG_DETERMINISTIC=0 switches it off."""
    def switch(operations, graph, log_level):
        (config.enable_op_determinism if operations else config.disable_op_determinism)()
        # The graph optimizer runs independent branches in an order that changes from process to process.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": graph})
        tf.get_logger().setLevel(log_level)

    with LOCK:
        graph = tf.config.optimizer.get_experimental_options().get("disable_meta_optimizer", False)
        before, on = (config.is_op_determinism_enabled(), graph, tf.get_logger().level), os.environ.get("SHAPESEG_DETERMINISTIC") != "0"
        switch(on or before[0], on or before[1], "ERROR")  # several networks in one notebook are no mistake to warn of
        BEFORE.append(before)
    try:
        yield
    finally:
        with LOCK:
            first, _ = BEFORE[0], BEFORE.pop()
            if not BEFORE:  # the last to leave restores what the first found
                switch(*first)
