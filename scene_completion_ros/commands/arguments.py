"""Options that several commands share, and the checks of paths that they are given.

The door between the command line and a command: no output is an input, no result is replaced unless --overwrite asks
for it, and numbers can be computed with.

An argument of `type=Path` or `type=place` is an input. What a command writes has an `Output` as its type.
"""

import argparse
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.whole_files import present, whole_file, whole_folder

if TYPE_CHECKING:
    from scene_completion_ros.inference.bundle import StudentBundle
    from scene_completion_ros.inference.completer import Completer

SCALE_FROM = ("off", "odometry", "corners")


def add_scale_argument(
    parser: argparse._ActionsContainer, motion: str, default: str | None, by_default: str = "%(default)s"
) -> None:
    """Declare --scale-from. `motion`: the source of the camera's motion; `by_default`: the value without the option."""
    meaning = (
        "correct depths and level the road by how the camera moved since earlier images: `odometry`, for which that "
    )
    meaning += f"is {motion}; `corners`: single corners also get a depth by that; or `off` (default: {by_default})"
    parser.add_argument("--scale-from", choices=SCALE_FROM, default=default, help=meaning)


def add_rectified_argument(parser: argparse.ArgumentParser) -> None:
    """Declare --rectified, and --no-rectified."""
    meaning = "the images are rectified: P of the calibration holds, without distortion (default: those whose topics "
    meaning += "have the word rect, such as image_rect_color or rect/image)"
    parser.add_argument("--rectified", action=argparse.BooleanOptionalAction, default=None, help=meaning)


# What the demo asks for, as far as the student's text bank holds it.
DEMO_WORDS = ("car", "van", "tree", "hedge", "grass", "building", "zebra crossing", "parking lot")


def add_student_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare which student completes, and on what."""
    meaning = "folder or name of a student (default: kitti_student)"
    parser.add_argument("--bundle", type=Path, metavar="DIR", help=meaning)
    meaning = "what runs the student: auto, openvino, openvino_bf16, onnxruntime, tensorrt (default: %(default)s)"
    parser.add_argument("--engine", default="auto", help=meaning)


def add_words_argument(parser: argparse.ArgumentParser, answered_by: str, default: str) -> None:
    """Declare the option; the help names what shows the answers, and the `default`."""
    meaning = f"what {answered_by}: phrases of the student's text bank, as in car,zebra crossing (default: {default})"
    parser.add_argument("--words", metavar="WORD,WORD,...", help=meaning)


def chosen_words(text: str | None, bundle: "StudentBundle", default: Sequence[str] = ()) -> tuple[str, ...]:
    """The words to ask for.

    `text`: the value of the option; None where it was not given; `bundle`: the student whose text bank holds them;
    `default`: taken without the option, as far as the bank holds them; a student without a bank is asked nothing.
    Raises VocabularyError where the option names no word, or one twice; the student has no bank, it does not hold a
    word, or there are too many words.
    """
    from scene_completion_ros.errors import VocabularyError
    from scene_completion_ros.messages.words import read_phrases

    bank = bundle.text_bank()
    if text is None:
        return tuple(word for word in default if bank is not None and word in bank.phrases)
    words = read_phrases(text, "--words")
    if bank is None:
        what = f"the student {bundle.name} has no text bank, so that it knows no words"
        raise VocabularyError(what, where="--words", cure="Take a student with a bank, or leave out --words")
    bank.query(words)
    return words


def set_words(completer: "Completer", words: Sequence[str]) -> None:
    """Make the words of `chosen_words`, if any, the query of a completer."""
    bank = completer.bundle.text_bank()
    if words and bank is not None:
        completer.set_query(completer.prepare_vocabulary(bank.query(words)))


_LARGEST = 2**63
_NO_UNICODE = re.compile("[\ud800-\udfff]")  # bytes of a name that are no UTF-8


@dataclass(frozen=True)
class Output:
    """Type of an argument that names what a command writes."""

    # What it writes in a folder, as names or patterns; "." stands for all of it. None: it writes a file.
    names: tuple[str, ...] | None = None
    # Those that a command line gives anew: former ones are refused, or replaced. None: all. It goes on with others.
    anew: Callable[[argparse.Namespace], tuple[str, ...]] | None = None
    at_once: bool = False  # whether the folder is read as a whole: see `whole_folder`
    inside: tuple[str, ...] = ()  # patterns of the paths of what it writes in the folders among them

    def __call__(self, text: str) -> Path:
        """The path that an argument names."""
        return Path(text)

    def results(self, args: argparse.Namespace) -> tuple[str, ...]:
        """Names and patterns of what a command line gives anew in a folder."""
        return self.anew(args) if self.anew else self.names or ()

    def former(self, path: Path, args: argparse.Namespace) -> list[Path]:
        """Results that are there already; a device is none."""
        if self.names is not None:
            return present(path, self.results(args))
        return [path] if path.is_file() and not _is_stream(path) else []

    def writing(self, path: Path, args: argparse.Namespace) -> AbstractContextManager[Path]:
        """Gives the place where to write the results, which go to `path` when all are there; see `whole_folder`."""
        replace = getattr(args, "overwrite", False)
        if self.names is None:
            return whole_file(path, replace=replace or _is_stream(path))
        return whole_folder(path, self.results(args), replace=replace, at_once=self.at_once)

    def refuse_former(self, path: Path, where: str, args: argparse.Namespace) -> None:
        """Raises SceneCompletionError where results are there and are not to be replaced, or hold what is none."""
        former = self.former(path, args)
        inside = [file for one in former if one.is_dir() for file in sorted(one.rglob("*")) if not file.is_dir()]
        for name in (file.relative_to(path) for file in inside if args.overwrite):
            if not any(Path("/", name).match(f"/{known}") for known in self.inside):
                what = f"{name} is no result: it would go with the folder that it lies in"
                raise SceneCompletionError(what, where=f"{where} {path}", cure="Move it, or name another folder")
        if args.overwrite or not former:
            return
        shown = [one.name for one in former[:3] if self.names] + [f"{len(former) - 3} more"] * (len(former) > 3)
        what = f"{', '.join(shown)} {'exists' if len(former) == 1 else 'exist'} already".strip()
        cure = f"Name another {'file' if self.names is None else 'folder'}, or replace former results with --overwrite"
        raise SceneCompletionError(what, where=f"{where} {path}", cure=cure)

    def check(self, path: Path, where: str, inputs: Sequence[tuple[str, Path]]) -> None:
        """Refuses a path where nothing can be written, or where something would be written over an input.

        Raises SceneCompletionError where it is such a path; OSError where this user cannot write. `inputs`: arguments
        that name what is read, and what they name.
        """
        is_folder = self.names is not None
        above = (path, *path.parents) if is_folder else path.parents
        file = next((part for part in above if part.exists() and not part.is_dir()), None)
        if file or (path.is_dir() and not is_folder):
            what = f"{file} is a file, where a folder is needed" if file else "is a folder, where a file is needed"
            cure = "Name a folder" if is_folder else "Name a file"
            raise SceneCompletionError(what, where=f"{where} {path}", cure=cure)
        written = [path] if self.names is None else present(path, self.names)
        for argument, read in inputs:
            over = any(_holds(one, read) for one in written) or (is_folder and path.exists() and path.samefile(read))
            if over or (path.is_file() and _holds(read, path)):
                what = f"would overwrite {read}, which is read ({argument})"
                cure = "Name another folder" if is_folder else "Name another file"
                raise SceneCompletionError(what, where=f"{where} {path}", cure=cure)
        if is_folder or path.is_file() or not path.exists():  # no device
            _try_to_write(path if is_folder else path.resolve().parent)


FILE = Output()
_TENSORS = (f"{name}.safetensors" for name in ("head", "weights", "feature_spaces", "text_bank", "network"))
_GRAPHS = "encoder.onnx", "decoder.onnx", "cells.onnx"
BUNDLE = Output(("student.json", "network.json", *_GRAPHS, *_TENSORS), at_once=True)


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Declare --overwrite of every command below that has an `Output`."""
    for below in (action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)):
        for command in below.values():
            add_overwrite(command)
    if any(isinstance(action.type, Output) for action in parser._actions):
        parser.add_argument("--overwrite", action="store_true", help="replace former results once new ones are whole")


def place(text: str) -> str:
    """Type of an argument that may hold a path: a name of the model hub or a folder, or a file as in calib.txt:P2."""
    return text


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuses useless numbers and outputs. Raises SceneCompletionError, which names the argument."""
    given = list(_given(parser, args))
    for argument, _, value in given:
        if isinstance(value, (int, float)) and not -_LARGEST < value < _LARGEST:
            raise SceneCompletionError("is no number of a possible size", where=argument, cure="Give another number")
        text = str(value.absolute() if isinstance(value, Path) else value)
        if _NO_UNICODE.search(text):
            where = f"{argument} {text.encode(errors='backslashreplace').decode()}"
            raise SceneCompletionError("is no text in UTF-8", where=where, cure="Rename it")
    inputs = [(argument, Path(value)) for argument, kind, value in given if kind is Path]
    for argument, kind, text in given:
        if kind is place:
            inputs += [(argument, Path(one)) for one in {text, text.partition(":")[2], text.rpartition(":")[0]} if one]
    existing = [(argument, path) for argument, path in inputs if os.path.exists(path)]  # noqa: PTH110  # it may be no path at all
    for argument, path in existing:
        if path.is_fifo():
            what = "is a pipe, where a file or a folder is needed"
            raise SceneCompletionError(what, where=f"{argument} {path}", cure="Name a file, or a folder")
    written = [(argument, kind, path) for argument, kind, path in given if isinstance(kind, Output)]
    for argument, kind, path in written:
        kind.check(path, argument, existing)
        kind.refuse_former(path, argument, args)
    if getattr(args, "overwrite", False) and all(kind.names and not kind.results(args) for _, kind, _ in written):
        what = "replaces nothing here: this goes on with what is there, or names no output"
        raise SceneCompletionError(what, where="--overwrite", cure="Leave it out")


def outputs(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[Path]:
    """What a command line names to be written."""
    return [path for _, kind, path in _given(parser, args) if isinstance(kind, Output)]


def _given(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Iterator[tuple[str, Any, Any]]:
    """Every value on a command line: its argument, the type of that, and the value itself."""
    for action in parser._actions:
        value = getattr(args, action.dest, None)
        if isinstance(action, argparse._SubParsersAction):
            yield from _given(action.choices[str(value)], args)
            continue
        argument = action.option_strings[-1] if action.option_strings else str(action.metavar or action.dest)
        for one in _flat(value):
            yield argument, action.type, one


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _flat(one)
    elif value is not None:
        yield value


def _is_stream(path: Path) -> bool:
    """Tell if a path names an open file or a device, as /dev/stdout, which may lead to a file."""
    return path.absolute().parts[1:2] in (("dev",), ("proc",))


def _try_to_write(folder: Path) -> None:
    """Raises OSError where nothing can be written into a folder that may be missing."""
    try:
        with TemporaryDirectory(prefix=".", dir=next(part for part in (folder, *folder.parents) if part.exists())):
            pass
    except OSError as error:
        error.filename = str(folder)
        raise


def _holds(outer: Path, inner: Path) -> bool:
    """Whether a path is an existing one, or holds it, whatever links lead there."""
    return outer.exists() and any(outer.samefile(part) for part in (inner, *inner.resolve().parents))
