"""The device side works where torch, TensorRT, cameras and even ONNX Runtime are not installed."""

import subprocess
import sys

BLOCKED = ["torch", "torchvision", "torch_pruning", "tensorrt", "pycuda", "onnxruntime", "onnx"]
BLOCKED += ["av", "cv2", "PIL", "scipy", "sklearn"]
BLOCK = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ImportError(f"{{name}} is blocked in this test")
sys.meta_path.insert(0, Blocker())
"""


def run(code, *arguments):
    return subprocess.run([sys.executable, "-c", BLOCK + code, *arguments], capture_output=True, text=True, check=False)


def test_the_runtime_imports_without_any_of_them():
    code = (
        "import pkgutil, importlib, pdtool.runtime, pdtool.calibration, pdtool.devices\n"
        "for room in (pdtool.runtime, pdtool.calibration, pdtool.devices):\n"
        "    for module in pkgutil.iter_modules(room.__path__, room.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "import pdtool.data, pdtool.images, pdtool.artifacts\n"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_help_of_every_command_works_without_any_of_them():
    code = (
        "import sys\nfrom pdtool.cli.main import app\n"
        "commands = [c.name for c in app.registered_commands] + [g.name for g in app.registered_groups]\n"
        "assert len(commands) >= 11, commands\n"
        "for command in [None, *commands]:\n"
        "    try:\n"
        "        app(([command] if command else []) + ['--help'])\n"
        "    except SystemExit as stop:\n"
        "        assert not stop.code, (command, stop.code)\n"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert "Screen every frame of SOURCE" in done.stdout


def test_a_missing_package_is_one_line_with_its_cure():
    code = (
        "import sys\nsys.argv = ['pdtool', 'compress', '--data', 'digits', '--weights', 'w', '--out', 'x']\n"
        "sys.meta_path.pop(0)\n"
        "class Gone:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError(f\"No module named '{name}'\", name=name)\n"
        "sys.meta_path.insert(0, Gone())\n"
        "from pdtool.cli.main import main\nmain()\n"
    )
    done = run(code)
    assert done.returncode == 4, (done.stdout, done.stderr)
    assert done.stderr.count("\n") == 1
    assert "pip install 'pdtool[compress]'" in done.stderr
