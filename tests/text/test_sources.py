"""Where pairs of texts come from, what is said of broken ones, and that a split stays what it was."""

import csv
import gzip
import io
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from hwzoo import text
from hwzoo.errors import HwzooError, UsageError
from hwzoo.text import COURSE_WORDS, Columns, Example, hash_split, limited, load_tasks, load_text, load_texts
from hwzoo.text.sources import TextSplits, add_compounds
from hwzoo.text.words import word_rows

ROWS = [{"document": f"Text {i}. More.", "summary": f"short {i}", "year": i} for i in range(3)]


def json_lines(rows: list) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def comma_separated(rows: list[dict]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def written(folder: Path, name: str, data: bytes) -> str:
    (folder / name).write_bytes(gzip.compress(data) if name.lower().endswith(".gz") else data)
    return str(folder / name)


def loaded(folder: Path, rows: list, name: str = "test.jsonl", **columns) -> list[Example]:
    """The test set of a file of these rows."""
    return load_text(files={"test": written(folder, name, json_lines(rows))}, columns=Columns(**columns)).test


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("rows.jsonl", json_lines(ROWS)),
        ("rows.jsonl.gz", json_lines(ROWS)),
        ("rows.json", json.dumps(ROWS, indent=1).encode()),
        ("rows.csv", comma_separated(ROWS)),
        ("rows.csv.gz", comma_separated(ROWS)),
        ("rows.CSV", comma_separated(ROWS)),
        ("rows.JSONL", json_lines(ROWS)),
        ("rows.Csv.GZ", comma_separated(ROWS)),
        ("crlf.jsonl", json_lines(ROWS).replace(b"\n", b"\r\n")),
        ("lf.csv", comma_separated(ROWS).replace(b"\r\n", b"\n")),
        ("bom.csv", b"\xef\xbb\xbf" + comma_separated(ROWS)),
        ("bom.json", b"\xef\xbb\xbf" + json.dumps(ROWS).encode()),
        ("bom.jsonl", b"\xef\xbb\xbf" + json_lines(ROWS) + b"\n\n"),
        ("reviews.v1.jsonl", json_lines(ROWS)),
        ("reviews.csv.jsonl", json_lines(ROWS)),
        ("reviews.jsonl.csv.gz", comma_separated(ROWS)),
    ],
)
def test_every_kind_of_file_gives_the_same_pairs(name, data, tmp_path):
    splits = load_text(files={"test": written(tmp_path, name, data)})
    assert splits.name == name.split(".")[0] and splits.train == [] and splits.validation == splits.test
    assert splits.test[1] == Example("Text 1. More.", "short 1", ("short 1",), "", "Text 1. More.")
    assert splits.tasks == []


@pytest.mark.parametrize("name", ["rows.json.bak", "rows.csv.txt.gz", "rows.jsonl.gz.gz", "rows.gz", "rows"])
def test_a_file_of_another_kind_is_refused_by_its_name(name, tmp_path):
    with pytest.raises(
        UsageError, match=f"^--test_file {tmp_path}/{name}: its name must end in .jsonl, .json, .csv, "
    ):
        load_text(files={"test": written(tmp_path, name, json_lines(ROWS))})


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path):
    (example,) = loaded(tmp_path, [{"text": "one\u2028two", "target": "a,b"}])
    assert example.source == "one\u2028two"


def test_a_large_cell_is_read(tmp_path):
    """Longer than Python's own limit, which is left as it was."""
    before, long = csv.field_size_limit(), "word, " * 50_000
    data = comma_separated([{"text": long, "target": "a"}, {"text": "b", "target": long}])
    splits = load_text(files={"test": written(tmp_path, "rows.csv", data)})
    assert [(each.source, each.target) for each in splits.test] == [(long, "a"), ("b", long)]
    assert csv.field_size_limit() == before


def test_what_a_spreadsheet_leaves_is_read(tmp_path):
    """Columns without names beside the table, empty lines below it, line breaks in cells."""
    data = b'\xef\xbb\xbftext,target,,\r\n"a\nb",c,,\r\n\r\nd,e,,\r\n\r\n'
    splits = load_text(files={"test": written(tmp_path, "rows.csv", data)})
    assert [(each.source, each.target) for each in splits.test] == [("a\nb", "c"), ("d", "e")]


def test_a_task_may_be_missing_where_nothing_needs_it(tmp_path):
    rows = [{"text": "a", "target": "b", "task": task} for task in (None, 0, "x")]
    assert [each.task for each in loaded(tmp_path, rows, source_prefix="")] == ["", "0", "x"]
    assert [each.source for each in loaded(tmp_path, rows, tasks=["0"])] == ["0: a"]
    with pytest.raises(UsageError, match="--tasks None: .* has 0, x$"):
        loaded(tmp_path, rows, source_prefix="", tasks=["None"])


def test_the_digest_is_of_all_texts(tmp_path):
    """The same wherever they lie; another for each change of a text, a reference, a task, a split."""
    rows = [{"text": "a", "target": "b", "references": ["b", "c"], "task": "x"}, {"text": "d", "target": "e"}]
    rows[1] |= {"references": ["e"], "task": "y"}

    def digest(rows, **files):
        files = {split: written(tmp_path, f"{split}.jsonl", json_lines(given)) for split, given in files.items()}
        return load_text(files={"test": written(tmp_path, "some.jsonl", json_lines(rows)), **files}).digest()

    first = digest(rows)
    assert digest([dict(reversed(row.items())) for row in rows]) == first and len(first) == 64
    changes = [("text", "A"), ("target", "B"), ("references", ["b", "d"]), ("task", "z")]
    others = {digest([rows[0] | {name: value}, rows[1]]) for name, value in changes}
    others |= {digest(rows[::-1]), digest(rows[:1]), digest(rows, train=rows[:1]), digest(rows, validation=rows[:1])}
    assert len(others | {first}) == 9
    before = [Example("ab", "c", ("c",)), Example("a", "bc", ("bc",))]
    assert len({TextSplits("pairs", [], [], [each]).digest() for each in before}) == 2


@pytest.mark.parametrize("given", [".", "./", "../pairs/"])
def test_texts_have_the_name_of_their_folder(given, tmp_path, monkeypatch):
    (tmp_path / "pairs").mkdir()
    for split in ("train", "validation", "test"):
        written(tmp_path / "pairs", f"{split}.jsonl", json_lines(ROWS))
    monkeypatch.chdir(tmp_path / "pairs")
    assert load_text(given).name == "pairs"


@pytest.mark.parametrize(
    "names", [("train.csv", "train.jsonl"), ("Train.csv", "train.csv.gz"), ("dev.csv", "val.csv")]
)
def test_two_files_of_a_split_are_refused(names, tmp_path):
    written(tmp_path, "test.csv", comma_separated(ROWS))
    for name in names:
        written(tmp_path, name, json_lines(ROWS) if name.endswith(".jsonl") else comma_separated(ROWS))
    split = "train" if "train" in names[0].lower() else "validation"
    with pytest.raises(UsageError, match=f": {', '.join(names)} are all of the split {split}; it must be one file"):
        load_text(str(tmp_path))


def test_a_file_may_lie_beside_its_gz(tmp_path):
    for name, rows in (("test.jsonl", ROWS), ("test.jsonl.gz", ROWS[:1])):
        written(tmp_path, name, json_lines(rows))
    assert len(load_text(str(tmp_path)).test) == len(ROWS)


def test_columns_prefix_and_tasks(tmp_path):
    rows = [{"task": task, "question": "cat", "answer": task[0], "lang": "en"} for task in ("plural", "past")]
    both = {"text_column": "question", "summary_column": "answer"}
    assert [each.source for each in loaded(tmp_path, rows, **both)] == ["plural: cat", "past: cat"]
    (past,) = loaded(tmp_path, rows, **both, tasks=["past"], source_prefix="{lang} {task}> ")
    assert past == Example("en past> cat", "p", ("p",), "past", "cat")
    assert loaded(tmp_path, rows, **both, source_prefix="")[0].source == "cat"


def test_tasks_are_those_of_all_splits_together(tmp_path):
    train = [{"task": task, "source": word, "target": "x"} for word in ("cat", "dog") for task in ("plural", "past")]
    files = {"train": train, "test": [train[0]]}
    files = {split: written(tmp_path, f"{split}.jsonl", json_lines(rows)) for split, rows in files.items()}
    splits = load_text(files=files, columns=Columns(tasks=["plural", "past"]))
    assert [each.source for each in splits.train] == ["plural: cat", "past: cat", "plural: dog", "past: dog"]
    assert [each.source for each in splits.test] == ["plural: cat"]
    there = f"--train_file {files['train']} has past, plural; --test_file {files['test']} has plural"
    for tasks, told in (
        (["gerund", "past"], f"--tasks gerund: {there}"),
        (["past"], f"--tasks past: {there}; each split must have one of them"),
    ):
        with pytest.raises(UsageError, match=f"^{told}$"):
            load_text(files=files, columns=Columns(tasks=tasks))


def test_splits_of_which_some_have_tasks_need_a_prefix(tmp_path):
    """Else the model would be tested on sources that look otherwise than those of training."""
    rows = [{"task": "plural", "source": "cat", "target": "cats"}, {"source": "dog", "target": "dogs"}]
    for split, row in zip(("train", "test"), rows, strict=True):
        written(tmp_path, f"{split}.jsonl", json_lines([row]))
    told = f"{tmp_path}/train.jsonl has a column task, {tmp_path}/test.jsonl has not"
    with pytest.raises(UsageError, match=f"^--source_prefix is needed, '' for none: {told}$"):
        load_text(str(tmp_path))
    splits = load_text(str(tmp_path), columns=Columns(source_prefix=""))
    assert [each.source for each in splits.train + splits.test] == ["cat", "dog"]
    assert load_tasks(str(tmp_path)) == splits


def test_references_hold_the_target_first_and_once(tmp_path):
    rows = [{"text": "a", "summary": "x", "all": ["y", "x", "z"]}, {"text": "b", "summary": "x", "all": ["x"]}]
    assert [each.references for each in loaded(tmp_path, rows)] == [("x",), ("x",)]
    assert [each.references for each in loaded(tmp_path, rows, references_column="all")] == [("x", "y", "z"), ("x",)]
    renamed = [{**row, "references": row["all"]} for row in rows]
    assert [len(each.references) for each in loaded(tmp_path, renamed)] == [3, 1]


def test_a_column_that_only_happens_to_be_called_references_is_left_alone(tmp_path, caplog):
    ids = ["53e99784", "53e9978a"]
    rows = [{"abstract": f"Text {i}.", "title": f"title {i}", "references": ids} for i in range(3)]
    both = {"text_column": "abstract", "summary_column": "title"}
    assert [each.references for each in loaded(tmp_path, rows, **both)] == [("title 0",), ("title 1",), ("title 2",)]
    (told,) = (each.message for each in caplog.records)
    reason = "row 1 has no list of texts with its title there"
    assert told.endswith(f"test.jsonl: its column references is not read as right targets: {reason}")
    asked = loaded(tmp_path, rows, **both, references_column="references")[0].references
    assert asked == ("title 0", *ids)
    right = [{**row, "references": [row["title"], "other"]} for row in rows]
    assert [len(each.references) for each in loaded(tmp_path, right, **both)] == [2, 2, 2]
    assert [len(each.references) for each in loaded(tmp_path, right, **both, references_column="")] == [1, 1, 1]
    assert {each.references[1:] for each in loaded(tmp_path, [*right[:2], rows[2]], **both)} == {()}
    assert loaded(tmp_path, [{**row, "references": None} for row in rows], **both)[0].references == ("title 0",)


@pytest.mark.parametrize("wrong", [[], "[1] Smith 2019", [3], ["short 0", " "], ["short 0", None], ["short"]])
def test_what_is_no_list_with_the_target_counts_only_where_it_is_asked_for(wrong, tmp_path):
    rows = [*ROWS[1:], {**ROWS[0], "references": wrong}]
    assert [each.references for each in loaded(tmp_path, rows)] == [("short 1",), ("short 2",), ("short 0",)]
    if wrong != ["short"]:
        with pytest.raises(UsageError, match="row 1: references "):
            loaded(tmp_path, rows[2:], references_column="references")


def test_a_table_with_a_column_of_references_is_read(tmp_path, caplog):
    for split in ("train", "validation", "test"):
        rows = [{**row, "document": split + row["document"], "references": "[1] Smith 2019"} for row in ROWS]
        written(tmp_path, f"{split}.csv", comma_separated(rows))
    assert load_text(str(tmp_path)).test[1].references == ("short 1",)
    assert len(caplog.records) == 3 and load_tasks(str(tmp_path)).test[1].target == "short 1"
    caplog.clear()
    assert len(load_texts(str(tmp_path), text_column="document").test) == 3
    assert not caplog.records  # single texts have no references


def test_the_summaries_of_scitldr_count(caplog):
    if not (folder := Path(os.environ.get("HWZOO_DATA_DIR") or ".") / "scitldr").is_dir():
        pytest.skip(f"{folder} is not there")
    splits = load_text(str(folder))
    assert sum(len(each.references) for each in splits.test) == 1967 and not caplog.records
    assert all(each.references[0] == each.target for each in splits.test)


def test_a_folder_gives_its_splits(tmp_path):
    for split, num in (("train", 3), ("validation", 2), ("test", 1)):
        written(tmp_path, f"{split}.jsonl.gz", json_lines(ROWS[:num]))
    splits = load_text(str(tmp_path))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [3, 2, 1]
    assert splits.name == tmp_path.name and splits.note == ""
    assert load_text(tmp_path.name, data_dir=str(tmp_path.parent)) == splits
    assert [len(part) for part in (limited(splits, 1, 1, None).train, limited(splits, 1, 1, None).test)] == [1, 1]
    (tmp_path / "test.jsonl.gz").rename(tmp_path / "Test.JSONL.GZ")
    assert load_text(str(tmp_path)) == splits
    (tmp_path / "Test.JSONL.GZ").unlink()
    splits = load_text(str(tmp_path))
    assert splits.test == splits.validation and "tested on the validation split" in splits.note


@pytest.mark.parametrize("name", ["inflections", "scitldr"])
def test_a_folder_called_as_data_of_the_zoo_is_read_by_its_path_alone(name, tmp_path, monkeypatch):
    """As a preset means it: the name is the zoo's data, wherever the run is done."""
    for folder, num in ((tmp_path / "zoo" / name, 3), (tmp_path / "mine" / name, 2)):
        folder.mkdir(parents=True)
        written(folder, "train.jsonl", json_lines(ROWS[:num]))
        written(folder, "test.jsonl", json_lines(ROWS[:num]))
    monkeypatch.chdir(tmp_path / "mine")
    zoo = str(tmp_path / "zoo")
    assert [len(load_text(each, zoo).train) for each in (name, f"./{name}")] == [3, 2]
    monkeypatch.delenv("HWZOO_DATA_DIR", raising=False)
    with pytest.raises(UsageError, match=f"HWZOO_DATA_DIR names the folder that has it; ./{name} is the folder here$"):
        load_text(name)


@pytest.mark.parametrize("called", ["valid", "val", "dev"])
def test_the_validation_split_has_several_names(called, tmp_path):
    for split, num in (("train", 3), (called, 2), ("test", 1)):
        written(tmp_path, f"{split}.jsonl", json_lines(ROWS[:num]))
    splits = load_text(str(tmp_path))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [3, 2, 1]


def test_a_folder_may_hold_a_test_split_alone(tmp_path):
    written(tmp_path, "test.jsonl", json_lines(ROWS[:2]))
    splits = load_text(str(tmp_path))
    assert not splits.train and splits.validation == splits.test and len(splits.test) == 2
    with pytest.raises(UsageError, match=f"--dataset_name {tmp_path}: it has no training texts"):
        load_texts(str(tmp_path))


def test_columns_that_the_first_row_lacks_are_read(tmp_path):
    rows = [{"text": "a", "target": "b"}, {"text": "c", "target": "d", "references": ["d", "e"], "task": "plural"}]
    rows[1] |= {"document": "not this"}  # where the first row has a usual column
    first, second = loaded(tmp_path, rows, source_prefix="")
    assert (first.task, second.task, second.source) == ("", "plural", "c")
    for number, mixed in (
        (2, rows[::-1]),
        (1, rows),
    ):  # else one would be read with the task's name, the other without
        with pytest.raises(UsageError, match=f"row {number}: task is None"):
            loaded(tmp_path, mixed, text_column="text")
    assert (first.references, second.references) == (("b",), ("d", "e"))  # without any, its target is right
    with pytest.raises(UsageError, match="row 1: references must be a list"):
        loaded(tmp_path, rows, source_prefix="", references_column="references")


def test_classes_may_be_numbers(tmp_path):
    rows = [{"text": "a", "label": 0}, {"text": "b", "label": 12}]
    numbered = {"summary_column": "label", "numbered": True}
    assert [each.target for each in loaded(tmp_path, rows, **numbered)] == ["0", "12"]
    for wrong in (-1, 1.5, True):  # -1 stands for none in many data sets
        with pytest.raises(UsageError, match=f"row 3: label is {wrong}; it must be a text"):
            loaded(tmp_path, [*rows, {"text": "c", "label": wrong}], **numbered)


def test_texts_without_a_test_split_are_tested_on_the_validation_split(tmp_path):
    for split, words in (("train", ["one", "two"]), ("validation", ["two", "three"])):
        written(tmp_path, f"{split}.jsonl", json_lines([{"text": word} for word in words]))
    splits = load_texts(str(tmp_path), text_column="text")
    assert [[each.text for each in getattr(splits, split)] for split in ("train", "validation", "test")] == [
        ["one", "two"], ["three"], ["three"]
    ]  # fmt: skip


def test_columns_are_asked_for_by_flags_that_there_are(tmp_path):
    for split in ("train", "test"):
        written(tmp_path, f"{split}.jsonl", json_lines([{"text": "a", "other": "b"}]))
    with pytest.raises(UsageError, match="^--text_column is needed: .* has the columns text, other"):
        load_texts(str(tmp_path))
    with pytest.raises(UsageError, match="^--dataset_name: columns source and target are needed: .* text, other"):
        load_tasks(str(tmp_path))


def test_the_hash_split_is_stable():
    """Tests of different versions and machines must be of the same words."""
    assert {word: hash_split(word) for word in SPLIT} == SPLIT
    shares = [hash_split(str(number)) for number in range(3000)]
    assert 240 < shares.count("test") < 360 and 240 < shares.count("validation") < 360


SPLIT = {
    "foot": "train",
    "cat": "train",
    "house": "train",
    "müde": "validation",
    "wolf": "validation",
    "kitten": "validation",
    "yak": "test",
    "bus": "test",
}


def test_flags_that_nothing_reads_are_told(tmp_path, caplog):
    rows = [{"document": f"Text {i}.", "summary": f"short {i}"} for i in range(60)]
    file = written(tmp_path, "train.jsonl", json_lines(rows))
    load_text("words", "/nowhere", dataset_config_name="nope")
    load_text(data_dir="/nowhere", files={"train": file})
    load_text(str(tmp_path), dataset_config_name="nope")
    load_texts("words", "/nowhere")
    assert [each.message for each in caplog.records] == [
        "--data_dir is not read for words",
        "--dataset_config_name is not read for words",
        "--data_dir is not read for --train_file or --test_file",
        f"--dataset_config_name is not read for the folder {tmp_path}",
        "--data_dir is not read for words",
    ]
    caplog.clear()
    load_text("words")
    load_text(tmp_path.name, str(tmp_path.parent))
    assert not caplog.records


def test_a_single_file_is_split_by_the_hash_of_its_sources(tmp_path):
    rows = [{"source": str(number), "target": "x"} for number in range(200)]
    splits = load_text(files={"train": written(tmp_path, "all.jsonl", json_lines(rows))})
    for name, part in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
        assert [each.text for each in part] == [row["source"] for row in rows if hash_split(row["source"]) == name]
    assert splits.note == "split by the hash of the source, 8 : 1 : 1"
    with pytest.raises(HwzooError, match="all: 2 rows are too few to be split into three sets"):
        load_text(files={"train": written(tmp_path, "all.jsonl", json_lines(rows[:2]))})


def test_the_course_words_are_in_the_test_set_alone(tmp_path):
    rows = [{"task": "plural", "source": word, "target": "x"} for word in (*COURSE_WORDS, "cat", "dog")]
    for split in ("train", "validation", "test"):
        written(tmp_path, f"{split}.jsonl", json_lines(rows if split == "train" else rows[-2:]))
    splits = load_text(str(tmp_path))
    assert [each.text for each in splits.train] == ["cat", "dog"]
    assert {each.text for each in splits.test} == {"cat", "dog", *COURSE_WORDS}
    assert splits.note == f"all rows of the words {', '.join(COURSE_WORDS)} in the test set"
    # Also where the validation split is what is tested.
    (tmp_path / "test.jsonl").unlink()
    splits = load_text(str(tmp_path))
    assert not {each.text for each in splits.train} & set(COURSE_WORDS) and splits.validation is splits.test
    assert set(COURSE_WORDS) <= {each.text for each in splits.test}


def test_the_word_tasks():
    splits = load_text()
    assert splits.name == "words" and splits.tasks == ["number", "ordinal", "participle", "plural"]
    pairs = {each.source: each.target for part in (splits.train, splits.validation, splits.test) for each in part}
    examples = {"plural: wolf": "wolves", "participle: run": "running", "number: 21": "twenty-one"}
    assert (examples | {"ordinal: 22": "22nd"}).items() <= pairs.items() and len(pairs) > 4500
    test = {each.text for each in splits.test}
    assert set(COURSE_WORDS) <= test and not test & {each.text for each in splits.train}


def test_compounds_of_training_words_are_in_the_training_set_alone():
    plain, splits = load_text(compounds_per_word=0), load_text()
    assert splits.train[: len(plain.train)] == plain.train
    assert (splits.validation, splits.test) == (plain.validation, plain.test)
    compounds = splits.train[len(plain.train) :]
    assert splits.note == f"{plain.note}; {len(compounds):,} compounds of training words in the training set"
    words = Counter(each.task for each in plain.train)
    for task in ("plural", "participle"):
        assert 7.9 * words[task] < sum(each.task == task for each in compounds) <= 8 * words[task]
    assert {each.task for each in compounds} == {"plural", "participle"}  # the others have numbers
    heads = {(each.task, each.text): each.target for each in plain.train}
    firsts, known = {text for _, text in heads}, {each.text for each in plain.test + plain.validation} | set(words)
    for each in compounds[:: len(compounds) // 50]:
        cuts = [(each.text[:cut], each.text[cut:]) for cut in range(1, len(each.text))]
        assert any(
            first in firsts and each.target == first + heads.get((each.task, head), "?") for first, head in cuts
        )
        assert each.source == f"{each.task}: {each.text}" and each.references == (each.target,)
        assert each.text not in known
    assert load_text().train == splits.train  # the same in every run


def test_compounds_keep_all_references_and_the_prefix():
    head = Example("Inflect plural octopus", "octopuses", ("octopuses", "octopodes"), "plural", "octopus")
    splits = add_compounds(TextSplits("words", [head], [], []), 1)
    assert splits.train == [head]  # there is no first part of six letters
    ink = Example("Inflect plural ink", "inks", ("inks",), "plural", "ink")
    compound = add_compounds(TextSplits("words", [head, ink], [], []), 5).train[2:]
    assert (
        Example("Inflect plural inkoctopus", "inkoctopuses", ("inkoctopuses", "inkoctopodes"), "plural", "inkoctopus")
        in compound
    )
    assert add_compounds(TextSplits("pairs", [Example("a", "b", ("b",), "", "a")], [], []), 5).train[1:] == []


# What cannot be used: what the error names, and the rows or the file's bytes.
GOOD = json_lines(ROWS)
BAD_FILES = {
    "empty": (HwzooError, r"rows\.jsonl is empty", "rows.jsonl", b""),
    "blank": (HwzooError, r"rows\.jsonl is empty", "rows.jsonl", b"\n \n"),
    "header alone": (HwzooError, r"rows\.csv is empty", "rows.csv", b"text,target\n"),
    "broken line": (HwzooError, r"rows\.jsonl, line 2 is not valid JSON", "rows.jsonl", b'{"a": 1}\n{"a": \n'),
    "broken line after an empty one": (HwzooError, "line 3 is not", "rows.jsonl", b'{"a": 1}\n\n{"a" 1}\n'),
    "broken JSON": (HwzooError, r"rows\.json, line 3 is not valid", "rows.json", b'[\n{"a": 1},\n{"a" 1}]'),
    "no objects": (HwzooError, "line 1: it must be an object, .* not str", "rows.jsonl", b'["a"]'),
    "number for an object": (HwzooError, "line 2: it must be an object, .* not int", "rows.jsonl", b'{"a": 1}\n3\n'),
    "short row": (HwzooError, r"rows\.csv, row 2 has not as many", "rows.csv", b"text,target\na,b\nc\n"),
    "open quote": (HwzooError, r"rows\.csv, line 3 is not valid CSV", "rows.csv", b'text,target\na,b\n"c,d'),
    "not UTF-8": (HwzooError, r"rows\.jsonl is not UTF-8", "rows.jsonl", b'{"a": "\xff"}\n'),
    "unknown ending": (UsageError, r"--test_file .*rows\.txt: its name must end in", "rows.txt", GOOD),
    "no column": (UsageError, "--text_column is needed: .* has the columns a, b", "rows.jsonl", b'{"a": 1, "b": 2}\n'),
    "no target": (UsageError, "--summary_column is needed: .* text, b", "rows.jsonl", b'{"text": 1, "b": 2}\n'),
    "number for a text": (
        UsageError, r"rows\.jsonl, row 2: target is 3; it must be a text", "rows.jsonl",
        b'{"text": "a", "target": "b"}\n{"text": "a", "target": 3}\n',
    ),
    "empty text": (
        UsageError, "row 1: text is ' '; it must be a text", "rows.jsonl", b'{"text": " ", "target": "b"}\n',
    ),
    "empty cell": (UsageError, "row 2: target is ''; it must be", "rows.csv", b"text,target\na,b\nc,\n"),
    "null for a target": (
        UsageError, "row 2: target is None; it must be a text", "rows.jsonl",
        b'{"text": "a", "target": "b"}\n{"text": "a", "target": null}\n',
    ),
    "null for a task": (
        UsageError, r"row 1: task is None; --source_prefix '\{task\}: ' needs it", "rows.jsonl",
        b'{"text": "a", "target": "b", "task": null}\n',
    ),
    "no task after one without the column": (
        UsageError, r"row 1: task is None; --source_prefix '\{task\}: ' needs it", "rows.jsonl",
        b'{"text": "a", "target": "b"}\n{"text": "a", "target": "b", "task": "plural"}\n',
    ),
    "half a surrogate pair": (
        UsageError, r"rows\.jsonl, row 2: target holds U\+D83D, half of a surrogate pair", "rows.jsonl",
        rb'{"text": "a", "target": "b"}' b"\n" rb'{"text": "a", "target": "x\ud83d"}',
    ),
    "half a surrogate pair as the source": (
        UsageError, r"row 1: text holds U\+DC00", "rows.jsonl", rb'{"text": "\udc00", "target": "b"}',
    ),
    "half a surrogate pair among the references": (
        UsageError, r"row 1: references holds U\+DC00", "rows.json",
        rb'[{"text": "a", "target": "b", "references": ["b", "\udc00"]}]',
    ),
    "half a surrogate pair as the task": (
        UsageError, r"row 1: the prefix holds U\+DC00", "rows.jsonl",
        rb'{"text": "a", "target": "b", "task": "\udc00"}',
    ),
    "column twice": (
        UsageError, r"rows\.csv: its header has the column 'text' twice", "rows.csv", b"text,target,text\na,b,c\n",
    ),
    "key twice": (
        UsageError, r"rows\.jsonl, line 2: 'text' stands twice in one object", "rows.jsonl",
        b'{"text": "a", "target": "b"}\n{"text": "a", "target": "b", "text": "c"}\n',
    ),
    "nested too deeply": (
        HwzooError, r"rows\.jsonl, line 1 is nested too deeply", "rows.jsonl", b'{"a": ' + b"[" * 100_000,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_named_with_its_line(case, tmp_path):
    kind, message, name, data = BAD_FILES[case]
    with pytest.raises(kind, match=message):
        load_text(files={"test": written(tmp_path, name, data)})


@pytest.mark.parametrize("data", [gzip.compress(GOOD)[:-20], b"no gzip at all"], ids=["cut off", "none"])
def test_a_gz_file_that_is_cut_off_or_none(data, tmp_path):
    (tmp_path / "test.jsonl.gz").write_bytes(data)
    with pytest.raises(HwzooError, match=r"test\.jsonl\.gz is cut off or no gzip file"):
        load_text(files={"test": str(tmp_path / "test.jsonl.gz")})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text_column": "article"}, "--text_column article: .*has the columns document, summary, year"),
        ({"summary_column": "tldr"}, "--summary_column tldr: .*has the columns document, summary, year"),
        ({"references_column": "all"}, "--references_column all: .*has the columns document, summary, year"),
        ({"source_prefix": "{task}: "}, r"--source_prefix '\{task\}: ': 'task' is no column"),
        ({"source_prefix": "{"}, r"--source_prefix '\{'"),
        ({"source_prefix": "{year.x} "}, r"--source_prefix '\{year.x\} ' cannot be filled .* no attribute"),
        ({"source_prefix": "{year[x]} "}, r"--source_prefix '\{year\[x\]\} ' cannot be filled"),
        ({"source_prefix": "{summary:>9999999999999999}"}, "--source_prefix .* cannot be filled from .*: MemoryError"),
        ({"tasks": ["plural"]}, "--tasks plural: .*has no tasks"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(columns, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        loaded(tmp_path, ROWS, **columns)


def test_one_column_is_source_and_target_only_where_both_flags_say_so(tmp_path):
    rows = [{"summary": "short", "text": "long"}]
    for given, missing in (
        ({"text_column": "summary"}, "summary_column"),
        ({"summary_column": "text"}, "text_column"),
    ):
        message = f"^--{missing} is needed: {next(iter(given.values()))} would be source and target; .* summary, text$"
        with pytest.raises(UsageError, match=message):
            loaded(tmp_path, rows, **given)
    (example,) = loaded(tmp_path, rows, text_column="text", summary_column="text")
    assert (example.source, example.target) == ("long", "long")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (2019, "row 2: references must be a list of texts"),
        (None, "row 2: references must be a list of texts"),
        ([], "row 2: references must be a list of texts"),
        (["b", None], "row 2: references is None; it must be a text"),
        (["b", 3], "row 2: references is 3; it must be a text"),
        (["b", ""], "row 2: references is ''; it must be a text"),
    ],
)
def test_references_that_are_asked_for_must_be_lists_of_texts(given, message, tmp_path):
    rows = [{"text": "a", "target": "b", "references": ["b"]}, {"text": "a", "target": "b", "references": given}]
    with pytest.raises(UsageError, match=message):
        loaded(tmp_path, rows, references_column="references")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset_name": "wrds"}, "--dataset_name wrds is neither words, a folder nor a Hub id"),
        ({"dataset_name": ""}, "--dataset_name  is neither"),
        ({"dataset_name": "scitldr", "data_dir": "/nothere"}, "--data_dir /nothere: there is no such folder"),
        ({"files": {"validation": "a.jsonl"}}, "--validation_file is given alone"),
        ({"files": {"train": "nothere.jsonl"}}, "--train_file nothere.jsonl: No such file"),
    ],
)
def test_a_source_that_is_not_there(arguments, message, monkeypatch):
    monkeypatch.delenv("HWZOO_DATA_DIR", raising=False)
    with pytest.raises(UsageError, match=message):
        load_text(**arguments)


def test_a_folder_without_files_is_told_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"it holds no train\.jsonl, .* but notes\.txt"):
        load_text(str(tmp_path))


def test_a_plural_is_irregular_where_no_rule_gives_it():
    foot, sheep = (Example(f"plural: {a}", b, (b,), "plural", a) for a, b in (("foot", "feet"), ("sheep", "sheep")))
    assert text.is_irregular_plural(foot, {}) and text.is_irregular_plural(sheep, {"suffix_rules": "sheeps"})
    assert not text.is_irregular_plural(sheep, {})


def test_a_word_and_its_inflections_are_of_one_split():
    splits = load_texts()
    of = {each.target: name for name in ("train", "validation", "test") for each in getattr(splits, name)}
    rows = [row for row in word_rows() if row["task"] in ("plural", "participle")]
    assert all(of[row["source"]] == hash_split(row["source"]) for row in rows)
    assert [row["target"] for row in rows if of[row["target"]] != of[row["source"]]] == ["dying"]  # of die and of dye
