#!/bin/sh
# Build the three images and print what each adds to its base.
# usage: images.sh [OPTION OF docker build…]     COMMIT: what they say they are made of
set -eu
cd "$(dirname "$0")/.."
base=python:3.11-slim-bookworm
commit=${COMMIT:-$(git rev-parse HEAD 2>/dev/null || true)}
for service in param_server actor learner; do
    docker build --quiet --build-arg "COMMIT=$commit" --file "services/$service/Dockerfile" \
        --tag "pronk-$(echo "$service" | tr _ -):local" "$@" . >/dev/null
done
# What BuildKit builds on, it keeps to itself.
docker image inspect "$base" >/dev/null 2>&1 || docker pull --quiet "$base" >/dev/null
size() { docker image inspect --format '{{.Size}}' "$1"; }
below=$(size "$base")
for service in param-server actor learner; do
    echo "pronk-$service:local  $((($(size "pronk-$service:local") - below) / 1000000)) MB on top of $base"
done
