"""Numbers as people read them, the same in every table and report. What was not measured is `–`."""

__all__ = ["NOTHING", "counted", "duration", "number", "percent", "size"]

NOTHING = "–"


def number(value: float | None, digits: int = 1) -> str:
    """With so many digits behind the point.

    >>> number(2.346), number(None)
    ('2.3', '–')
    """
    return NOTHING if value is None else f"{value:.{digits}f}"


def percent(share: float | None) -> str:
    """A share in [0, 1]; one that rounding would hide does not become 0.

    >>> percent(0.1234), percent(0.0), percent(1e-5), percent(None)
    ('12.3 %', '0.0 %', '< 0.1 %', '–')
    """
    if share is None:
        return NOTHING
    return "< 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


def counted(events: int, count: int) -> str:
    """A rate with its n.

    >>> counted(2, 3), counted(0, 0)
    ('66.7 % (2 of 3)', '– (0 frames)')
    """
    return f"{NOTHING} (0 frames)" if count == 0 else f"{percent(events / count)} ({events} of {count})"


def duration(seconds: float) -> str:
    """Roughly how long, in the unit that people would use.

    >>> duration(0.2), duration(13.4), duration(250), duration(9000)
    ('1 s', '13 s', '4.2 min', '2.5 h')
    """
    if seconds < 100:
        return f"{max(1.0, seconds):.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def size(number_of_bytes: float) -> str:
    """Bytes in the largest unit that they fill.

    >>> size(900), size(4600), size(64 * 2**20), size(3 * 2**30)
    ('900 B', '4.5 KiB', '64.0 MiB', '3.0 GiB')
    """
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number_of_bytes >= scale:
            return f"{number_of_bytes / scale:.1f} {unit}"
    return f"{number_of_bytes:.0f} B"
