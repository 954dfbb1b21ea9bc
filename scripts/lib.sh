# What the scripts share: free ports, waiting, a Redis client in bash for where redis-cli may be missing, tests, and the
# installation of what they need.
# shellcheck shell=bash

# say WORDS...: a heading.
say() { printf '\n== %s\n' "$*"; }

# fail WORDS...: ends the script.
fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# port_answers PORT: whether something on loopback accepts connections there.
port_answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# free_port [PORT]: PORT if nobody listens there, else one found at random below the ephemeral range.
free_port() {
  local port=${1:-$((20000 + RANDOM % 10000))}
  while port_answers "$port"; do port=$((20000 + RANDOM % 10000)); done
  echo "$port"
}

# wait_for SECONDS COMMAND...: until the command succeeds; fails if it has not by then.
wait_for() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || return 1
    sleep 0.1
  done
}

# ask PORT COMMAND...: sends one inline command (no blanks in its words) and prints the reply: a simple string, an
# error or an integer with its sign, a bulk string without, nothing for nil.
ask() (
  exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
  shift
  printf '%s\r\n' "$*" >&3
  IFS= read -r -t 10 header <&3 || exit 1
  header=${header%$'\r'}
  case $header in
    '$-1') ;;
    '$'*)
      LC_ALL=C IFS= read -r -t 10 -N "${header#?}" body <&3 || exit 1
      printf '%s\n' "$body"
      ;;
    *) printf '%s\n' "$header" ;;
  esac
)

# counter NAME: a number of INFO's nearhit section, which is on standard input.
counter() {
  local number
  number=$(tr -d '\r' | sed -nE "s/^(nearhit_)?$1:([0-9]+)$/\2/p")
  [[ $number ]] || fail "no counter $1 in INFO nearhit"
  echo "$number"
}

# missing_packages COMMAND=PACKAGE...: the packages whose command does not work here.
missing_packages() {
  local pair
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null || echo "${pair#*=}"
  done
}

# install_packages PACKAGE...: Debian packages, if any are named.
install_packages() {
  (($#)) || return 0
  say "installing $*"
  local as_root=()
  if ((EUID)); then as_root=(sudo); fi
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "$@"
}

# run_tests TARGETS... [-- FILTER...]: with cargo-nextest where there is one, which runs tests side by side and says
# which hang.
run_tests() {
  if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --locked --no-fail-fast "$@"
  else
    cargo test --locked --no-fail-fast "$@"
  fi
}

# install_clients ECOSYSTEM...: what the clients of tests/clients/ECOSYSTEM need, to where tests/clients/ecosystem.rs
# looks for it.
install_clients() {
  local name
  for name in "$@"; do
    say "what $name needs"
    "tests/clients/$name/install" "${CARGO_TARGET_DIR:-target}/tmp/$name"
  done
}

# made_anew DIRECTORY WORDS: empties the directory, unless it was made of just these words (versions, manifests) and
# finished by `made`.
made_anew() {
  if [[ -e $1/made-of && $(<"$1/made-of") == "$2" ]]; then return 1; fi
  rm -rf "$1"
  mkdir -p "$1"
}

# made DIRECTORY WORDS: comes last, so that what was interrupted in the making is made again.
made() { printf '%s\n' "$2" >"$1/made-of"; }

# python_environment DIRECTORY REQUIREMENTS: a virtual environment with what a file of requirements asks for.
python_environment() {
  python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages python3-venv
  local words
  words=$(python3 --version && cat "$2")
  made_anew "$1" "$words" || return 0
  python3 -m venv "$1"
  "$1/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --requirement "$2"
  made "$1" "$words"
}
