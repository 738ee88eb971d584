"""IMPALA as microservices: the library of all services."""

import os

# ONNX Runtime's own wheels report its use to its makers, and leave a file with the number of the
# machine, unless this is there before the first import. Nobody who trains asked for it.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
