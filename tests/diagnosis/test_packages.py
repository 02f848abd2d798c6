"""Python and packages."""

import sys
from collections.abc import Callable
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from scene_completion_ros.diagnosis import packages
from scene_completion_ros.diagnosis.child import Status


def test_requirements_are_those_of_the_package() -> None:
    declared = requires(packages.PACKAGE) or []
    expected = {r.name: r.specifier for r in map(Requirement, declared) if not r.marker}
    found = packages.requirements(declared)
    assert {name: SpecifierSet(specifier) for name, specifier in found.items()} == expected
    assert {"numpy", "openvino", "opencv-python-headless"} <= set(found)
    assert packages.requirements(["numpy (>=1.22,<3)", "torch ; extra == 'train'"]) == {"numpy": ">=1.22,<3"}
    for text in ("numpy @ https://example.org/numpy.whl", "numpy >= 1 || 2)"):
        with pytest.raises(ValueError, match="not understood"):
            packages.requirements([text])
    with pytest.raises(ValueError, match="not understood"):
        packages.satisfies("1.0", "~=1.0")


def test_missing_and_old_packages_are_named(distribution_in_front: Callable[..., None]) -> None:
    needed = "Requires-Dist: no-such-thing>=2\nRequires-Dist: numba>=0.57\nRequires-Dist: numpy\n"
    distribution_in_front("scene_completion_ros", "9", f"Requires-Python: >=3.99\n{needed}")
    distribution_in_front("numba", "0.56.4")
    finding = packages.check_packages()
    assert finding.status is Status.FAILED
    assert finding.found == "no-such-thing is missing (>=2 is needed), numba 0.56.4 (>=0.57 is needed)"
    assert finding.cure == f"{sys.executable} -m pip install 'no-such-thing>=2' 'numba>=0.57'"
    assert packages.check_python().status is Status.FAILED
