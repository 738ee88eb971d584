#!/bin/sh
# Train CartPole on a real cluster of processes, evaluate the stored policy, say where things lie.
set -eu
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH
run=runs/cartpole-$(date +%Y%m%d-%H%M%S)

pronk up configs/cartpole.yaml --run-dir "$run"
echo
echo "the stored policy, greedy:"
pronk evaluate "$run" --episodes 20 --gif "$run/episode.gif"
echo
echo "everything lies in $run: look at curve.png, episode.gif and summary.json first"
