"""English sentences for training: made up from templates and word frequencies, so that no text is ever repeated.

Knows English sentence shapes, names, numbers, dates, times, money and abbreviations. Does not know voices or tags.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from engine.train.grammar import Grammar, Rule, salad
from engine.train.numerals import perhaps_in_words
from engine.train.words import Vocabulary


def _split(text: str) -> list[str]:
    return text.split()


GLUE = _split(
    "the a an of to and in for on with at by from as is was are were be been it this that these those he she they we you "
    "i my your his her our their or but not if so than then when while because about into over after before under "
    "between through without within has have had will would can could should may might must do does did there here no"
)

_NAMES = _split(
    "Anna Ben Carla David Emma Frank Grace Henry Iris Jack Karen Liam Maria Noah Olivia Peter Quinn Rachel Samuel Tina "
    "Victor Wendy Xavier Yasmin Zoe Michael Sarah James Linda Robert Patricia Thomas Susan Daniel Laura Kevin Sofia Hugo "
    "Nina Oscar Priya Ahmed Chen Fatima Igor Keiko Luca Marta Omar Paolo Rosa Stefan Tariq Uma Walter Alice George Helen "
    "Martin Julia Andrew Diana Edward Fiona Gary Hannah Isaac Joan Kyle Lucy Mark Nora Owen Paula Ryan Stella Tom Vera"
)
_SURNAMES = _split(
    "Smith Johnson Williams Brown Jones Miller Davis Wilson Anderson Taylor Moore Jackson Martin Lee Thompson White "
    "Harris Clark Lewis Robinson Walker Young King Wright Scott Green Baker Adams Nelson Hill Campbell Mitchell Roberts "
    "Carter Phillips Evans Turner Parker Collins Edwards Stewart Morris Murphy Cook Rogers Morgan Cooper Peterson Reed "
    "Bailey Bell Kelly Howard Ward Cox Richardson Wood Watson Brooks Bennett Gray Hughes Price Myers Foster Russell"
)
_PLACES = _split(
    "London Paris Berlin Madrid Rome Vienna Boston Chicago Denver Seattle Dallas Houston Atlanta Toronto Sydney Tokyo "
    "Delhi Cairo Lagos Lisbon Dublin Oslo Prague Warsaw Athens Geneva Zurich Munich Hamburg Texas Florida Ohio Canada "
    "France Germany Spain Italy Japan China India Brazil Mexico Kenya Norway Sweden Finland Poland Turkey Greece Egypt "
    "Manchester Oxford Cambridge Brooklyn Oakland Portland Phoenix Austin Detroit Memphis Nashville Orlando Tampa"
)
_NOUNS = _split(
    "car house door window table chair book phone computer screen keyboard letter email message meeting order package "
    "ticket flight train bus station airport hotel room kitchen garden street city village river mountain lake beach "
    "forest tree flower bird dog cat horse child girl boy woman man friend teacher doctor nurse driver manager customer "
    "student neighbor sister brother mother father uncle cousin baby team company office shop market bank school "
    "hospital library museum church bridge road map plan project report file folder picture photo song movie game story "
    "idea question answer problem solution reason result price bill payment card account password code number name "
    "address weather rain snow storm wind sun moon star sky cloud fire water coffee tea milk bread butter cheese apple "
    "orange lemon soup salad dinner lunch breakfast cake knife spoon bottle glass cup box bag coat shirt shoe hat ring "
    "watch clock minute hour day week month year morning evening night summer winter spring holiday party birthday "
    "wedding present gift machine engine battery button light lamp wire pipe tool hammer paper pencil desk floor wall "
    "roof stairs elevator corner piece part side end middle front top bottom line circle square color sound voice music "
    "guitar piano drum language word sentence paragraph page chapter lesson test exam grade class course degree job "
    "career salary contract law rule judge police army king queen president mayor election vote tax budget economy"
)
_PLURALS = _split(
    "cars houses doors windows books phones letters messages tickets flights trains rooms streets cities rivers trees "
    "flowers birds dogs cats children women men friends teachers doctors students customers people ideas questions "
    "answers problems results prices bills cards numbers names apples oranges cups boxes bags shoes minutes hours days "
    "weeks months years machines lights tools pages lessons classes jobs rules words songs games stories pictures files"
)
_VERBS = _split(
    "see find take make give send call help open close start stop move carry bring buy sell pay read write tell ask "
    "answer show hear hold keep leave lose win watch follow change check clean cook cut draw drive eat drink fix build "
    "choose catch break push pull turn wash wear visit meet know like love hate need want try use learn teach remember "
    "forget understand believe expect finish explain describe discuss accept refuse prepare repair replace return share"
)
_PAST = _split(
    "saw found took made gave sent called helped opened closed started stopped moved carried brought bought sold paid "
    "read wrote told asked answered showed heard held kept left lost won watched followed changed checked cleaned cooked "
    "drew drove ate drank fixed built chose caught broke pushed pulled turned washed wore visited met knew liked loved "
    "needed wanted tried used learned taught remembered forgot understood believed expected finished explained"
)
_ING = _split(
    "going coming looking waiting working talking walking running sitting standing sleeping thinking calling reading "
    "writing singing dancing playing driving cooking eating drinking watching listening learning building fixing trying "
    "moving leaving starting closing opening buying selling paying asking answering helping carrying holding"
)
_ADJECTIVES = _split(
    "good bad big small new old young long short high low hot cold warm cool fast slow easy hard simple clear dark light "
    "bright heavy loud quiet soft strong weak rich poor clean dirty dry wet full empty open busy free happy sad angry "
    "tired hungry thirsty sick healthy safe dangerous beautiful ugly nice kind friendly famous strange normal special "
    "different similar important useful useless expensive cheap early late red blue green yellow black white brown gray "
    "wonderful terrible amazing boring interesting difficult possible impossible ready careful lucky lovely silly proud"
)
_ADVERBS = _split(
    "quickly slowly carefully quietly loudly easily really very quite almost always never often sometimes usually rarely "
    "today tomorrow yesterday now soon later again already still yet together alone outside inside upstairs downstairs "
    "here there everywhere finally suddenly probably maybe certainly exactly hardly nearly simply clearly badly well"
)
_MONTHS = _split("January February March April May June July August September October November December")
_DAYS = _split("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")


def _number(rng: random.Random) -> str:
    top = rng.choice((10, 20, 100, 100, 1000, 10_000, 1_000_000))
    value = rng.randrange(top)
    return f"{value:,}" if rng.random() < 0.5 else str(value)


def _time(rng: random.Random) -> str:
    hour, minute = rng.randint(1, 12), rng.choice((0, 5, 10, 15, 20, 30, 40, 45, 50, rng.randrange(60)))
    return rng.choice(
        (f"{hour}:{minute:02d}", f"{hour}:{minute:02d} pm", f"{hour} am", f"{hour} o'clock", f"half past {hour}")
    )


def _date(rng: random.Random) -> str:
    day, month, year = rng.randint(1, 31), rng.choice(_MONTHS), rng.randint(1700, 2050)
    suffix = "th" if 10 < day < 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return rng.choice(
        (
            f"{month} {day}",
            f"{month} {day}{suffix}",
            f"the {day}{suffix} of {month}",
            f"{month} {day}, {year}",
            str(year),
        )
    )


def _money(rng: random.Random) -> str:
    whole, cents = rng.choice((rng.randrange(10), rng.randrange(100), rng.randrange(5000))), rng.randrange(100)
    return rng.choice(
        (f"${whole}", f"${whole}.{cents:02d}", f"{whole} dollars", f"{whole} euros", f"{cents} cents", f"£{whole}")
    )


def _measure(rng: random.Random) -> str:
    unit = rng.choice(
        _split("miles meters kilometers pounds kilos degrees percent % inches feet liters seconds people times")
    )
    value = rng.choice((str(rng.randrange(100)), f"{rng.randrange(20)}.{rng.randrange(10)}", str(rng.randrange(2000))))
    return value + unit if unit == "%" else f"{value} {unit}"


def _digits(rng: random.Random) -> str:
    return rng.choice((" ", "-", " ")).join(
        str(rng.randrange(10 ** rng.randint(1, 4))) for _ in range(rng.randint(2, 4))
    )


def _letters(rng: random.Random) -> str:
    letters = [rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(1, 5))]
    return rng.choice(("", " ", "-", ".")).join(letters)


def _capital(vocabulary: Vocabulary) -> Rule:
    return lambda rng: vocabulary.flat(rng).capitalize()


def _perhaps(rule: Callable[[random.Random], str], single: bool = False) -> Rule:
    return lambda rng: perhaps_in_words(rule(rng), "en", rng, single)


RULES: dict[str, Rule] = {
    "name": ["{first}", "{first}", "{first} {last}", "{title} {last}", "{odd}"],
    "first": _NAMES,
    "last": _SURNAMES,
    "title": ["Mr.", "Mrs.", "Ms.", "Dr.", "Professor", "Captain", "Aunt", "Uncle", "Mr", "Dr"],
    "place": [*_PLACES, "New York", "San Francisco", "Los Angeles", "South Africa", "the United States", "the U.S.", "the UK"],
    "noun": [*_NOUNS, *["{rare}"] * 60],
    "nouns": [*_PLURALS, *["{word}"] * 20],
    "verb": [*_VERBS, *["{rare}"] * 15],
    "past": [*_PAST, *["{rare}"] * 8],
    "ing": _ING,
    "adj": [*_ADJECTIVES, *["{rare}"] * 12],
    "adv": [*_ADVERBS, *["{rare}"] * 6],
    "month": _MONTHS,
    "day": _DAYS,
    "num": _perhaps(_number),
    "time": _perhaps(_time),
    "date": _perhaps(_date),
    "money": _perhaps(_money),
    "measure": _perhaps(_measure),
    "digits": _perhaps(_digits, single=True),
    "letters": _letters,
    "pron": _split("I you he she we they"),
    "obj": _split("me you him her us them it this that everything something nothing"),
    "poss": _split("my your his her our their"),
    "det": _split("the the the a this that every another some my your his her our their no any each"),
    "plural": _split("the these those some many few two three four five six seven ten my your all most several"),
    "prep": _split("in on at under over behind near with without from to for about across beside after before around"),
    "modal": _split("can could will would should may might must can't won't couldn't shouldn't didn't don't"),
    "np": [
        "{det} {noun}", "{det} {adj} {noun}", "{det} {noun}", "{name}", "{plural} {nouns}", "{plural} {adj} {nouns}",
        "{det} {noun} {prep} {det} {noun}", "{place}", "{pron2}", "{det} {adj}, {adj} {noun}", "{poss} {noun}'s {noun}",
    ],
    "pron2": _split("me you him her us them it everyone someone nobody anyone"),
    "pp": ["{prep} {np}", "{prep} {det} {noun}", "in {place}", "on {day}", "at {time}", "on {date}", "in {month}", "{prep} {name}"],
    "clause": [
        "{pron} {past} {np}", "{pron} {modal} {verb} {np}", "{np} {past} {np} {pp}", "{name} {past} {np}",
        "{pron} {past} {adv}",
        "{np} is {adj}", "{np} was {adv} {adj}", "{pron} {modal} {verb} {obj} {pp}", "there is {np} {pp}",
        "{it} {adj} {pp}",
        "{pron} {modal} {verb} {obj}", "I'm {ing} {pp}", "{pron}'ll {verb} {np}", "{np} {modal} {verb}",
        "{pron}'ve {past} {np}",
        "{name} is {ing} {pp}", "we're {ing} {pp}", "they were {ing} {np}", "{np} and {np} {past} {np}",
        "{pron} {past} to {verb} {np}",
    ],
    "it": ["it is", "it was", "it's", "that's", "this is", "everything is", "it isn't", "that wasn't"],
    "join": ["and", "but", "so", "because", "although", "while", "if", "when", "or", "until", "unless", "since", "before", "after"],
    "open": [
        "Well", "Yes", "No", "Okay", "Sure", "Of course", "However", "Actually", "In fact", "Sorry", "Please", "Oh",
        "Hello",
        "Hi {first}", "Good morning", "Thank you", "Thanks", "Right", "Now", "Then", "Finally", "By the way",
        "For example", "Still",
        "On {day}", "In {place}", "After {np}", "At {time}", "In {num2}", "Unfortunately", "Fortunately", "All right",
        "Listen", "First",
    ],
    "num2": ["1999", "2024", "2026", "1945", "the end", "the meantime", "general", "my opinion", "other words", "{date}"],
    "odd": lambda rng: rng.choice(_NAMES),
    "wh": ["what", "why", "when", "where", "how", "who", "which {noun}", "how many {nouns}", "how much", "whose {noun}", "how long"],
    "question": [
        "{wh} did {pron} {verb} {np}?", "{wh} {modal2} {pron} {verb}?", "do you {verb} {np}?",
        "did {name} {verb} {np}?",
        "is {np} {adj}?", "are you {ing} {pp}?", "can you {verb} {obj}?", "could you please {verb} {np}?",
        "have you {past} {np}?",
        "what is {np}?", "what's the {noun}?", "where is {np}?", "how are you {adv}?", "who {past} {np}?",
        "isn't {it2} {adj}?",
        "would you like {det} {noun} or {det} {noun}?", "why is {np} so {adj}?", "what time is it?",
        "how do I {verb} {np}?",
    ],
    "modal2": _split("can could will would should do did must"),
    "it2": _split("it that this he she everything"),
    "command": [
        "{verb} {np}.", "please {verb} {np} {pp}.", "don't {verb} {np}!", "{verb} {obj} {adv}.", "let's {verb} {np}.",
        "never {verb} {np}.",
        "tell me about {np}.", "turn {left} at {np}.", "call {name} at {digits}.", "remember to {verb} {np}!",
        "wait {pp}!", "press {num}.",
    ],
    "left": ["left", "right", "around", "back", "off"],
    "list": ["{noun}, {noun} and {noun}", "{np}, {np}, and {np}", "{first}, {first} and {first}", "{adj}, {adj} and {adj}",
             "{rare}, {rare}, {rare}"],
    "short": [
        "Yes.", "No.", "Okay.", "Sure.", "Thanks!", "Of course.", "No problem.", "I see.", "Really?", "Great!",
        "Good idea.", "Not yet.",
        "Hello there.", "Good night.", "See you {day}.", "You're welcome.", "Sorry.", "Maybe.", "Right.",
        "Thank you, {first}.", "Hello, {first}!",
        "{adj}!", "{noun}?", "{rare}.", "{num}.", "{word} {word}.", "{name}.", "{adv}.", "It's {adj}.", "I'm {adj}.",
        "Never mind.", "{letters}.",
    ],
    "facts": [
        "the price is {money}.", "{name} was born on {date}.", "it costs {money} {pp}.",
        "the {noun} is {measure} long.", "my number is {digits}.",
        "we meet at {time} on {day}.", "the {noun} leaves at {time}.", "there are {num} {nouns} in {place}.",
        "about {measure} of {plural} {nouns}.",
        "flight {letters} {num} to {place} {modal} {verb} at {time}.", "chapter {num}, page {num}.",
        "room {num} is {adj}.", "it is {measure} {pp}.",
        "the code is {letters} {num}.", "spell it {letters}.", "{date} was {det} {adj} day.",
        "{num} plus {num} is {num}.", "it's {time}, {name}.",
        "the {letters} of {place} {past} {np}.", "call {digits} e.g. before {time}.",
        "St. {first} St. is {measure} away, i.e. {pp}.", "{num} vs. {num}.",
        "write to {first}@{rare}.com.", "see {rare}.org for more.", "version {num}.{num} is out.",
        "{name}, Ph.D., {past} {np}.", "No. {num}, {adj} etc.",
    ],
    "sentence": [
        "{clause}.", "{clause}.", "{clause} {pp}.", "{clause}, {join} {clause}.", "{clause} {join} {clause}.",
        "{open}, {clause}.",
        "{open}, {clause}, {join} {clause}.", "{question}", "{question}", "{open}, {question}", "{command}",
        "{short}", "{facts}", "{facts}",
        "{clause}!", "{pron} {past} {list}.", "{list}.", "{np}.", "{join} {clause}, {clause}.", "{clause}; {clause}.",
        "{np}: {list}.",
        "\"{clause},\" {name} said.", "{name} said, \"{clause}.\"", "{clause} - {clause}.",
        "{np}, {adj} {join} {adj}, {past} {np} {pp}.",
        "the {noun} that {pron} {past} {pp} {modal} {verb} {np}.", "{clause} ({np}).", "{clause}, {question}",
        "{clause}...",
    ],
}  # fmt: skip


class English:
    """Sentences in American English."""

    voice = "en-us"

    def __init__(self) -> None:
        self.vocabulary = Vocabulary("en")
        self._grammar = Grammar({**RULES, "odd": _capital(self.vocabulary)}, self.vocabulary)

    def sentence(self, rng: random.Random) -> str:
        """A templated sentence, or (two in five) words in no order, which teach pronunciation fastest."""
        if rng.random() < 0.4:
            text = salad(self.vocabulary, GLUE, rng)
            return text[:1].upper() + text[1:] if rng.random() < 0.8 else text
        return self._grammar.sentence(rng)
