# make demo: set up, run the whole way, write build/demo/report.html
# make test: set up, check (ruff, mypy, import-linter), then the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test check fast slow format clean

demo: $(READY)
	$(BIN)/pdtool demo --out build/demo --force

test: check fast

# One pytest process a core: torch and ONNX Runtime are held to one thread each (tests/conftest.py).
fast: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

slow: $(READY)
	$(BIN)/python -m pytest -m slow

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Set up once; again only when the pinned versions or the package's needs change.
$(READY): constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
