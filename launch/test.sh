#!/usr/bin/env bash
# Sets up .venv with the test extras, then runs the tests; flags go to pytest (-m slow runs the long ones).
# Two processes, each file in one of them: compiling, most of the time, keeps one core busy; a file shares what it compiled.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
extras=test
set_up
exec .venv/bin/python -m pytest --numprocesses 2 --dist loadfile "$@"
