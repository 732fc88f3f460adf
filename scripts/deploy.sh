#!/usr/bin/env bash
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/local/install.sh"
usage 'Usage: bash scripts/deploy.sh
Builds the application and deploys it to AWS, then prints the outputs of the stack and a curl
command that submits a job. Stack name, region and credentials come from .env (see example.env).' "$@"

require_sam
operate deploy "$@"
