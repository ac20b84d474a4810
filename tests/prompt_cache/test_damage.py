"""Damage, strangers and deaths: what is on disk is right or it is not used."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import mlx.core as mx
import pytest
from prompt_cache.texts import KEY, files_of, made, next_logits, read, store_in, text

from mlx_mistral.errors import CacheError
from mlx_mistral.prompt_cache.entry_file import digest

WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from prompt_cache.texts import KEY, read, store_in, text
store = store_in(Path(sys.argv[1]), segment_bytes=1)
print("ready", flush=True)
for seed in range(int(sys.argv[3]), 1000):
    ids = text(200, seed)
    store.save(KEY, ids, read("mistral", ids))
    print(seed, flush=True)
"""


def writer(folder: Path, first_seed: int = 0) -> subprocess.Popen[str]:
    """Another process that saves one text after another."""
    tests = Path(__file__).parent.parent
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(tests), str(first_seed)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_damage_at_any_byte_is_refused_and_dropped(tmp_path: Path) -> None:
    store, ids, dice = store_in(tmp_path), text(80), random.Random(0)
    layers = read("mistral", ids)
    for _ in range(12):
        store.save(KEY, ids, layers)
        (path,) = files_of(tmp_path)
        raw = bytearray(path.read_bytes())
        raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
        path.write_bytes(raw)
        found = store.find(KEY, [*ids, 1])
        assert found is not None
        with pytest.raises(CacheError, match="is damaged") as raised:
            store.load(found, made("mistral"))
        assert str(path) in str(raised.value)
        assert "\n" not in str(raised.value)
        assert store.find(KEY, [*ids, 1]) is None
        assert files_of(tmp_path) == []


def test_a_file_cut_short_is_refused_and_what_builds_on_it_goes_too(tmp_path: Path) -> None:
    store, ids = store_in(tmp_path, segment_bytes=1), text(150)
    store.save(KEY, ids, read("mistral", ids))
    first = store.folder / next(each.file for each in store.entries() if not each.start)
    first.write_bytes(first.read_bytes()[:-1])
    found = store.find(KEY, [*ids, 1])
    assert found is not None
    with pytest.raises(CacheError, match="is damaged"):
        store.load(found, made("mistral"))
    assert store.entries() == []
    assert files_of(tmp_path) == []


def test_a_cache_of_another_kind_is_refused_even_under_its_key(tmp_path: Path) -> None:
    """The key keeps kinds apart; the file is looked at all the same."""
    store, ids = store_in(tmp_path), text(80)
    store.save(KEY, ids, read("mistral", ids))
    found = store.find(KEY, [*ids, 1])
    assert found is not None
    with pytest.raises(CacheError):
        store.load(found, made("mistral-window"))
    store.save(KEY, ids, read("mistral", ids))
    found = store.find(KEY, [*ids, 1])
    assert found is not None
    with pytest.raises(CacheError):
        store.load(found, made("mistral", kv_bits=8))


def test_a_damaged_index_is_told_once_and_begun_anew(tmp_path: Path) -> None:
    store, ids = store_in(tmp_path), text(80)
    layers = read("mistral", ids)
    store.save(KEY, ids, layers)
    index = store.folder / "index.sqlite3"
    index.write_bytes(b"no database" * 1000)
    with pytest.raises(CacheError, match="begin anew"):
        store.find(KEY, ids)
    assert store.find(KEY, [*ids, 1]) is None
    assert store.save(KEY, ids, layers) == 80
    assert store.find(KEY, [*ids, 1]) is not None


def test_a_file_that_is_gone_is_no_error(tmp_path: Path) -> None:
    store, ids = store_in(tmp_path), text(80)
    store.save(KEY, ids, read("mistral", ids))
    found = store.find(KEY, [*ids, 1])
    assert found is not None
    files_of(tmp_path)[0].unlink()
    assert store.load(found, made("mistral")) is None
    assert store.load(found, made("mistral")) is None
    assert store.find(KEY, [*ids, 1]) is None


def test_a_file_that_goes_while_it_is_read_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, ids = store_in(tmp_path), text(80)
    store.save(KEY, ids, read("mistral", ids))
    found = store.find(KEY, [*ids, 1])
    assert found is not None

    def evicted(path: Path, pause: object = None) -> bytes:
        sum_ = digest(path)
        path.unlink()
        return sum_

    monkeypatch.setattr("mlx_mistral.prompt_cache.entry_file.digest", evicted)
    assert store.load(found, made("mistral")) is None
    assert store.find(KEY, [*ids, 1]) is None


def test_a_full_disk_is_told_and_what_is_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, ids = store_in(tmp_path), text(80)
    store.save(KEY, ids, read("mistral", ids))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(mx, "save_safetensors", full)
        with pytest.raises(CacheError, match="No space left on device; check"):
            store.save(KEY, text(90, 1), read("mistral", text(90, 1)))
    assert len(files_of(tmp_path)) == len(store.entries()) == 1
    found = store.find(KEY, [*ids, 1])
    assert found is not None
    assert store.load(found, made("mistral")) is not None


def test_a_process_killed_while_it_saves_leaves_a_store_that_works(tmp_path: Path) -> None:
    for round_ in range(3):
        process = writer(tmp_path, 10 * round_)
        assert process.stdout is not None
        for _ in range(2 + round_):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    store = store_in(tmp_path)
    n_loaded = 0
    for seed in range(30):
        ids = text(200, seed)
        if found := store.find(KEY, [*ids, 1]):
            loaded = store.load(found, made("mistral"))
            assert loaded is not None
            assert loaded[1] == ids[: found.tokens]
            n_loaded += 1
    assert n_loaded >= 3
    for path in store.folder.iterdir():
        os.utime(path, (0, 0))
    known = {each.file for each in store.entries()}
    ids = text(100, 500)
    store_in(tmp_path).save(KEY, ids, read("mistral", ids))
    left = {path.name for path in store.folder.iterdir() if "safetensors" in path.name}
    assert len(left - known) == 1


def test_two_processes_save_evict_and_load_at_once(tmp_path: Path) -> None:
    """Both beyond the limit, so that each takes away what the other has just written."""
    ids = text(200, 0)
    small = store_in(tmp_path / "size")
    small.save(KEY, ids, read("mistral", ids))
    limit = 3 * small.nbytes
    process = writer(tmp_path, 10)
    assert process.stdout is not None
    process.stdout.readline()
    mine = store_in(tmp_path, limit_bytes=limit, segment_bytes=1)
    layers = read("mistral", ids)
    expected = next_logits("mistral", read("mistral", ids))
    n_loaded = 0
    try:
        for _ in range(25):
            mine.save(KEY, ids, layers)
            if found := mine.find(KEY, [*ids, 1]):
                loaded = mine.load(found, made("mistral"))
                if loaded is not None and found.tokens == 200:
                    assert next_logits("mistral", loaded[0]) == expected
                    n_loaded += 1
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
    assert n_loaded
    mine.save(KEY, [*ids, 1], read("mistral", [*ids, 1]))
    assert mine.nbytes <= limit
    assert sum(each.nbytes for each in mine.entries()) == mine.nbytes


def test_threads_share_a_store(tmp_path: Path) -> None:
    store, errors = store_in(tmp_path, limit_bytes=200_000), []
    texts = [text(100, seed) for seed in range(4)]
    caches = [read("mistral", ids) for ids in texts]

    def work(n: int) -> None:
        try:
            for _ in range(5):
                store.save(KEY, texts[n], caches[n])
                if found := store.find(KEY, [*texts[n], 1]):
                    store.load(found, made("mistral"))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
