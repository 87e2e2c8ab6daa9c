# Two commands for a newcomer: `make demo` and `make test`. Both need Python 3.10 or newer and nothing else;
# with npm, the dataset page gets its viewer as well.
PYTHON ?= python3
PORT ?= 8000
SCP_PORT ?= 4242
ONCE ?=
FLAVOUR ?= 4.7
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
NIIVUE := tardis_imagetrove/static/tardis_imagetrove/niivue

.PHONY: bench-flat score-deidentification bench-hostile bench-kills fuzz demo test send lint wheel bench bench-receiver bench-convert viewer viewer-if-possible clean

# More than cores: many tests wait for processes of theirs.
IN_PARALLEL := -n $(shell $(PYTHON) -c 'import os; print(min(6, (os.cpu_count() or 1) + 2))') --dist worksteal
# Who sees what: tried on both flavours of MyTARDIS that the embedded host can be.
ACCESS := $(addprefix tests/, mytardis test_dataset_page.py test_checks.py operations/test_mine.py operations/test_people.py \
	devhost/test_host_contract.py devhost/test_host_access.py devhost/test_host_files.py devhost/test_host_pages.py)

# FLAVOUR=5.0 shows the MyTARDIS of the University of Auckland: projects, and rights of each object.
demo: $(INSTALLED) viewer-if-possible
	@DEVHOST_FLAVOUR=$(FLAVOUR) $(RUN) devhost/demo.py --port $(PORT) --scp-port $(SCP_PORT) $(if $(ONCE),--once)

test: $(INSTALLED)
	@$(RUN) -m pytest -m "not peer" $(IN_PARALLEL)
	@DEVHOST_FLAVOUR=5.0 $(RUN) -m pytest -m "not peer and not slow" $(IN_PARALLEL) $(ACCESS)

# Send a folder of DICOM files to the running demo: make send DIR=/path/to/files
send: $(INSTALLED)
	@$(RUN) devhost/send.py --port $(SCP_PORT) "$(DIR)"

# Compare with DCMTK and Orthanc, and with the original's converters; what is not installed is named as
# missing. Each prints a table and one line of JSON. Twenty minutes and 3 GB of temporary files; QUICK=1 only sees that they run.
bench: bench-receiver bench-convert

bench-receiver: $(INSTALLED)
	@$(RUN) benchmarks/receiver.py $(if $(QUICK),--quick)

# Feed damaged requests, commands, data sets and files to the readers: make fuzz SECONDS=60 [SEED=1]
fuzz: $(INSTALLED)
	@$(RUN) benchmarks/fuzz.py --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))

# What a good sender keeps of its rate beside hostile peers (three minutes), and whether a thousand kills of the
# receiver lose anything that it acknowledged (half an hour).
bench-hostile: $(INSTALLED)
	@$(RUN) benchmarks/hostile.py

bench-kills: $(INSTALLED)
	@$(RUN) benchmarks/kills.py --kills $(or $(KILLS),1000)

# Removal and preservation of de-identification, in the manner of MIDI-B (five minutes). With highdicom installed in
# .venv its objects are among those that are tried.
score-deidentification: $(INSTALLED)
	@$(RUN) benchmarks/deidentification.py $(if $(JSON),--json "$(JSON)")

# Style and types. It installs its tools on first use.
LINT := $(VENV)/.lint

lint: $(LINT)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@PYTHONPATH=.:devhost $(RUN) -m mypy

$(LINT): $(INSTALLED)
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[lint]'
	@touch $@

# The package with the viewer in it, in dist/. It needs npm.
wheel: $(LINT) viewer
	@rm -rf build dist
	@$(RUN) -m build --wheel --outdir dist . >/dev/null
	@$(RUN) .ci/check_wheel.py dist/*.whl
	@ls dist/*.whl

# Our conversion against the original's tools (minc-tools, zip), the way to the page, and two workers against one.
bench-convert: $(INSTALLED)
	@$(RUN) benchmarks/convert.py $(if $(QUICK),--slices 40 --rounds 1) $(if $(JSON),--json "$(JSON)")

# Pages and lists with very many generated series on a PostgreSQL of its own: make bench-flat SERIES=1000000
bench-flat: $(INSTALLED)
	@$(RUN) benchmarks/flat.py $(if $(SERIES),--series $(SERIES)) $(if $(JSON),--json "$(JSON)")

# Our images against references of real scanner data, in the layout of dcm2niix's validation repositories:
# make fidelity DIR=/path/to/dcm_qa_nih [JSON=report.json]
fidelity: $(INSTALLED)
	@$(RUN) benchmarks/fidelity.py "$(DIR)" $(if $(JSON),--json "$(JSON)")

# NiiVue, for the dataset page; a wheel that is built afterwards holds it.
viewer: $(NIIVUE)/niivue.umd.js ; @:

viewer-if-possible:
	@command -v npm >/dev/null || { echo "Without npm the dataset page has pictures, and no viewer."; exit 0; }; \
	$(MAKE) --no-print-directory viewer || echo "The viewer could not be fetched; the dataset page has pictures."

$(NIIVUE)/niivue.umd.js: package.json package-lock.json
	@echo "Fetching the viewer by npm (once) ..."
	@npm ci --silent --fetch-retries=1 --fetch-retry-mintimeout=1000 --ignore-scripts --no-audit --no-fund --omit=dev --omit=optional
	@mkdir -p $(NIIVUE)
	@for file in docs/licences/niivue.txt node_modules/*/LICENSE* node_modules/@*/*/LICENSE*; do \
		printf '\n== %s\n\n' "$$file"; cat "$$file"; done > $(NIIVUE)/LICENCES.txt
	@cp node_modules/@niivue/niivue/dist/niivue.umd.js $@.part && mv $@.part $@

clean:
	rm -rf $(VENV) .demo .demo-* node_modules build dist $(NIIVUE)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; this is " + sys.version.split()[0] + " (choose another by PYTHON=...)")'
	@echo "Installing into $(VENV) (once, about a minute) ..."
	@$(PYTHON) -m venv $(VENV)
	@# What is used is compiled at its first use; compiling all that is installed takes longer than installing it.
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-compile -e '.[demo,test]'
	@touch $@
