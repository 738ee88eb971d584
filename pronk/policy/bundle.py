"""A policy version in memory, and as a folder."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pronk import files
from pronk.errors import Misconfigured
from pronk.policy.manifest import Manifest, from_json, to_json
from pronk.wire.digest import digest

MANIFEST = "manifest.json"
GRAPH = "graph.onnx"
WEIGHTS = "weights.safetensors"
PROBE = "probe.safetensors"


@dataclass(frozen=True)
class Bundle:
    """A policy version: its manifest and the blobs that the manifest names.

    Attributes:
        manifest: what it is.
        graph: ONNX graph without weights; empty for engine `torch`.
        weights: safetensors, the values of the graph's initializers by name.
        probe: safetensors, the probe batch: {input: [4, …]}.
    """

    manifest: Manifest
    graph: bytes
    weights: bytes
    probe: bytes

    @property
    def blobs(self) -> dict[str, bytes]:
        """The blobs by hash."""
        manifest = self.manifest
        parts = (manifest.graph, self.graph), (manifest.weights, self.weights)
        return {key: blob for key, blob in (*parts, (manifest.probe, self.probe)) if key}

    @classmethod
    def from_blobs(cls, manifest: Manifest, blobs: Mapping[str, bytes]) -> Self:
        """The bundle of a manifest and blobs by hash; the caller has checked the hashes.

        Raises:
            KeyError: a blob is missing.
        """
        graph = blobs[manifest.graph] if manifest.graph else b""
        return cls(manifest, graph, blobs[manifest.weights], blobs[manifest.probe])

    def save(self, folder: Path) -> None:
        """Write the policy's folder: file by file, write-then-rename, the manifest last.

        A folder without a manifest is not a policy, and hashes tell a half-replaced one, so a
        crash leaves nothing that could be taken for a whole policy. The files together run in any
        ONNX runtime: the graph refers to the weights beside it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if self.manifest.graph:
            files.replace(folder / GRAPH, self.graph)
        files.replace(folder / WEIGHTS, self.weights)
        files.replace(folder / PROBE, self.probe)
        files.replace(folder / MANIFEST, to_json(self.manifest).encode())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a policy's folder.

        Raises:
            Misconfigured: a file is missing, damaged, or not of this format.
        """
        manifest = from_json(_read(folder / MANIFEST), str(folder / MANIFEST))
        return cls(
            manifest,
            _checked(folder / GRAPH, manifest.graph) if manifest.graph else b"",
            _checked(folder / WEIGHTS, manifest.weights),
            _checked(folder / PROBE, manifest.probe),
        )


def remove(folder: Path) -> None:
    """Remove a policy's folder, the manifest first: what is left after a crash is no policy.

    Raises:
        OSError: it cannot be removed.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Misconfigured(
            f"{path}: {error.strerror}; a policy folder holds {MANIFEST}, {GRAPH}, {WEIGHTS} "
            f"and {PROBE}"
        ) from None


def _checked(path: Path, expected: str) -> bytes:
    data = _read(path)
    if digest(data) != expected:
        raise Misconfigured(
            f"{path}: damaged: it does not have the hash that {MANIFEST} names; "
            "restore the folder from its release"
        )
    return data
