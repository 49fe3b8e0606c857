# make demo   portraits of somebody who does not exist, on the embedded backbone, in minutes;
#             make demo OPEN=1 opens the page that it ends with
# make test   all tests
# make lint   style, types and the direction of imports
# make docs   the documentation as a site, in build/site
# make audit  licences and known vulnerabilities of what is installed
# make release   wheel, requirements with hashes and SBOM (CycloneDX), in dist
# make test-changed   the tests of what differs from main, or from BASE, in under a minute
#
# Each makes the virtual environment that it needs. Variables:
#   PYTHON     which Python (3.11 or later) to use; default: the first that fits
#   VENV       where the virtual environment goes; default .venv
#   PIP_ARGS   more arguments for pip, e.g. for a build of torch without CUDA:
#              make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

VENV ?= .venv
PIP_ARGS ?=
PYTEST_ARGS ?=
OUT ?= out
OPEN ?=
BASE ?= main

fits = import sys; sys.exit(sys.version_info < (3, 11))
ifeq ($(origin PYTHON), undefined)
PYTHON := $(shell for name in python3.11 python3.12 python3.13 python3 python; do \
	"$$name" -c "$(fits)" 2>/dev/null && echo "$$name" && break; done)
endif

bin := $(VENV)/bin
pip := $(bin)/python -m pip --disable-pip-version-check install $(PIP_ARGS) -c constraints.txt

.PHONY: demo test test-changed lint docs audit release venv clean

demo: $(VENV)/.installed
	$(bin)/mcap train --source examples/selfies --style passport --backbone demo --out $(OUT)/demo.mcap
	$(bin)/mcap generate $(OUT)/demo.mcap --count 8 --best 4 --out $(OUT)/portraits
# Exit code 3: a picture is not as the style asks, which the page says.
	$(bin)/mcap enhance $(OUT)/portraits --subject $(OUT)/demo.mcap --profile passport --print-sheet \
		--out $(OUT)/print || test $$? -eq 3
	@$(bin)/mcap --quiet report $(OUT)/portraits $(OUT)/print --photos examples/selfies \
		--out $(OUT)/report.html $(if $(OPEN),&& $(bin)/python -m webbrowser $(abspath $(OUT))/report.html)

# Two processes, one thread each: threads of two that compute at once would wait for each other. A
# file's tests stay together, for what they share.
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(bin)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

test-changed: $(VENV)/.installed-dev
	$(bin)/python tools/changed_tests.py $(BASE) | xargs $(bin)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	PYTHONPATH=plugins $(bin)/lint-imports
	$(bin)/mypy

docs: $(VENV)/.installed-docs
	$(bin)/python tools/docs/build_site.py

audit: $(VENV)/.installed-release
	$(bin)/python tools/release/audit.py

# The SBOM is of this environment: what mcap[all] needs, and the tools that test and build it.
release: $(VENV)/.installed-release
	$(bin)/python -m build --outdir dist
	$(bin)/python tools/release/audit.py --out dist

venv: $(VENV)/.installed-dev

$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo "mcap needs Python 3.11 or later: none is on PATH; name one with make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c "$(fits)" || { echo "$(PYTHON) is older than 3.11: name another with make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@touch $@

# torch is large: the first installation takes some minutes. dlib (105 MB, nothing is built) judges
# likeness, which the network that training uses would flatter.
$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	$(pip) -e '.[dlib]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml constraints.txt
	$(pip) -e '.[all,dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(VENV)/.installed-dev
	$(pip) -e '.[docs]'
	@touch $@

$(VENV)/.installed-release: $(VENV)/.installed-dev
	$(pip) -e '.[release]'
	@touch $@

clean:
	rm -rf $(VENV) $(OUT) dist build
