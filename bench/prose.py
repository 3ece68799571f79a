"""
Words as texts have them: a vocabulary of two hundred thousand, of which a few are in most texts and most are in a few
(Zipf's law: the n-th word comes 1/n times as often as the first). Made up of syllables, and always the same.
"""

from __future__ import annotations

import random
from functools import cache
from itertools import accumulate

#: How many different words there are.
WORDS = 200_000

_BEGINS = (
    "b",
    "c",
    "d",
    "f",
    "g",
    "h",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "w",
    "z",
    "st",
    "tr",
    "pl",
    "ch",
    "gr",
)
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ou")
_ENDS = ("", "", "", "n", "r", "s", "t", "l", "m", "nd", "ck")
# Common words are short.
_SYLLABLES = ((1_000, (1, 2)), (20_000, (2, 3)), (WORDS, (3, 4)))


@cache
def vocabulary() -> tuple[str, ...]:
    """
    All words, the most common one first.
    """
    generator = random.Random(20_000_003)
    words: dict[str, None] = {}
    for upto, syllables in _SYLLABLES:
        while len(words) < upto:
            words[_word(generator, generator.choice(syllables))] = None
    return tuple(words)


@cache
def _weights() -> tuple[float, ...]:
    return tuple(accumulate(1 / rank for rank in range(1, WORDS + 1)))


def prose(generator: random.Random, count: int) -> str:
    """
    A text of *count* words.
    """
    return " ".join(generator.choices(vocabulary(), cum_weights=_weights(), k=count))


def _word(generator: random.Random, syllables: int) -> str:
    choice = generator.choice
    return "".join(
        choice(_BEGINS) + choice(_VOWELS) + (choice(_ENDS) if choice((0, 1)) else "") for _ in range(syllables)
    )
