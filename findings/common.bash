# Sourced by every script of this folder: a fresh environment in a temporary folder, and nothing else on the path.
#   install PACKAGE==VERSION ...   into it
#   python                         the environment's
#   expect PATTERN FILE            the behaviour that the script is about; it fails if that has changed
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
python3 -m venv "$work/env"

install() { "$work/env/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
python() { (cd "$work" && "$work/env/bin/python" -W ignore "$@"); }
expect() {
  grep -q -- "$1" "$2" || { echo "changed: expected '$1'" >&2; exit 1; }
}
