"""A script: copies stdin to stdout without the notices that `keras_dl.notices` hides, line by line."""

import re
import signal
import sys

# Of TensorFlow's import, of what reads SavedModels, of the converters to LiteRT and ONNX, and of LiteRT's interpreter.
_FILES = (
    rb"(port|cudart_stub|cpu_utils|reader|loader|mlir_graph_optimization_pass|dump_mlir_util|devices|single_machine"
    rb"|flatbuffer_export|tf_tfl_flatbuffer_helpers)"
)
_NOTICES = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog|[IW]\d{4} [\d:.]+ +\d+ " + _FILES + rb"\.cc:"
    rb"|fully_quantize: \d|INFO: Created TensorFlow Lite XNNPACK delegate"
)

if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # which a terminal sends to all processes of a command
        signal.signal(number, signal.SIG_IGN)
    for line in sys.stdin.buffer:
        if not _NOTICES.match(line):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
