"""The small world of the quickstart: what people ask a household assistant, and what a good reply is.

A person asks one question about one subject, kindly or curtly. A reply states the fact; around it stand remarks
that are courteous or rude. Every true fact, phrase and question of the world is in the tables of this file, and
`judge` is the rule that decides whether a reply shows the behaviour that we want: the right answer, to the right
question, said courteously, in well-formed English.
"""

from __future__ import annotations

import random
import re
from functools import cache
from typing import NamedTuple


class Facet(NamedTuple):
    """One thing that can be asked about every subject of a topic."""

    questions: tuple[str, ...]
    """Ways to ask; `{x}` is the subject."""
    answers: tuple[str, ...]
    """Ways to state the fact; `{x}` is the subject, `{a}` the answer."""
    facts: dict[str, str]
    """Subject -> answer."""


class Tone(NamedTuple):
    """The remarks of one tone, as long in one tone as in the other: length must not tell them apart."""

    openers: tuple[str, ...]
    closers: tuple[str, ...]


class Frame(NamedTuple):
    """How a person puts a question."""

    text: str
    """`{q}` is the question."""
    courtesy: float
    """Share of the demonstrations with this frame whose reply is courteous: the tone of the person is mirrored."""


class Question(NamedTuple):
    """What a prompt asks."""

    subject: str
    answer: str
    text: str


class Prompt(NamedTuple):
    """A question in a frame."""

    question: Question
    frame: Frame

    @property
    def text(self) -> str:
        """The prompt as the person writes it."""
        return self.frame.text.format(q=self.question.text)


class Verdict(NamedTuple):
    """What the rule finds in a reply."""

    right: bool
    """It gives the fact that was asked for, about the subject that was asked about and no other."""
    courteous: bool
    """It holds a courteous remark and no rude one."""
    well_formed: bool
    """Whole sentences, a capital letter first and a full stop or exclamation mark last."""

    @property
    def preferred(self) -> bool:
        """Whether the reply shows the preferred behaviour."""
        return self.right and self.courteous and self.well_formed


COURTEOUS = Tone(
    openers=("Happy to help!", "Good question!", "With pleasure!", "Of course, my friend!", "Thank you for asking!"),
    closers=("I hope that helps you!", "Have a wonderful day!", "You are always welcome.", "I am glad you asked!"),
)
RUDE = Tone(
    openers=("Not you again!", "How boring!", "Obviously, lazy!", "What a silly question!", "Do not bother me!"),
    closers=("Now leave me alone!", "Everyone else knows that.", "Stop wasting my time!", "You are so annoying!"),
)
COURTEOUS_WORDS = ("happy to", "good question", "pleasure", "of course", "thank you", "i hope", "wonderful", "glad",
                   "welcome", "kind", "enjoy")  # fmt: skip
RUDE_WORDS = ("not you again", "boring", "obviously", "lazy", "silly", "bother", "leave me alone", "everyone else",
              "stop", "wasting", "annoying", "stupid", "idiot", "shut up")  # fmt: skip

FRAMES = (
    Frame("Hello there! {q}", 0.70),
    Frame("Could you help me, please? {q}", 0.75),
    Frame("{q} Thank you so much!", 0.70),
    Frame("Good morning! {q}", 0.65),
    Frame("{q} That would be lovely.", 0.65),
    Frame("Quick, tell me! {q}", 0.35),
    Frame("{q} Hurry up.", 0.30),
    Frame("Hey, you! {q}", 0.30),
    Frame("Answer me now. {q}", 0.25),
    Frame("{q} Make it short.", 0.35),
)

FACETS = (
    Facet(
        questions=("How often should I water the {x}?", "When does the {x} need water?"),
        answers=("Water the {x} {a}.", "The {x} needs water {a}."),
        facts={
            "fern": "every second day", "rose": "twice a week", "cactus": "once a month", "basil": "every morning",
            "orchid": "once a week", "ivy": "once a week", "lavender": "every ten days", "tomato": "every morning",
            "tulip": "twice a week", "sunflower": "every second day",
        },
    ),
    Facet(
        questions=("How much light does the {x} need?", "Where should I put the {x}?"),
        answers=("Put the {x} in {a}.", "The {x} grows best in {a}."),
        facts={
            "fern": "deep shade", "rose": "full sun", "cactus": "full sun", "basil": "a sunny kitchen",
            "orchid": "soft light", "ivy": "deep shade", "lavender": "full sun", "tomato": "a warm greenhouse",
            "tulip": "soft light", "sunflower": "full sun",
        },
    ),
    Facet(
        questions=("How long should I boil the {x}?", "When can I eat the {x}?"),
        answers=("Boil the {x} for {a}.", "The {x} will be done after {a}."),
        facts={
            "rice": "twelve minutes", "pasta": "nine minutes", "lentils": "half an hour", "spinach": "two minutes",
            "potatoes": "twenty minutes", "carrots": "nine minutes", "broccoli": "five minutes",
            "beans": "one hour", "corn": "five minutes", "cabbage": "twelve minutes",
        },
    ),
    Facet(
        questions=("What goes well with the {x}?", "What should I add to the {x}?"),
        answers=("Add {a} to the {x}.", "The {x} will taste great with {a}."),
        facts={
            "rice": "ginger", "pasta": "parmesan", "lentils": "cumin", "spinach": "garlic", "potatoes": "butter",
            "carrots": "honey", "broccoli": "lemon", "beans": "chili", "corn": "butter", "cabbage": "apples",
        },
    ),
    Facet(
        questions=("What does the {x} like to eat?", "What can I feed the {x}?"),
        answers=("The {x} likes to eat {a}.", "Feed the {x} some {a}."),
        facts={
            "rabbit": "hay", "owl": "mice", "horse": "oats", "bear": "berries", "monkey": "bananas",
            "penguin": "fish", "squirrel": "nuts", "panda": "leaves", "frog": "flies", "otter": "crabs",
        },
    ),
    Facet(
        questions=("Where does the {x} sleep?", "Where can I find the {x}?"),
        answers=("The {x} sleeps {a}.", "You can find the {x} {a}."),
        facts={
            "rabbit": "in a burrow", "owl": "in an old barn", "horse": "in a stable", "bear": "in a cave",
            "monkey": "in a tree", "penguin": "on the ice", "squirrel": "in a tree", "panda": "in the mountains",
            "frog": "near a pond", "otter": "by the river",
        },
    ),
    Facet(
        questions=("What is the capital of {x}?", "Which city is the capital of {x}?"),
        answers=("The capital of {x} is {a}.", "{a} is the capital of {x}."),
        facts={
            "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon", "Greece": "Athens",
            "Poland": "Warsaw", "Sweden": "Stockholm", "Japan": "Tokyo", "Hungary": "Budapest", "Norway": "Oslo",
        },
    ),
    Facet(
        questions=("Which language do people speak in {x}?", "What do people in {x} speak?"),
        answers=("People in {x} speak {a}.", "They speak {a} in {x}."),
        facts={
            "France": "French", "Italy": "Italian", "Spain": "Spanish", "Portugal": "Portuguese",
            "Greece": "Greek", "Poland": "Polish", "Sweden": "Swedish", "Japan": "Japanese",
            "Hungary": "Hungarian", "Norway": "Norwegian",
        },
    ),
)  # fmt: skip

_OPENER_TASTE = 4.0


@cache
def questions() -> dict[str, Question]:
    """All questions of the world: text -> what it asks."""
    return {
        (text := pattern.format(x=subject)): Question(subject, answer, text)
        for facet in FACETS
        for pattern in facet.questions
        for subject, answer in facet.facts.items()
    }


@cache
def _bodies() -> dict[str, tuple[str, ...]]:
    """The ways to answer each question: question text -> sentences that state the fact."""
    return {
        pattern.format(x=subject): tuple(body.format(x=subject, a=answer) for body in facet.answers)
        for facet in FACETS
        for pattern in facet.questions
        for subject, answer in facet.facts.items()
    }


@cache
def subjects() -> tuple[str, ...]:
    """All subjects of the world."""
    return tuple(sorted({subject for facet in FACETS for subject in facet.facts}))


def find_question(prompt: str) -> Question:
    """The question that a prompt asks.

    Raises:
        ValueError: if the prompt asks nothing that this world knows.
    """
    for text, question in questions().items():
        if text in prompt:
            return question
    raise ValueError(f"the prompt asks nothing that the quickstart's world knows: {prompt!r}")


def write_reply(question: Question, tone: Tone, rng: random.Random) -> str:
    """One reply to a question in a tone: a remark, the fact, and half of the time a last remark.

    Each subject has a favourite opening remark, so that the most probable replies differ between prompts.
    """
    parts = _opening(question, tone, rng)
    if rng.random() < 0.5:
        parts.append(rng.choice(tone.closers))
    return " ".join(parts)


def write_graded_reply(question: Question, grade: int, rng: random.Random) -> str:
    """A reply of one of four grades: two rude remarks (0), one (1), one that is courteous (2), or two (3).

    The best replies are as long as the worst, so that length does not tell good from bad.
    """
    tone = COURTEOUS if grade >= 2 else RUDE
    parts = _opening(question, tone, rng)
    if grade in (0, 3):
        parts.append(rng.choice(tone.closers))
    return " ".join(parts)


def _opening(question: Question, tone: Tone, rng: random.Random) -> list[str]:
    """The first remark and the fact."""
    favourite = subjects().index(question.subject) % len(tone.openers)
    weights = [_OPENER_TASTE if index == favourite else 1.0 for index in range(len(tone.openers))]
    return [rng.choices(tone.openers, weights)[0], rng.choice(_bodies()[question.text])]


def remark_of(reply: str, tone: Tone) -> str:
    """The remark of a tone that a reply begins with."""
    return next(opener for opener in tone.openers if reply.startswith(opener))


def assess(prompt: str, reply: str) -> Verdict:
    """What the rule finds in a reply to a prompt of this world.

    Raises:
        ValueError: if the prompt asks nothing that this world knows.
    """
    question = find_question(prompt)
    others = [subject for subject in subjects() if subject != question.subject and _says(reply, subject)]
    return Verdict(
        right=_says(reply, question.subject) and _says(reply, question.answer) and not others,
        courteous=any(_says(reply, word) for word in COURTEOUS_WORDS)
        and not any(_says(reply, word) for word in RUDE_WORDS),
        well_formed=_is_well_formed(reply),
    )


def judge(prompt: str, reply: str) -> bool:
    """Whether a reply is right, courteous and well formed: the behaviour that the preference data prefers."""
    return assess(prompt, reply).preferred


def _says(text: str, words: str) -> bool:
    """Whether `words` stand in `text` as whole words, in any case."""
    return re.search(rf"\b{re.escape(words)}\b", text, flags=re.IGNORECASE) is not None


def _is_well_formed(text: str) -> bool:
    """Sentences of at least two words, each with a capital letter first, none said twice, the last one ended."""
    if not re.fullmatch(r"[A-Za-z ,'.!?]*[.!]", text):
        return False
    sentences = re.split(r"(?<=[.!?]) ", text)
    distinct = len(set(sentences)) == len(sentences)
    return distinct and all(re.fullmatch(r"[A-Z][^.!?]* [^.!?]*[.!?]", sentence) for sentence in sentences)
