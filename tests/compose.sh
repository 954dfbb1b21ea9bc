#!/usr/bin/env bash
# Builds the image and runs docker-compose.yml for real: SET, miss, hit and an outside write through the published
# port, then the stop. Runs under a project name of its own, on another port where 6380 is taken, and leaves
# nothing behind but the builder's cache. Skips, and says so, where no Docker daemon answers.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

timeout 20 docker info >/dev/null 2>&1 || {
  echo 'skipped: no Docker daemon answers'
  exit 0
}
if docker compose version >/dev/null 2>&1; then
  compose=(docker compose)
elif command -v docker-compose >/dev/null; then
  compose=(docker-compose)
else
  echo "skipped: neither docker compose nor docker-compose is installed"
  exit 0
fi
export COMPOSE_PROJECT_NAME="nearhit-test-$$"
NEARHIT_PORT=$(free_port 6380)
export NEARHIT_PORT

finish() {
  local code=$?
  trap - EXIT
  if ((code)); then "${compose[@]}" logs --tail 50 || true; fi
  say "tearing down"
  "${compose[@]}" down --volumes --rmi local --timeout 5 || code=1
  exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

through() { ask "$NEARHIT_PORT" "$@"; }
redis() { "${compose[@]}" exec -T redis redis-cli "$@"; }
container() { "${compose[@]}" ps -q nearhit; }
inspect() { docker inspect --format "$1" "$(container)"; }
hits() { through INFO nearhit | counter hits; }
misses() { through INFO nearhit | counter misses; }

# expect WANTED WHAT COMMAND...: the command's output is as wanted.
expect() {
  local wanted=$1 what=$2 got
  shift 2
  got=$("$@") || fail "$what: $* failed"
  [[ $got == "$wanted" ]] || fail "$what: expected \`$wanted\`, got \`$got\`"
  echo "ok: $what"
}
# True once reads are answered from memory, which is when the invalidation link stands.
is_caching() {
  local before
  before=$(hits) && through GET warm-up && through GET warm-up && (($(hits) > before))
}
reads() { [[ $(through GET "$1") == "$2" ]]; }
is_healthy() { [[ $(inspect '{{.State.Health.Status}}') == healthy ]]; }

say "building with ${compose[*]}"
"${compose[@]}" build
say "starting on port $NEARHIT_PORT"
"${compose[@]}" up --detach
wait_for 30 through PING || fail "nearhit does not answer on port $NEARHIT_PORT"
wait_for 10 is_caching || fail 'nothing is answered from memory'

say "checking"
expect +OK 'a SET goes through' through SET greeting hello
expect hello 'and arrives in Redis' redis GET greeting
hits_before=$(hits) misses_before=$(misses)
expect hello 'a first GET answers' through GET greeting
expect $((misses_before + 1)) 'as a miss' misses
expect "$hits_before" 'and no hit' hits
expect hello 'a second GET answers' through GET greeting
expect $((hits_before + 1)) 'as a hit' hits
expect $((misses_before + 1)) 'and no miss' misses
expect OK 'somebody writes behind its back' redis SET greeting changed
wait_for 2 reads greeting changed || fail 'the outside write is not seen'
echo 'ok: and the next GET sees it'
wait_for 30 is_healthy || fail 'the health check does not pass'
echo 'ok: the health check passes'
expect 65532:65532 'it runs without rights' inspect '{{.Config.User}}'
size=$(docker image inspect --format '{{.Size}}' "$(inspect '{{.Image}}')")
echo "ok: the image has $((size / 1000000)) MB"

stopped=$(container)
"${compose[@]}" stop nearhit
expect 0 'SIGTERM ends it in good order' docker inspect --format '{{.State.ExitCode}}' "$stopped"
say 'compose: all ok'
