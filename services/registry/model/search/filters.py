"""
The filter language: a subset of AIP-160 (https://google.aip.dev/160) over the fields of a model.

    task = "image-classification" AND parameters < 100000000 AND labels.team:vision
    AND (evaluations.imagenet.top1 > 85 OR NOT license : mit)

`parameters` is short for `parameter_count`. As in AIP-160, OR binds tighter than AND, and keywords are upper case. A
comparison with something that a model does not have (a label, a result, a parameter count, a license) is false,
whatever the operator, `!=` included; NOT of it is true. Only `license = ""` finds what has none, as `NOT license:*`
does. Strings compare by code point in the Unicode form NFC, whichever form either comes in; `:` asks a text whether it
contains the value (in any case), a label whether it has that value, `labels` whether it has that key; `:*` asks whether
there is anything at all. `description:"two words"` asks for all of the words, as a search does, in any order. A result
stands for the model's best one: the highest, or the lowest when that is better of the metric; what else than [a-z0-9_-]
is in the id of its data set or metric, or in the key of a label, is quoted: `evaluations."GLUE/SST-2"."acc@1"`,
`labels."any key"`. `like(name, "resnet%")` compares a text or a label with a pattern of SQL, `ilike` in any case.

The same language serves versions, with the fields VERSION_TEXTS, number, create_time, update_time and labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

TEXTS = ("name", "display_name", "owner", "task", "framework", "license")
#: Of versions.
VERSION_TEXTS = ("model", "state", "stage", "source", "run", "run_link", "source_model_id", "actor")


class Op(StrEnum):
    """
    How a comparison compares.
    """

    EQUAL = "="
    UNEQUAL = "!="
    LESS = "<"
    AT_MOST = "<="
    MORE = ">"
    AT_LEAST = ">="
    HAS = ":"
    LIKE = "like"
    ILIKE = "ilike"


#: Those that are signs; the others are functions.
SIGNS = (Op.EQUAL, Op.UNEQUAL, Op.LESS, Op.AT_MOST, Op.MORE, Op.AT_LEAST, Op.HAS)


@dataclass(frozen=True, slots=True)
class Text:
    """
    One of the text fields, by its name in the contract.
    """

    name: str


@dataclass(frozen=True, slots=True)
class VersionNumber:
    """
    number, of a version.
    """


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """
    parameter_count.
    """


@dataclass(frozen=True, slots=True)
class CreateTime:
    """
    create_time.
    """


@dataclass(frozen=True, slots=True)
class UpdateTime:
    """
    update_time.
    """


@dataclass(frozen=True, slots=True)
class LatestVersion:
    """
    latest_version.
    """


@dataclass(frozen=True, slots=True)
class Description:
    """
    description: which words are in it.
    """


@dataclass(frozen=True, slots=True)
class Label:
    """
    labels.{key}.
    """

    key: str


@dataclass(frozen=True, slots=True)
class LabelKeys:
    """
    The keys of all labels: `labels:key`.
    """


@dataclass(frozen=True, slots=True)
class Score:
    """
    evaluations.{dataset}.{metric}: the best result of the model.

    Args:
        lower: the lowest one is the best.
    """

    dataset: str
    metric: str
    lower: bool = False


Field = (
    Text
    | VersionNumber
    | ParameterCount
    | LatestVersion
    | CreateTime
    | UpdateTime
    | Description
    | Label
    | LabelKeys
    | Score
)
Value = str | int | float | datetime


@dataclass(frozen=True, slots=True)
class Comparison:
    """
    A field compared with a value; None asks whether there is any value.
    """

    field: Field
    op: Op
    value: Value | None


@dataclass(frozen=True, slots=True)
class Every:
    """
    All of the conditions hold.
    """

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """
    At least one of the conditions holds.
    """

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Negation:
    """
    The condition does not hold.
    """

    part: Condition


Condition = Comparison | Every | Some | Negation
