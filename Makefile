PY := .venv/bin/python
# Compiles the bytecode once. If PYTHONDONTWRITEBYTECODE is set, as in most container images, Python does not store it, and
# every command would compile all of its imports again.
UV := .venv/bin/uv pip install --quiet --python $(PY) --system-certs --no-deps --compile-bytecode
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
.PHONY: setup setup-browser demo test test-slow coverage up check docs bench bench-peers lock

setup: .venv/installed

.venv/installed: requirements.lock requirements-uv.lock pyproject.toml
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	python3 -m venv .venv
	$(PIP) --require-hashes -r requirements-uv.lock
	$(UV) --require-hashes -r requirements.lock || { \
	    echo "uv could not install for the reason above (a proxy, or its certificates): pip does it, which takes minutes."; \
	    $(PIP) --no-deps --require-hashes -r requirements.lock; }
	$(PIP) --no-deps --no-build-isolation --editable .
	$(PY) -m compileall -q ml_pipeline
	@touch $@

setup-browser: setup
	@{ command -v chromium && command -v nginx; } >/dev/null || (apt-get update -qq && apt-get install -y -qq chromium nginx-light)

demo: setup
	@.venv/bin/ml-pipeline demo

up: setup
	@.venv/bin/ml-pipeline up

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports --no-logo
	.venv/bin/mypy
	@folder=$$(mktemp -d) && touch $$folder/dagster.yaml && DAGSTER_HOME=$$folder .venv/bin/dg check defs

test: check
	.venv/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=25

test-slow: setup
	.venv/bin/pytest -m slow --durations=10

# The thirty least covered files and the total, including the code that worker processes and started commands run.
coverage: setup
	.venv/bin/coverage erase
	.venv/bin/coverage run -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	.venv/bin/coverage combine --quiet
	@.venv/bin/coverage report | sed '33,$${/^TOTAL/!d}'

# Offline. Warnings are errors, and so is a page that would load something from another host. -E: the sources of the
# reference are outside docs/.
docs: setup
	.venv/bin/sphinx-build -b html -W --keep-going -E -q docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: setup
	@for name in overhead sensor command_line training mixture concurrent_trainings story_points lead_time rework_risk ablation temporal quality \
	    preprocessing search drift drift_speed degradation rollback policies; do \
	    $(PY) -m benchmarks.$$name || exit 1; done

bench-peers: setup
	@$(PY) -m benchmarks.peers

lock:
	echo uv | .venv/bin/uv pip compile --universal --generate-hashes --no-header --no-annotate - -o requirements-uv.lock
	.venv/bin/uv pip compile --universal --generate-hashes --no-header --no-annotate --extra dev \
	    --override lock-overrides.txt pyproject.toml -o requirements.lock
