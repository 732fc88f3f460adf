#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/aws/env.sh
. scripts/aws/env.sh

usage 'Usage: bash scripts/deploy.sh
Builds the application and deploys it to AWS, then prints the outputs of the stack and a curl
command that submits a job. Stack name, region and credentials come from .env (see example.env).' "$@"

[ $# -eq 0 ] || fail 'usage: bash scripts/deploy.sh'
prepare sam node npm

echo 'Checking types ...'
node_modules/.bin/tsc -p src || fail 'src/ has type errors: nothing was deployed'

echo 'Building ...'
sam build || fail 'sam build failed: nothing was deployed'

echo "Deploying the stack $STACK_NAME to $AWS_DEFAULT_REGION ..."
# Its own folder in the bucket that all SAM applications share, so that teardown.sh deletes only our artifacts.
sam deploy --stack-name "$STACK_NAME" --s3-prefix "$STACK_NAME" --region "$AWS_DEFAULT_REGION" ||
  fail 'sam deploy failed. After a failed first deployment (ROLLBACK_COMPLETE), run scripts/teardown.sh before the next one'

"$NODE" scripts/aws/outputs.ts
