"""What the command refuses before it records anything."""

from pathlib import Path

import pytest

from scene_completion_ros.cli import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--budget", "much"], "is no size: write it as 20GB or 500MB"),
        (["--budget", "0GB"], "is no size"),
        (["--budget", "9" * 400 + "GB"], "is no size"),
        (["--budget", "1." + "9" * 400], "is no size"),
        (["--budget", "1GB", "--before", "-1"], "no number of seconds"),
        (["--budget", "1GB", "--after", "nan"], "no number of seconds"),
        ([], "--budget"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["record", "--output", str(tmp_path / "out"), *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_piece_shorter_than_a_moment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record", "--output", str(tmp_path / "out"), "--budget", "1GB", "--longest", "9"]) == 2
    assert "--longest" in capsys.readouterr().err
