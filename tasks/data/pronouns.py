"""Sentences in which one adjective decides what *it* means: nothing to download, and half right without reading it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

from vsattn.errors import ConfigError

from .base import Augment
from .parallel import SPLITS
from .tagged import Tagged, TaggedWords

#: The word whose meaning is asked for; it has no other use here.
PRONOUN = "it"

#: Nouns of each kind.
NOUNS = {
    "animals": "animal dog cat horse cow goat pig donkey fox wolf bear rabbit deer mouse squirrel hedgehog badger "
    "otter beaver monkey camel elephant lion tiger leopard zebra giraffe kangaroo panda goose duck hen turkey "
    "tortoise lizard frog toad snake crab puppy kitten calf lamb foal pony mule buffalo llama weasel ferret hamster "
    "mole rat sheep parrot owl swan penguin moose bison jackal hyena cheetah baboon",
    "ways": "street road river bridge field desert valley stream square canyon swamp lake highway avenue meadow "
    "glacier brook creek ditch track courtyard motorway lane canal gorge moor lawn trail path marsh bog ravine "
    "runway railway causeway prairie strait fjord lagoon pond boulevard alley",
    "heights": "hill mountain wall tree ladder tower cliff fence ridge slope dune rock staircase mast pole peak roof "
    "volcano pyramid pillar hedge gate crag mound knoll boulder balcony terrace scaffold chimney steeple spire pylon "
    "bluff summit stairway palisade obelisk embankment turret",
    "loads": "box sack crate trunk chair table basket bucket barrel log cart sledge wagon suitcase stone bag parcel "
    "desk chest bench plank wheel pot jar jug anvil piano sofa wardrobe mattress carpet bale bundle canoe raft "
    "plough safe statue bookcase stove",
    "food": "apple pear carrot cake biscuit nut pie melon cabbage potato plum peach loaf sausage egg cheese turnip "
    "mushroom pumpkin onion radish banana tomato cucumber pepper lemon orange grape cherry fig pudding tart muffin "
    "pancake waffle steak burger beetroot coconut mango",
    "rooms": "barn cave tunnel house cellar shed stable forest den hut tent garage kitchen castle garden hall church "
    "cabin yard burrow attic basement bakery library office school shop museum theatre palace temple chapel mill "
    "factory warehouse station hospital bunker dungeon workshop",
}

BY_KIND = {kind: words.split() for kind, words in NOUNS.items()}
KIND = {noun: kind for kind, nouns in BY_KIND.items() for noun in nouns}

#: Always among the nouns that test.
TESTED = ("animal", "street")

#: What animals are, of themselves.
WEAK = "tired weak lazy sleepy scared ill hungry nervous shy old exhausted timid clumsy drowsy stubborn"


class Frame(NamedTuple):
    """What animals do to whom: verbs with their participles, and the adjectives that are said of either side."""

    patients: str
    verbs: str
    of_agent: str
    of_patient: str


FRAMES = (
    Frame("ways", "cross/crossed", WEAK, "wide broad busy dangerous muddy flooded windy endless rough"),
    Frame("heights", "climb/climbed scale/scaled", WEAK, "high steep tall slippery icy smooth sheer wobbly"),
    Frame("loads", "carry/carried lift/lifted pull/pulled move/moved", WEAK, "heavy bulky awkward fragile sharp huge"),
    Frame("food", "eat/eaten swallow/swallowed", WEAK, "sour bitter mouldy salty rotten dry spicy tough"),
    Frame("rooms", "enter/entered explore/explored visit/visited", WEAK, "dark narrow noisy cold damp dusty smoky"),
)

#: Stands where an adjective is to come.
ADJECTIVE = "ADJECTIVE"

#: Where a third noun stands, if there is one: no third noun is as frequent as all places together.
PLACES = (None, "start", None, "first", None, "second")

#: Kinds of the third noun, and what stands before it.
LANDMARKS = ("ways", "heights", "rooms")
NEAR = ("near the", "behind the", "beside the", "next to the", "far from the")
BEFORE_THIRD = {" ".join(words.split()[-2:]) for words in NEAR}
TIMES = ("", "", "", "yesterday", "today", "again", "this morning", "last night")
NOT = {"active": ("did not", "didn't", "could not", "would not"), "passive": ("was not", "wasn't", "could not be")}
DONE = {"active": ("can", "will", "must"), "passive": ("was", "can be", "will be")}

#: Of sentences with one noun: what may happen to it, what animals do, and adjectives that say nothing of a kind.
SEEN = ["seen", "found", "noticed", "mentioned", "photographed", "painted", "described", "remembered"]
RESTED = ["stop", "rest", "stay", "sleep", "come", "leave"]
NEUTRAL = ["strange", "ordinary", "famous", "rare", "common", "pretty", "ugly", "unknown", "expensive", "popular"]
REASONS = ("because", "since", "as")
SEEMS = ("was too", "was far too", "seemed too", "looked too")

#: The voice, whether the reason comes first, where a third noun stands, and the frame.
Pattern = tuple[str, bool, str | None, Frame]
PATTERNS: list[Pattern] = list(product(("active", "passive"), (False, True), PLACES, FRAMES))


class Reference(NamedTuple):
    """Places in a sentence: of the pronoun, its adjective, all nouns in order, and the noun that the pronoun means."""

    pronoun: int
    adjective: int
    nouns: list[int]
    antecedent: int


class Pronouns(TaggedWords):
    """Sentences such as *The animal didn't cross the street because it was too tired*: what does *it* mean?

    The label of *it* is the noun that it means. Sentences come in pairs that differ in the adjective alone, and in what
    *it* means: a rule that does not read the adjective is right in half of them at most. Sides and clauses come in
    either order, and half of the sentences have a third noun, which is never meant.

    Each noun belongs to one split, *animal* and *street* to the test, and all nouns of a sentence with such a choice
    belong to its split. What training tells of the nouns of val and test is what kind of thing they are, by labels of
    sentences without a pronoun, and that *it* can mean them, by sentences in which there is no other noun and the
    adjective says nothing of kinds. Other words have no label; in val and test the pronoun alone is labelled.

    Args:
        pairs: of sentences with a choice, that train, validate and test.
        plain: training sentences without a pronoun.
        alone: training sentences with a pronoun and a single noun.
        held_out: share of the nouns of each kind that validates, and that tests.
        augment: see :class:`~vsattn.tasks.data.base.Data`.

    Attributes:
        nouns: of each split, by kind.

    Raises:
        ConfigError: for values out of range.
    """

    nouns: dict[str, dict[str, list[str]]]

    def __init__(
        self,
        *,
        pairs: Sequence[int] = (4000, 500, 1000),
        plain: int = 8000,
        alone: int = 16_000,
        held_out: float = 0.2,
        augment: Augment | None = None,
    ) -> None:
        super().__init__(augment=augment)
        if len(pairs) != 3 or min(pairs) < 1:
            raise ConfigError(f"data.pairs are three numbers of at least 1 (train, val, test), not {list(pairs)}")
        if plain < 1 or alone < len(KIND):
            raise ConfigError(
                f"data.plain is at least 1, and data.alone {len(KIND)}, for each noun once; not {plain} and {alone}"
            )
        if not 0.1 <= held_out <= 0.4:
            raise ConfigError(f"data.held_out is from 0.1 to 0.4, not {held_out}")
        self.pairs, self.num_plain, self.num_alone, self.held_out = tuple(pairs), plain, alone, held_out

    def setup(self, seed: int) -> None:
        """Deal out the nouns and draw the sentences, both by the seed."""
        self.nouns = dealt(self.held_out, seed)
        drawing = random.Random(f"{seed} others")
        found: dict[str, list[Tagged]] = {split: [] for split in SPLITS}
        for pattern in patterns(self.num_plain, drawing):
            words = said(pattern, BY_KIND, drawing, reason="").words
            found["train"].append((words, [KIND.get(word) for word in words]))
        for index in range(self.num_alone):
            noun = list(KIND)[index % len(KIND)]
            words = alone(noun, drawing)
            found["train"].append((words, [noun if word == PRONOUN else None for word in words]))
        for split, count in zip(SPLITS, self.pairs, strict=True):
            drawing = random.Random(f"{seed} {split}")
            for pattern in patterns(count, drawing):
                found[split] += pair(pattern, self.nouns[split], drawing)
        self.take(found)

    @staticmethod
    def asked(words: Sequence[str]) -> list[int]:
        """Return which words have an answer; what a model says of the others means nothing."""
        return [i for i, word in enumerate(words) if word.lower() == PRONOUN]

    @staticmethod
    def reference(words: Sequence[str], meant: str) -> Reference:
        """Return what stands where in a sentence with a pronoun that means this noun."""
        return Reference(words.index(PRONOUN), words.index("too") + 1, places(words), words.index(meant))

    def guesses(self) -> dict[str, list[str]]:
        """Return what rules say that do not read the adjective: the noun nearest to the pronoun, the first, ..."""
        found: dict[str, list[str]] = {"nearest noun": [], "first noun": [], "subject": []}
        for index in range(len(self.test)):
            words, _ = self.test[index]
            nouns, pronoun = places(words), words.index(PRONOUN)
            sides = [i for i in nouns if i < 2 or " ".join(words[i - 2 : i]).lower() not in BEFORE_THIRD]
            guess = min(nouns, key=lambda i: abs(i - pronoun)), nouns[0], sides[0]
            for name, place in zip(found, guess, strict=True):
                found[name].append(words[place])
        return found


class Said(NamedTuple):
    """A sentence that was drawn, and its two sides."""

    words: list[str]
    agent: str
    patient: str


def dealt(held_out: float, seed: int) -> dict[str, dict[str, list[str]]]:
    """Return the nouns of each split by kind: of each kind a share validates, another tests, and the others train."""
    found: dict[str, dict[str, list[str]]] = {split: {} for split in SPLITS}
    for kind, nouns in BY_KIND.items():
        count = round(held_out * len(nouns))
        first = [noun for noun in nouns if noun in TESTED]
        others = [noun for noun in nouns if noun not in TESTED]
        random.Random(f"{seed} {kind}").shuffle(others)
        found["test"][kind], found["val"][kind], found["train"][kind] = (
            (first + others)[:count], (first + others)[count : 2 * count], (first + others)[2 * count :]
        )  # fmt: skip
    return found


def patterns(count: int, drawing: random.Random) -> list[Pattern]:
    """Return so many patterns in a random order, each as often as the others but for one."""
    found = [*PATTERNS] * (count // len(PATTERNS)) + drawing.sample(PATTERNS, count % len(PATTERNS))
    drawing.shuffle(found)
    return found


def pair(pattern: Pattern, nouns: Mapping[str, Sequence[str]], drawing: random.Random) -> list[Tagged]:
    """Return two sentences that differ in the adjective, with what the pronoun means: the agent, then the patient."""
    drawn = said(pattern, nouns, drawing, reason=reason(drawing, ADJECTIVE))
    frame = pattern[-1]
    found: list[Tagged] = []
    for meant, adjectives in ((drawn.agent, frame.of_agent), (drawn.patient, frame.of_patient)):
        adjective = drawing.choice(adjectives.split())
        words = [adjective if word == ADJECTIVE else word for word in drawn.words]
        found.append((words, [meant if word == PRONOUN else None for word in words]))
    return found


def said(pattern: Pattern, nouns: Mapping[str, Sequence[str]], drawing: random.Random, *, reason: str) -> Said:
    """Draw a sentence.

    Args:
        pattern: one of `PATTERNS`.
        nouns: by kind.
        drawing: random numbers.
        reason: a clause that says why, or "".
    """
    voice, fronted, place, frame = pattern
    agent, patient = drawing.choice(nouns["animals"]), drawing.choice(nouns[frame.patients])
    third = drawing.choice([noun for kind in LANDMARKS if kind != frame.patients for noun in nouns[kind]])
    near = f"{drawing.choice(NEAR)} {third} "
    verb, participle = drawing.choice(frame.verbs.split()).split("/")
    auxiliary = drawing.choice(NOT[voice] if reason or drawing.random() < 0.5 else DONE[voice])
    first, second = (agent, patient) if voice == "active" else (patient, agent)
    acts = f"{auxiliary} {verb}" if voice == "active" else f"{auxiliary} {participle} by"
    main = f"the {first} {near * (place == 'first')}{acts} the {second} {near * (place == 'second')}"
    main += drawing.choice(TIMES)
    start = f"{near}, " if place == "start" else ""
    return Said(
        sentence(f"{start}{reason} , {main}" if reason and fronted else f"{start}{main} {reason}"), agent, patient
    )


def alone(noun: str, drawing: random.Random) -> list[str]:
    """Draw a sentence with a pronoun and one noun, which is all that it can mean."""
    done = [verb.split("/")[1] for frame in FRAMES if frame.patients == KIND[noun] for verb in frame.verbs.split()]
    if KIND[noun] == "animals" and drawing.random() < 0.5:
        acts = f"{drawing.choice(NOT['active'])} {drawing.choice(RESTED)}"
    else:
        acts = f"{drawing.choice(NOT['passive'])} {drawing.choice([*done, *SEEN])}"
    main, why = f"the {noun} {acts} {drawing.choice(TIMES)}", reason(drawing, drawing.choice(NEUTRAL))
    return sentence(drawing.choice((f"{main} {why}", f"{why} , {main}")))


def reason(drawing: random.Random, adjective: str) -> str:
    """Draw a clause that says why, with a pronoun."""
    return f"{drawing.choice(REASONS)} {PRONOUN} {drawing.choice(SEEMS)} {adjective}"


def sentence(text: str) -> list[str]:
    """Return the words of a sentence, the first with a capital."""
    first, *others = text.split()
    return [first.capitalize(), *others]


def places(words: Sequence[str]) -> list[int]:
    """Return where the nouns of a sentence stand."""
    return [i for i, word in enumerate(words) if word in KIND]


def is_choice(words: Sequence[str]) -> bool:
    """Tell whether a sentence has a pronoun and several nouns."""
    return PRONOUN in words and len(places(words)) > 1
