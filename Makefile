# Every target sets itself up in .venv on a fresh machine: Python 3.11 or 3.12, make, git and a C++ compiler suffice.

VENV := .venv
PEERS := .venv-peers
PYTHON := $(VENV)/bin/python
# The newest of the supported versions that this machine has; PYTHON_BASE=/path/to/python overrides it.
PYTHON_BASE ?= $(shell for name in python3.12 python3.11 python3; do \
	$$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$name && break; done)
PIP := $(PYTHON) -m pip -qq --disable-pip-version-check

.PHONY: demo test test-cluster test-long bench lint clean
.DEFAULT_GOAL := test

demo: $(VENV)/.installed
	@$(VENV)/bin/llama-dist demo

lint: $(VENV)/.installed-dev
	@echo "== ruff check"
	@$(VENV)/bin/ruff check --quiet . || { echo "FAILED: ruff check (many are mended by: $(VENV)/bin/ruff check --fix .)"; exit 1; }
	@echo "== ruff format"
	@$(VENV)/bin/ruff format --quiet --check --diff . || { echo "FAILED: ruff format (mend it by: $(VENV)/bin/ruff format .)"; exit 1; }
	@echo "== mypy"
	@$(VENV)/bin/mypy --no-error-summary || { echo "FAILED: mypy"; exit 1; }

# One thread a process: the tests start worlds of 2 and 4 processes, and tiny tensors gain nothing from more.
# Two files at a time, in their order, since the long ones are not the last: starting processes and waiting for them leave half of two cores idle.
test: lint
	@echo "== pytest"
	@OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q -m "not long and not cluster" -n 2 --dist loadfile --no-loadscope-reorder || { echo "FAILED: pytest"; exit 1; }
	@echo "== all tests passed"

# Real sshd, Slurm and mpirun on hosts in network namespaces: needs root, and skips with the reason what it cannot do.
# One after the other: each of them keeps both cores busy.
test-cluster: $(VENV)/.installed-dev
	@echo "== pytest, launches on a cluster in a box"
	@OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q -m "cluster and not long" || { echo "FAILED: pytest -m cluster"; exit 1; }

test-long: $(VENV)/.installed-dev $(PEERS)/.installed
	@echo "== pytest, the long ones"
	@OMP_NUM_THREADS=1 $(PYTHON) -m pytest -q -m long || { echo "FAILED: pytest -m long"; exit 1; }

# The peers of the data benchmarks stand in a virtual environment of their own; see benchmarks/peers.txt.
bench: $(VENV)/.installed-dev $(PEERS)/.installed
	@for program in $(sort $(wildcard benchmarks/*.py)); do \
		echo "== $$program"; $(PYTHON) $$program || { echo "FAILED: $$program"; exit 1; }; \
	done

clean:
	rm -rf $(VENV) $(PEERS) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch first, bounded: an open bound would fetch gigabytes. DeepSpeed builds its operators at first use instead.
$(VENV)/.installed: pyproject.toml
	@test -n "$(PYTHON_BASE)" || { echo "FAILED: no Python 3.11 or 3.12 found: install one, or give PYTHON_BASE=/path/to/python"; exit 1; }
	@echo "== $(VENV): $$($(PYTHON_BASE) --version), about three minutes the first time"
	@test -x $(PYTHON) || $(PYTHON_BASE) -m venv $(VENV)
	@echo "== installing torch"
	@$(PIP) install 'torch>=2.11,<2.14' 'setuptools>=77' wheel
	@echo "== installing llama-dist and what it needs"
	@DS_BUILD_OPS=0 $(PIP) install --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "== installing the tools of the tests"
	@DS_BUILD_OPS=0 $(PIP) install --editable '.[dev]'
	@touch $@

$(PEERS)/.installed: benchmarks/peers.txt benchmarks/torchvision_stub/pyproject.toml
	@echo "== $(PEERS): the benchmarks' peers, some minutes the first time"
	@test -x $(PEERS)/bin/python || $(PYTHON_BASE) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip -qq --disable-pip-version-check install 'torch>=2.11,<2.14' 'setuptools>=77' wheel
	@$(PEERS)/bin/python -m pip list --format freeze | grep '^torch==' > $(PEERS)/torch.txt
	@cp -r benchmarks/torchvision_stub $(PEERS)/ && \
		$(PEERS)/bin/python -m pip -qq --disable-pip-version-check install $(PEERS)/torchvision_stub
	@$(PEERS)/bin/python -m pip -qq --disable-pip-version-check install -c $(PEERS)/torch.txt -r benchmarks/peers.txt
	@touch $@
