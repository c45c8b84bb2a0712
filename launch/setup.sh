#!/usr/bin/env bash
# Make the project's virtual environment once: bash launch/setup.sh [--offline WHEELS] [EXTRA ...]
# (extras of pyproject.toml; default: sample). Safe to call again: it does nothing while pyproject.toml, constraints.txt and the
# extras given are unchanged. MAHA_VENV=DIR uses another place than .venv; PYTHON=... another interpreter than python3.
# --offline installs from a folder that launch/wheels.py has filled, without internet. A folder without torch is for machines
# that have it: then PYTHON's own is used.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "error: $1" >&2; exit 2; }

case ${1:-} in
  -h | --help)
    sed -n '2,/^set/{s/^# //p}' "${BASH_SOURCE[0]}"
    exit 0
    ;;
esac

wheels=
if [ "${1:-}" = --offline ]; then
  [ -n "${2:-}" ] && [ -d "$2" ] \
    || fail "--offline ${2:-} is no folder of wheels; make one where there is internet: python launch/wheels.py WHEELS"
  wheels=$(cd "$2" && pwd)
  shift 2
fi
venv=${MAHA_VENV:-.venv}
python=${PYTHON:-python3}
extras=("${@:-sample}")

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
  || fail "'$python' is not Python 3.11 or newer; install one and name it with PYTHON=..."

known=$("$python" -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"])')
for extra in "${extras[@]}"; do
  [[ " $known " == *" $extra "* ]] || fail "pyproject.toml has no extra '$extra'; give some of: $known"
done

{ mkdir -p "$venv" && : >>"$venv/.setup.lock"; } 2>/dev/null \
  || fail "cannot write to $venv; name another place for the environment with MAHA_VENV=..."
exec 9>"$venv/.setup.lock"
flock 9  # two commands started together: the second waits for the first

stamp() { cat pyproject.toml constraints.txt; pwd; }
key=$(stamp | sha256sum | cut -c1-16)
missing=()
for extra in "${extras[@]}"; do
  [ -e "$venv/.installed-$extra-$key" ] || missing+=("$extra")
done
[ ${#missing[@]} -gt 0 ] || exit 0

from=()
with=()
torch=torch
if [ -n "$wheels" ]; then
  from=(--no-index --find-links "$wheels")
  if ! compgen -G "$wheels/torch-*.whl" >/dev/null; then
    # (of a virtual environment a new one would see the base alone)
    "$python" -c 'import sys, torch; sys.exit(sys.prefix != sys.base_prefix)' 2>/dev/null \
      || fail "$wheels has no torch, nor has '$python' outside of a virtual environment; name one that has with PYTHON=..., or fill the folder without --without-torch"
    torch=
    with=(--system-site-packages)
    [ ! -x "$venv/bin/python" ] || "$venv/bin/python" -c "import torch" 2>/dev/null \
      || fail "$venv is there and has no torch, nor does it see that of '$python'; remove it and run this again"
  fi
fi

echo "setting up $venv (${missing[*]}): a few minutes, once" >&2
[ -x "$venv/bin/python" ] || "$python" -m venv "${with[@]}" "$venv" \
  || fail "'$python -m venv' failed; on Debian and Ubuntu: apt-get install python3-venv"
pip() {
  local command=("$venv/bin/python" -m pip install --disable-pip-version-check --constraint constraints.txt "${from[@]}" "$@")
  if [ -z "$wheels" ]; then
    "${command[@]}" -qq || fail "pip failed; its own lines above name the cause. Without internet: --offline WHEELS, see --help"
  elif ! said=$("${command[@]}" 2>&1); then
    lacks=$(sed -nE 's/^ERROR: (No matching distribution found for .*)/\1/p; s/.*The user requested \(constraint\) (.*)/No wheel of \1/p' <<<"$said")
    [ -n "$lacks" ] || lacks=$(sed -n 's/^ERROR: //p' <<<"$said")
    fail "$wheels cannot be installed from: $(head -n 1 <<<"${lacks:-pip failed}"); fill it again where there is internet: python launch/wheels.py WHEELS ${extras[*]}"
  fi
}
[ -z "$torch" ] || pip torch  # by itself first: what else needs it then takes what is there
pip --editable ".[$(IFS=,; echo "${missing[*]}")]"
for extra in "${missing[@]}"; do touch "$venv/.installed-$extra-$key"; done
