# Every target makes its own environment in .venv on first use (uv if present, else venv + pip).
PY := .venv/bin/python
# Huge pages and no trimming: a quarter less CPU time a step with glibc's allocator.
export MALLOC_MMAP_MAX_ := 0
export MALLOC_TRIM_THRESHOLD_ := 10000000000
export MALLOC_TOP_PAD_ := 268435456
export GLIBC_TUNABLES := glibc.malloc.hugetlb=1

.PHONY: demo test lint bench experiments mutants

demo: .venv/ready
	$(PY) -m experiments.demo

test: .venv/ready
	$(PY) -m pytest -n 2

lint: .venv/ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

mutants: .venv/ready
	$(PY) -m tests.mutants

bench: .venv/ready
	$(PY) -m experiments.bench_step

experiments: .venv/ready
	$(PY) -m experiments.noise --scale=desk --workers 2

.venv/ready: pyproject.toml
	if command -v uv >/dev/null; then uv venv -q --clear .venv && uv pip install -q --python $(PY) -e '.[dev]'; \
	else python3 -m venv --clear .venv && $(PY) -m pip install -q --no-compile -e '.[dev]'; fi
	touch $@
