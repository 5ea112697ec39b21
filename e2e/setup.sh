#!/bin/sh
# setup.sh SCRIPT [ARGUMENT...]: what every `npm run` command goes through. Installs the packages of the lockfile if they are not there, among
# them a Node that is new enough, and runs SCRIPT with it. Works from a clean clone, whatever Node the machine has.
set -eu
cd "$(dirname "$0")/.."

fail() {
  echo "ringmaster: $*" >&2
  exit 1
}

# The lockfile as it was when the packages were installed. A link or a half-made folder has none.
stamp=node_modules/.ringmaster-lock

installed() { cmp -s package-lock.json "$stamp"; }

install() {
  command -v npm >/dev/null 2>&1 || fail "npm is needed to install the packages: install Node.js, which has it (https://nodejs.org)"
  echo "ringmaster: installing npm packages…" >&2
  started=$(date +%s)
  # An old Node makes npm warn about every package that wants a newer one; the one that runs us is among what is being installed.
  npm ci --no-audit --no-fund >.ringmaster/npm.log 2>&1 || {
    cat .ringmaster/npm.log >&2
    fail "npm packages could not be installed: npm's output is above"
  }
  cp package-lock.json "$stamp"
  echo "ringmaster: npm packages installed in $(($(date +%s) - started)) s" >&2
}

if ! installed; then
  mkdir -p .ringmaster
  # Two at once: the second waits, and finds the work done. The lock goes with the process that holds it.
  exec 9>.ringmaster/setup.lock
  if command -v flock >/dev/null 2>&1; then flock 9; fi
  installed || install
  exec 9>&-
fi

PATH="$PWD/node_modules/.bin:$PATH"
export PATH
command -v node >/dev/null 2>&1 || fail "Node.js 24 or newer is needed, and there is none on the PATH"
major=$(node -p 'process.versions.node.split(".")[0]')
[ "$major" -ge 24 ] || fail "Node.js 24 or newer is needed, and $(command -v node) is $(node --version)"
exec node "$@"
