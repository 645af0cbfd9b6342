import json
import os

import pytest

from hwzoo.errors import HwzooError
from hwzoo.files import adding_to, remove_unfinished, replacing, write_bytes, write_json, write_jsonl


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path):
    write_bytes(tmp_path / "a", b"old")
    write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new" and names(tmp_path) == ["a"]


def test_what_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path):
    write_bytes(tmp_path / "a", b"old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a") as beside:
        beside.write_bytes(b"half")
        raise ZeroDivisionError
    assert (tmp_path / "a").read_bytes() == b"old" and names(tmp_path) == ["a"]


def test_a_folder_appears_with_all_its_files(tmp_path):
    with replacing(tmp_path / "folder") as beside:
        beside.mkdir()
        (beside / "one").write_text("1")
        assert not (tmp_path / "folder").exists()
    assert names(tmp_path / "folder") == ["one"] and names(tmp_path) == ["folder"]


def test_who_may_read_the_folder_may_read_what_is_added(tmp_path):
    tmp_path.chmod(0o755)
    with adding_to(tmp_path) as beside:
        (beside / "file").touch(mode=0o600)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_adding_replaces_files_of_the_same_name_only_at_the_end(tmp_path):
    (tmp_path / "same").write_text("old")
    (tmp_path / "other").write_text("kept")
    with adding_to(tmp_path) as beside:
        (beside / "same").write_text("new")
        assert (tmp_path / "same").read_text() == "old"
    assert (tmp_path / "same").read_text() == "new" and names(tmp_path) == ["other", "same"]


def test_the_systems_errors_name_the_file(tmp_path):
    with pytest.raises(HwzooError, match=f"cannot write {tmp_path / 'no' / 'a'}: No such file"):
        write_bytes(tmp_path / "no" / "a", b"x")


def test_json_takes_finite_numbers_only(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1.5})
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": 1.5\n}\n'


def test_json_lines_are_whole_and_of_finite_numbers(tmp_path):
    rows = [{"a": 1.5}, {"b": "é\n"}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(ValueError):
        write_jsonl(tmp_path / "a.jsonl", [{"a": 1}, {"a": float("inf")}])
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == rows
    write_jsonl(tmp_path / "a.jsonl", [])
    assert (tmp_path / "a.jsonl").read_text() == ""


def test_leftovers_of_a_kill_are_removed(tmp_path):
    child = os.fork()
    if child == 0:
        with replacing(tmp_path / "folder") as beside:
            beside.mkdir()
            os._exit(0)  # as a kill: no clean-up
    os.waitpid(child, 0)
    assert names(tmp_path) == [".unfinished-folder"]
    remove_unfinished(tmp_path)
    assert names(tmp_path) == []
