# `just NAME` runs a recipe; each line can also be pasted into a shell in the root of the repository.

# list the recipes
default:
    @{{ just_executable() }} --list

# make the virtual environment, with the pinned versions of all that tests and benches need
setup:
    python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e '.[dev]'

# the fast tier: units and properties, in under a minute (tests/fast.py says what it covers)
fast *arguments:
    .venv/bin/pytest --fast -n auto {{ arguments }}

# all tests but the long repetitions; or only those named: just test tests/cache
test *arguments:
    .venv/bin/pytest -n auto {{ arguments }}

# format the code, lint it, check its types, and the rules for the tree (imports, sizes, words)
lint:
    .venv/bin/ruff format . && .venv/bin/ruff check . && .venv/bin/mypy && .venv/bin/pytest -n auto tests/tidy

# answer a question of speed, or list the questions: just bench hot --quick
bench *arguments:
    .venv/bin/python -m bench {{ arguments }}

# check the documents: links, paths, settings, metrics, and the schema of the configuration
docs:
    .venv/bin/pytest -n 0 tests/tidy/test_docs.py tests/tidy/test_text.py tests/config/test_schema.py
