# kbroker: everything a developer does, one word each; `make help` lists them. Needs Python 3.11+ with venv; uv is used
# when present. PYTHON chooses the interpreter, JOBS how many tests run at once (if not said, one more than there are
# cores, for many a test waits for a broker), ARGS passes arguments on: make test ARGS=tests/log

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
INSTALL := $(if $(UV),$(UV) pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet --disable-pip-version-check)
PYTEST := $(BIN)/python -m pytest
SEEDS ?= 0-99
JOBS ?= $(shell echo $$(($$(nproc || getconf _NPROCESSORS_ONLN) + 1)))
AT_ONCE := -n $(JOBS) --dist worksteal
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run test test-fast test-pythons test-etcd check fix compat compat-cluster compat-odd compat-streams compat-filtering compat-tools compat-suites test-eos test-faults simulate bench bench-codec fuzz docs wheel clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/run.stamp  ## start a broker
	$(BIN)/kbroker start $(ARGS)

test: $(VENV)/test.stamp  ## all tests (below 5 minutes)
	$(PYTEST) $(AT_ONCE) --durations 25 $(ARGS)

test-fast: $(VENV)/test.stamp  ## the tests that take less than a second each
	$(PYTEST) $(AT_ONCE) -m "not slow and not java" $(ARGS)

test-pythons:  ## test-fast on every Python from 3.11 on that is found here
	tools/every_python.sh $(MAKE) test-fast

check: $(VENV)/test.stamp  ## form, types, floors, circles
	$(BIN)/ruff check --output-format concise .
	$(BIN)/ruff format --quiet --diff .
	$(BIN)/mypy -p kbroker -p kafka_wire
	$(PYTEST) tests/test_tidy.py

fix: $(VENV)/test.stamp  ## bring everything into form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

compat: $(VENV)/run.stamp  ## real clients (TARGET=HOST:PORT: another broker), some on a cluster, Kafka Streams, odd requests
	$(BIN)/python compat/run.py $(if $(TARGET),--target $(TARGET)) $(ARGS)
	$(if $(TARGET)$(ARGS),,$(BIN)/python compat/run.py --brokers 3 --clients confluent_kafka,java_4_3,kafka_python)
	$(if $(TARGET)$(ARGS),,$(BIN)/python compat/odd/run.py)
	$(if $(TARGET)$(ARGS),,$(BIN)/python compat/streams/run.py)

compat-cluster: $(VENV)/run.stamp  ## all real clients on a cluster of three
	$(BIN)/python compat/run.py --brokers 3 $(ARGS)

compat-odd: $(VENV)/run.stamp  ## odd requests, each answered as Apache Kafka answers it
	$(BIN)/python compat/odd/run.py $(ARGS)

compat-streams: $(VENV)/run.stamp  ## a Kafka Streams application under kills, exactly once
	$(BIN)/python compat/streams/run.py $(ARGS)

compat-filtering: $(VENV)/run.stamp  ## filtered consumers of three clients (ARGS=--kafka: on Apache Kafka)
	$(BIN)/python compat/filtering/run.py $(ARGS)

compat-tools: $(VENV)/run.stamp  ## Kafka's own tools for operators, against a cluster of three
	$(BIN)/python compat/kafka_tools.py $(ARGS)

compat-suites: $(VENV)/run.stamp  ## kafka-python's own integration tests
	$(BIN)/python compat/suites/run.py $(if $(TARGET),--target $(TARGET)) $(ARGS)

test-eos: $(VENV)/run.stamp  ## exactly once: 100,000 messages copied in transactions, broker and copier killed 10 times
	-$(INSTALL) confluent-kafka
	$(BIN)/python compat/exactly_once/run.py $(ARGS)

simulate: $(VENV)/test.stamp  ## clusters in the deterministic simulator (SEEDS=0-99, ARGS="--seconds 60")
	$(BIN)/python -m tests.simulation $(SEEDS) $(ARGS)

test-etcd: $(VENV)/test.stamp  ## the coordination store in real etcd servers: the contract, and what befalls them
	$(BIN)/python tools/etcd_servers.py
	KBROKER_TEST_ETCD=1 $(PYTEST) tests/cluster/stores -k etcd $(ARGS)

test-faults: $(VENV)/run.stamp  ## three brokers under load, killed, stopped, cut off, on failing disks (ARGS="--only F2 --repeat 3")
	-$(INSTALL) confluent-kafka
	$(BIN)/python compat/faults/run.py $(ARGS)

bench: $(VENV)/run.stamp  ## measure beside Apache Kafka
	-$(INSTALL) confluent-kafka
	$(BIN)/python compat/perf/bench.py $(ARGS)

bench-codec: $(VENV)/test.stamp  ## measure the codecs beside other implementations
	$(BIN)/python compat/codec_bench.py

fuzz: $(VENV)/test.stamp  ## fuzz decoders, records, frames
	$(INSTALL) atheris
	$(BIN)/python -m tests.fuzz.run $(ARGS)

docs: $(VENV)/test.stamp  ## generate docs/reference
	$(BIN)/python tools/reference_docs.py

wheel: $(VENV)/test.stamp  ## build the wheel into dist/
	$(INSTALL) build
	$(BIN)/python -m build --wheel --outdir dist .

clean:  ## remove what was built
	rm -rf .venv .venv-* .compat build dist

$(BIN)/python:
	$(if $(UV),$(UV) venv --quiet --python $(PYTHON) $(VENV),$(PYTHON) -m venv $(VENV))

$(VENV)/run.stamp: pyproject.toml | $(BIN)/python
	$(INSTALL) --editable .
	@$(BIN)/python -m compileall -q $(VENV) kbroker protocol >/dev/null 2>&1 || true
	@touch $@

$(VENV)/test.stamp: pyproject.toml | $(VENV)/run.stamp
	$(INSTALL) --editable ".[test,check]"
	@touch $@
