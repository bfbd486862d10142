"""TensorFlow and Keras, set up for the machine they find. Import them from here."""

import os
import sys
from contextlib import contextmanager

if "tensorflow" not in sys.modules:  # TensorFlow reads these once, when it is imported
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # faster kernels, off by default on some processors
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")



@contextmanager
def _quiet():
    """Silence what TensorFlow's C++ says while it starts, before its log level holds."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


try:
    with _quiet():
        import keras
        import tensorflow as tf

        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
        tf.transpose(tf.constant([[0]]))  # the first one says once what the processor lacks
except ImportError as error:
    raise ImportError(f"TensorFlow could not be imported ({error}); install what shapeseg was tested with: "
                      "pip install -e . -c constraints.txt") from error

# Same seed, same weights to the bit. The graph optimizer has to be off for it, too: it runs
# independent branches in an order that changes from process to process.
tf.config.experimental.enable_op_determinism()
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
tf.get_logger().setLevel("ERROR")  # training several networks in one notebook is no mistake
