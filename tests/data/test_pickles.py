"""The pickle reader: what it reads, what it refuses, and that no damaged file gets anything else out of it than DataError."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cifar_small.data.pickles import MAX_OPCODES, parse_pickle, read_pickle
from cifar_small.errors import DataError

DTYPES = ["u1", "i1", "?", "<i2", ">i4", "<i8", ">u2", "<u4", "<u8", "<f2", ">f4", "<f8"]


def seeds() -> list[bytes]:
    """Pickles as Python 2 and 3 and numpy 1 and 2 write them, all protocols."""
    images = np.arange(2 * 48, dtype=np.uint8).reshape(2, 4, 4, 3)
    value = {b"data": images, b"ids": np.arange(2), b"mean": np.float32(0.5), b"name": "x", b"flags": [True, None, -3, 2.5]}
    written = [pickle.dumps(value, protocol) for protocol in range(6)]
    text = [raw.replace(b"cnumpy._core.", b"cnumpy.core.") for raw in written[:4]]  # the other spelling, where it is plain text
    strided = [pickle.dumps({"data": np.asfortranarray(images), "ids": images[::2, 0, 0, 0]}, protocol) for protocol in (2, 5)]
    return [*written, *text[1:], *strided, python2()]


def python2(pixels: bytes = bytes(range(24))) -> bytes:
    """A protocol 2 pickle as Python 2 wrote the official CIFAR batches: strings are bytes, numpy.core names."""
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02K\x0c\x86cnumpy\ndtype\n"
    array += (
        b"U\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U" + bytes([len(pixels)]) + pixels
    )
    return b"\x80\x02}q\x01(U\x04dataq\x02" + array + b"tbU\x06labelsq\x03](K\x06K\x09eu."


def test_reads_python_2_byte_strings() -> None:
    value = parse_pickle(python2(), "batch")
    assert list(value) == [b"data", b"labels"]
    assert value[b"labels"] == [6, 9]
    assert value[b"data"].tolist() == np.arange(24).reshape(2, 12).tolist()
    assert value[b"data"].dtype == np.uint8


def test_reads_python_2_protocol_0_strings_beyond_ascii() -> None:
    assert parse_pickle(b"(lp0\nS'a\\xff\\n\\'b'\np1\naI01\naL12345678901L\na.", "x") == [b"a\xff\n'b", True, 12345678901]


@pytest.mark.parametrize("protocol", range(6))
def test_reads_both_numpy_spellings(protocol: int) -> None:
    value = {"data": np.arange(6, dtype=">i2").reshape(2, 3), "one": np.float64(2.5), "empty": np.zeros((0, 3), "f4")}
    raw = pickle.dumps(value, protocol)
    if protocol < 4:
        old, new = raw.replace(b"numpy._core.", b"numpy.core."), raw.replace(b"numpy.core.", b"numpy._core.")
        assert old != new
    else:  # names carry their length, and the frame too
        unframed = re.sub(rb"\x95.{8}", b"", raw, count=1, flags=re.DOTALL)
        spell = {b"numpy._core.": b"numpy.core.", b"numpy.core.": b"numpy._core."}

        def respelled(target: bytes) -> bytes:
            pattern = rb"\x8c.(%s)(multiarray|numeric)" % re.escape(spell[target])
            return re.sub(pattern, lambda m: b"\x8c" + bytes([len(target + m[2])]) + target + m[2], unframed, flags=re.DOTALL)

        old, new = respelled(b"numpy.core."), respelled(b"numpy._core.")
        assert b"numpy.core." in old
        assert b"numpy._core." in new
    for spelling in (old, new):
        got = parse_pickle(spelling, "x")
        assert np.array_equal(got["data"], value["data"])
        assert got["one"] == 2.5
        assert got["empty"].shape == (0, 3)


@settings(deadline=None)
@given(
    array=st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(max_dims=4, max_side=5))),
    protocol=st.integers(0, 5),
    order=st.sampled_from(["C", "F", "strided", "transposed", "readonly"]),
)
def test_arrays_round_trip(array: np.ndarray, protocol: int, order: str) -> None:
    if order == "F":
        array = np.asfortranarray(array)
    elif order == "strided":
        array = array[::2]
    elif order == "transposed":
        array = np.moveaxis(array, 0, -1)
    elif order == "readonly":
        array = array.copy()
        array.flags.writeable = False
    got = parse_pickle(pickle.dumps([array, array], protocol), "x")
    for copy in got:
        assert copy.dtype == array.dtype
        assert np.array_equal(copy, array, equal_nan=array.dtype.kind == "f")


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.binary(), inner),
    max_leaves=15,
)


@settings(deadline=None)
@given(value=plain, protocol=st.integers(0, 5))
def test_plain_values_round_trip(value: object, protocol: int) -> None:
    assert parse_pickle(pickle.dumps(value, protocol), "x") == value


@settings(deadline=None)
@given(raw=st.binary(max_size=200))
def test_random_bytes_give_a_value_or_a_data_error(raw: bytes) -> None:
    with contextlib.suppress(DataError):  # any other exception fails
        parse_pickle(raw, "some.pkl")


def npz_bytes() -> bytes:
    file = io.BytesIO()
    np.savez(file, data=np.zeros(2))
    return file.getvalue()


WRONG_TYPES = {
    "html": (b"\n<!DOCTYPE html><html>Sign in</html>", "HTML or XML; it may be a login page"),
    "npz": (npz_bytes(), r"zip, \.npz or torch file"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(20), "gzip"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(20), "PNG picture"),
    "MATLAB": (
        b"MATLAB 5.0 MAT-file, Platform: GLNXA64",
        r"is a MATLAB file; give it the ending \.mat, or read it with scipy",
    ),
    "MATLAB 7.3": (b"MATLAB 7.3 MAT-file, Platform: GLNXA64", "is an HDF5 file; read it with h5py"),
    "parquet": (b"PAR1" + bytes(20), r"is a parquet file; give it the ending \.parquet"),
    "empty": (b"", "is empty"),
    "text": (b"ID,Labels\n0,1\n", r"not a pickle.*ID,Labels"),
}


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_another_file_type_is_named(tmp_path: Path, name: str) -> None:
    raw, phrase = WRONG_TYPES[name]
    path = tmp_path / "test.pkl"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=phrase) as caught:
        read_pickle(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(("row", "classes"), [(3073, 10), (3074, 100)])
def test_the_binary_version_of_cifar_is_named(row: int, classes: int, tmp_path: Path) -> None:
    (tmp_path / "test_batch.bin").write_bytes(bytes(2 * row))
    with pytest.raises(
        DataError, match=rf"is of the binary version of CIFAR-{classes}; give it as the unlabelled file, or .* cifar{classes}"
    ):
        read_pickle(tmp_path / "test_batch.bin")


def test_missing_file_and_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_pickle(tmp_path / "absent.pkl")
    with pytest.raises(DataError, match="not a regular file"):
        read_pickle(tmp_path)


@pytest.mark.parametrize("number", range(len(seeds())))
def test_every_truncation_says_where_the_file_ends(number: int) -> None:
    raw = seeds()[number]
    for size in range(1, len(raw), 3):
        with pytest.raises(DataError, match=rf"file ends at byte {size:,} .*expected .*again"):
            parse_pickle(raw[:size], "short.pkl")


class Attack:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_malicious_global_is_named_and_does_not_run(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "marker"
    raw = pickle.dumps({"data": Attack(os.system, f"touch {marker}")}, protocol)
    with pytest.raises(DataError, match=r"asks to run posix\.system .*nothing was run"):
        parse_pickle(raw, "x")
    assert not marker.exists()
    pickle.loads(raw)  # the control: an ordinary reader does run it
    assert marker.exists()


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"cnumpy.testing._private.utils\nrunstring\n.", "numpy.testing._private.utils.runstring"),
        (b"\x80\x04\x8c\x12numpy.core.numeric\x8c\x0dbuiltins.eval\x93.", "numpy.core.numeric.builtins.eval"),
        (b"cbuiltins\neval\n.", "builtins.eval"),
        (b"\x80\x02(ios\nsystem\n.", "os.system"),
        (b"c_codecs\ndecode\n.", "_codecs.decode"),
    ],
)
def test_ways_around_a_list_of_names_are_named(raw: bytes, name: str) -> None:
    with pytest.raises(DataError, match=f"asks to run {re.escape(name)} "):
        parse_pickle(raw, "x")


def test_dtype_state_that_crashes_numpy_is_refused() -> None:
    whole = pickle.dumps(np.arange(4, dtype=np.uint8), 2)
    ends = b"J\xff\xff\xff\xffJ\xff\xff\xff\xff"
    assert whole.count(ends) == 1
    with pytest.raises(DataError, match=r"malformed numpy dtype .state of 6, expected 8"):
        parse_pickle(whole.replace(ends, b""), "x")


BOMBS = {
    "bytearray of 2**60 bytes": b"\x96" + b"\xff" * 7 + b"\x0f",
    "memo index 2**30": b"\x80\x04Nr\xff\xff\xff\x3f.",
    "text of 2 GB": b"\x80\x04X\xff\xff\xff\x7f",
    "bytes of 2**62": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x3f",
    "frame of 2**62": b"\x80\x04\x95" + b"\xff" * 7 + b"\x3fN.",
    "number of 2**31 bytes": b"\x80\x02\x8b\xff\xff\xff\x7f",
}


@pytest.mark.parametrize("name", BOMBS)
def test_memory_bombs_take_no_memory(name: str) -> None:
    tracemalloc.start()
    try:
        if name.startswith("memo"):  # a sparse memo is harmless here
            assert parse_pickle(BOMBS[name], "x") is None
        else:
            with pytest.raises(DataError):
                parse_pickle(BOMBS[name], "x")
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


def test_array_sizes_are_compared_before_memory_is_taken() -> None:
    raw = pickle.dumps(np.zeros((3, 7), np.uint8), 2).replace(b"K\x03K\x07\x86", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86")
    with pytest.raises(DataError, match=r"with 21 bytes; expected 4,611,686,014,132,420,609"):
        parse_pickle(raw, "x")


def test_text_cannot_be_multiplied() -> None:
    encode = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    raw = b"\x80\x02X\x00\x00\x01\x00" + b"a" * 65536 + b"q\x00](" + encode * 2000 + b"e."
    with pytest.raises(DataError, match="same text many times"):
        parse_pickle(raw, "x")


def test_keys_that_cost_hours_to_hash_are_refused() -> None:
    doubling = b"\x80\x02})" + b"2\x86" * 100  # a tuple of itself twice, 2**100 leaves
    with pytest.raises(DataError, match="dict key of type tuple"):
        parse_pickle(doubling + b"Ns.", "x")
    with pytest.raises(DataError, match="dict key of type tuple"):
        parse_pickle(b"\x80\x02})" + b"\x85" * 300_000 + b"Ns.", "x")


def test_what_has_no_end_is_refused() -> None:
    """To print a tuple of itself twice, a hundred times over, would take for ever; a list at two places is just that."""
    with pytest.raises(DataError, match=r"has a tuple that holds more than 2,000,000 items; expected images and ids"):
        parse_pickle(b"\x80\x02N\x85" + b"2\x86" * 100 + b".", "x")
    itself: list[object] = []
    itself.append({"ids": itself})
    with pytest.raises(DataError, match=r"has a (list|dict) that contains itself"):
        parse_pickle(pickle.dumps(itself), "x")
    shared = [1, 2]
    assert parse_pickle(pickle.dumps({"ids": shared, "labels": shared}), "x") == {"ids": [1, 2], "labels": [1, 2]}
    assert isinstance(parse_pickle(b"\x80\x02)" + b"\x85" * 300_000 + b".", "x"), tuple)


def test_too_many_instructions_are_refused() -> None:
    with pytest.raises(DataError, match=f"more than {MAX_OPCODES:,} instructions"):
        parse_pickle(b"N" * (MAX_OPCODES + 1) + b".", "x")


@pytest.mark.parametrize(
    ("value", "phrase"),
    [
        (np.array([1, "a"], object), "Python objects"),
        (np.array(["a", "b"]), "dtype 'U1'"),
        (np.array([1j]), "dtype 'c16'"),
        ({1, 2}, r"__builtin__\.set|EMPTY_SET"),
        (np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]), "dtype 'V12'"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_other_kinds_of_values_are_refused(value: object, phrase: str, protocol: int) -> None:
    with pytest.raises(DataError, match=phrase):
        parse_pickle(pickle.dumps([value], protocol), "x")


@pytest.mark.parametrize("raw", [b"\x80\x04\x97.", b"\x80\x04\x98.", b"P0\n.", b"NQ.", b"N\x82\x01.", b"N)\x81.", b"(N\x90."])
def test_instructions_that_images_do_not_need_are_refused(raw: bytes) -> None:
    with pytest.raises(DataError, match=r"image data does not need|not a pickle|damaged"):
        parse_pickle(raw, "x")


def test_unfinished_arrays_never_leave_the_reader() -> None:
    raw = b"\x80\x02]cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87Ra."
    with pytest.raises(DataError, match="unfinished numpy object"):
        parse_pickle(raw, "x")


FUZZ = """
import collections, json, random, resource, signal, sys, time, warnings
sys.path.insert(0, sys.argv[1])
import test_pickles
from cifar_small.data.pickles import parse_pickle
from cifar_small.errors import DataError

def mutate(raw, rng):
    raw = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(raw) + 1) if rng.random() < 0.5 else min(len(raw), int(rng.expovariate(1 / 40)))
        kind = rng.randrange(7)
        if kind == 0: raw[at:at + 1] = bytes([rng.randrange(256)])
        elif kind == 1: raw[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
        elif kind == 2: del raw[at:at + rng.randrange(1, 9)]
        elif kind == 3: del raw[at:]
        elif kind == 4:
            raw[at:at + 4] = rng.choice((b"\\xff\\xff\\xff\\x7f", b"\\xff" * 8, b"\\x00" * 4, b"\\x00\\x00\\x00\\x80"))
        elif kind == 5: raw[at:at] = raw[max(0, at - rng.randrange(1, 60)):at] * rng.randrange(1, 4)
        elif at < len(raw): raw[at] ^= 1 << rng.randrange(8)
    return bytes(raw)

def too_slow(*_): raise BaseException("more than 2 s")

warnings.simplefilter("ignore")  # invalid escapes
signal.signal(signal.SIGPROF, too_slow)
seeds, rng, outcomes, slowest = test_pickles.seeds(), random.Random(0), collections.Counter(), 0.0
for seed in seeds: parse_pickle(seed, "x")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for number in range(10_000):
    raw = mutate(seeds[number % len(seeds)], rng)
    start = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, 2)
    try:
        parse_pickle(raw, "x")
        outcomes["accepted"] += 1
    except DataError:
        outcomes["DataError"] += 1
    except BaseException as error:
        outcomes[repr(error)[:80] + raw.hex()[:2000]] += 1
    signal.setitimer(signal.ITIMER_PROF, 0)
    slowest = max(slowest, time.process_time() - start)
growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"outcomes": outcomes, "slowest": slowest, "growth_kb": growth, "peak_kb": before + growth}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory limits and /proc are Linux's")
def test_ten_thousand_damaged_files_give_a_value_or_a_data_error() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert set(result["outcomes"]) == {"accepted", "DataError"}, result
    assert sum(result["outcomes"].values()) == 10_000
    assert result["outcomes"]["DataError"] > 5_000  # the damage is real
    assert result["slowest"] < 2
    assert result["growth_kb"] < 64 * 1024


@pytest.mark.real_data
def test_real_batches_equal_what_pickle_reads() -> None:
    root = Path(os.environ.get("CIFAR_SMALL_DATA") or pytest.skip("CIFAR_SMALL_DATA is not set"))
    path = root / "cifar-10-batches-py" / "test_batch"
    if not path.is_file():
        pytest.skip(f"no {path}")
    got = read_pickle(path)
    expected = pickle.loads(path.read_bytes(), encoding="bytes")
    assert got.keys() == expected.keys()
    assert np.array_equal(got[b"data"], expected[b"data"])
    assert got[b"labels"] == expected[b"labels"]
