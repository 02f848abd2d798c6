"""The occupancy link: to a calibration and back."""

import pytest
import torch

from scene_completion_training.networks.occupancy_link import OccupancyLink, link_calibration, link_of_calibration


def test_the_link_of_a_bundle_is_that_of_its_training() -> None:
    """Exported, a link becomes a calibration; from that it comes back."""
    link = OccupancyLink(2.0)
    with torch.no_grad():
        link.log_scale.fill_(0.4)
    found = link_of_calibration(link_calibration(link.state_dict(), 0.2), 0.2)
    assert found["log_scale"].item() == pytest.approx(0.4, abs=0.02)
    assert found["offset"].item() == pytest.approx(2.0, abs=0.05)
    assert link_of_calibration(link_calibration({}, 0.2), 0.2) == {}
