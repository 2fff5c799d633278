# Every target makes its own environment in .venv on first use (uv if present, else venv + pip),
# with the versions of requirements-lock.txt.
PY := .venv/bin/python
# Huge pages and no trimming: a quarter less CPU time a step with glibc's allocator.
export MALLOC_MMAP_MAX_ := 0
export MALLOC_TRIM_THRESHOLD_ := 10000000000
export MALLOC_TOP_PAD_ := 268435456
export GLIBC_TUNABLES := glibc.malloc.hugetlb=1

.PHONY: demo install test lint docs lock bench experiments mutants drill

demo: .venv/run
	$(PY) -m experiments.demo

install: .venv/run

test: .venv/ready
	$(PY) -m pytest -n 2

lint: .venv/ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright --pythonpath $(PY)

docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --site-dir runs/site

# Needs uv. Versions that still satisfy pyproject.toml stay; delete the file first to take the newest.
lock:
	uv pip compile pyproject.toml --universal --python-version 3.11 --quiet \
	  --extra dev --extra plan --extra curate-bench \
	  --no-emit-index-url --no-annotate --no-header --output-file requirements-lock.txt

mutants: .venv/ready
	$(PY) -m tests.mutants

drill: .venv/ready
	$(PY) -m tests.drill --results=experiments/results/drill.json

bench: .venv/ready
	$(PY) -m experiments.bench_step

experiments: .venv/ready
	$(PY) -m experiments.noise --scale=desk --workers 2

# What runs need; an environment of developers holds it already.
.venv/run: pyproject.toml requirements-lock.txt
	test -e .venv/ready || { $(call install,.[images]) ; }
	touch $@

.venv/ready: pyproject.toml requirements-lock.txt
	$(call install,.[dev])
	touch .venv/run $@

define install
if command -v uv >/dev/null; then uv venv -q --clear .venv && uv pip install -q --python $(PY) -e '$(1)' -c requirements-lock.txt; \
else python3 -m venv --clear .venv && $(PY) -m pip install -q --no-compile -e '$(1)' -c requirements-lock.txt; fi
endef
