"""What earlier versions had is refused by a sentence that says what to use instead, wherever a user names it."""

import re
from pathlib import Path
from typing import Any

import pytest
from rclpy.parameter import Parameter

from scene_completion_ros import cli
from scene_completion_ros.errors import BundleError, ConfigurationError, SceneCompletionError, SequenceError
from scene_completion_ros.inference.bundle import open_student
from scene_completion_ros.removed import REMOVED, removed
from scene_completion_ros.ros.declared_parameters import DeclaredParameters, ExplainingNode
from scene_completion_ros.ros.parameters import SCHEMA, read_parameters
from scene_completion_ros.ros.topics import SERVICES, TOPICS
from scene_completion_ros.sequences.opening import open_recording
from scene_completion_training import CONFIGS
from scene_completion_training.checkpoints import TrainedWeights
from scene_completion_training.configuration import TrainingConfiguration, read_configuration
from scene_completion_training.stage_registry import STAGES, stage_class


def refused(error: type[Exception], sentence: str | None) -> Any:
    assert sentence
    return pytest.raises(error, match=re.escape(sentence))


@pytest.mark.parametrize("words", [*REMOVED["command"], *REMOVED["argument"]])
def test_commands_and_arguments(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*words.split(), "1"])
    assert ended.value.code == 2
    kind = "argument" if words in REMOVED["argument"] else "command"
    assert removed(kind, words) in capsys.readouterr().err  # type: ignore[operator]


@pytest.mark.parametrize("name", REMOVED["parameter"])
def test_parameters_at_start_while_running_and_in_a_file(name: str, context: Any, tmp_path: Path) -> None:
    assert name not in {spec.name for spec in SCHEMA}
    sentence = removed("parameter", name)
    node = ExplainingNode("removed", context=context, parameter_overrides=[Parameter(name, value=1)])
    parameters = DeclaredParameters(node)
    with refused(SceneCompletionError, sentence):
        parameters.checked()
    assert node.set_parameters_atomically([Parameter(name, value=1)]).reason == sentence
    file = tmp_path / "robot.yaml"
    file.write_text(f"/**: {{ros__parameters: {{{name}: 1}}}}", encoding="utf-8")
    with refused(SceneCompletionError, sentence):
        read_parameters(file)


def test_topics_and_services_are_gone() -> None:
    """That the node warns where another node waits for one is tested with its diagnostics."""
    assert not {topic.name for topic in TOPICS} & set(REMOVED["topic"])
    assert not {service.name for service in SERVICES} & set(REMOVED["service"])


@pytest.mark.parametrize("name", REMOVED["stage"])
def test_stages(name: str) -> None:
    assert name not in STAGES
    with refused(ConfigurationError, removed("stage", name)):
        stage_class(name)


@pytest.mark.parametrize("key", REMOVED["configuration key"])
@pytest.mark.parametrize("config", ["single_view.yaml", "street.yaml"])
def test_keys_of_configurations_in_files_and_as_overrides(key: str, config: str, tmp_path: Path) -> None:
    """A key that belonged to another stage is refused by the same sentence."""
    sentence = removed("configuration key", key)
    with refused(ConfigurationError, sentence):
        read_configuration(CONFIGS / config, [f"{key}=1"], TrainingConfiguration)
    file = tmp_path / "training.yaml"
    *outer, last = key.split(".")
    file.write_text("".join(f"{group}: {{" for group in outer) + f"{last}: 1" + "}" * len(outer), encoding="utf-8")
    with refused(ConfigurationError, sentence):
        read_configuration(file, [], TrainingConfiguration)


def test_recordings(tmp_path: Path) -> None:
    """`ROOT/v1.0-mini/SCENE` is no path, but what its folder holds says what it was."""
    (tmp_path / "sample_data.json").touch()
    with refused(SequenceError, removed("recording", "nuScenes")):
        open_recording(tmp_path / "scene-0061")


def test_bundles_on_the_hub() -> None:
    sentence = removed("bundle", "hf:")
    assert next(spec for spec in SCHEMA if spec.name == "bundle").problem("hf:owner/name@main") == sentence
    for opened in (open_student, TrainedWeights.read):
        with refused(BundleError, sentence):
            opened(Path("hf:owner/name"))
