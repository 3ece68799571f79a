# ruff: noqa: S608 - only numbers of parameters are interpolated
"""
Who may see an asset, as a condition of the statements that find it: see docs/adr/0047.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from services.chassis.access.policies import EVERYTHING, Readable

#: The number of parameters of `visible`.
PARAMETERS: Final = 5


@dataclass(frozen=True, slots=True)
class Viewer:
    """
    What a caller may see.

    Args:
        readable: the namespaces that it may read: it sees what their versions pin.
        subject: whose uploads it sees, too; empty for none.
        private: whether it may see private assets among them.
    """

    readable: Readable = EVERYTHING
    subject: str = ""
    private: bool = False

    @property
    def sees_everything(self) -> bool:
        """
        Whether no asset is invisible.
        """
        return self.private and self.readable.everything

    def reads(self, owner: str) -> bool:
        """
        Whether it may know what a version pins.

        Args:
            owner: its full name, or that of a static file, whose pins are for those who may read everything.
        """
        collection, _, rest = owner.partition("/")
        return self.readable.everything or (collection == "namespaces" and rest.partition("/")[0] in self.readable)

    @property
    def parameters(self) -> tuple[Any, ...]:
        """
        The parameters of `visible`.
        """
        readable = self.readable
        return self.private, readable.everything, readable.others, readable.ordered, self.subject


def visible(first: int) -> str:
    """
    The condition on a row of `assets` that a viewer may see it.

    Args:
        first: the number of its first parameter in the statement.
    """
    private, everything, others, names, subject = (f"${first + n}" for n in range(PARAMETERS))
    return f"""(({private}::boolean OR NOT assets.private) AND ({everything}::boolean
    OR EXISTS (SELECT FROM uploaders WHERE uploaders.sha256 = assets.sha256 AND uploaders.subject = {subject}::text)
    OR (NOT {others}::boolean AND EXISTS (
        SELECT FROM pins WHERE pins.sha256 = assets.sha256 AND namespace_of(pins.owner) = ANY({names}::text[])))
    OR ({others}::boolean AND EXISTS (
        SELECT FROM pins WHERE pins.sha256 = assets.sha256 AND namespace_of(pins.owner) <> ALL({names}::text[])))))"""
