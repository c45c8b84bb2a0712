#!/usr/bin/env bash
# From a fresh machine to the whole test suite: bash launch/test.sh [pytest arguments]
# Without arguments also what needs no test: lint, types, the arrows between the rooms, the book with warnings as errors.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash launch/setup.sh sample dev
bin=$PWD/${MAHA_VENV:-.venv}/bin
[[ ${MAHA_VENV:-} != /* ]] || bin=$MAHA_VENV/bin
export PATH="$bin:$PATH"

if [ $# -eq 0 ]; then
  ruff check .
  ruff format --check .
  lint-imports
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --strict --site-dir "$site"
  mypy &  # one core's work, beside the tests
  types=$!
  # Three workers: many tests wait for daemons and kills. Files in their order: the launchers' long ones not last.
  set -- --numprocesses 3 --dist loadfile --no-loadscope-reorder
fi
tests=0
python -m pytest "$@" || tests=$?
[ -z "${types:-}" ] || wait "$types"
exit "$tests"
