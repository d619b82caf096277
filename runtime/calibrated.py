"""The calibration of an opened bundle, which must be one for its members."""

from pdtool.calibration.kinds import kinds_of, turns
from pdtool.decisions import Calibration
from pdtool.errors import InputError
from pdtool.runtime.bundle import OpenBundle

__all__ = ["calibration_of"]


def calibration_of(opened: OpenBundle) -> Calibration:
    """The bundle's calibration. Raises InputError where there is none, or one that does not fit its members."""
    calibration, members, bundle = opened.calibration, opened.bundle.members, opened.folder
    if calibration is None:
        raise InputError(f"{bundle}: is not calibrated; run: pdtool calibrate {bundle} --data CLEAN_IMAGES")
    if calibration.max_models > len(members):
        raise InputError(f"{bundle}: its calibration asks more members than it has; calibrate it again")
    scales = calibration.temperatures
    if scales is not None and len(scales) != len(members):
        raise InputError(
            f"{bundle}: its calibration has {len(scales)} temperatures for {len(members)} members; calibrate it again"
        )
    kinds = kinds_of([member.kind for member in members])
    if calibration.kinds not in (None, kinds and turns(kinds)[: calibration.max_models]):
        raise InputError(f"{bundle}: its calibration is for members of other kinds; calibrate it again")
    return calibration
