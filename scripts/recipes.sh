#!/usr/bin/env bash
# Tests or regenerates the patches in recipes/: `npm run recipes`. See --help.
set -euo pipefail
# shellcheck source=scripts/local/install.sh
. "$(dirname "${BASH_SOURCE[0]}")/local/install.sh"
usage 'Usage: npm run recipes [-- [--refresh] [NAME...]]
Applies each recipe to a copy of the project and tests it there, then the combinations. With names, tests only these
recipes, applied in this order to one copy.
  --refresh  instead regenerates the patches after a change of the project; stops at a conflict' "$@"

need_npm_packages
need_sam
need_emulator
exec node_modules/.bin/node scripts/local/recipes.ts "$@"
