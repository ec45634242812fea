"""Texts of a simulated organisation: topics, openings and sentences that indicate the effort of an item."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Topic(NamedTuple):
    """A topic: its effort relative to the average (log scale), and its words."""

    effort: float
    words: tuple[str, ...]


class Opening(NamedTuple):
    """The beginning of a summary, and the effort relative to the average that it indicates (log scale)."""

    effort: float
    words: str


def _topic(effort: float, words: str) -> Topic:
    return Topic(effort, tuple(words.split()))


TOPICS = (
    _topic(0.0, "login session token password captcha lockout identity consent profile avatar"),
    _topic(0.1, "endpoint pagination payload webhook throttling client response header request version"),
    _topic(0.5, "invoice refund tax currency ledger proration discount subscription receipt payment"),
    _topic(-0.9, "label tooltip wording typo translation caption placeholder spacing icon footer"),
    _topic(0.4, "index ranking facet query synonym relevance crawler suggestion stemming highlight"),
    _topic(-0.1, "report export chart dashboard filter column legend spreadsheet total percentage"),
    _topic(0.2, "android push offline swipe layout camera tablet gesture store notification"),
    _topic(0.7, "cluster node rollout volume certificate autoscaling ingress backup region failover"),
    _topic(0.9, "migration schema partition replica vacuum lock transaction archive constraint trigger"),
    _topic(-0.3, "wizard welcome tour checklist invitation signup trial survey banner reminder"),
    _topic(-0.7, "flag default setting toggle variable timeout threshold limit environment option"),
    _topic(-0.5, "dependency library license upgrade deprecation linter warning changelog build image"),
)
EVERYDAY_TOPICS = (0, 5)  # topics of a campaign, with average effort
_GENERAL_WORDS = """
    user customer page value list item button screen data record status change error result process case team
    support release admin account view field date file step test name type update
"""

_ACTIONS = (
    Opening(-0.6, "Rename"),
    Opening(-0.4, "Document"),
    Opening(-0.3, "Remove"),
    Opening(-0.2, "Show"),
    Opening(0.0, "Add"),
    Opening(0.1, "Allow"),
    Opening(0.2, "Improve"),
    Opening(0.3, "Support"),
    Opening(0.5, "Replace"),
    Opening(0.8, "Redesign"),
)
_SYMPTOMS = (
    Opening(-0.5, "Wrong"),
    Opening(-0.4, "Missing"),
    Opening(-0.2, "Broken"),
    Opening(0.0, "Crash on"),
    Opening(0.2, "Error in"),
    Opening(0.4, "Slow"),
    Opening(0.6, "Intermittent failure of"),
    Opening(0.8, "Data loss in"),
)
ACTIONS, SYMPTOMS = len(_ACTIONS), len(_SYMPTOMS)  # openings are numbered: actions first, then symptoms of bugs
OPENING_EFFORT = np.array([opening.effort for opening in _ACTIONS + _SYMPTOMS])
TOPIC_EFFORT = np.array([topic.effort for topic in TOPICS])

_OPENING_TONE = np.argsort(np.argsort(OPENING_EFFORT, kind="stable")) / (ACTIONS + SYMPTOMS)  # 0 light, 1 heavy
_JOINERS = ("for", "in", "with", "after", "on")
_SENTENCES = (  # from light work to heavy work
    "Only the {} of the {} and its {} are touched.",
    "A quick look at the {} shows where the {} misses the {}.",
    "Please check the {} against the {} and the {}.",
    "Today the {} and the {} ignore the {}.",
    "It is done when the {} shows the {} for every {}.",
    "Several people reported that the {} hides the {} near the {}.",
    "We need the {} before the {} reaches the {}.",
    "Unclear how the {} and the {} depend on the {}.",
    "This touches several modules: the {}, the {} and the {}.",
    "The {} has to keep working while the {} and the {} move.",
)

SUMMARY_DRAWS = 4
MAX_SENTENCES = 6
DESCRIPTION_DRAWS = 4 * MAX_SENTENCES
_ON_TOPIC = 0.8  # share of words that come from the item's topic

_OPENING_WORDS = np.array([opening.words for opening in _ACTIONS + _SYMPTOMS], dtype=object)
_GENERAL = _GENERAL_WORDS.split()
_LEXICON = np.array([[*topic.words, *_GENERAL] for topic in TOPICS], dtype=object)
_TOPIC_WORDS = len(TOPICS[0].words)


def summaries(opening: np.ndarray, topic: np.ndarray, uniform: np.ndarray) -> list[str]:
    """One line per item: its opening, two words, a joiner and a word; ``uniform`` is (items, ``SUMMARY_DRAWS``)."""
    words = _words(topic, uniform[:, :3])
    joiners = np.array(_JOINERS, dtype=object)[_pick(uniform[:, 3], len(_JOINERS))]
    return [
        f"{begin} {first} {second} {joiner} {third}"
        for begin, (first, second, third), joiner in zip(_OPENING_WORDS[opening], words.tolist(), joiners, strict=True)
    ]


def descriptions(sentences: np.ndarray, opening: np.ndarray, topic: np.ndarray, uniform: np.ndarray) -> list[str]:
    """Descriptions with the given number of sentences per item, about its topic and in the tone of its opening.

    ``uniform`` has the shape (items, ``DESCRIPTION_DRAWS``). The tone of an opening, given by the effort it indicates,
    is the half of the sentences that are drawn from.
    """
    tone = _OPENING_TONE[opening][:, None]
    frames = _pick((tone + uniform[:, :MAX_SENTENCES]) / 2, len(_SENTENCES)).tolist()
    words = _words(topic, uniform[:, MAX_SENTENCES:]).reshape(len(topic), MAX_SENTENCES, 3).tolist()
    return [
        " ".join([_SENTENCES[frames[row][i]].format(*words[row][i]) for i in range(count)])
        for row, count in enumerate(sentences.tolist())
    ]


def _words(topic: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    on_topic = _pick(uniform / _ON_TOPIC, _TOPIC_WORDS)
    general = _TOPIC_WORDS + _pick((uniform - _ON_TOPIC) / (1 - _ON_TOPIC), len(_GENERAL))
    words: np.ndarray = _LEXICON[topic[:, None], np.where(uniform < _ON_TOPIC, on_topic, general)]
    return words


def _pick(uniform: np.ndarray, count: int) -> np.ndarray:
    return (uniform * count).astype(int)
