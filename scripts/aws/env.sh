# shellcheck shell=bash
# Shared by deploy.sh, teardown.sh, redrive.sh and logs.sh, which source it in the project's folder.
# Works with bash 3.2 and later.

# Roles are named STACK_NAME-CreateJobRole-XXXXXXXXXXXXX by CloudFormation, which shortens STACK_NAME
# if the role name would exceed 64 characters. The deployer may only create roles STACK_NAME-*.
MAX_STACK_NAME_LENGTH=36

# fail MESSAGE: prints the message and ends the script.
fail() {
  printf 'Error: %s\n' "$*" >&2
  exit 1
}

# usage TEXT ARGUMENT...: prints the text and ends the script if an argument asks for help.
usage() {
  local text=$1 argument
  shift
  for argument in "$@"; do
    case $argument in
      -h | --help)
        printf '%s\n' "$text"
        exit 0
        ;;
    esac
  done
}

# require_tools NAME...
require_tools() {
  local tool
  for tool in "$@"; do
    command -v "$tool" >/dev/null 2>&1 || fail "'$tool' is not installed, or not on PATH"
  done
}

# require_files NAME...
require_files() {
  local file
  for file in "$@"; do
    [ -f "$file" ] || fail "'$file' is missing in $PWD: is the checkout complete?"
  done
}

# Installs the npm packages if they are missing or older than the lock file.
install_packages() {
  local installed=node_modules/.package-lock.json
  if [ ! -f "$installed" ] || [ package-lock.json -nt "$installed" ]; then
    echo 'Installing the npm packages ...'
    npm ci --no-audit --no-fund || fail 'npm could not install the packages'
  fi
}

# load_env FILE: exports the variables of a file of KEY=value lines, which replace the shell's. Nothing
# in the file is executed, and no value is printed.
load_env() {
  local file=$1 line name value quote
  local blank='^[[:space:]]*(#.*)?$'
  local assignment='^[[:space:]]*(export[[:space:]]+)?([A-Za-z_][A-Za-z0-9_]*)[[:space:]]*=[[:space:]]*(.*)$'
  local seen=' ' number=0 count=0 i names values
  names=()
  values=()
  [ -f "$file" ] || fail "there is no '$file' in $PWD: copy example.env to $file and fill it in, or set AWS_ENDPOINT_URL for the local AWS"

  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    line=${line%$'\r'}
    [ "$number" -ne 1 ] || line=${line#$'\xef\xbb\xbf'}
    if [[ $line =~ $blank ]]; then continue; fi
    [[ $line =~ $assignment ]] || fail "line $number of $file is not KEY=value"
    name=${BASH_REMATCH[2]}
    value=${BASH_REMATCH[3]}
    quote=${value:0:1}
    case $quote in
      '"' | "'")
        value=${value:1}
        case $value in
          *"$quote"*) value=${value%%"$quote"*} ;;
          *) fail "line $number of $file: the value of $name has no closing quote" ;;
        esac
        ;;
      '#') value='' ;;
      *)
        value=${value%%[[:space:]]#*}
        value=${value%"${value##*[![:space:]]}"}
        ;;
    esac
    case $name in
      # Other names are ignored: the file must not be able to change PATH.
      AWS_* | SAM_CLI_* | STACK_NAME) ;;
      *)
        printf 'Note: %s in line %s of %s is not used\n' "$name" "$number" "$file" >&2
        continue
        ;;
    esac
    case $seen in
      *" $name "*) fail "$name is set twice in $file" ;;
    esac
    seen="$seen$name "
    case $value in
      '') continue ;;
      [Yy][Oo][Uu][Rr][-_]*) fail "$name in $file still has the placeholder of example.env" ;;
    esac
    names[count]=$name
    values[count]=$value
    count=$((count + 1))
  done <"$file"

  # Credentials of the file and of the shell are never mixed.
  case " ${names[*]-} " in
    *' AWS_ACCESS_KEY_ID '* | *' AWS_SECRET_ACCESS_KEY '* | *' AWS_SESSION_TOKEN '* | *' AWS_PROFILE '*)
      unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_PROFILE
      ;;
  esac
  i=0
  while [ "$i" -lt "$count" ]; do
    export "${names[i]}=${values[i]}"
    i=$((i + 1))
  done
}

# require_variables FILE: ends the script unless region, stack name and one kind of credentials are set.
require_variables() {
  local file=$1 name
  if [ -n "${AWS_PROFILE:-}" ]; then
    [ -z "${AWS_ACCESS_KEY_ID:-}${AWS_SECRET_ACCESS_KEY:-}" ] ||
      fail "AWS_PROFILE and access keys are both set, in $file or in the shell: remove one of them"
  else
    for name in AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY; do
      [ -n "${!name:-}" ] || fail "$name is not set in $file (nor is AWS_PROFILE)"
    done
  fi
  for name in AWS_DEFAULT_REGION STACK_NAME; do
    [ -n "${!name:-}" ] || fail "$name is not set in $file"
  done
  [[ $AWS_DEFAULT_REGION =~ ^[a-z]{2}(-[a-z]+)+-[0-9]+$ ]] ||
    fail "AWS_DEFAULT_REGION in $file is not an AWS region such as us-east-1"
  [[ $STACK_NAME =~ ^[A-Za-z][A-Za-z0-9-]*$ ]] ||
    fail "STACK_NAME in $file must consist of letters, digits and hyphens, and begin with a letter"
  [ "${#STACK_NAME}" -le "$MAX_STACK_NAME_LENGTH" ] ||
    fail "STACK_NAME in $file must have at most $MAX_STACK_NAME_LENGTH characters, but has ${#STACK_NAME}"
  # sam prefers it to AWS_PROFILE, and the AWS SDK for JavaScript does not read it.
  unset AWS_DEFAULT_PROFILE
  # The AWS SDK for JavaScript reads only this name.
  export AWS_REGION=$AWS_DEFAULT_REGION
}

# uses_local_aws: whether the shell's AWS_ENDPOINT_URL is on this machine (scripts/local.sh).
uses_local_aws() {
  [[ ${AWS_ENDPOINT_URL:-} =~ ^https?://(127\.0\.0\.1|localhost)(:[0-9]+)?/?$ ]]
}

# Sets the same values that scripts/local.sh uses. The shell's own credentials are not sent to a local AWS.
load_local_env() {
  unset AWS_PROFILE AWS_SESSION_TOKEN
  export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_DEFAULT_REGION=us-east-1
  export STACK_NAME="${STACK_NAME:-async-job-processing-demo}"
}

# prepare TOOL...: checks the tools and settings, installs the npm packages, and sets NODE to the
# path of the project's own Node.js.
prepare() {
  # Last, so that the sam that local.sh installed is used only if there is no other.
  PATH="$PATH:$PWD/.tools/sam/bin:$PWD/.tools/sam/Scripts"
  export PATH
  require_tools "$@"
  require_files package.json package-lock.json template.yaml samconfig.toml
  if uses_local_aws; then load_local_env; else load_env .env; fi
  require_variables .env
  install_packages
  # shellcheck disable=SC2034 # used by the scripts that source this one
  NODE=$PWD/node_modules/.bin/node
}
