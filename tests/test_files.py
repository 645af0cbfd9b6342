import json
import math
import os

import pytest

from hwzoo import files
from hwzoo.errors import HwzooError
from hwzoo.files import (
    adding_to,
    append_jsonl,
    begin_record,
    cut_back,
    finish,
    made,
    read_jsonl,
    record_made,
    remove_unfinished,
    renewing,
    replacing,
    settled,
    sha256,
    size_of,
    with_words,
    write_bytes,
    write_json,
    write_jsonl,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path):
    write_bytes(tmp_path / "a", b"old")
    write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new" and names(tmp_path) == ["a"]


def test_what_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path):
    write_bytes(tmp_path / "a", b"old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a") as staging:
        staging.write_bytes(b"half")
        raise ZeroDivisionError
    assert (tmp_path / "a").read_bytes() == b"old" and names(tmp_path) == ["a"]


def test_a_folder_appears_with_all_its_files(tmp_path):
    with replacing(tmp_path / "folder") as staging:
        staging.mkdir()
        (staging / "one").write_text("1")
        assert not (tmp_path / "folder").exists()
    assert names(tmp_path / "folder") == ["one"] and names(tmp_path) == ["folder"]


def test_what_takes_its_place_is_on_the_disk_before_and_its_place_after(tmp_path, monkeypatch):
    events, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append(("flushed", os.fstat(descriptor).st_ino)))
    monkeypatch.setattr(
        os, "replace", lambda *paths: (events.append(("renamed", os.stat(paths[0]).st_ino)), replace(*paths))
    )
    with replacing(tmp_path / "folder") as staging:
        staging.mkdir()
        (staging / "one").write_text("1")
    one, folder, place = (path.stat().st_ino for path in (tmp_path / "folder" / "one", tmp_path / "folder", tmp_path))
    assert events == [("flushed", one), ("flushed", folder), ("renamed", folder), ("flushed", place)]
    events.clear()
    with adding_to(tmp_path / "folder") as staging:
        (staging / "two").write_text("2")
    two = (tmp_path / "folder" / "two").stat().st_ino
    assert ("flushed", two) in events[:-2] and events[-2:] == [("renamed", two), ("flushed", folder)]


def test_who_may_read_the_folder_may_read_what_is_added(tmp_path):
    tmp_path.chmod(0o755)
    with adding_to(tmp_path) as staging:
        (staging / "file").touch(mode=0o600)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_adding_replaces_files_of_the_same_name_only_at_the_end(tmp_path):
    (tmp_path / "same").write_text("old")
    (tmp_path / "other").write_text("kept")
    with adding_to(tmp_path) as staging:
        (staging / "same").write_text("new")
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
        with replacing(tmp_path / "folder") as staging:
            staging.mkdir()
            os._exit(0)  # as a kill: no clean-up
    os.waitpid(child, 0)
    assert names(tmp_path) == [".unfinished-folder"]
    remove_unfinished(tmp_path)
    assert names(tmp_path) == []


def final(folder, **texts):
    """The final files of a run, by name; `images_0` stands for images/0."""
    with renewing(folder) as staging:
        for name, text in texts.items():
            path = staging / name.replace("_", "/").replace("DOT", ".")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)


def test_final_files_take_their_places_and_what_no_run_changed_goes(tmp_path):
    (tmp_path / "notes").write_text("mine")
    final(tmp_path, samples="old", images_0="old 0", images_1="old 1", kept="as it was")
    (tmp_path / "images" / "2").write_text("mine")
    (tmp_path / "kept").write_text("changed by its owner")
    final(tmp_path, samples="new", images_0="new 0")
    left = [path for path in tmp_path.rglob("[!.]*") if path.is_file()]
    assert {str(path.relative_to(tmp_path)): path.read_text() for path in left} == {
        "notes": "mine", "samples": "new", "images/0": "new 0", "images/2": "mine", "kept": "changed by its owner",
    }  # fmt: skip
    assert set(made(tmp_path)) == {"samples", "images/0"} and not (tmp_path / ".final").exists()


def test_what_fails_half_way_leaves_all_final_files_as_they_were(tmp_path):
    final(tmp_path, configDOTjson="old", weights="old")
    with pytest.raises(ZeroDivisionError), renewing(tmp_path) as staging:
        (staging / "config.json").write_text("new")
        raise ZeroDivisionError
    assert (tmp_path / "config.json").read_text() == (tmp_path / "weights").read_text() == "old"
    assert settled(tmp_path) == str(tmp_path) and names(tmp_path) == [
        ".ended.json", ".gitignore", "config.json", "weights"
    ]  # fmt: skip


def test_final_files_on_their_way_are_whole_in_one_place(tmp_path, monkeypatch):
    final(tmp_path, configDOTjson="old", weights="old")
    replace, calls = os.replace, []

    def interrupted(source, target):
        calls.append(target)
        if len(calls) > 2:  # the set is whole; one file has its place
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        final(tmp_path, configDOTjson="new", weights="new")
    monkeypatch.undo()
    assert settled(tmp_path) == str(tmp_path / ".final") and not (tmp_path / "config.json").exists()
    assert {path.name: path.read_text() for path in (tmp_path / ".final").iterdir()} == {
        "config.json": "new", "weights": "new",
    }  # fmt: skip
    finish(tmp_path)
    assert settled(tmp_path) == str(tmp_path)
    assert (tmp_path / "config.json").read_text() == (tmp_path / "weights").read_text() == "new"


def test_what_was_changed_since_keeps_a_copy(tmp_path, caplog):
    def run(**texts):
        with files.renewing(tmp_path) as staging:
            for name, text in texts.items():
                (staging / f"{name}.md").write_text(text)

    def texts():
        return {path.name: path.read_text() for path in sorted(tmp_path.glob("[!.]*"))}

    run(README="one", other="one")
    for num, copies in (("two", {"README.yours.md": "mine two"}), ("three", {"README.yours2.md": "mine three"})):
        (tmp_path / "README.md").write_text(f"mine {num}")
        before = {name: text for name, text in texts().items() if "yours" in name}
        run(README=num, other=num)
        assert texts() == {"README.md": num, "other.md": num} | before | copies
    assert [each.message.split("; ")[1] for each in caplog.records] == [
        "as it was it is now README.yours.md", "as it was it is now README.yours2.md"
    ]  # fmt: skip
    (tmp_path / "README.md").write_text("four")
    run(README="four")
    assert len(caplog.records) == 2  # it is the same


def test_final_files_without_a_model_leave_one_that_is_there(tmp_path):
    (tmp_path / "config.json").write_text("of a model")
    final(tmp_path, samples="new")
    assert (tmp_path / "config.json").read_text() == "of a model"


def test_what_a_run_makes_on_its_way_is_its_own_until_the_next_begins(tmp_path):
    for name in ("a", "b"):
        record_made(tmp_path, {name: sha256(b"1")})
        (tmp_path / name).write_bytes(b"1")
    assert made(tmp_path) == {"a": sha256(b"1"), "b": sha256(b"1")}
    (tmp_path / "b").write_bytes(b"changed")
    begin_record(tmp_path)  # the first run never ended
    assert names(tmp_path) == [".gitignore", "b"] and made(tmp_path) == {}
    record_made(tmp_path, {"c": sha256(b"1"), "history": None})
    for name in ("c", "history"):
        (tmp_path / name).write_bytes(b"1")
    final(tmp_path, weights="1")
    begin_record(tmp_path)  # it ended: what it made stays until the next has ended
    assert (tmp_path / "c").exists() and set(made(tmp_path)) == {"weights"}
    final(tmp_path, weights="2")
    assert not (tmp_path / "c").exists() and (tmp_path / "history").exists()


def test_lines_are_appended_cut_back_and_read_past_one_that_is_cut_off(tmp_path):
    path = tmp_path / "log.jsonl"
    append_jsonl(path, [{"a": 1}, {"b": 2.5}])
    length = size_of(path)
    append_jsonl(path, [{"c": None}])
    with open(path, "a") as file:
        file.write('{"d": ')
    assert read_jsonl(path) == [{"a": 1}, {"b": 2.5}, {"c": None}]
    assert cut_back(path, length) == [{"c": None}] and size_of(path) == length
    assert read_jsonl(path) == [{"a": 1}, {"b": 2.5}]
    assert read_jsonl(tmp_path / "none") == cut_back(tmp_path / "none", 3) == [] and size_of(tmp_path / "x") == 0


def test_a_line_that_is_cut_off_costs_no_other(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"file": "a"}\n{"file": "b", "sh')
    for name in ("c", "d"):
        append_jsonl(path, [{"file": name}])
    assert [each["file"] for each in read_jsonl(path)] == ["a", "c", "d"]
    assert path.read_text().splitlines()[2:] == ['{"file": "c"}', '{"file": "d"}']
    # Where a run begins anew its line is of its own: what an earlier run made is not its.
    write_json(tmp_path / ".ended.json", {})
    begin_record(tmp_path)
    record_made(tmp_path, {"first.png": "1"})
    write_json(tmp_path / ".ended.json", {"README.md": "0"})
    begin_record(tmp_path)
    record_made(tmp_path, {"second.png": "2"})
    with open(tmp_path / ".made.jsonl", "a") as file:
        file.write('{"file": "other.png", "sha')
    begin_record(tmp_path)
    record_made(tmp_path, {"third.png": "3"})
    assert made(tmp_path) == {"third.png": "3", "README.md": "0"}


def test_numbers_that_json_has_not_are_words():
    given = {"a": [math.inf, 1.5], "b": {"c": (-math.inf, 2)}, "d": math.nan, "e": "nan", "f": None, "g": True}
    wanted = {"a": ["inf", 1.5], "b": {"c": ["-inf", 2]}, "d": "nan", "e": "nan", "f": None, "g": True}
    assert with_words(given) == wanted
