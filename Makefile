# Two commands for a newcomer: `make demo` and `make test`. Both need Python 3.10 or newer and nothing else.
PYTHON ?= python3
PORT ?= 8000
SCP_PORT ?= 4242
ONCE ?=
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.PHONY: demo test send lint clean

demo: $(INSTALLED)
	@$(RUN) devhost/demo.py --port $(PORT) --scp-port $(SCP_PORT) $(if $(ONCE),--once)

test: $(INSTALLED)
	@$(RUN) -m pytest -m "not peer"

# Send a folder of DICOM files to the running demo: make send DIR=/path/to/files
send: $(INSTALLED)
	@$(RUN) devhost/send.py --port $(SCP_PORT) "$(DIR)"

lint: $(INSTALLED)
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

clean:
	rm -rf $(VENV) .demo .demo-once

$(INSTALLED): setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; this is " + sys.version.split()[0] + " (choose another by PYTHON=...)")'
	@echo "Installing into $(VENV) (once, about a minute) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[demo,test]'
	@touch $@
