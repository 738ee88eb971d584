#!/bin/sh
# Train CartPole to its stop condition in containers, fetch policy and curve, take everything down.
# usage: compose_demo.sh [SERVICE…]   what to start beside the cluster itself
set -eu
cd "$(dirname "$0")/.."
if docker compose version >/dev/null 2>&1; then compose() { docker compose "$@"; }
else compose() { docker-compose "$@"; }; fi
export COMPOSE_PROJECT_NAME=pronk-demo EXPERIMENT=cartpole
run=runs/compose-$(date +%Y%m%d-%H%M%S)
ask() { compose exec -T actor pronk "$@"; }
field() { sed -n "s/.*\"$1\": \"\{0,1\}\([^,\"}]*\).*/\1/p"; }

trap 'compose down --volumes --timeout 30 >/dev/null 2>&1 || true' EXIT
trap 'exit 130' INT TERM
compose up --detach --build redis param-server learner actor "$@"
echo "training; PRONK_SERVER=localhost:${PRONK_PORT:-50051} pronk status says more"
state=RUNNING
while [ "$state" = RUNNING ]; do
    sleep 2
    status=$(ask status --json 2>/dev/null) || continue
    state=$(echo "$status" | field state)
    echo "$state  frames $(echo "$status" | field frames)  return $(echo "$status" | field return_mean)"
done
[ "$state" = FINISHED ] || { compose logs --tail 20 >&2; exit 1; }
# /tmp of a container is its memory: the way out is a stream.
ask fetch --out /tmp/fetched
mkdir -p "$run"
compose exec -T actor tar -C /tmp/fetched -cf - . | tar -C "$run" -xf -
echo "policy, curve and summary lie in $run"
