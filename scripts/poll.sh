#!/usr/bin/env bash
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# This Node runs TypeScript. It is one of the npm packages.
node="$root/node_modules/.bin/node"
if [ ! -x "$node" ]; then
  echo 'Error: the npm packages are not installed. Run this first: npm ci' >&2
  exit 3
fi
exec "$node" "$root/scripts/aws/poll.ts" "$@"
