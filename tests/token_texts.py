"""Texts for the comparison of tokenizers: languages, code, numbers, emoji, white space, chats. Always the same."""

from __future__ import annotations

import random
import unicodedata
from typing import Final

from vocab_tools import TEXTS, chat_texts

SENTENCES: Final = (
    "Good morning! It's 7:45 and I haven't read the book that they've sent, but I'll do it TODAY.",
    "Guten Morgen! Die Straße ist heute schön ruhig, und Übung macht den Meister – das weiß jeder.",
    "Bonjour ! L'élève a mangé une crêpe à l'Hôtel de Ville, où l'on n'est jamais déçu ; ça va ?",
    "¡Buenos días! ¿Cómo está el niño que leía el periódico mañana? Él vio cigüeñas en Málaga.",
    "Bom dia! A canção não é só de São João; amanhã vão à praça com os pães e as avós.",
    "Buongiorno! Perché l'università è così lontana? Andrò lì venerdì con un'amica.",
    "Dzień dobry! Żółty źrebak idzie powoli przez łąkę, ĆMA ŚPI, a święto będzie jutro.",
    "Dobrý den! Příliš žluťoučký kůň pěl ďábelské ódy; ŘEKA je široká.",
    "Jó reggelt! Árvíztűrő tükörfúrógép ŐRZI a könyvet.",
    "Günaydın! İstanbul'da IŞIK çok güzel, çocuğun şapkası ağaçta kaldı; Ankara'nın 3'ü.",
    "Chào buổi sáng! Tôi đang đọc một quyển sách rất hay ở Hà Nội. ĐƯỜNG phố đẹp.",
    "God morgon! Ångbåten går över ön, ÄRLIGT talat. Blåbærsyltetøy på Ærø smaker godt.",
    "Góðan daginn! Það er ÞOKA á Íslandi í dag. Labas rytas, ąžuolas! Labrīt, ĢIMENE ķēde.",
    "Доброе утро! Съешь ещё этих мягких французских булок, да ВЫПЕЙ чаю №5.",
    "Доброго ранку! Їжак і ґава п'ють воду, ЄВРОПА. Ѓорѓи и Љиљана, ЋИРИЛИЦА, Ўзбекистон ҳақида.",
    "Καλημέρα! Ο γρήγορος ΣΊΣΥΦΟΣ διαβάζει ένα ωραίο βιβλίο, ἀρχὴ ἥμισυ παντός.",
    "Բարև ձեզ։ ԵՐԵՎԱՆԸ գեղեցիկ քաղաք է։ გამარჯობა, დღეს კარგი ამინდია. ᲗᲑᲘᲚᲘᲡᲘ",
    "שלום לכולם! הילד קורא סֵפֶר טוֹב ביום ג', ב־3 בבוקר.",
    "مرحبا بالعالم! الكتابُ على الطاولةِ، والساعة ٧:٤٥ صباحًا؛ هل تقرأ؟",
    "سلام دنیا! هوا امروز خوب است و من کتاب می‌خوانم. یہ کتاب اچھی ہے۔ ۱۲۳۴۵۶",
    "नमस्ते दुनिया! मैं आज सुबह १२३४५ किताबें पढ़ रहा हूँ। क्षत्रिय श्रीमान्",
    "ওহে বিশ্ব! আজ আবহাওয়া খুব ভালো, আমি বই পড়ছি। ১২৩ ਸਤ ਸ੍ਰੀ ਅਕਾਲ ਦੁਨੀਆ",
    "வணக்கம் உலகம்! இன்று நான் ஒரு புத்தகம் படிக்கிறேன். నమస్కారం ప్రపంచం, ఈ రోజు బాగుంది.",
    "ನಮಸ್ಕಾರ ಜಗತ್ತು! ഇന്ന് നല്ല കാലാവസ്ഥയാണ്. ආයුබෝවන් ලෝකය, අද හොඳයි. નમસ્તે દુનિયા",
    "สวัสดีชาวโลก วันนี้อากาศดีมาก ฉันกำลังอ่านหนังสือ ๓ เล่ม ສະບາຍດີ ຊາວໂລກ",
    "မင်္ဂလာပါ ကမ္ဘာလောက၊ ဒီနေ့ ရာသီဥတု ကောင်းတယ်။ សួស្តីពិភពលោក ថ្ងៃនេះល្អ។ བོད་ཡིག",
    "早上好！今天天气很好，我在图书馆读了3本书。繁體中文：圖書館裡有一萬二千本書嗎？「是的」……",
    "おはようございます。今日はとても良い天気です、カタカナとひらがなと漢字を混ぜて、ﾊﾝｶｸも１２３。",
    "안녕하세요! 오늘은 날씨가 정말 좋아서 책을 3권 읽었습니다. ㅋㅋㅋ 대한민국(大韓民國)",
    "ሰላም ልዑል! ዛሬ ጥሩ ቀን ነው። ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ ᓀᐦᐃᔭᐍᐏᐣ ᠮᠣᠩᠭᠣᠯ ߒߞߏ ⵜⴰⵎⴰⵣⵉⵖⵜ",
    "Habari za asubuhi! Ẹ káàárọ̀, ọjọ́ dára púpọ̀. Ina kwana? Ɓarawo ya ɗauki ƙwallo.",
    "𝐌𝐚𝐭𝐡: ∀x∈ℝ, ∑ᵢ₌₁ⁿ xᵢ² ≥ 0, √2≈1.41421, α≤β⇒¬(β<α); ½·⅔ = ⅓, 10⁻³ ㎏, Ⅷ ⑫",
    "€5,00 £1,234.56 ¥1000 ₹99 $3.50 ±0.05% #42 @home & co. 'quotes' \"double\" «guillemets» „Gänse“",
    "👩‍👩‍👧‍👦 👍🏽 🇩🇪🇫🇷 ❤️‍🔥 ☃️ 1️⃣ 🤷🏿‍♂️ 😀😃😄 ¯\\_(ツ)_/¯ ✅✨ ➡️",
    "def f(x: int) -> int:\n\treturn x**2 if x > 0 else -x  # it's fine\n\nprint(f'{f(3)=}', 0x1F, 1e-5)\n",
    '#include <stdio.h>\r\nint main(void) {\r\n    for (int i=0;i<10;++i) printf("%d\\n", i);\r\n    return 0;\r\n}',
    "const a = {k: [1,2,3], 'b-c': () => null};\n// TODO(me): fix\nif(a?.k!==undefined&&!b){a.k[0]<<=2;}\n",
    "<div class=\"a b\" id='x'>&nbsp;&lt;p&gt;</div>\n<!-- HTTPServerError404 camelCaseXML -->\n",
    "SELECT COUNT(*) FROM t1 WHERE a_b >= 3.14 AND name LIKE '%O''Neil%' ORDER BY 1 DESC;\n",
    "C:\\Users\\me\\file.txt /usr/local/bin/../lib ~/.bashrc user@example.com https://a.b/c?d=e&f=%20#g\n",
    '{"name": "x", "values": [1, -2.5e+10, true, null], "nested": {"key": "\\u00e9\\n"}}\n',
    "| col 1 | col 2 |\n|-------|------:|\n| **bold** | `code` |\n\n- item\n  - sub-item\n\n\n1. one\n",
)
"""Short texts of many languages and kinds."""

_RANGES: Final = (
    *((0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x52F), (0x590, 0x5FF)),
    *((0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x1E00, 0x1FFF), (0x2000, 0x206F)),
    *((0x2100, 0x23FF), (0x2460, 0x24FF), (0x2600, 0x27BF), (0x3000, 0x30FF), (0x4E00, 0x4F00)),
    *((0xAC00, 0xAD00), (0xFF00, 0xFFEF), (0x1F300, 0x1F6FF), (0x1D400, 0x1D4FF), (0x20000, 0x20100)),
)
_SPACES: Final = (
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "\r\n",
    "    ",
    "\u00a0",
    "\u3000",
    " \n",
    "\u2003",
    "\x0b",
    "\x85",
)
_NUMBERS: Final = (
    "0",
    "7",
    "42",
    "123",
    "1234",
    "123456",
    "1234567890123",
    "3.14",
    "-1,000",
    "1e10",
    "٣",
    "१२",
)


def token_texts(count: int) -> list[str]:
    """Return `count` texts, of which each kind has its share: sentences of a language, mixtures of languages, code,
    random characters of one block, numbers, and white space."""
    source = random.Random(11)
    words = [word for text in SENTENCES for word in text.split(" ")]
    kinds = (_cut, _mixed, _of_one_block, _numbers, _spaces)
    texts = list(dict.fromkeys([*TEXTS, *SENTENCES]))
    while len(texts) < count:
        texts.append(kinds[len(texts) % len(kinds)](source, words))
    return texts[:count]


def with_chats(count: int, tokens: list[str]) -> list[str]:
    """Return `count` texts, of which a fifth are chats between special tokens."""
    chats = count // 5 if tokens else 0
    return [*token_texts(count - chats), *chat_texts(tokens, chats)]


def composed(text: str) -> bool:
    """Say whether a text is in the normal form C of Unicode."""
    return unicodedata.is_normalized("NFC", text)


def _cut(source: random.Random, _words: list[str]) -> str:
    """Return a part of two sentences."""
    text = "".join(source.choices(SENTENCES, k=2))
    start = source.randrange(len(text) - 20)
    return text[start : start + source.randint(10, 120)]


def _mixed(source: random.Random, words: list[str]) -> str:
    return "".join(
        word + source.choice(("", " ", " ", " ", source.choice(_SPACES)))
        for word in source.choices(words, k=source.randint(1, 12))
    )


def _of_one_block(source: random.Random, _words: list[str]) -> str:
    """Return assigned characters of a block of Unicode, with spaces and letters between them."""
    first, last = source.choice(_RANGES)
    found = []
    for _ in range(source.randint(1, 30)):
        character = chr(source.randint(first, last))
        found.append(character if unicodedata.category(character) != "Cn" else source.choice(" aB1.'"))
        found.append(source.choice(("", "", "", " ", "a", "X", "9", "\n")))
    return "".join(found)


def _numbers(source: random.Random, words: list[str]) -> str:
    between = (" ", "", "x", "-", ", ", "\n", ".", " + ", source.choice(words))
    return "".join(
        number + source.choice(between) for number in source.choices(_NUMBERS, k=source.randint(1, 8))
    )


def _spaces(source: random.Random, words: list[str]) -> str:
    parts = []
    for _ in range(source.randint(1, 6)):
        parts += source.choices(_SPACES, k=source.randint(1, 5))
        parts.append(source.choice(("", "", source.choice(words))))
    return "".join(parts)
