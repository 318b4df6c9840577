#!/bin/sh
# Install, upgrade or remove Tollgate: see --help. Needs root, python3 (3.11 or newer), and no network.
set -eu
here=$(dirname -- "$(readlink -f -- "$0")")
if ! command -v python3 >/dev/null 2>&1; then
  echo "install.sh: python_missing: Tollgate needs Python 3.11 or newer, and this machine has no python3." >&2
  echo "Next step: install the package python3 from the installation medium of the system, and run this again." >&2
  exit 69
fi
if ! python3 -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "install.sh: python_too_old: Tollgate needs Python 3.11 or newer; python3 is $(python3 --version 2>&1)." >&2
  echo "Next step: use Debian 12, or a system whose python3 is as new." >&2
  exit 69
fi
# What judges the rest is looked at first, so that damage to it is named too.
if ! (cd "$here" && grep -E '  (install\.sh|installer/.*)$' checksums.txt | sha256sum --check --strict --status -) 2>/dev/null; then
  echo "install.sh: bundle_changed: the installer itself is not what checksums.txt says, or that file is not there." >&2
  echo "Next step: Nothing was changed. Fetch the bundle again from the vendor and compare its SHA-256." >&2
  exit 65
fi
exec python3 -I -B -c 'import sys; sys.path.insert(0, sys.argv.pop(1)); import runpy; runpy.run_module("appliance", run_name="__main__", alter_sys=True)' "$here/installer" "$@"
