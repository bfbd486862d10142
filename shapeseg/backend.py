"""TensorFlow and Keras, set up in one place. Import them from here."""

import os
import random
import sys
import threading
from contextlib import contextmanager

os.environ["KERAS_BACKEND"] = "jax" if os.environ.get("KERAS_BACKEND") == "jax" else "tensorflow"  # whatever other programs use
if "tensorflow" not in sys.modules:  # TensorFlow reads these once, when it is imported
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # faster kernels, off by default on some processors
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


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
        from keras import ops
        if keras.config.backend() == "tensorflow":
            import tensorflow as tf
            from tensorflow.python.framework import config  # what switches determinism off again is not exported
            tf.transpose(tf.constant([[0]]))  # the first operation says what the processor lacks
        else:  # JAX: scenes, network, loss and optimizer work with it, `train` and `predict` do not
            tf = None
finally:
    os.dup2(stderr, 2)
    os.close(stderr)

LOCK, BEFORE = threading.Lock(), []  # what each block in force found


@contextmanager
def deterministic():
    """Same seed, same weights to the bit, within this block, also in several threads."""
    def switch(operations, graph, log_level):
        (config.enable_op_determinism if operations else config.disable_op_determinism)()
        # The graph optimizer runs independent branches in an order that changes from process to process.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": graph})
        tf.get_logger().setLevel(log_level)
    with LOCK:
        graph = tf.config.optimizer.get_experimental_options().get("disable_meta_optimizer", False)
        BEFORE.append((config.is_op_determinism_enabled(), graph, tf.get_logger().level))
        switch(True, True, "ERROR")  # several networks in one notebook are no mistake to warn of
    try:
        yield
    finally:
        with LOCK:
            first, _ = BEFORE[0], BEFORE.pop()
            if not BEFORE:  # the last to leave restores what the first found
                switch(*first)
