#!/bin/sh
# Train CartPole to its stop condition in containers, fetch policy and curve, take everything down.
# usage: compose_demo.sh [SERVICE…]   what to start beside the cluster itself
#
# DEMO_SECONDS: how long it may train; DEMO_NAME: the project's name, all of which is removed at
# the end; COMPOSE_FILE and docker-compose.yml's ports (PRONK_PORT, …) as for Compose itself, but
# not from a file `.env`, and without docker-compose.secure.yml: an actor may not fetch there.
set -eu
cd "$(dirname "$0")/.."
if docker compose version >/dev/null 2>&1; then compose() { docker compose "$@"; }
else compose() { docker-compose "$@"; }; fi
# What a file `.env` says is meant for another cluster, and must not be taken down with this one.
export COMPOSE_PROJECT_NAME="${DEMO_NAME:-pronk-demo}"
export COMPOSE_FILE="${COMPOSE_FILE:-docker-compose.yml}"
export PRONK_PORT="${PRONK_PORT:-50051}"
export EXPERIMENT=cartpole
# The same as in images.sh, so that both build the same images.
export COMMIT="${COMMIT:-$(git rev-parse HEAD 2>/dev/null || true)}"
case "$COMPOSE_FILE" in *secure*)
    echo "the demo speaks without TLS: leave docker-compose.secure.yml out of COMPOSE_FILE" >&2
    exit 2 ;;
esac
run=runs/compose-$(date +%Y%m%d-%H%M%S)
seconds=${DEMO_SECONDS:-900}
ask() { compose exec -T actor pronk "$@"; }
field() { sed -n "s/.*\"$1\": \"\{0,1\}\([^,\"}]*\).*/\1/p"; }

trap 'compose down --volumes >/dev/null 2>&1 || true' EXIT
trap 'exit 130' INT TERM
compose up --detach --build redis param-server learner actor "$@"
echo "training; PRONK_SERVER=localhost:$PRONK_PORT pronk status says more"
state=unknown
end=$(($(date +%s) + seconds))
until [ "$state" = FINISHED ] || [ "$state" = FAILED ] || [ "$(date +%s)" -ge "$end" ]; do
    sleep 2
    status=$(ask status --json 2>/dev/null) || continue
    state=$(echo "$status" | field state)
    echo "$state  frames $(echo "$status" | field frames)  return $(echo "$status" | field return_mean)"
done
if [ "$state" != FINISHED ]; then
    compose logs --tail 20 >&2
    echo "not finished: the run's state is $state; it was given $seconds s" >&2
    exit 1
fi
# /tmp of a container is its memory: the way out is a stream.
ask fetch --out /tmp/fetched
mkdir -p "$run"
compose exec -T actor tar -C /tmp/fetched -cf - . | tar -C "$run" -xof -
echo "policy, curve and summary lie in $run"
