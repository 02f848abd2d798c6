"""The benchmark of sparse convolutions, on few voxels."""

from __future__ import annotations

import pytest

from benchmarks.sparse_convolution import convolution_table, growth_table, resident, street


def test_a_street_has_the_voxels_that_are_asked_for() -> None:
    assert len(street(500)) == 500
    assert street(10**7).shape == (256, 256, 32)


def test_tables_of_few_voxels() -> None:
    convolutions = convolution_table(street(500), 8, repeats=1)
    assert "| torch | " in convolutions and " 1.00 | 0.0e+00 |" in convolutions
    growth = growth_table([300, 500], repeats=1).splitlines()
    assert [line.split("|")[1].strip() for line in growth[2:]] == ["300", "500"]


def test_the_most_memory_is_not_less_than_that_of_now() -> None:
    try:
        now = resident()
    except OSError as error:
        pytest.skip(f"the kernel does not forget the most: {error}")
    held = bytearray(512 << 20)  # much more than other threads give back meanwhile
    held[::4096] = b"x" * len(held[::4096])
    assert resident("VmHWM") > now + 300
