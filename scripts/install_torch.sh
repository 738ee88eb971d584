#!/bin/sh
# Install the pinned torch alone, as a CPU build wherever one is to be had.
# usage: install_torch.sh PIP [INDEX]    INDEX: URL of a package index, or a folder of wheels
#
# pip's default index has torch for CUDA on Linux (gigabytes), so PyTorch's CPU index is asked
# first. It is asked for this one package only, once and briefly: behind a firewall it costs
# seconds, and the install goes on. The dependencies come with everything else, later.
set -eu

pip=$1
index=${2:-}
cpu_index=https://download.pytorch.org/whl/cpu

install() {
    "$pip" install -qq --no-deps "$@" torch
}

# A build that is there satisfies the pin, whatever it was built for: an index that is named wins.
if [ -d "$index" ]; then
    install --force-reinstall --no-index --find-links "$index"
elif [ -n "$index" ]; then
    install --force-reinstall --index-url "$index"
elif ! install --no-index 2>/dev/null; then
    install --retries 0 --timeout 15 --extra-index-url "$cpu_index"
fi
"$(dirname "$pip")/python" - <<'PYTHON'
from importlib.metadata import requires, version

cuda = any(line.startswith(("nvidia-", "cuda-")) for line in requires("torch") or ())
print(f"torch {version('torch')}" + (" (a CUDA build: large; see TORCH_INDEX in README.md)" if cuda else ""))
PYTHON
