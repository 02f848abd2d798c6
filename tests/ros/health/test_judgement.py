"""What is said of the state and of the outputs."""

from __future__ import annotations

from scene_completion_ros.ros.health.judgement import Level, lifecycle_status, outputs_status


def test_states_that_were_chosen_are_in_order_and_failed_transitions_are_not() -> None:
    for state in ("unconfigured", "inactive", "active", "finalized"):
        assert lifecycle_status(state, "", enabled=True).level == Level.OK
    status = lifecycle_status("unconfigured", "parameter bundle: there is no folder /x", enabled=True)
    assert status.level == Level.ERROR
    assert "there is no folder /x" in status.message


def test_outputs_tell_who_listens_and_what_was_warned_of() -> None:
    status = outputs_status({"/a": 0, "/b": 0}, {}, None)
    assert "nobody subscribed: images are not completed until" in status.message
    status = outputs_status({"/a": 2, "/b": 0}, {"~/markers": 3}, 0.5)
    assert status.message == "1 of 2 topics have subscribers"
    assert status.values["warnings: ~/markers"] == "3"
    assert status.values["subscribers of /a"] == "2"
