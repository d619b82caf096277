"""pdtool: screen a camera's frames for adversarial inputs with pruned copies of the classifier.

The rooms (`pdtool.compress`, `pdtool.export`, `pdtool.runtime`, ...) are imported by name; this package
itself holds only what every room shares.
"""

import os

__version__ = "0.1.0"

# ONNX Runtime 1.31 leaves a device id and a database in ~/.cache and names a collector; it reads this when it is first
# imported, here or in a child process. Set it to 0 before to have that.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
