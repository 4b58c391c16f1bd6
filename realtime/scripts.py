"""Which script a letter belongs to: Latin, Cyrillic, Han, ...

Knows Unicode's names of scripts and their ranges. Does not know which of them a model can speak (`repertoire` does), nor how a script tells
words apart (`characters` does). The standard library has no such table.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from functools import lru_cache
from typing import Final

# The Script property of Unicode 14.0.0 (UAX #24, Scripts.txt) for letters, marks and letter numbers, read through Perl's Unicode::UCD. A
# range runs on over unassigned code points and over characters that no script owns (they are found by category first). By hand: letters
# common to two kana or to Indic scripts are given to one of them (Script_Extensions), and planes 2 and 3 belong to ideographs to come.
_RANGES: Final = """
    Latin 41-AA BA-BA C0-2B8 2E0-2E4 1D00-1D25 1D2C-1D5C 1D62-1D65 1D6B-1D77 1D79-1DBE 1E00-1EFF 2071-209C 212A-212B
    2132-2132 214E-214E 2160-2188 2C60-2C7F A722-A7FF AB30-AB64 AB66-AB69 FB00-FB06 FF21-FF5A 10780-107BA
    1DF00-1DF1E; Bopomofo 2EA-2EB 3105-312F 31A0-31BF;
    Greek 370-3E1 3F0-3FF 1D26-1D2A 1D5D-1D61 1D66-1D6A 1DBF-1DBF 1F00-1FFE 2126-2126 AB65-AB65 10140-101A0
    1D200-1D245; Coptic 3E2-3EF 2C80-2CFD;
    Cyrillic 400-52F 1C80-1C88 1D2B-1D2B 1D78-1D78 2DE0-2DFF A640-A69F FE2E-FE2F; Armenian 531-58F FB13-FB17;
    Hebrew 591-5F2 FB1D-FB4F; Arabic 606-6FF 750-77F 870-8FF FB50-FDFF FE70-FEFC 10E60-10E7E 1EE00-1EEF1;
    Syriac 710-74F 860-86A; Thaana 780-7B1; Nko 7C0-7FF; Samaritan 800-82D; Mandaic 840-85B;
    Devanagari 900-97F 1CD0-1CFA A8E0-A8FF; Bengali 980-9FE; Gurmukhi A01-A75; Gujarati A81-AFF; Oriya B01-B77;
    Tamil B82-BFA 11FC0-11FF1; Telugu C00-C7F; Kannada C80-CF2; Malayalam D00-D7F; Sinhala D81-DF3 111E1-111F4;
    Thai E01-E59; Lao E81-EDF; Tibetan F00-FCF; Myanmar 1000-109F A9E0-A9FE AA60-AA7F;
    Georgian 10A0-10FF 1C90-1CBF 2D00-2D2D;
    Hangul 1100-11FF 302E-302F 3131-318E 3200-327E A960-A97C AC00-D7FB FFA0-FFDC;
    Ethiopic 1200-1399 2D80-2DDE AB01-AB2E 1E7E0-1E7FE; Cherokee 13A0-13FD AB70-ABBF;
    Canadian_Aboriginal 1401-167F 18B0-18F5 11AB0-11ABF; Ogham 1681-169A; Runic 16A0-16F8; Tagalog 1700-171F;
    Hanunoo 1720-1734; Buhid 1740-1753; Tagbanwa 1760-1773; Khmer 1780-17F9 19E0-19FF; Mongolian 180B-18AA;
    Limbu 1900-194F; Tai_Le 1950-1974; New_Tai_Lue 1980-19DF; Buginese 1A00-1A1B; Tai_Tham 1A20-1AA7;
    Balinese 1B00-1B7C; Sundanese 1B80-1BBF; Batak 1BC0-1BF3; Lepcha 1C00-1C4F; Ol_Chiki 1C50-1C7D;
    Braille 2800-28FF; Glagolitic 2C00-2C5F 1E000-1E02A; Tifinagh 2D30-2D7F;
    Han 2E80-3029 3038-303B 3400-9FFF F900-FAD9 16FE3-16FE3 16FF0-16FF1 20000-3FFFD;
    Hiragana 3031-3035 303C-309F 1B001-1B11F 1B150-1B152 1F200-1F200;
    Katakana 30A1-30FF 31F0-31FF 32D0-3357 FF66-FF9F 1AFF0-1B000 1B120-1B122 1B164-1B167; Yi A000-A4C6;
    Lisu A4D0-A4FD 11FB0-11FB0; Vai A500-A62B; Bamum A6A0-A6F1 16800-16A38; Syloti_Nagri A800-A82C;
    Phags_Pa A840-A873; Saurashtra A880-A8D9; Kayah_Li A900-A92D; Rejang A930-A953; Javanese A980-A9D9;
    Cham AA00-AA59; Tai_Viet AA80-AADD; Meetei_Mayek AAE0-AAF6 ABC0-ABF9; Linear_B 10000-100FA; Lycian 10280-1029C;
    Carian 102A0-102D0; Old_Italic 10300-1032F; Gothic 10330-1034A; Old_Permic 10350-1037A; Ugaritic 10380-1039D;
    Old_Persian 103A0-103D5; Deseret 10400-1044F; Shavian 10450-1047F; Osmanya 10480-104A9; Osage 104B0-104FB;
    Elbasan 10500-10527; Caucasian_Albanian 10530-10563; Vithkuqi 10570-105BC; Linear_A 10600-10767;
    Cypriot 10800-1083F; Imperial_Aramaic 10840-1085F; Palmyrene 10860-1087F; Nabataean 10880-108AF;
    Hatran 108E0-108FF; Phoenician 10900-1091B; Lydian 10920-10939; Meroitic_Hieroglyphs 10980-1099F;
    Meroitic_Cursive 109A0-109FF; Kharoshthi 10A00-10A48; Old_South_Arabian 10A60-10A7E;
    Old_North_Arabian 10A80-10A9F; Manichaean 10AC0-10AEF; Avestan 10B00-10B35; Inscriptional_Parthian 10B40-10B5F;
    Inscriptional_Pahlavi 10B60-10B7F; Psalter_Pahlavi 10B80-10BAF; Old_Turkic 10C00-10C48;
    Old_Hungarian 10C80-10CFF; Hanifi_Rohingya 10D00-10D39; Yezidi 10E80-10EB1; Old_Sogdian 10F00-10F27;
    Sogdian 10F30-10F54; Old_Uyghur 10F70-10F85; Chorasmian 10FB0-10FCB; Elymaic 10FE0-10FF6; Brahmi 11000-1107F;
    Kaithi 11080-110C2; Sora_Sompeng 110D0-110F9; Chakma 11100-11147; Mahajani 11150-11176; Sharada 11180-111DC;
    Khojki 11200-1123E; Multani 11280-112A8; Khudawadi 112B0-112F9; Grantha 11300-11374; Newa 11400-11461;
    Tirhuta 11480-114D9; Siddham 11580-115DD; Modi 11600-11659; Takri 11680-116C9; Ahom 11700-11746;
    Dogra 11800-1183A; Warang_Citi 118A0-118FF; Dives_Akuru 11900-11959; Nandinagari 119A0-119E4;
    Zanabazar_Square 11A00-11A47; Soyombo 11A50-11A9D; Pau_Cin_Hau 11AC0-11AF8; Bhaiksuki 11C00-11C6C;
    Marchen 11C72-11CB6; Masaram_Gondi 11D00-11D59; Gunjala_Gondi 11D60-11DA9; Makasar 11EE0-11EF6;
    Cuneiform 12000-12543; Cypro_Minoan 12F90-12FF0; Egyptian_Hieroglyphs 13000-1342E;
    Anatolian_Hieroglyphs 14400-14646; Mro 16A40-16A69; Tangsa 16A70-16AC9; Bassa_Vah 16AD0-16AF4;
    Pahawh_Hmong 16B00-16B8F; Medefaidrin 16E40-16E96; Miao 16F00-16F9F; Tangut 16FE0-16FE0 17000-18AFF 18D00-18D08;
    Nushu 16FE1-16FE1 1B170-1B2FB; Khitan_Small_Script 16FE4-16FE4 18B00-18CD5; Duployan 1BC00-1BC9E;
    SignWriting 1D800-1DAAF; Nyiakeng_Puachue_Hmong 1E100-1E14F; Toto 1E290-1E2AE; Wancho 1E2C0-1E2FF;
    Mende_Kikakui 1E800-1E8D6; Adlam 1E900-1E959;
"""


def _table() -> list[tuple[int, int, str]]:
    """(first, last, script), ascending."""
    found = []
    for line in _RANGES.replace("\n", " ").split(";"):
        name, *ranges = line.split() or [""]
        for span in ranges:
            first, last = span.split("-")
            found.append((int(first, 16), int(last, 16), name.replace("_", " ")))
    return sorted(found)


_TABLE: Final = _table()
_FIRSTS: Final = [first for first, _, _ in _TABLE]

SCRIPTS: Final = frozenset(name for _, _, name in _TABLE)


@lru_cache(maxsize=8192)
def script_of(char: str) -> str | None:
    """The script of a letter, a mark or a letter number. None: it belongs to all of them, as digits, punctuation, symbols and emoji do."""
    category = unicodedata.category(char)
    if category[0] not in "LM" and category != "Nl":
        return None
    code = ord(char)
    at = bisect_right(_FIRSTS, code) - 1
    if at < 0 or code > _TABLE[at][1]:
        return None
    return _TABLE[at][2]
