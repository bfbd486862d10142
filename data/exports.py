"""Does another library predict faster? The reference model, exported. Writes export_runs.csv.

    .venv/bin/pip install openvino onnxruntime tf2onnx      # none of them is needed for anything else
    .venv/bin/python data/exports.py

The libraries take turns, each after a pause. Differences are those of the probabilities from what `ss.predict` says.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep

import numpy as np
import pandas as pd
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

import shapeseg as ss
from shapeseg.backend import tf

FILE = Path(__file__).parent / "export_runs.csv"
REPEATS = 11


def main():
    model = ss.load_model("masks")
    images, _ = ss.draw_scenes(ss.ARTICLE, 0, range(16), "test")
    function = tf.function(lambda x: model(x, training=False), [tf.TensorSpec((None, None, None, 1), tf.uint8)])
    frozen = convert_variables_to_constants_v2(function.get_concrete_function())
    libraries = {"ss.predict": lambda x: ss.predict(model, x), "TensorFlow, one call": lambda x: function(x).numpy(),
                 "TensorFlow, frozen": lambda x: frozen(tf.constant(x))[0].numpy()}
    for export in (openvino, litert, onnx):
        try:
            libraries |= export(function, frozen, images)
        except Exception as error:
            print(f"{export.__name__}: {type(error).__name__}: {str(error)[:300]}")
    expected = ss.predict(model, images)
    rows = {name: dict(largest_difference=f"{np.abs(run(images) - expected).max():.0e}")
            for name, run in libraries.items()}
    for count in (1, 16):
        times = {name: [] for name in libraries}
        for _ in range(REPEATS + 2):
            for name, run in libraries.items():
                sleep(0.1)  # some libraries' threads go on spinning for a while
                start = perf_counter()
                run(images[:count])
                times[name].append(1e3 * (perf_counter() - start))
        for name in libraries:
            rows[name][f"images_{count}_ms"] = round(np.median(times[name][2:]), 1)
    table = pd.DataFrame(rows).T.rename_axis("library")
    table.to_csv(FILE)
    print(table)


def openvino(function, frozen, images):
    import openvino

    with TemporaryDirectory() as folder:
        tf.io.write_graph(frozen.graph.as_graph_def(), folder, "frozen.pb", as_text=False)
        network = openvino.convert_model(f"{folder}/frozen.pb")
    compiled = {f"OpenVINO, {kind}": openvino.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": kind})
                for kind in ("f32", "bf16")}
    return {name: lambda x, c=c: c(x)[0] for name, c in compiled.items()}


def litert(function, frozen, images):
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    interpreter = tf.lite.Interpreter(model_content=converter.convert(), num_threads=2)
    place = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(x):
        interpreter.resize_tensor_input(place[0], x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(place[0], x)
        interpreter.invoke()
        return interpreter.get_tensor(place[1])

    run(images[:1])
    return {"LiteRT": run}


def onnx(function, frozen, images):
    import onnxruntime
    import tf2onnx

    proto, _ = tf2onnx.convert.from_function(function, [tf.TensorSpec((None, None, None, 1), tf.uint8)], opset=17)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    run = lambda x: session.run(None, {session.get_inputs()[0].name: x})[0]
    run(images[:1])
    return {"ONNX Runtime": run}


if __name__ == "__main__":
    main()
