"""Names that others chose do nothing on terminals, in logs, tables and pages."""

import logging
import re
from pathlib import Path

import pytest

from scene_completion_ros import cli
from scene_completion_ros.errors import BagError
from scene_completion_ros.evaluation.metric import table
from scene_completion_ros.plain_text import markdown, printable
from scene_completion_ros.progress import Progress, forwarded_log, print_summary
from scene_completion_ros.report.writer import _html
from scene_completion_ros.ros.health.judgement import FrameCounters, Level, Status
from tests.bags.recordings import START, recorded, string

HOSTILE = "a\x1b]0;owned\x07\x1b[2J\u202egnp\n| b `c` <script>[d](e)\r\x9b1m\u2028"
SHOWN = "a\\x1b]0;owned\\x07\\x1b[2J\\u202egnp\\n| b `c` <script>[d](e)\\r\\x9b1m\\u2028"


def acting(text: str) -> list[str]:
    """The signs of printed lines that are neither visible nor a space or a line end."""
    return [sign for sign in text.replace("\n", "") if not sign.isprintable()]


def test_signs_that_act_are_shown_as_escapes() -> None:
    assert printable(HOSTILE) == SHOWN and acting(HOSTILE)
    assert printable("Straße\u00a0日本語 é – “x”") == "Straße\u00a0日本語 é – “x”"
    assert printable("one\ntwo\x1b\n", lines=True) == "one\ntwo\\x1b\n"
    assert printable("\udcff.bag") == "\\udcff.bag"  # a file name that is no UTF-8
    error = BagError(f"no topic {HOSTILE}", where=f"bag {HOSTILE}", cure="Name one\n  of its topics\n")
    assert not acting(str(error)) and "\n" not in str(error)
    assert str(error).endswith("Name one | of its topics")
    assert _html(HOSTILE).startswith("a\\x1b]0;") and "&lt;script&gt;" in _html(HOSTILE)


def test_a_cell_of_a_table_holds_no_markdown() -> None:
    lines = table([HOSTILE, "b"], [[HOSTILE, "1"], ["x", "2"]]).splitlines()
    assert len(lines) == 4
    for line in lines:
        assert len(re.findall(r"(?<!\\)\|", line)) == 3
        assert not re.search(r"(?<!\\)[`<\[]", line) and not acting(line)
    assert markdown("kitti_student, 25.6 m (a-b)*") == "kitti_student, 25.6 m (a-b)*"


def test_progress_and_summaries_show_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        progress.line(f"warning: {HOSTILE}")
    print_summary({HOSTILE: HOSTILE, "b": 1})
    printed = capsys.readouterr()
    assert printed.err == f"warning: {SHOWN}\n" and len(printed.out.splitlines()) == 2
    assert printed.out.startswith(f"{SHOWN}  {SHOWN}\n")


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.info = self.warning = self.error = self.lines.append


def test_the_node_logs_and_diagnoses_with_escapes() -> None:
    log = Log()
    FrameCounters(log).warn("frame", f"frame {HOSTILE}")
    with forwarded_log(log):
        logging.getLogger("scene_completion_ros.inference").warning("bundle %s", HOSTILE)
    status = Status("input", Level.WARN, f"topic {HOSTILE}", {HOSTILE: HOSTILE}).printable()
    shown = printable(HOSTILE, lines=True)
    assert log.lines == [f"frame {shown}", f"bundle {shown}"] and not acting(shown)
    assert status.message == f"topic {shown}" and status.values == {SHOWN: shown}


def test_commands_print_no_name_of_a_recording_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = HOSTILE.replace("/", "")
    for fill in (
        lambda drive: drive.writer.write(f"/{hostile}", "std_msgs/msg/String", string("x"), START),
        lambda drive: [drive.image(0, camera=hostile, frame=hostile), drive.image(0, camera="b")],
        lambda drive: [drive.image(0, camera=hostile, frame=hostile), drive.info(0, camera=hostile)],
    ):
        bag = recorded(tmp_path / f"{len(list(tmp_path.iterdir()))}{hostile}", fill)
        for command in (["extract", str(bag)], ["replay", str(bag), "--offline"]):
            output = tmp_path / "out" / f"{command[0]}_{bag.name[0]}"
            cli.main([*command, "--output", str(output)])
            printed = capsys.readouterr()
            assert not acting(printed.out + printed.err), printed
            assert "\\x1b]0;owned" in printed.out + printed.err
