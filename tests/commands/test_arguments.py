"""What stands between the command line and all commands: no output is an input, and numbers are of a possible size."""

import argparse
import os
from pathlib import Path

import pytest

from scene_completion_ros import cli
from scene_completion_ros.commands.arguments import FILE, Output, check_arguments, place
from scene_completion_ros.errors import SceneCompletionError
from tests.commands.command_lines import COMMANDS, FOUND, line

WRITTEN = {"--output", "--page", "--work", "--card-only"}


every_command = pytest.mark.parametrize(
    ("command", "actions"), [pytest.param(*one, id=" ".join(one[0])) for one in COMMANDS]
)


@pytest.fixture(autouse=True)
def found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "find_commands", lambda: FOUND)


@every_command
def test_no_output_is_an_input(
    command: list[str], actions: list[argparse.Action], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = {action: action.type for action in actions if isinstance(action.type, Output)}
    assert WRITTEN & {name for action in actions for name in action.option_strings} <= {
        name for action in outputs for name in action.option_strings
    }
    folder, soft, hard = (tmp_path / name for name in ("folder", "soft", "hard"))
    folder.mkdir()
    for written, output in outputs.items():
        name = next(iter(output.names or ["file"])).replace("*", "x").replace(".", "file", output.names == (".",))
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
        soft.symlink_to(file)
        hard.hardlink_to(file)
        place_of = file if output.names is None else folder
        inputs = {(): [folder], (".",): [folder, file, soft]}.get(output.names, [file, soft, hard])
        for read in (action for action in actions if action.type in (Path, place)):
            for one in inputs:
                assert cli.main(line(command, actions, {written: place_of, read: one})) == 2
                said = capsys.readouterr().err
                assert f"would overwrite {one}, which is read" in said and "Name another" in said
                assert file.read_text() == "mine"
        for one in (file, soft, hard):
            one.unlink()


@every_command
def test_no_result_is_replaced_unasked(
    command: list[str], actions: list[argparse.Action], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of the results, alone, is enough; what is no result is none, and what goes on replaces nothing."""
    outputs = {action: action.type for action in actions if isinstance(action.type, Output)}
    assert bool(outputs) == any("--overwrite" in action.option_strings for action in actions)
    for number, (written, output) in enumerate(outputs.items()):
        chosen = vars(cli.build_parser(FOUND).parse_args(line(command, actions, {})))
        names = ("file",) if output.names is None else output.results(argparse.Namespace(**chosen))
        if output.names and not names:
            assert cli.main([*line(command, actions, {written: tmp_path}), "--overwrite"]) == 2
            assert "--overwrite: replaces nothing here: this goes on with what is there" in capsys.readouterr().err
        for name in names:
            folder = tmp_path / f"{number} {name.replace('*', 'x')}"
            file = folder / name.replace("*", "x")
            folder.mkdir()
            (folder / "notes.txt").write_text("mine")
            file.write_text("former")
            place_of = file if output.names is None else folder
            assert cli.main(line(command, actions, {written: place_of})) == 2
            kind = "file" if output.names is None else "folder"
            named = "" if output.names is None else f"{file.name} "
            said = f"{place_of}: {named}exists already. Name another {kind}, or replace former results with --overwrite"
            assert said in capsys.readouterr().err
            assert {one.name: one.read_text() for one in folder.iterdir()} == {"notes.txt": "mine", file.name: "former"}


@every_command
def test_what_is_no_result_is_not_replaced_with_the_folder_that_it_lies_in(
    command: list[str], actions: list[argparse.Action], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results that are folders go as a whole: what a user keeps in one of them is named, and stays."""
    for written, output in ((action, action.type) for action in actions if isinstance(action.type, Output)):
        for name in {pattern.partition("/")[0] for pattern in output.inside}:
            mine = tmp_path / name / "notes" / "1.txt"
            mine.parent.mkdir(parents=True)
            mine.write_text("mine")
            assert cli.main([*line(command, actions, {written: tmp_path}), "--overwrite"]) == 2
            assert f"{tmp_path}: {name}/notes/1.txt is no result: it would go with" in capsys.readouterr().err
            assert mine.read_text() == "mine"
            mine.unlink()


@pytest.mark.parametrize(
    ("command", "refused", "not_written"),
    [
        ("features classes drive --model m --student s", "classes.json", "features.safetensors"),
        ("features points cloud --model m", "components.ply", "classes.json"),
        ("features images config --model m", None, "classes.json"),
        ("evaluate geometry --data drive", "results.json", "profile_town_000000.png"),
        ("evaluate geometry --data drive --profiles", "profile_town_000000.png", "results.json"),
    ],
)
def test_results_of_another_kind_are_in_nobodys_way(
    command: str, refused: str | None, not_written: str, tmp_path: Path
) -> None:
    parser = cli.build_parser(FOUND)
    args = parser.parse_args([*command.split(), "--output", str(tmp_path)])
    (tmp_path / not_written).touch()
    check_arguments(parser, args)
    if refused:
        (tmp_path / refused).touch()
        with pytest.raises(SceneCompletionError, match=f"{refused} exists already"):
            check_arguments(parser, args)
        check_arguments(parser, argparse.Namespace(**{**vars(args), "overwrite": True}))


def test_what_is_written_to_is_no_result(tmp_path: Path) -> None:
    """Standard output is a file where the shell has it lead to one."""
    args, file = argparse.Namespace(overwrite=False), tmp_path / "file"
    with file.open("w") as out:
        for stream in (Path("/dev/stdout"), Path("/dev/null"), Path(f"/proc/self/fd/{out.fileno()}")):
            FILE.refuse_former(stream, "--output", args)
        with FILE.writing(stream, args) as place:
            place.write_text("new")
    assert file.read_text() == "new"


@every_command
def test_numbers_are_of_a_possible_size(
    command: list[str], actions: list[argparse.Action], capsys: pytest.CaptureFixture[str]
) -> None:
    for action in (action for action in actions if action.type in (int, float) and not action.choices):
        for number in ("9" * 400, "nan") if action.type is float else ("9" * 400, "-" + "9" * 400):
            assert cli.main(line(command, actions, {action: number})) == 2
            assert f"{action.option_strings[-1]}: is no number of a possible size" in capsys.readouterr().err


def test_paths_that_cannot_be_are_refused_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, pipe, no_text = tmp_path / "file", tmp_path / "pipe", tmp_path / os.fsdecode(b"\xff")
    file.touch()
    os.mkfifo(pipe)
    for image, output, said in (
        ("image.png", file, f"--output {file}: {file} is a file, where a folder is needed. Name a folder"),
        ("image.png", file / "in" / "it", f"{file} is a file, where a folder is needed"),
        ("image.png", Path("/proc/new"), "/proc/new: No such file or directory. Check the path"),
        (str(pipe), tmp_path / "new", f"IMAGE {pipe}: is a pipe, where a file or a folder is needed. Name a file"),
        (str(no_text), tmp_path / "new", "is no text in UTF-8. Rename it"),
    ):
        assert cli.main(["complete", image, "--camera", "camera.yaml", "--output", str(output)]) == 2
        assert said in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"file", "pipe"}


@pytest.mark.parametrize("bundle", ["bundle", "link"])
def test_a_file_of_an_input_is_no_output(bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "link").symlink_to("bundle")
    readme = tmp_path / "bundle" / "README.md"
    readme.write_text("mine")
    assert cli.main(["vocabulary", "car", "--encoder", str(tmp_path / bundle), "--output", str(readme)]) == 2
    assert f"would overwrite {tmp_path / bundle}, which is read (--encoder)" in capsys.readouterr().err
    assert readme.read_text() == "mine"


def test_what_overwrites_nothing_passes(tmp_path: Path) -> None:
    image, bundle = tmp_path / "image.png", tmp_path / "bundle"
    image.touch()
    bundle.mkdir()
    inputs = [("IMAGE", image), ("--bundle", bundle)]
    FILE.check(tmp_path / "new" / "file", "--page", inputs)
    FILE.check(bundle / "new", "--page", inputs)
    (bundle / "README.md").touch()
    (tmp_path / "picture.png").symlink_to("nowhere")
    for folder in (tmp_path, tmp_path / "new", bundle / "new"):
        Output(("picture.png", "*.npz")).check(folder, "--output", inputs)
