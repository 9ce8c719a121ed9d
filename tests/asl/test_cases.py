"""Definitions and outcomes that others have recorded: all that can be run here comes out as it did there."""

import pytest

from tests.asl.cases import CASES, cases, is_executable, measure

pytestmark = pytest.mark.anyio


@pytest.mark.skipif(not CASES.exists(), reason="the recorded cases are not beside the project")
async def test_every_recorded_case_comes_out_as_recorded() -> None:
    """Each self-contained or mockable case on the durable engine, and each definition that is right or wrong."""
    outcomes = await measure()
    assert [each for each in outcomes if each.state == "failed"] == []
    refused = [each.why for each in outcomes if each.state == "refused"]
    assert all("ItemReader is not supported" in why for why in refused)
    passed = sum(each.state == "passed" for each in outcomes)
    assert passed >= sum(map(is_executable, cases()))
