"""pdtool: screen a camera's frames for adversarial inputs with pruned copies of the classifier.

The rooms (`pdtool.compress`, `pdtool.export`, `pdtool.runtime`, ...) are imported by name; this package
itself holds only what every room shares.
"""

__version__ = "0.1.0"
