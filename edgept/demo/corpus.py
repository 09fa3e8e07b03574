"""The demo's corpus: support questions and replies, made up by a seeded generator.

Customers write in four languages. A question may be answered in any of them, by the billing or the
technical desk (in the customer's language), or with nothing but the label of its intent. That is
the mode of a reply, and no question says which mode its reply has. `texts/` holds the sentences.
"""

import random
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = [
    "DESKS",
    "END",
    "INTENTS",
    "LANGUAGES",
    "MODES",
    "QUESTION",
    "REPLY",
    "Question",
    "make_question",
    "make_reply",
    "reply_language",
    "reply_templates",
    "slot_names",
    "slots_of",
    "texts",
    "wrap",
]

LANGUAGES = ("english", "spanish", "german", "japanese")
DESKS = ("billing", "technical")
MODES = (*LANGUAGES, *DESKS, "intent")
TOPICS = {
    "orders": ("order_status", "cancel_order", "change_order"),
    "billing": ("double_charge", "request_invoice", "payment_failed"),
    "technical": ("wont_turn_on", "setup_help", "connection_lost"),
    "returns": ("start_return", "refund_status", "damaged_item"),
    "delivery": ("late_parcel", "change_address", "missing_parcel"),
    "account": ("reset_password", "close_account", "change_email"),
}
TOPIC_OF = {intent: topic for topic, intents in TOPICS.items() for intent in intents}
INTENTS = tuple(TOPIC_OF)

# What separates the parts of an exchange; each is one token.
QUESTION, REPLY, END = "<|customer|>", "<|reply|>", "<|end|>"


@dataclass(frozen=True)
class Question:
    """What a customer wrote, and what the generator knows about it.

    Attributes:
        text: the message.
        language: of the message, one of LANGUAGES.
        intent: one of INTENTS.
        values: what was mentioned, independent of language: "order", "name", "product" (its key),
            "city" as text; "euros" and "cents"; "day" and "month" (1 to 12).
    """

    text: str
    language: str
    intent: str
    values: Mapping[str, str]


@cache
def texts(name: str) -> dict[str, Any]:
    """What `texts/NAME.toml` holds: the sentences of a language, or "values"."""
    path = Path(__file__).parent / "texts" / f"{name}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def wrap(question: str) -> str:
    """The model's input for a question: everything up to where the reply begins."""
    return f"{QUESTION}{question}{REPLY}"


def make_question(rng: random.Random, *, held_out: bool = False) -> Question:
    """Make up a question in a random language.

    Args:
        rng: the source of all choices.
        held_out: take sentence, order number, name and city from what training never sees.
    """
    language, intent = rng.choice(LANGUAGES), rng.choice(INTENTS)
    here = texts(language)
    values = _draw_values(rng, intent, held_out)
    number = rng.random() < 0.85
    if not number:
        del values["order"]
    named = rng.random() < 0.7
    if not named:
        del values["name"]
    slots = slots_of(language, values)
    core = _pick(rng, here["questions"][intent]["held_out" if held_out else "train"], slots)
    sentences = [_pick(rng, here["intro"]["named" if named else "plain"], slots), core]
    if number and "{order}" not in core:
        kind = "account" if TOPIC_OF[intent] == "account" else "order"
        # A colon form ends without a full stop, so it only stands last.
        where = 1 if rng.random() < 0.3 else 2
        options = here["number"][kind][: 1 if where == 1 else None]
        sentences.insert(where, _pick(rng, options, slots))
    else:
        sentences.append(_pick(rng, here["outro"]["any"], slots))
    template = here["joiner"].join(sentence for sentence in sentences if sentence).strip()
    if rng.random() < 0.12:  # as people type
        template = template.lower().rstrip(".。")
    mentioned = set(re.findall(r"{(\w+)}", template))
    for slot, keys in (("date", ("day", "month")), ("amount", ("euros", "cents"))):
        if slot in mentioned:
            mentioned.update(keys)
    kept = {key: value for key, value in values.items() if key in mentioned}
    return Question(template.format(**slots), language, intent, kept)


def make_reply(rng: random.Random, question: Question, mode: str) -> str:
    """Make up the reply to a question in one of MODES; it mentions only what the question did."""
    if mode == "intent":
        return question.intent
    language = reply_language(question, mode)
    slots = slots_of(language, question.values)
    parts = [_pick(rng, options, slots) for options in reply_templates(question, mode)]
    return str(texts(language)["joiner"]).join(p for p in parts if p).format(**slots)


def _draw_values(rng: random.Random, intent: str, held_out: bool) -> dict[str, str]:
    """Everything that a question may mention."""
    given = texts("values")
    order = rng.randrange(1000, 100_000)
    while (order % 11 == 3) != held_out:
        order = rng.randrange(1000, 100_000)
    name = rng.choice(given["held_out_names"]) if held_out else _training_name(rng)
    products = list(texts("english")["products"])
    if TOPIC_OF[intent] == "technical":
        without = given["unpowered"]
        if intent == "connection_lost":
            without = without + given["unconnected"]
        products = [product for product in products if product not in without]
    return {
        "order": str(order),
        "name": name,
        "product": rng.choice(products),
        "city": rng.choice(given["held_out_cities" if held_out else "cities"]),
        "euros": str(rng.randint(5, 499)),
        "cents": f"{rng.randint(0, 99):02d}",
        "day": str(rng.randint(1, 28)),
        "month": str(rng.randint(1, 12)),
    }


def _training_name(rng: random.Random) -> str:
    """A name from the list, or one that nobody can know by heart and that has to be copied."""
    given = texts("values")
    kind = rng.random()
    if kind < 0.35:
        return str(rng.choice(given["names"]))
    if kind < 0.65:  # the beginning of one name and the end of another
        first, second = rng.choice(given["names"]), rng.choice(given["names"])
        return str(first[: rng.randint(2, 4)] + second[-rng.randint(2, 4) :])
    if kind < 0.8:
        return "".join(rng.choices(given["syllables"], k=rng.randint(2, 3))).capitalize()
    return "".join(rng.choices(given["letters"], k=rng.randint(3, 8))).capitalize()


def slots_of(language: str, values: Mapping[str, str]) -> dict[str, str]:
    """How a language writes the values, with the articles that go with the product."""
    here = texts(language)
    slots = {key: values[key] for key in ("order", "name", "city") if key in values}
    if "product" in values:
        slots["product"], gender = here["products"][values["product"]]
        for key, article in here["articles"][gender].items():
            slots[key] = article
            slots[key.capitalize()] = article.capitalize()
    if "euros" in values:
        slots["amount"] = here["amount"].format(euros=values["euros"], cents=values["cents"])
    if "day" in values:
        month = here["months"][int(values["month"]) - 1]
        slots["date"] = here["date"].format(day=values["day"], month=month)
    return slots


def reply_language(question: Question, mode: str) -> str:
    """The language of a reply in a mode: desks write the customer's."""
    return mode if mode in LANGUAGES else question.language


def reply_templates(question: Question, mode: str) -> list[list[str]]:
    """The templates of a reply's three parts: greeting, body, closing."""
    here = texts(reply_language(question, mode))
    topic = TOPIC_OF[question.intent]
    voice = here["desks"][mode] if mode in DESKS else here
    body = voice["replies"][topic if mode in DESKS else question.intent]
    if "order" not in question.values:
        body = here["missing"]["account" if topic == "account" else "order"]
    greeting = voice["greeting"]["named" if "name" in question.values else "plain"]
    return [greeting, body, here["closing"]["any"]]


def _pick(rng: random.Random, options: list[str], slots: Mapping[str, str]) -> str:
    """Choose a template and its alternatives, such that every slot it has can be filled."""
    while True:
        template = rng.choice(options)
        while choice := re.search(r"\[([^\[\]]*)\]", template):
            start, stop = choice.span()
            template = template[:start] + rng.choice(choice[1].split("|")) + template[stop:]
        if slot_names(template) <= {*slots}:
            return template


def slot_names(template: str) -> set[str]:
    """Names of the slots that a template may have."""
    return set(re.findall(r"{(\w+)}", template))
