"""Make what docker-compose.secure.yml needs: certificates, tokens and passwords, in secrets/.

The folder is for you alone. What lies in a role's folder is mounted into its containers, whose
users are others: they may read it. PRONK_PORT is where you reach the parameter server, as in
docker-compose.yml.
"""

import os
import sys
from pathlib import Path

from pronk.cli.credentials import make

FOLDER = Path("secrets")
MOUNTED_AT = "/secrets"


def main() -> int:
    """Make them; what is there already stays."""
    try:
        FOLDER.mkdir(mode=0o700)
    except FileExistsError:
        print(f"{FOLDER}/ is there already: remove it to have new ones", file=sys.stderr)
        return 1
    make(
        FOLDER.resolve(),
        server=f"localhost:{os.environ.get('PRONK_PORT') or 50051}",
        names=("param-server", "localhost", "127.0.0.1"),
        buffer_url=f"rediss://{{user}}@redis:6379/0?ssl_ca_certs={MOUNTED_AT}/ca.crt",
        buffer_names=("redis",),
    )
    for path in FOLDER.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    print(f"{FOLDER}/ holds certificates, tokens and passwords; to ask the cluster:")
    print(f"  . {FOLDER}/operator/env && pronk status")
    return 0


if __name__ == "__main__":
    sys.exit(main())
