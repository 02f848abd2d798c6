import pytest

from scene_completion_ros.commands.words import DEMO_WORDS, chosen_words
from scene_completion_ros.errors import VocabularyError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.text_bank import MOST_ASKED


def test_words_are_those_of_the_option_or_the_default_ones_that_the_bank_holds(wordy_road: StudentBundle) -> None:
    assert chosen_words("tree, parked van,", wordy_road, DEMO_WORDS) == ("tree", "parked van")
    assert chosen_words(None, wordy_road, DEMO_WORDS) == ("car", "tree", "zebra crossing")
    assert chosen_words(None, wordy_road) == ()


def test_a_student_without_a_bank_is_asked_nothing_unless_somebody_insists(flat_road: StudentBundle) -> None:
    assert chosen_words(None, flat_road, DEMO_WORDS) == ()
    with pytest.raises(VocabularyError, match="has no text bank.*--words"):
        chosen_words("car", flat_road)


def test_an_unknown_word_is_refused_with_near_ones_and_too_many_are_at_once(wordy_road: StudentBundle) -> None:
    with pytest.raises(VocabularyError, match="'zebra crosing' .near: 'zebra crossing'"):
        chosen_words("car,zebra crosing", wordy_road)
    with pytest.raises(VocabularyError, match=f"{MOST_ASKED + 1} phrases, where at most {MOST_ASKED}"):
        chosen_words(",".join(f"word {number}" for number in range(MOST_ASKED + 1)), wordy_road)


def test_the_demo_asks_for_what_the_page_promises() -> None:
    assert {"car", "tree", "zebra crossing"} <= set(DEMO_WORDS)
    assert 12 <= len(set(DEMO_WORDS)) == len(DEMO_WORDS) <= MOST_ASKED
