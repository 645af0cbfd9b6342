"""Where pairs of texts come from: the word tasks, files of JSON lines or CSV, a folder of them, or the Hub."""

import csv
import gzip
import hashlib
import io
import json
import logging
import os
import random
import re
import reprlib
import string
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import HwzooError, UsageError, first_line
from ..files import NAMED_DATA
from ..retry import retried
from .words import word_rows

logger = logging.getLogger(__name__)
SPLITS = ("train", "validation", "test")
# What others call them.
ALSO = {"validation": ("valid", "val", "dev")}
SUFFIXES = (".jsonl", ".json", ".csv")
HUB_IDS = {"scitldr": "allenai/scitldr"}
# Columns taken when no flag names one: the first that is there.
TEXT_COLUMNS = ("document", "article", "text", "source")
SUMMARY_COLUMNS = ("summary", "highlights", "target")
REFERENCES_COLUMNS = ("summaries", "references")
TASK_COLUMN = "task"
# The irregular plurals that the course tests; they are kept out of training.
COURSE_WORDS = ("foot", "man", "person", "self", "wife", "wolf", "woman")
COMPOUNDS_PER_WORD = 8  # of the embedded words: so few do not teach a model how to copy a word
LONGEST_FIRST_PART = 6  # letters


@dataclass(frozen=True)
class Example:
    """
    One pair of texts.

    Args:
        source: the text as the model is to see it, with its prefix.
        target: what it is to be turned into; the first of the references.
        references: all texts that are right.
        task: name of the task that it belongs to; empty for data with one task.
        text: the source without its prefix.
    """

    source: str
    target: str
    references: tuple[str, ...]
    task: str = ""
    text: str = ""


@dataclass(frozen=True)
class TextSplits:
    """
    Args:
        name: of the data set, for protocols and cards.
        train, validation, test: lists of examples.
        note: how they were split, when the data set did not come in these splits; for the protocol.
    """

    name: str
    train: list[Example]
    validation: list[Example]
    test: list[Example]
    note: str = ""

    @property
    def source(self) -> str:
        """The Hub id of the data set if it has one, else its name."""
        return HUB_IDS.get(self.name, self.name)

    def digest(self) -> str:
        """SHA-256 of all texts of the three splits, their references and tasks, in hexadecimal."""
        hashed = hashlib.sha256()
        for split in SPLITS:
            for number, example in enumerate(getattr(self, split)):
                hashed.update(json.dumps([split, number, *vars(example).values()]).encode())
        return hashed.hexdigest()

    @property
    def targets(self) -> list[str]:
        """Those of all splits."""
        return [each.target for split in SPLITS for each in getattr(self, split)]

    @property
    def tasks(self) -> list[str]:
        """The names of the test set's tasks, sorted; none for data with one task."""
        return sorted({example.task for example in self.test} - {""})

    @property
    def are_summaries(self) -> bool:
        """Whether the test set has one task, and its targets less than half as many letters as its sources."""
        letters = [(len(each.text), len(each.target)) for each in self.test]
        return not self.tasks and 2 * sum(target for _, target in letters) < sum(source for source, _ in letters)


@dataclass(frozen=True)
class Columns:
    """
    Names of the columns, as the flags of the same names give them; the usual ones when None.

    Args:
        text_column: of the source.
        summary_column: of the target.
        references_column: of a list of all right targets; the target is one of them, whether it is there or not. When
            None, a usual one in which each row that has any has its target; none when empty.
        source_prefix: put before each source; `{task}` and so on stand for the columns of a row. When None it is
            "{task}: " where all splits have a column `task`, empty where none has.
        tasks: rows of these tasks only, by their column `task`.
        numbered: whether targets are names of classes: they may be whole numbers from 0 on, which become texts, and
            white space around them does not count.
    """

    text_column: str | None = None
    summary_column: str | None = None
    references_column: str | None = None
    source_prefix: str | None = None
    tasks: Sequence[str] | None = None
    numbered: bool = False


def load_text(
    dataset_name: str = "words",
    data_dir: str | None = None,
    files: Mapping[str, str | None] | None = None,
    columns: Columns | None = None,
    dataset_config_name: str | None = None,
    compounds_per_word: float | None = None,
) -> TextSplits:
    """
    Loads pairs of texts.

    Args:
        dataset_name: `words` (the word tasks of `words.py`, no download); `inflections` or `scitldr`, folders in
            `data_dir` (one of that name here is `./scitldr`); a folder that holds `train`, `validation` (or `valid`,
            `val`, `dev`) and `test` as .jsonl, .json or .csv, plain or .gz; any Hub id with two columns of text.
        data_dir: where `inflections/` and `scitldr/` are; `HWZOO_DATA_DIR` when None.
        files: a file for each of the names train, validation, test; they take the place of `dataset_name`.
        columns: which columns, prefix and tasks are taken.
        dataset_config_name: configuration of a Hub data set that has several.
        compounds_per_word: of `add_compounds`; 8 for `words` and none for all others when None.

    Without a test split the validation split is tested; without both, a tenth of the rows by a hash of the source is
    the test and another the validation set. Rows with one of COURSE_WORDS as their source stand in the test set.

    Returns:
        The pairs of the three splits, each of which may be empty, with the name of the data and a note on how they
        were divided.

    Raises:
        UsageError: for a name that is none of these, a file or a column that is missing (names those there), a task
            that no row has, or tasks of which a split has none, no prefix where splits differ in having tasks; for a
            row (names it) without text, with a reference that is none, or with half of a surrogate pair, which no
            file can hold.
        HwzooError: for a file that is empty, cut off or broken (names the line), a Hub that fails.
    """
    columns = columns or Columns()
    files = {split: path for split, path in (files or {}).items() if path is not None}
    if files or dataset_name == "words":
        what = "--train_file or --test_file" if files else "words"
        _tell_unread(what, data_dir=data_dir, dataset_config_name=dataset_config_name)
    if files:
        if "train" not in files and "test" not in files:
            raise UsageError("--validation_file is given alone; give --train_file, or --test_file to test only")
        name = Path(files.get("train") or files["test"]).name.split(".")[0]
        rows = {split: (f"--{split}_file {path}", read_rows(f"{split}_file", path)) for split, path in files.items()}
    elif dataset_name == "words":
        name, rows = "words", {"train": ("the word tasks", word_rows())}
    else:
        name, rows = _named(dataset_name, data_dir, dataset_config_name)
    if columns.tasks is not None:
        _check_tasks(rows.values(), columns.tasks)
    if columns.source_prefix is None:
        _check_prefix(rows.values())
    examples = {split: _examples(what, records, columns) for split, (what, records) in rows.items()}
    splits = _split(name, examples)
    if compounds_per_word is None:
        compounds_per_word = COMPOUNDS_PER_WORD if dataset_name == "words" and not files else 0
    return add_compounds(splits, compounds_per_word) if compounds_per_word else splits


def hash_split(text: str) -> str:
    """The split of a text by its SHA-256 digest: a tenth `test`, a tenth `validation`, the rest `train`."""
    tenth = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % 10
    return {0: "test", 1: "validation"}.get(tenth, "train")


def add_compounds(splits: TextSplits, per_word: float) -> TextSplits:
    """
    Adds to the training set of word tasks words put together from two of it, which are inflected as the second is:
    night + market, nightmarkets. They teach that a word is copied but for its end, and that the end decides.

    Args:
        splits: with tasks; rows whose text is not made of letters alone are left as they are.
        per_word: compounds by training words of a task; the words that they end in are drawn from all of these, with
            replacement. They are the same in every run, and none is a word of any split.

    Returns:
        The splits with a longer training set, and the number of compounds in the note.
    """
    draw = random.Random(0)
    taken = {each.text for part in (splits.train, splits.validation, splits.test) for each in part}
    words = [each for each in splits.train if each.task and each.text.isalpha()]
    firsts = [each.text for each in words if len(each.text) <= LONGEST_FIRST_PART]
    compounds = []
    for task in sorted({each.task for each in words} if firsts else ()):
        heads = [each for each in words if each.task == task]
        for head in draw.choices(heads, k=round(per_word * len(heads))):
            first = draw.choice(firsts)
            if first + head.text not in taken:
                before = head.source.removesuffix(head.text)
                references = tuple(first + each for each in head.references)
                text = first + head.text
                compounds.append(Example(before + text, first + head.target, references, task, text))
    note = f"{len(compounds):,} compounds of training words in the training set"
    return replace(splits, train=splits.train + compounds, note=f"{splits.note}; {note}" if splits.note else note)


def _split(name: str, examples: dict[str, list[Example]]) -> TextSplits:
    train, validation, test = (examples.get(split) for split in SPLITS)
    note = ""
    if train is None:
        train = []
    elif validation is None and test is None:
        parts: dict[str, list[Example]] = {split: [] for split in SPLITS}
        for example in train:
            parts[hash_split(example.text)].append(example)
        train, validation, test = (parts[split] for split in SPLITS)
        note = "split by the hash of the source, 8 : 1 : 1"
        if not (train and validation and test):
            raise HwzooError(f"{name}: {sum(map(len, parts.values()))} rows are too few to be split into three sets")
    elif test is None:
        test, note = validation, "tested on the validation split, there is no other"
    if validation is None:
        validation = [] if train else test
    apart = [] if validation is test else validation  # what is tested may choose the weights too
    moved = [example for example in [*train, *apart] if _is_course_word(example)]
    if moved:
        train, apart = ([each for each in part if not _is_course_word(each)] for part in (train, apart))
        tested = [*test, *moved]
        validation, test = (tested if validation is test else apart), tested
        note += ("; " if note else "") + f"all rows of the words {', '.join(COURSE_WORDS)} in the test set"
    return TextSplits(name, train, validation, test, note)


def is_irregular_plural(example: Example, answers: Mapping[str, str]) -> bool:
    """
    Whether it asks for a plural that is one of the course's irregular ones, or that the rules of endings miss.

    Args:
        example: of a word task.
        answers: by the name of a baseline; without `suffix_rules` only the course's words count.

    Returns:
        Whether it is one.
    """
    by_rules = answers.get("suffix_rules", example.target)
    return example.task == "plural" and (example.text in COURSE_WORDS or by_rules not in example.references)


def _is_course_word(example: Example) -> bool:
    return bool(example.task) and example.text in COURSE_WORDS


def _named(name: str, data_dir: str | None, config: str | None) -> tuple[str, dict[str, tuple[str, list[dict]]]]:
    what = f"--dataset_name {name}"
    root = data_dir or os.environ.get("HWZOO_DATA_DIR") or None
    if root is not None and not Path(root).is_dir():
        raise UsageError(f"{'--data_dir' if data_dir else 'HWZOO_DATA_DIR'} {root}: there is no such folder")
    own = [] if name in NAMED_DATA else [Path(name)]
    for folder in (*own, *([Path(root) / name] if root is not None else [])):
        if name and folder.is_dir():
            _tell_unread(f"the folder {folder}", dataset_config_name=config)
            found = {split: _file_of(what, folder, split) for split in SPLITS}
            rows = {
                split: (str(file), read_rows(f"{split}_file", file))
                for split, file in found.items()
                if file is not None
            }
            if "train" not in rows and "test" not in rows:
                there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
                raise UsageError(f"{what}: it holds no train.jsonl, train.json or train.csv (or .gz), but {there}")
            return folder.resolve().name or "data", rows  # `.` has no name, nor has the root
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) or Path(name).is_absolute():
        unknown = "; --data_dir or HWZOO_DATA_DIR names the folder that has it"
        where = f" and {root} has no such folder" if root is not None else unknown
        mine = f"; ./{name} is the folder here" if name in NAMED_DATA and Path(name).is_dir() else ""
        raise UsageError(f"{what} is neither words, a folder nor a Hub id, owner/name{where}{mine}")
    return name, _from_hub(what, name, config)


def _tell_unread(what: str, **given: str | None):
    """Warns of options that are given and that this kind of data set knows nothing of."""
    for name, value in given.items():
        if value is not None and os.environ.get("LOCAL_RANK", "0") == "0":
            logger.warning("--%s is not read for %s", name, what)


def _file_of(what: str, folder: Path, split: str) -> Path | None:
    names = {f"{each}{suffix}" for each in (split, *ALSO.get(split, ())) for suffix in SUFFIXES}
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), reverse=True):  # a file comes after its own .gz, and is taken
        unpacked = re.sub(r"\.gz$", "", path.name, flags=re.IGNORECASE)
        if unpacked.lower() in names and path.is_file():
            found[unpacked] = path
    if len(found) > 1:
        there = ", ".join(sorted(path.name for path in found.values()))
        raise UsageError(f"{what}: {there} are all of the split {split}; it must be one file")
    return next(iter(found.values()), None)


def _from_hub(what: str, repo_id: str, config: str | None) -> dict[str, tuple[str, list[dict]]]:
    from datasets import disable_progress_bars, load_dataset
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    disable_progress_bars()
    try:
        splits = retried(lambda: load_dataset(repo_id, config), f"loading {repo_id}")
    except DatasetNotFoundError as error:
        raise UsageError(f"{what}: {first_line(error)}") from error
    except (DatasetsError, OSError, ValueError, EOFError, RuntimeError) as error:
        raise HwzooError(f"{what} cannot be loaded: {first_line(error)}") from error
    if "train" not in splits:
        raise UsageError(f"{what} has the splits {sorted(splits)}; it must have train")
    found = {each: next((name for name in (each, *ALSO.get(each, ())) if name in splits), None) for each in SPLITS}
    return {each: (f"{what} ({name})", _rows_of(splits[name])) for each, name in found.items() if name is not None}


def _rows_of(dataset: Any) -> list[dict[str, Any]]:
    """The rows of a data set, classes by their names; a number that is no class, as -1 for none, stays."""
    classes = {column: feature for column, feature in dataset.features.items() if hasattr(feature, "int2str")}
    return [
        row
        | {
            name: each.int2str(row[name])
            for name, each in classes.items()
            if row[name] is not None and 0 <= row[name] < each.num_classes
        }
        for row in dataset
    ]


def read_rows(flag: str, name: str | Path) -> list[dict[str, Any]]:
    """
    The rows of a JSON, JSON lines or CSV file, plain or .gz.

    Args:
        flag: that gave its name, without dashes, for the errors.
        name: of the file.

    Returns:
        A dictionary for each row.

    Raises:
        UsageError: for another kind of file, or one that cannot be read.
        HwzooError: for one that is damaged or empty.
    """
    path = Path(name)
    packed = path.suffix.lower() == ".gz"
    # The last one alone: reviews.csv.jsonl is what was made of a CSV file, rows.json.bak is none of ours.
    kind = Path(path.stem if packed else path.name).suffix.lower()
    if kind not in SUFFIXES:
        raise UsageError(f"--{flag} {path}: its name must end in {', '.join(SUFFIXES)}, or one of these and .gz")
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if packed else data).decode("utf-8-sig")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise HwzooError(f"{path} is cut off or no gzip file: {first_line(error)}") from None
    except UnicodeDecodeError as error:
        raise HwzooError(f"{path} is not UTF-8 text: {first_line(error)}") from None
    except OSError as error:
        raise UsageError(f"--{flag} {path}: {error.strerror}") from None
    rows = _csv_rows(path, text) if kind == ".csv" else _json_rows(path, text)
    if not rows:
        raise HwzooError(f"{path} is empty")
    return rows


def _json_rows(path: Path, text: str) -> list[dict[str, Any]]:
    numbered = enumerate(text.split("\n"), 1)  # not splitlines: a JSON string may hold U+2028
    lines = [(number, line) for number, line in numbered if line.strip()]
    if text.lstrip().startswith("["):
        lines, parsed = [], _parse(path, None, text)
        rows = [(index, row) for index, row in enumerate(parsed, 1)]
    else:
        rows = [(number, _parse(path, number, line)) for number, line in lines]
    for number, row in rows:
        if not isinstance(row, dict):
            raise HwzooError(f"{path}, line {number}: it must be an object, {{...}}, not {type(row).__name__}")
    return [row for _, row in rows]


def _parse(path: Path, number: int | None, text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            where = path if number is None else f"{path}, line {number}"
            raise UsageError(f"{where}: {_twice(name for name, _ in pairs)!r} stands twice in one object")
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except ValueError as error:
        number = getattr(error, "lineno", 1) if number is None else number
        raise HwzooError(f"{path}, line {number} is not valid JSON: {first_line(error)}") from None
    except RecursionError:
        raise HwzooError(f"{path}, line {number or 1} is nested too deeply") from None


def _twice(names: Iterable[str]) -> str | None:
    """The first name that stands there a second time."""
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)


def _csv_rows(path: Path, text: str) -> list[dict[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    limit = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a C long; Python's own is 128 kB
    try:
        # A column without a name is what a spreadsheet leaves beside a table.
        if name := _twice(filter(None, reader.fieldnames or ())):
            raise UsageError(f"{path}: its header has the column {name!r} twice")
        rows = list(reader)
    except csv.Error as error:
        raise HwzooError(f"{path}, line {reader.reader.line_num} is not valid CSV: {error}") from None
    finally:
        csv.field_size_limit(limit)
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise HwzooError(f"{path}, row {number} has not as many values as the header has columns")
    return rows


def _check_tasks(parts: Iterable[tuple[str, list[dict]]], tasks: Sequence[str]):
    """Raises UsageError unless each task is in some split, and each split has some of them."""
    known = {what: {_task_of(row) for row in records} - {""} for what, records in parts}
    there = "; ".join(f"{what} has {', '.join(sorted(each)) or 'no tasks'}" for what, each in known.items())
    for task in tasks:
        if not any(task in each for each in known.values()):
            raise UsageError(f"--tasks {task}: {there}")
    if any(each.isdisjoint(tasks) for each in known.values()):
        raise UsageError(f"--tasks {' '.join(tasks)}: {there}; each split must have one of them")


def _check_prefix(parts: Iterable[tuple[str, list[dict]]]):
    """Raises UsageError where some splits would have the usual prefix, of their tasks, and others none."""
    there = {what: any(TASK_COLUMN in row for row in records) for what, records in parts}
    if len(set(there.values())) == 2:
        with_task, without = (next(what for what, has in there.items() if has is given) for given in (True, False))
        raise UsageError(
            f"--source_prefix is needed, '' for none: {with_task} has a column {TASK_COLUMN}, {without} has not"
        )


def _examples(what: str, rows: Iterable[Mapping[str, Any]], columns: Columns) -> list[Example]:
    rows = list(rows)
    if not rows:
        raise HwzooError(f"{what} holds no rows")
    # In JSON lines a row may leave one out: of the usual ones those of the first row come first.
    first, there = list(rows[0]), list(dict.fromkeys(name for row in rows for name in row))
    text = _column(what, there, "text_column", columns.text_column, TEXT_COLUMNS, first)
    summary = _column(what, there, "summary_column", columns.summary_column, SUMMARY_COLUMNS, first)
    if text == summary and None in (columns.text_column, columns.summary_column):  # a default fell on the one given
        missing = "text_column" if columns.text_column is None else "summary_column"
        raise UsageError(
            f"--{missing} is needed: {text} would be source and target; {what} has the columns {', '.join(there)}"
        )
    if columns.references_column:
        _column(what, there, "references_column", columns.references_column, (), first)
    rows = list(enumerate(rows, 1))
    if columns.tasks is not None:
        rows = [(number, row) for number, row in rows if _task_of(row) in columns.tasks]
    references = columns.references_column
    if references is None:
        usual = [name for name in REFERENCES_COLUMNS if name in there and name not in (text, summary)]
        references = next((name for name in usual if _are_references(what, rows, name, summary)), None)
    prefix = columns.source_prefix
    if prefix is None:
        prefix = f"{{{TASK_COLUMN}}}: " if TASK_COLUMN in there else ""  # which a row without is refused for
    examples = []
    for number, row in rows:
        target = row.get(summary)
        if columns.numbered and type(target) is int and target >= 0:
            target = str(target)
        target = _text_of(what, number, summary, target)
        target = target.strip() if columns.numbered else target
        right = [target]
        if references and (columns.references_column or row.get(references) is not None):
            given = row.get(references)
            if not isinstance(given, list) or not given:
                raise UsageError(f"{what}, row {number}: {references} must be a list of texts")
            right += [_text_of(what, number, references, each) for each in given if each != target]
        source = _text_of(what, number, text, row.get(text))
        before = _prefix_of(what, number, prefix, {name: row.get(name) for name in there})
        examples.append(Example(before + source, target, tuple(right), _task_of(row), source))
    return examples


def _are_references(what: str, rows: Iterable[tuple[int, Mapping[str, Any]]], column: str, summary: str) -> bool:
    """Whether each row that has something there has a list of texts with its target; a line tells of others."""
    for number, row in rows:
        # Others call what a paper cites so.
        given = row.get(column)
        texts = isinstance(given, list) and all(isinstance(each, str) and each.strip() for each in given)
        if given is not None and not (texts and row.get(summary) in given):
            if os.environ.get("LOCAL_RANK", "0") == "0":
                told = f"row {number} has no list of texts with its {summary} there"
                logger.warning("%s: its column %s is not read as right targets: %s", what, column, told)
            return False
    return True


def _task_of(row: Mapping[str, Any]) -> str:
    return "" if row.get(TASK_COLUMN) is None else str(row[TASK_COLUMN])


@cache
def _columns_in(prefix: str) -> list[str]:
    """The columns that a prefix names; of `{task[0]}` it is `task`."""
    return [re.split(r"[.[]", name)[0] for _, name, _, _ in string.Formatter().parse(prefix) if name is not None]


def _prefix_of(what: str, number: int, prefix: str, row: Mapping[str, Any]) -> str:
    try:
        used = _columns_in(prefix)
        before = prefix.format_map(row)
    except KeyError as error:
        raise UsageError(
            f"--source_prefix {prefix!r}: {error} is no column of {what}, which has {list(row)}"
        ) from None
    except (ValueError, IndexError, AttributeError, TypeError, MemoryError) as error:
        reason = first_line(error)
        raise UsageError(f"--source_prefix {prefix!r} cannot be filled from {list(row)}: {reason}") from None
    for name in used:
        if row[name] is None:
            raise UsageError(f"{what}, row {number}: {name} is None; --source_prefix {prefix!r} needs it")
    return _encodable(what, number, "the prefix", before)


def _column(
    what: str,
    there: list[str],
    flag: str,
    given: str | None,
    usual: Sequence[str],
    first: list[str],
):
    if given is not None and given not in there:
        raise UsageError(f"--{flag} {given}: {what} has the columns {', '.join(there)}")
    found = given or next((name for row in (first, there) for name in usual if name in row), None)
    if found is None:
        raise UsageError(f"--{flag} is needed: {what} has the columns {', '.join(there)}")
    return found


def _text_of(what: str, number: int, column: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{what}, row {number}: {column} is {reprlib.repr(value)}; it must be a text")
    return _encodable(what, number, column, value)


def _encodable(what: str, number: int, column: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(value[error.start]):04X}"
        problem = f"{column} holds {half}, half of a surrogate pair, which UTF-8 has not"
        raise UsageError(f"{what}, row {number}: {problem}") from None
    return value


def limited(splits: TextSplits, train: int | None, validation: int | None, test: int | None) -> TextSplits:
    """
    The splits with at most so many of the first examples of each; None leaves one as it is.

    Args:
        splits: they stay as they are.
        train: training pairs at most.
        validation: validation pairs at most.
        test: test pairs at most.

    Returns:
        The shorter splits.
    """
    parts = {"train": train, "validation": validation, "test": test}
    return replace(splits, **{name: getattr(splits, name)[:limit] for name, limit in parts.items()})


def singular_or_plural() -> TextSplits:
    """The nouns of `words` in both forms, labelled; those whose forms are the same are left out."""
    parts: dict[str, list[Example]] = {split: [] for split in SPLITS}
    for row in word_rows():
        if row["task"] == "plural" and row["source"] != row["target"]:
            for word, label in ((row["source"], "singular"), (row["target"], "plural")):
                parts[hash_split(row["source"])].append(Example(word, label, (label,), text=word))
    return TextSplits("singular or plural", **parts, note="split by the hash of the singular, 8 : 1 : 1")


def word_forms() -> TextSplits:
    """
    English words as texts of their own, each as source and target: the embedded nouns and verbs, their plurals and
    participles, and compounds of two words and those's, split by the hash of the word that is inflected. All three
    splits are alike.
    """
    rows = [row for row in word_rows() if row["task"] in ("plural", "participle")]
    pairs = [Example(row["source"], row["target"], (row["target"],), row["task"], row["source"]) for row in rows]
    pairs = add_compounds(TextSplits("words", pairs, [], []), COMPOUNDS_PER_WORD).train
    parts: dict[str, list[Example]] = {split: [] for split in SPLITS}
    for pair in pairs:
        parts[hash_split(pair.text)].append(pair)
    note = "nouns, plurals, verbs, participles and compounds, split by the hash of the uninflected word, 8 : 1 : 1"
    return _each_once(TextSplits("words", **parts, note=note))


def load_texts(dataset_name: str = "words", data_dir: str | None = None, text_column: str | None = None) -> TextSplits:
    """
    Loads single texts, each once, in the first of the splits training, validation, test that has it.

    Args:
        dataset_name: `words`, those of `word_forms`; else as of `load_text`.
        data_dir: as of `load_text`.
        text_column: the column of the texts; when not given, both of the usual columns of pairs.

    Returns:
        The splits; source and target of an example are its text.

    Raises:
        UsageError: for a column of `words`, for data without a test text of its own, or as of `load_text`.
        HwzooError: as of `load_text`.
    """
    if dataset_name == "words":
        if text_column is not None:
            raise UsageError(f"--text_column {text_column}: words has no columns; leave it out")
        _tell_unread("words", data_dir=data_dir)
        return word_forms()
    columns = Columns(text_column, text_column, references_column="", source_prefix="")
    try:
        pairs = load_text(dataset_name, data_dir, columns=columns, compounds_per_word=0)
    except UsageError as error:
        raise UsageError(str(error).replace("--summary_column", "--text_column")) from error
    if not pairs.train:
        raise UsageError(f"--dataset_name {dataset_name}: it has no training texts")
    texts = _each_once(pairs)
    if not texts.test:
        raise UsageError(f"--dataset_name {dataset_name}: each of its test texts is one of training or validation too")
    return texts


def load_tasks(dataset_name: str, data_dir: str | None = None) -> TextSplits:
    """
    `load_text` for what has its usual columns alone, without a prefix.

    Args:
        dataset_name: as there.
        data_dir: as there.

    Returns:
        The pairs of the three splits.

    Raises:
        UsageError: as there; for other columns, it names those that are needed.
        HwzooError: as there.
    """
    try:
        return load_text(dataset_name, data_dir, columns=Columns(source_prefix=""))
    except UsageError as error:
        told = re.sub(r"^--\w+_column is needed", "--dataset_name: columns source and target are needed", str(error))
        raise UsageError(told) from error


def _each_once(pairs: TextSplits) -> TextSplits:
    seen: set[str] = set()
    parts: dict[str, list[Example]] = {}
    for split in SPLITS:
        texts = dict.fromkeys(text for each in getattr(pairs, split) for text in (each.text, each.target))
        parts[split] = [Example(text, text, (text,), text=text) for text in texts if text not in seen]
        seen |= texts.keys()
    if pairs.test is pairs.validation:  # for want of a test split
        parts["test"] = parts["validation"]
    return replace(pairs, **parts)
