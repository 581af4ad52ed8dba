#!/usr/bin/env bash
# Sets up .venv with the test extras, then runs the tests; flags go to pytest (-m slow runs the long ones).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
extras=test
set_up
exec .venv/bin/python -m pytest "$@"
