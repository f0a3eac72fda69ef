# `make demo` and `make test` need only Python >= 3.10 and a package index; the first call builds .venv.
PYTHON ?= python3
FAISS  ?= $(if $(shell nvidia-smi -L 2>/dev/null | grep GPU),gpu,cpu)
READY  := .venv/ready-$(FAISS)
# What the tests of examples/browser need; they are skipped where there is no npm.
PAGE   := $(if $(shell command -v npm),examples/browser/node_modules/.ready)
BIN    := .venv/bin
# A Milvus server for tests, in an environment of its own: it needs faiss-cpu, which must not share ours.
MILVUS := .venv/milvus-lite/bin/.ready
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test check slow lock clean
demo: $(READY)
	$(BIN)/python demo.py

test: check $(PAGE) $(MILVUS)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow and not gpu"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

slow: $(READY)
	$(BIN)/python -m pytest -q -m "slow or gpu"

# The stamp names the FAISS build, because the two builds must never share an environment: sync removes the other one.
$(READY): requirements/$(FAISS).txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "sole2vec needs Python 3.10 or newer; name one with: make PYTHON=python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install -q "uv>=0.8,<1"
	rm -f .venv/ready-*
	$(BIN)/uv pip sync -q --require-hashes --python $(BIN)/python requirements/$(FAISS).txt
	$(BIN)/uv pip install -q --no-deps --no-build-isolation --python $(BIN)/python --editable .
	touch $@

examples/browser/node_modules/.ready: examples/browser/package.json
	-cd examples/browser && npm install --silent --no-package-lock --no-audit --no-fund && touch node_modules/.ready

# What it serves is tested where it can be installed; elsewhere those tests are skipped.
$(MILVUS): Makefile | $(READY)
	-$(BIN)/uv venv -q --clear --python $(BIN)/python .venv/milvus-lite && \
	  $(BIN)/uv pip install -q --python .venv/milvus-lite/bin/python milvus-lite==3.2.2 "pymilvus>=2.6,<4" && touch $@

# Resolve the ranges of pyproject.toml anew; no host name enters the files.
lock: $(READY)
	for faiss in cpu gpu; do \
	  $(BIN)/uv pip compile -q --upgrade pyproject.toml --extra $$faiss --extra dev --universal --python-version 3.10 \
	    --no-header --no-emit-index-url --generate-hashes -o requirements/$$faiss.txt; \
	done

clean:
	rm -rf .venv demo build *.egg-info examples/browser/node_modules
