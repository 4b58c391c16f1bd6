"""German sentences for training: templates and word frequencies, as text_en.py does it for English.

Knows German sentence shapes. Articles are not made to agree with random nouns: the teacher's pronunciation does not ask.
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
    "der die das den dem ein eine einen und oder aber nicht mit von zu auf in im an am bei aus nach für über "
    "unter vor ist war sind waren hat haben wird werden kann können muss soll will ich du er sie es wir ihr "
    "mein dein sein unser wenn weil dass als wie so auch noch schon nur sehr hier da dort wer was wo warum"
)

_NOUNS = _split(
    "Haus Auto Tür Fenster Tisch Stuhl Buch Telefon Brief Nachricht Zug Bahnhof Flughafen Hotel Zimmer Küche "
    "Garten Straße Stadt Dorf Fluss Berg See Wald Baum Blume Vogel Hund Katze Kind Mädchen Junge Frau Mann "
    "Freund Lehrerin Arzt Kunde Schwester Bruder Mutter Vater Firma Büro Laden Bank Schule Krankenhaus Brücke "
    "Plan Bericht Bild Lied Film Spiel Frage Antwort Problem Lösung Grund Preis Rechnung Karte Konto Nummer "
    "Name Wetter Regen Schnee Sturm Sonne Mond Stern Himmel Feuer Wasser Kaffee Tee Milch Brot Käse Apfel "
    "Suppe Kuchen Messer Flasche Glas Minute Stunde Tag Woche Monat Jahr Morgen Abend Nacht Sommer Winter "
    "Urlaub Geburtstag Geschenk Maschine Licht Werkzeug Papier Sprache Wort Satz Seite Prüfung"
)
_VERBS = _split(
    "sehen finden nehmen machen geben schicken rufen helfen öffnen schließen beginnen tragen bringen kaufen "
    "lesen schreiben sagen fragen zeigen hören halten lassen gewinnen ändern prüfen kochen fahren essen "
    "trinken bauen wählen kennen lieben"
)
_PAST = _split(
    "sah fand nahm machte gab schickte rief öffnete schloss trug brachte kaufte las schrieb sagte fragte hörte baute"
)
_ADJECTIVES = _split(
    "gut schlecht groß klein neu alt jung lang kurz hoch tief heiß kalt warm schnell langsam leicht schwer "
    "hell dunkel laut leise stark schwach reich arm sauber trocken nass voll leer offen frei müde hungrig "
    "krank gesund schön freundlich"
)


def _number(rng: random.Random) -> str:
    return str(rng.randrange(rng.choice((10, 20, 100, 1000, 10_000))))


def _time(rng: random.Random) -> str:
    return rng.choice(
        (f"{rng.randint(1, 23)} Uhr", f"{rng.randint(1, 23)}:{rng.randrange(60):02d} Uhr", f"halb {rng.randint(1, 12)}")
    )


def _date(rng: random.Random) -> str:
    month = rng.choice(_split("Januar Februar März April Mai Juni Juli August September Oktober November Dezember"))
    return rng.choice((f"{rng.randint(1, 31)}. {month}", month, str(rng.randint(1700, 2050))))


def _perhaps(rule: Callable[[random.Random], str]) -> Rule:
    return lambda rng: perhaps_in_words(rule(rng), "de", rng)


RULES: dict[str, Rule] = {
    "noun": [*_NOUNS, *["{cap}"] * 40],
    "verb": [*_VERBS, *["{rare}"] * 8],
    "past": [*_PAST, *["{rare}"] * 4],
    "adj": [*_ADJECTIVES, *["{rare}"] * 8],
    "num": _perhaps(_number),
    "time": _perhaps(_time),
    "date": _perhaps(_date),
    "name": _split("Anna Ben Clara David Emma Felix Greta Hans Ida Jonas Klara Lukas Maria Nina Otto Paul Sophie Herr Frau"),
    "last": _split("Müller Schmidt Schneider Fischer Weber Meyer Wagner Becker Schulz Hoffmann Koch Bauer Richter Klein Wolf"),
    "place": _split("Berlin Hamburg München Köln Frankfurt Wien Zürich Leipzig Dresden Bremen Deutschland Österreich Bayern"),
    "det": _split("der die das ein eine mein dein unser jeder dieser kein"),
    "prep": _split("in auf unter über mit ohne von nach für gegen neben bei"),
    "pron": ["ich", "du", "er", "sie", "es", "wir", "ihr", "man"],
    "modal": ["kann", "will", "soll", "muss", "darf", "möchte", "konnte", "wollte"],
    "np": ["{det} {noun}", "{det} {adj}e {noun}", "{name} {last}", "{name}", "{place}", "{noun} und {noun}"],
    "pp": ["{prep} {np}", "in {place}", "um {time}", "am {date}", "im {noun}"],
    "clause": [
        "{pron} {past} {np}", "{pron} {modal} {np} {verb}", "{np} ist {adj}", "{np} {past} {np} {pp}",
        "es gibt {np} {pp}",
        "{name} {past} {pp}", "das war {adv} {adj}", "{pron} {modal} {pp} {verb}", "heute {past} {pron} {np}",
    ],
    "adv": _split("sehr ziemlich wirklich nie immer oft leider vielleicht heute morgen gestern hier dort"),
    "open": ["Guten Morgen", "Guten Tag", "Hallo {name}", "Ja", "Nein", "Also", "Danke", "Entschuldigung", "Natürlich", "Bitte"],
    "question": [
        "wie geht es {np}?", "wo ist {np}?", "was kostet {np}?", "warum {past} {pron} {np}?", "haben Sie {np}?",
        "wann kommt {np}?",
        "{modal} {pron} {np} {verb}?", "wie spät ist es?", "können Sie mir {np} {verb}?",
    ],
    "sentence": [
        "{clause}.", "{clause}.", "{open}, {clause}.", "{clause}, weil {clause}.", "{clause} und {clause}.",
        "{question}", "{open}, {question}",
        "{clause}!", "{np} kostet {num} Euro.", "wir treffen uns um {time} in {place}.",
        "am {date} {past} {pron} {np}.", "{open}!", "{np}.",
        "{noun}, {noun} und {noun}.", "{rare} {rare} {rare}.", "Zimmer {num}, bitte.", "{clause}, aber {clause}.",
        "dass {clause}, ist {adj}.",
    ],
}  # fmt: skip


class German:
    """Sentences in German."""

    voice = "de"

    def __init__(self) -> None:
        self.vocabulary = Vocabulary("de")
        self._grammar = Grammar({**RULES, "cap": lambda rng: self.vocabulary.flat(rng).capitalize()}, self.vocabulary)

    def sentence(self, rng: random.Random) -> str:
        """A templated sentence, or (two in five) words in no order."""
        if rng.random() < 0.4:
            text = salad(self.vocabulary, GLUE, rng)
            return text[:1].upper() + text[1:]
        return self._grammar.sentence(rng)
