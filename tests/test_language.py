"""The language of a text: by its script, or by its words among the expected languages."""

import time

import pytest

from llm_scheduler.ingest.router.language import SAMPLE_CHARACTERS, LanguageDetector

LANGUAGES = LanguageDetector()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The invoice is due on Friday", "en"),
        ("Die Rechnung ist am Freitag fällig", "de"),
        ("La facture est à payer vendredi", "fr"),
        ("La factura vence el viernes", "es"),
        ("株式会社の決算が発表されました", "ja"),
        ("カタログ", "ja"),
        ("公司公布了第三季度的业绩", "zh-Hans"),
        ("公司公布了第三季的業績", "zh-Hant"),
        ("한국어로 쓴 글", "ko"),
        ("Рахунок треба сплатити", "uk"),
        ("Счёт нужно оплатить", "ru"),
        ("فاکتور باید پرداخت شود", "fa"),
        ("ใบแจ้งหนี้", "th"),
        ("חשבונית", "he"),
        ("iPhone 手机的价格 上涨了很多 因为需求", "zh-Hans"),
        ("", None),
        ("12345 :: 67 — 8", None),
        ("\u200b\u200f", None),
    ],
)
def test_languages(text: str, code: str | None) -> None:
    assert LANGUAGES.detect(text).code == code


def test_only_expected_languages_are_found() -> None:
    few = LanguageDetector(["en", "de"])
    assert few.detect("La facture est à payer vendredi").code in ("en", "de", None)
    assert few.detect("株式会社の決算").code is None
    assert LanguageDetector(["ja"]).detect("Die Rechnung").code is None


def test_an_unknown_language_is_named() -> None:
    with pytest.raises(ValueError, match="no language is called xx"):
        LanguageDetector(["en", "xx"])


def test_a_long_text_is_fast() -> None:
    began = time.process_time()
    assert LANGUAGES.detect("слово " * 2_000_000).code == LANGUAGES.detect(("слово " * 100)[:SAMPLE_CHARACTERS]).code
    assert time.process_time() - began < 0.5
