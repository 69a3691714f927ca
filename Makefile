# `make demo` and `make test` need Python 3.11 to 3.13 and nothing else; each sets up .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo docs test test-all test-changed lint reproduce benchmark table clean

demo: .venv/installed
	$(BIN)/keras-dl demo

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

# What `make test` leaves out for its time, too: whole trainings, and further cases of a class that another case covers.
test-all: .venv/installed .venv/docs
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow or not slow"

# All tests, slow ones too, of what differs from a revision: `make test-changed BASE=v0.1.0`.
# Without one, from origin/main, or from the last tag where there is no such branch.
test-changed: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow or not slow" --changed=$(BASE)

# Every recipe at full size, its exports, and the table in the README made from their reports. Hours, not minutes.
reproduce: .venv/installed
	$(BIN)/python docs/reproduce.py
	$(BIN)/python docs/table.py

benchmark: .venv/installed
	$(BIN)/keras-dl benchmark resnet

table: .venv/installed
	$(BIN)/python docs/table.py
	$(BIN)/python docs/presets.py

# The documentation as a site, in build/site. A broken link fails.
docs: .venv/installed .venv/docs build/litert_js
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --config-file docs/site/mkdocs.yml

lint: .venv/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

# The stamp is younger than setup.cfg only if the last installation went through.
.venv/installed: setup.cfg constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all,test]'
	touch $@

.venv/docs: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

# LiteRT.js, for the gallery. Its packages have no scripts to run.
build/litert_js:
	npm install --no-audit --no-fund --ignore-scripts --prefix $@.new @litertjs/core@2.5.3 @litertjs/wasm-utils@2.5.3 \
		&& mv $@.new $@ \
		|| echo "npm did not install LiteRT.js: the models of the gallery will not run." >&2

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .hypothesis
