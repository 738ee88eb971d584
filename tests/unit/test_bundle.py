import numpy as np
import pytest
from test_manifest import MANIFEST

from pronk.errors import Misconfigured
from pronk.policy.bundle import Bundle
from pronk.wire.digest import digest
from pronk.wire.weights import pack

FILES = ("manifest.json", "graph.onnx", "weights.safetensors", "probe.safetensors")


def make_bundle(graph=b"a graph"):
    weights = pack({"weight": np.ones(4, np.float32)})
    probe = pack({"obs.default": np.ones((4, 2), np.float32)})
    manifest = MANIFEST.model_copy(
        update={
            "engine": "onnx" if graph else "torch",
            "graph": digest(graph) if graph else None,
            "weights": digest(weights),
            "probe": digest(probe),
        }
    )
    return Bundle(manifest, graph, weights, probe)


@pytest.mark.parametrize("graph", [b"a graph", b""])
def test_folder_round_trip(tmp_path, graph):
    bundle = make_bundle(graph)
    bundle.save(tmp_path / "runs" / "default-7")
    assert Bundle.load(tmp_path / "runs" / "default-7") == bundle
    written = {path.name for path in (tmp_path / "runs" / "default-7").iterdir()}
    assert written == {name for name in FILES if graph or name != "graph.onnx"}


@pytest.mark.parametrize("graph", [b"a graph", b""])
def test_blobs_round_trip(graph):
    bundle = make_bundle(graph)
    assert set(bundle.blobs) == set(bundle.manifest.blobs)
    assert all(digest(blob) == key for key, blob in bundle.blobs.items())
    assert Bundle.from_blobs(bundle.manifest, bundle.blobs) == bundle


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(tmp_path, name):
    make_bundle().save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(Misconfigured, match=f"{name}: No such file") as caught:
        Bundle.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FILES[1:])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_damaged_file_is_named(tmp_path, name, damage):
    make_bundle().save(tmp_path)
    data = bytearray((tmp_path / name).read_bytes())
    match damage:
        case "flip":
            data[len(data) // 2] ^= 1
        case "truncate":
            del data[-1]
        case "empty":
            data.clear()
    (tmp_path / name).write_bytes(data)
    with pytest.raises(Misconfigured, match=f"{name}: damaged") as caught:
        Bundle.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_damaged_manifest_is_named(tmp_path):
    make_bundle().save(tmp_path)
    text = (tmp_path / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(text[: len(text) // 2])
    with pytest.raises(Misconfigured, match=r"manifest\.json: not a policy manifest"):
        Bundle.load(tmp_path)


def test_folder_that_is_none(tmp_path):
    with pytest.raises(Misconfigured, match="No such file"):
        Bundle.load(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match="Not a directory"):
        Bundle.load(tmp_path / "file")


def test_crash_while_saving_leaves_no_policy(tmp_path, monkeypatch):
    """The manifest comes last, so what was written before is not taken for a policy."""
    from pronk import files

    def full_disk(path, data):
        if path.name == "probe.safetensors":
            raise OSError(28, "No space left on device")
        write(path, data)

    write = files.replace
    monkeypatch.setattr(files, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        make_bundle().save(tmp_path)
    with pytest.raises(Misconfigured, match=r"manifest\.json: No such file"):
        Bundle.load(tmp_path)


def test_half_replaced_policy_is_told(tmp_path, monkeypatch):
    first, second = make_bundle(b"one graph"), make_bundle(b"another graph")
    first.save(tmp_path)
    (tmp_path / "graph.onnx").write_bytes(second.graph)
    with pytest.raises(Misconfigured, match=r"graph\.onnx: damaged"):
        Bundle.load(tmp_path)
