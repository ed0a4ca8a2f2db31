"""Constants that an estimate asks for, and what asked for them."""

from __future__ import annotations

import math

from phasegrad.cost.constant import Constant
from phasegrad.cost.technology import RULES, Technology


class Prices:
    """The constants of a technology, which notes what uses them and which of them are missing.

    Args:
        technology: the technology.
        quantity: what the constants are for: ``"energy"``, ``"latency"`` or ``"area"``.
    """

    def __init__(self, technology: Technology, quantity: str) -> None:
        self.technology, self.quantity = technology, quantity
        self.used: dict[str, list[str]] = {}
        """The users of each constant by its name."""
        self.missing: dict[str, list[str]] = {}
        """The users of each missing constant by its name."""

    def cost(self, count: float, user: str, *names: str) -> float:
        """A count times constants: NaN if one of them is missing, unless another one or the count is 0."""
        if count == 0:
            return 0.0
        found = {name: self.technology.constant(name) for name in names}
        free = [name for name, constant in found.items() if constant is not None and constant.value == 0]
        for name, constant in found.items():
            if not free or name in free:
                self._note(name, user, constant)
        if free:
            return 0.0
        values = {name: math.nan if constant is None else constant.value for name, constant in found.items()}
        return count * math.prod(values[name] for name in names)

    def _note(self, name: str, user: str, constant: Constant | None) -> None:
        users = (self.missing if constant is None else self.used).setdefault(name, [])
        if user not in users:
            users.append(user)

    def lacks(self, name: str, user: str) -> float:
        """Note that something other than a constant is missing; returns NaN."""
        self._note(name, user, None)
        return math.nan

    def require(self) -> None:
        """Raise unless everything that was asked for is known.

        Raises:
            ValueError: constants are missing; the message names them, with their users.
        """
        if not self.missing:
            return
        lines = [f"  {missing_constant(name)}: for {_listed(users)}" for name, users in self.missing.items()]
        if not self.technology.constants:
            raise ValueError(
                f"estimate: the {self.quantity} needs the constants of a technology; pass technology=, such as "
                "pg.cost.hermes_64_core(), or a Technology(...) with:\n" + "\n".join(lines)
            )
        raise ValueError(
            f"estimate: the {self.quantity} needs constants that are missing; give them, with their sources, in "
            "Technology(...), or 0 for what costs nothing or is part of another constant:\n" + "\n".join(lines)
        )


def missing_constant(name: str) -> str:
    """How a missing constant is asked for, with its unit; some are no constants, but arguments."""
    if name in ("activity", "firing"):
        return f"{name} (an argument)"
    rule = RULES.get(name)
    return name if rule is None else f"{name} [{rule.unit}]"


def _listed(users: list[str]) -> str:
    shown = ", ".join(users[:3])
    return shown if len(users) <= 3 else f"{shown} and {len(users) - 3} more"
