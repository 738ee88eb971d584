import hypothesis.extra.numpy as npst
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pronk.wire.digest import digest
from pronk.wire.errors import WireError
from pronk.wire.weights import pack, unpack

ARRAYS = npst.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.int32, np.uint8, np.bool_]),
    npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
NAMES = st.text("abz._09", min_size=1, max_size=12)


@given(st.dictionaries(NAMES, ARRAYS, max_size=4))
def test_round_trip(arrays):
    back = unpack(pack(arrays))
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes()


@given(npst.arrays(np.float32, npst.array_shapes(min_dims=2, max_dims=4)), st.randoms())
def test_views_keep_their_values(array, random):
    """safetensors itself writes the memory of a transposed view as it lies."""
    axes = list(range(array.ndim))
    random.shuffle(axes)
    view = array.transpose(axes)[::-1]
    np.testing.assert_array_equal(unpack(pack({"view": view}))["view"], view)


def test_layout_depends_on_names_and_shapes_alone():
    first = pack({"a": np.zeros(3, np.float32), "b": np.zeros((2, 2), np.float32)})
    second = pack({"b": np.ones((2, 2), np.float32), "a": np.ones(3, np.float32)})
    header = 8 + int.from_bytes(first[:8], "little")
    assert first[:header] == second[:header]


@pytest.mark.parametrize("size", [0, 1, 8, 20, 100, -1])
def test_truncated_bytes_are_refused(size):
    blob = pack({"weight": np.ones((8, 8), np.float32)})
    with pytest.raises(WireError, match="not a safetensors blob") as caught:
        unpack(blob[:size])
    assert caught.value.reason == "malformed"


def test_foreign_bytes_are_refused():
    for blob in (b"no weights here", b"\xff" * 64, b"PK\x03\x04" + bytes(60)):
        with pytest.raises(WireError):
            unpack(blob)


def test_digest_is_sha256():
    assert digest(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
