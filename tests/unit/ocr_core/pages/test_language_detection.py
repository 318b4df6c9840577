import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocr_core.pages.language_detection import Identified, identify

SENTENCES = {
    "en": "The licence lets this machine read pages without a network.",
    "de": "Jede Seite wird nur einmal gezählt. Über die Brücke führt ein schmaler Weg.",
    "fr": "Chaque page est comptée une seule fois. L'été dernier, nous étions à la mer.",
    "es": "Cada página se cuenta una sola vez. El niño comió una manzana esta mañana.",
    "it": "Ogni pagina viene contata una sola volta. La città è bella anche di notte.",
    "pt": "Cada página é contada apenas uma vez. Não há razão para a preocupação.",
    "nl": "Elke bladzijde wordt maar één keer geteld. Het weer is vandaag erg mooi.",
    "pl": "Każda strona jest liczona tylko raz. Źródło światła znajduje się za ścianą.",
    "no": "Hver side telles bare én gang. Været er veldig fint i dag, ikke sant.",
    "ru": "Каждая страница считается только один раз. Погода сегодня прекрасная.",
    "uk": "Кожна сторінка рахується лише один раз. Погода сьогодні чудова.",
    "sr": "Свака страница се броји само једном. Време је данас веома лепо.",  # noqa: RUF001
    "el": "Κάθε σελίδα μετριέται μόνο μία φορά. Ο καιρός σήμερα είναι υπέροχος.",  # noqa: RUF001
    "he": "כל עמוד נספר פעם אחת בלבד. מזג האוויר היום יפה מאוד.",
    "ar": "يتم حساب كل صفحة مرة واحدة فقط. الطقس اليوم جميل جدا.",
    "hi": "प्रत्येक पृष्ठ केवल एक बार गिना जाता है। आज मौसम बहुत अच्छा है।",
    "ja": "各ページは一度だけ数えられます。",
    "ko": "각 페이지는 한 번만 계산됩니다.",
    "zh-Hans": "每一页只计算一次。今天天气非常好。",
    "zh-Hant": "每一頁只計算一次。今天天氣非常好，我們去圖書館。",  # noqa: RUF001
}


@pytest.mark.parametrize("code", SENTENCES)
def test_a_sentence_is_in_its_language(code: str) -> None:
    found = identify(SENTENCES[code])
    assert found is not None
    assert found.code == code
    assert 0.9 < found.share <= 1


@pytest.mark.parametrize(
    "text", ["", "Gate 7", "TOTAL 12.50 EUR", "Invoice No. 1042", "12 345 678 901 234", "i1| ;~ xx qq"]
)
def test_too_little_to_tell_is_not_told(text: str) -> None:
    assert identify(text) is None


def test_characters_that_the_library_takes_for_damage_do_no_harm() -> None:
    assert identify(SENTENCES["de"].replace(" ", "\x00\ud800\u0378")) == Identified("de", pytest.approx(0.97, abs=0.03))


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=300))
def test_any_text_is_answered(text: str) -> None:
    found = identify(text)
    assert found is None or (found.code and 0.5 <= found.share <= 1)
