# kbroker: everything a developer does, one word each. Needs Python 3.11+ with venv; uv is used when present.
# PYTHON chooses the interpreter, ARGS passes arguments on: make run ARGS="--listen 127.0.0.1:19092"

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
INSTALL := $(if $(UV),$(UV) pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet --disable-pip-version-check)
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test check fix compat bench bench-codec fuzz docs wheel clean

run: $(VENV)/run.stamp
	$(BIN)/kbroker start $(ARGS)

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/test.stamp
	$(BIN)/ruff check --output-format concise .
	$(BIN)/ruff format --quiet --diff .
	$(BIN)/mypy -p kbroker -p kafka_wire
	$(BIN)/python -m pytest tests/test_tidy.py

fix: $(VENV)/test.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

compat: $(VENV)/run.stamp
	$(BIN)/python compat/run.py $(if $(TARGET),--target $(TARGET)) $(ARGS)

bench: $(VENV)/run.stamp
	-$(INSTALL) confluent-kafka
	$(BIN)/python compat/perf/bench.py $(ARGS)

bench-codec: $(VENV)/test.stamp
	$(BIN)/python compat/codec_bench.py

fuzz: $(VENV)/test.stamp
	$(INSTALL) atheris
	$(BIN)/python -m tests.fuzz.run $(ARGS)

docs: $(VENV)/test.stamp
	$(BIN)/python tools/reference_docs.py

wheel: $(VENV)/test.stamp
	$(INSTALL) build
	$(BIN)/python -m build --wheel --outdir dist .

clean:
	rm -rf $(VENV) .compat build dist

$(BIN)/python:
	$(if $(UV),$(UV) venv --quiet $(VENV),$(PYTHON) -m venv $(VENV))

$(VENV)/run.stamp: pyproject.toml | $(BIN)/python
	$(INSTALL) --editable ".[cli]"
	@$(BIN)/python -m compileall -q $(VENV) kbroker protocol >/dev/null 2>&1 || true
	@touch $@

$(VENV)/test.stamp: pyproject.toml | $(VENV)/run.stamp
	$(INSTALL) --editable ".[cli,test,check]"
	@touch $@

.PHONY: compat-suites
compat-suites: $(VENV)/run.stamp
	$(BIN)/python compat/suites/run.py $(if $(TARGET),--target $(TARGET)) $(ARGS)
