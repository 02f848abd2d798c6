from pathlib import Path

import cv2
import numpy as np
import pytest

from scene_completion_ros.cli import main
from scene_completion_ros.commands.arguments import DEMO_WORDS, chosen_words
from scene_completion_ros.errors import VocabularyError
from scene_completion_ros.geometry.grids import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA, VoxelGrid
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import MOUNTING_UNKNOWN
from scene_completion_ros.inference.text_bank import MOST_QUERIED
from scene_completion_ros.voxels.semantic_voxels import OTHER_COLOUR, phrase_colours
from tests.inference import known_mounting_bundle
from tests.inference.small_bundle import CANONICAL, class_colours, class_names

YAML = """image_width: {c.width}
image_height: {c.height}
camera_name: test
camera_matrix: {{rows: 3, cols: 3, data: [{c.fx}, 0, {c.cx}, 0, {c.fy}, {c.cy}, 0, 0, 1]}}
distortion_model: plumb_bob
distortion_coefficients: {{rows: 1, cols: 5, data: [0, 0, 0, 0, 0]}}
"""
GRID = """origin: [2.0, -4.0, -2.5]
voxel_size: 0.5
shape: [40, 16, 8]
grid_from_camera: [0, 0, 1, 1,  -1, 0, 0, 0,  0, -1, 0, 0,  0, 0, 0, 1]
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), np.full((CANONICAL.height, CANONICAL.width, 3), 90, np.uint8))
    (tmp_path / "camera.yaml").write_text(YAML.format(c=CANONICAL))
    return path


def complete(image: Path, bundle: StudentBundle, *more: str) -> int:
    folder = image.parent
    arguments = [str(image), "--camera", str(folder / "camera.yaml"), "--output", str(folder / "out"), *more]
    return main(["complete", "--bundle", str(bundle.folder), *arguments])


def voxels_of(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "voxels.npz", allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def test_the_files_have_the_documented_content(image: Path, flat_road: StudentBundle) -> None:
    assert complete(image, flat_road) == 0
    output = image.parent / "out"
    saved = voxels_of(output)
    index = saved["index"]
    np.testing.assert_array_equal(index, np.argwhere(saved["state"] >= 3))
    np.testing.assert_allclose(saved["probability"], saved["probability_grid"][tuple(index.T)], atol=1e-3)
    assert (saved["depth"].ndim, saved["alpha_grid"].shape) == (2, DEFAULT_GRID.shape)
    grid = VoxelGrid(tuple(saved["origin"]), saved["voxel_size"], saved["state"].shape, str(saved["grid_frame"]))
    assert grid == DEFAULT_GRID
    np.testing.assert_allclose(saved["grid_from_camera"], DEFAULT_GRID_FROM_CAMERA.matrix, atol=1e-12)
    assert saved["class_names"].tolist() == ["unlabelled"] and saved["class_colours"].tolist() == [[128, 128, 128]]
    assert not (output / "words.png").exists()
    assert cv2.imread(str(output / "picture.png")).shape[1] > 900


def test_words_are_drawn_with_the_option(image: Path, wordy_road: StudentBundle) -> None:
    output = image.parent / "out"
    assert complete(image, wordy_road, "--words", "tree, zebra crossing") == 0
    picture = cv2.imread(str(output / "words.png"))[..., ::-1]
    tree, crossing = phrase_colours(2, class_colours(3))
    for colour in (OTHER_COLOUR, tree, crossing):
        assert np.all(picture[-60:] == colour, axis=-1).sum() > 80  # in the legend
    assert sum(np.all(picture[:-60] == colour, axis=-1).sum() for colour in (tree, crossing)) > 1000
    assert voxels_of(output)["class_names"].tolist() == list(class_names(3))  # labels stay what they were


def test_results_are_replaced_only_with_the_option_and_then_all_of_them(
    image: Path, wordy_road: StudentBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    output = image.parent / "out"
    assert complete(image, wordy_road, "--words", "tree") == 0
    (output / "notes.txt").write_text("mine")
    (output / "picture.png").write_bytes(b"touched up")
    before = {file.name: file.read_bytes() for file in output.iterdir()}
    capsys.readouterr()
    assert complete(image, wordy_road) == 2
    said = "picture.png, voxels.npz, words.png exist already. Name another folder, or replace former results with"
    assert f"--output {output}: {said} --overwrite" in capsys.readouterr().err
    for wrong in (["--bundle", "strret"], ["--camera", "nowhere.yaml"], ["--words", "unheard of"]):
        assert complete(image, wordy_road, "--overwrite", *wrong) == 2
        assert {file.name: file.read_bytes() for file in output.iterdir()} == before
    assert complete(image, wordy_road, "--overwrite") == 0
    after = {file.name: file.read_bytes() for file in output.iterdir()}
    assert after.keys() == {"notes.txt", "picture.png", "voxels.npz"}  # what this run did not ask for is gone as well
    assert after["notes.txt"] == b"mine" and after["picture.png"] != b"touched up"


def test_what_cannot_be_completed_ends_in_one_line(
    image: Path, flat_road: StudentBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str, more: tuple[str, ...] = ()) -> None:
        assert complete(image, flat_road, *more) == 2
        error = capsys.readouterr().err
        assert all(word in error.splitlines()[-1] for word in words) and error.count("scene-completion") == 1
        assert not (image.parent / "out").exists()

    grid = image.parent / "grid.yaml"
    grid.write_text(GRID.replace("[0, 0, 1, 1,", "[0, 0, 1, 90,"))
    refused("the camera sees none of the 40x16x8 voxels of 0.5 m", more=("--grid", str(grid)))
    grid.write_text(GRID.replace("[0, 0, 1, 1,", "[0, 0, 1, -1000,"))
    refused("the camera sees none of", "no farther than the 80 m that the student predicts", more=("--grid", str(grid)))
    grid.write_text(GRID.replace("[40, 16, 8]", "[100000, 100000, 100000]"))
    refused("are more than 268,435,456 voxels", more=("--grid", str(grid)))
    cv2.imwrite(str(image), np.zeros((100, 100, 3), np.uint8))
    refused("camera.yaml", "100x100")


def test_voxels_farther_than_the_student_knows_stay_unobserved(
    image: Path, flat_road: StudentBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = image.parent / "grid.yaml"
    grid.write_text(GRID.replace("[0, 0, 1, 1,", "[0, 0, 1, -65,"))
    assert complete(image, flat_road, "--grid", str(grid)) == 0
    ahead = 65.0 + 2.0 + 0.5 * (np.argwhere(voxels_of(image.parent / "out")["state"] > 0)[:, 0] + 0.5)
    assert ahead.min() == 67.25 and ahead.max() == 79.75
    assert "warning: 1792 voxels lie more than 80 m ahead of the camera, farther than" in capsys.readouterr().err


def test_a_student_takes_the_mounting_of_the_camera(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), known_mounting_bundle.wall_from(0.0))
    (tmp_path / "camera.yaml").write_text(YAML.format(c=known_mounting_bundle.CAMERA))
    student = known_mounting_bundle.make_known_mounting_bundle(tmp_path / "student")
    wanted = f"{MOUNTING_UNKNOWN}: give --camera-height and --camera-pitch"
    for more, said in (
        ((), [wanted]),
        (("--camera-height", "1.7", "--camera-pitch", "2"), []),
        (("--camera-height", "0.2"), ["the camera stands 0.20 m above the ground"]),
        (("--camera-height", "1.7", "--camera-pitch", "60"), ["the camera looks 60.0° down"]),
        (("--camera-height", "1.7", "--camera-roll", "3"), []),
    ):
        assert complete(image, student, *more, "--overwrite") == 0
        error = capsys.readouterr().err
        assert error.count("warning: the ") == len(said) and all(text in error for text in said)
    alone = ("--camera-pitch", "2"), ("--camera-roll", "2")
    for more in (
        *alone,
        ("--camera-height", "-1"),
        ("--camera-height", "nan"),
        ("--camera-roll", "50", "--camera-height", "2"),
    ):
        assert complete(image, student, *more, "--overwrite") == 2
        assert more[0] in capsys.readouterr().err


def test_assumed_bits_are_reported(image: Path, flat_road: StudentBundle, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.full((CANONICAL.height, CANONICAL.width, 3), 1023, np.uint16)
    values[0, 0] = 4095
    cv2.imwrite(str(image), values)
    assert complete(image, flat_road) == 0
    assert "the largest of its 16-bit values is 4095, so they are read as values of 12 bits" in capsys.readouterr().err


def test_a_student_without_a_bank_has_no_words_and_refuses_given_ones(flat_road: StudentBundle) -> None:
    assert chosen_words(None, flat_road, DEMO_WORDS) == ()
    with pytest.raises(VocabularyError, match="has no text bank.*--words"):
        chosen_words("car", flat_road)


def test_too_many_words_are_refused_at_once(wordy_road: StudentBundle) -> None:
    with pytest.raises(VocabularyError, match=f"{MOST_QUERIED + 1} phrases, where at most {MOST_QUERIED}"):
        chosen_words(",".join(f"word {number}" for number in range(MOST_QUERIED + 1)), wordy_road)
