"""Every method by its name, and which options go with which."""

from collections.abc import Iterable

from pdtool.compress import l1_norm, lottery_ticket, mutation, prune_and_scale, random_channel, subnetwork
from pdtool.compress.contract import Method
from pdtool.errors import UsageError

__all__ = ["METHODS", "check_options", "method_named"]

METHODS: dict[str, Method] = {
    "random-channel": random_channel.METHOD,
    "l1-norm": l1_norm.METHOD,
    "lottery-ticket": lottery_ticket.METHOD,
    "subnetwork": subnetwork.METHOD,
    "mutation-nai": mutation.NAI,
    "mutation-gf": mutation.GF,
    "mutation-ws": mutation.WS,
    "mutation-ns": mutation.NS,
    "prune-and-scale": prune_and_scale.METHOD,
}


def method_named(name: str) -> Method:
    """Raises UsageError for a name that there is not."""
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}; expected one of {', '.join(METHODS)}")
    return METHODS[name]


def check_options(name: str, given: Iterable[str]) -> None:
    """Raise UsageError where an option (a name of `Method.options`) does not go with the method."""
    for option in given:
        of = "recipe" if option == "hardening" else option  # whoever trains can train on crafted images
        if of not in METHODS[name].options:
            takers = ", ".join(other for other, method in METHODS.items() if of in method.options)
            spelled = option.replace("_", "-").replace("group-rates", "group-rate")
            raise UsageError(f"--{spelled} does not go with --method {name}; it is for {takers}")
