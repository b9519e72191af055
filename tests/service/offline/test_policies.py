from dataclasses import replace

from service.audit.calibration import Policy
from service.offline.policies import Calibrated, calibration_summary
from tests import tiny


def test_the_summary_says_what_was_left_out_and_what_that_costs():
    policy = Policy.load(tiny.POLICY)
    assert "warning" not in calibration_summary(Calibrated(policy, {}, []))
    warned = replace(policy, warnings=("3 of 183 films stand apart",), left_out=(1, 2))
    lines = calibration_summary(Calibrated(warned, {}, ["b.png", "a.png", "c.png"])).splitlines()
    assert "warning: 3 of 183 films stand apart" in lines
    assert f"up to {100 * warned.band_at_worst[1]:.1f} % (95 %)" in lines[3]
    assert "--despite-warnings REASON" in lines[4]
    assert lines[5:] == ["stands apart: a.png", "stands apart: b.png", "stands apart: c.png"]
