"""The place that a document is about."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from llm_scheduler.ingest.router.geo import Places, detect
from llm_scheduler.ingest.router.geo.places import SHIPPED
from llm_scheduler.ingest.router.signals import Geo
from llm_scheduler.ingest.router.text import Text


@pytest.fixture(scope="module")
def places() -> Places:
    return Places.load()


def found(places: Places, document: Any) -> Geo:
    return detect(Text.from_document(document), places, document)


def _id(value: Any) -> str | None:
    return None if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)[:60]


AMBIGUOUS = [
    ("Georgia is known for wine; most of it is shipped from Tbilisi.", "GE"),
    ("The Georgia governor visited Atlanta to open a plant in the United States.", "US"),
    ("Atlanta, Georgia", "US"),
    ("Tbilisi, Georgia", "GE"),
    ("Michael Jordan scored thirty points in the first half.", None),
    ("Jordan said that he was happy.", None),
    ("Chad is my friend.", None),
    ("The border between Jordan and its neighbours was closed in Amman.", "JO"),
    ("We roasted a turkey for dinner.", None),
    ("Turkey sandwiches are served at noon.", None),
    ("Inflation in Turkey slowed in May.", "TR"),
    ("Add one green chile and a pinch of salt.", None),
    ("Exports from Chile rose.", "CL"),
    ("Paris Hilton attended the party.", None),
    ("She flew to Paris on Monday.", "FR"),
    ("The cabinet held fine china plates.", None),
    ("Factories in China reopened.", "CN"),
    ("Apple released a new phone.", None),
    ("It was a nice day for reading in the bath.", None),
    ("Use your mobile phone, of course.", None),
    ("Nice, France", "FR"),
    ("Reading, UK", "GB"),
    ("Mobile, AL", "US"),
    ("Denzel Washington stars in it.", None),
    ("The firm moved its office to Washington.", "US"),
    ("Jack London wrote novels.", None),
    ("Florence Nightingale was a nurse.", None),
    ("Cambridge", "GB"),
    ("Cambridge, MA", "US"),
    ("Cambridge, Massachusetts", "US"),
    ("The lab is in Cambridge, near the river, in Massachusetts.", "US"),
    ("Birmingham", "GB"),
    ("Birmingham, Alabama", "US"),
    ("London", "GB"),
    ("London, Ontario", "CA"),
    ("London, ON", "CA"),
    ("Paris, Texas", "US"),
    ("Paris, TX", "US"),
    ("Santiago", "CL"),
    ("San Jose", "US"),
    ("San José, Costa Rica", "CR"),
    ("Toronto, CA", "CA"),
    ("Berlin, DE", "DE"),
    ("Salem, IL", "US"),
    ("Tell us more about it.", None),
    ("The U.S. economy grew.", "US"),
    ("Polish your shoes before the meeting.", None),
    ("It is a Polish company.", "PL"),
    ("A report by Bank of America.", None),
    ("Operations in South America and North America.", None),
    ("中山北路車禍 三人受傷", None),
    ("孫中山先生誕辰紀念", None),
    ("廣東省中山市", "CN"),
    ("長春藤名校申請攻略", None),
    ("長春市今日降雪", "CN"),
    ("吉林省发布通知", "CN"),
    ("朝陽灑落在海面上", None),
    ("德州暴雪停電", "US"),
    ("德州市位于山东", "CN"),
    ("大理石地板怎麼清潔", None),
    ("三星堆遗址新发现", "CN"),
    ("南京路", None),
]


@pytest.mark.parametrize(("text", "country"), AMBIGUOUS, ids=_id)
def test_an_ambiguous_name(places: Places, text: str, country: str | None) -> None:
    assert found(places, text).country == country


CITIES = [
    ("München", "DE", "Munich"),
    ("Köln", "DE", "Köln"),
    ("Cologne", "DE", "Köln"),
    ("Sao Paulo", "BR", "São Paulo"),
    ("東京", "JP", "Tokyo"),
    ("臺北", "TW", "Taipei"),
    ("台北市", "TW", "Taipei"),
    ("Guangzhou", "CN", "Guangzhou"),
    ("广州", "CN", "Guangzhou"),
    ("廣州", "CN", "Guangzhou"),
    ("紐約", "US", "New York City"),
    ("ニューヨーク", "US", "New York City"),
    ("Springfield, IL", "US", "Springfield"),
    ("Москва", "RU", "Moscow"),
    ("Київ", "UA", "Kyiv"),
    ("서울", "KR", "Seoul"),
    ("القاهرة", "EG", "Cairo"),
    ("กรุงเทพ", "TH", "Bangkok"),
    ("दिल्ली", "IN", "Delhi"),
    ("Αθήνα", "GR", "Athens"),
    ("תל אביב", "IL", "Tel Aviv"),
    ("İstanbul", "TR", "Istanbul"),
    ("Hà Nội", "VN", "Hanoi"),
    ("Washington, D.C.", "US", "Washington"),
    ("The Hague", "NL", "The Hague"),
    ("paris", "FR", "Paris"),
    ("BERLIN", "DE", "Berlin"),
    ("Hamilton, Bermuda", "BM", "Hamilton"),
]


@pytest.mark.parametrize(("text", "country", "city"), CITIES, ids=_id)
def test_a_city_by_itself(places: Places, text: str, country: str, city: str) -> None:
    geo = found(places, {"city": text})
    assert (geo.country, geo.city) == (country, city)
    assert found(places, text).country == country
    assert geo.latitude is not None
    assert geo.longitude is not None
    assert geo.confidence > 0.9


FIELDS = [
    ({"country": "DE", "text": "A long report about France and Paris."}, "DE"),
    ({"country_code": "JPN"}, "JP"),
    ({"countryCode": "uk"}, "GB"),
    ({"country": "Allemagne"}, "DE"),
    ({"country": "대한민국"}, "KR"),
    ({"country": {"code": "br", "rank": 4}}, "BR"),
    ({"company": {"address": {"country": "Österreich"}}}, "AT"),
    ({"headquarters": "Toulouse", "text": "The group sells in Germany and in Spain."}, "FR"),
    ({"hq": "reading"}, "GB"),
    ({"location": "Austin, TX"}, "US"),
    ({"city": "Smallville", "state": "KS"}, "US"),
    ({"city": "London", "country": "CA"}, "CA"),
    ({"address": "10 Rue de Rivoli, 75001 Paris"}, "FR"),
    ({"地址": "浙江省杭州市西湖区"}, "CN"),
    ({"timezone": "Europe/Berlin"}, "DE"),
    ({"currency": "JPY"}, "JP"),
    ({"currency": "EUR"}, None),
    ({"phone": "+49 89 1234567"}, "DE"),
    ({"lat": 48.85, "lon": 2.35}, "FR"),
    ({"geo": {"latitude": "-33.86", "longitude": "151.2"}}, "AU"),
    ({"lat": 0, "lon": 0}, None),
    ({"lat": 48.85}, None),
    ({"lat": float("nan"), "lon": 2.0}, None),
    ({"website": "firma.de"}, "DE"),
    ({"first_name": "Paris", "last_name": "Jackson"}, None),
    ({"author": "Jordan"}, None),
    ({}, None),
    (None, None),
    ([1, 2, True], None),
    ("", None),
]


@pytest.mark.parametrize(("document", "country"), FIELDS, ids=_id)
def test_fields(places: Places, document: Any, country: str | None) -> None:
    assert found(places, document).country == country


def test_a_town_is_the_one_in_the_country_and_the_state_of_its_fields(places: Places) -> None:
    ontario = found(places, {"city": "London", "country": "CA"})
    assert (ontario.city, round(ontario.longitude or 0)) == ("London", -81)
    massachusetts = found(places, {"city": "Cambridge", "state": "MA"})
    assert (massachusetts.country, massachusetts.city, round(massachusetts.longitude or 0)) == ("US", "Cambridge", -71)


def test_coordinates_are_those_of_a_city(places: Places) -> None:
    geo = found(places, {"lat": 52.5, "lon": 13.4})
    assert (geo.country, geo.evidence[0].kind) == ("DE", "coordinates")
    assert geo.latitude == pytest.approx(52.5, abs=0.3)


PHRASES = [
    ("The firm sells in France, Spain, Italy and Poland. It is based in Chennai, India.", "IN", "Chennai"),
    ("It serves Canada and Mexico and is headquartered in Canton, Massachusetts.", "US", "Canton"),
    ("The company was founded in 1990 and is headquartered in Palermo, Argentina.", "AR", None),
    ("A Tokyo-based maker of parts sold in China, Korea and Germany.", "JP", "Tokyo"),
    ("Its headquarters are located in Kolkata, India. Plants are in Vietnam.", "IN", "Kolkata"),
    ("It is an Indian company with customers in Germany.", "IN", None),
    ("Der Hersteller mit Sitz in München liefert nach Frankreich und Italien.", "DE", "Munich"),
    ("La empresa, con sede en Guadalajara, México, vende en España.", "MX", "Guadalajara"),
    ("La société basée à Lyon exporte en Allemagne.", "FR", "Lyon"),
    ("L'azienda con sede a Torino lavora in Francia.", "IT", "Turin"),
    ("A empresa com sede em Curitiba atua na Argentina.", "BR", "Curitiba"),
    ("該公司總部位於新竹，產品銷往美國、日本。", "TW", None),
    ("该公司总部位于深圳，在美国和德国设有分公司。", "CN", "Shenzhen"),
    ("本社を名古屋に置き、アメリカでも販売する。", "JP", "Nagoya"),
    ("Компания со штаб-квартирой в Казани работает в Германии.", "RU", "Kazan"),
    ("تقع الشركة ومقرها دبي", "AE", "Dubai"),
]


@pytest.mark.parametrize(("text", "country", "city"), PHRASES, ids=_id)
def test_phrases_that_introduce_the_place(places: Places, text: str, country: str, city: str | None) -> None:
    geo = found(places, {"summary": text})
    assert geo.country == country
    if city:
        assert geo.city == city
    assert geo.evidence[0].kind == "phrase"
    assert geo.confidence > 0.7


HEADLINES = [
    ("日本央行維持利率不變 日圓貶至新低", "JP"),
    ("美股四大指數收黑", "US"),
    ("美联储宣布降息25个基点", "US"),
    ("英國首相宣布提前大選", "GB"),
    ("德企擬裁員萬人", "DE"),
    ("法军撤出尼日尔", "FR"),
    ("韓媒：金正恩視察飛彈基地", "KR"),
    ("俄军向前线增派部队", "RU"),
    ("台積電第三季營收創新高", "TW"),
    ("A股三大指数集体高开", "CN"),
    ("港股收跌 恒指失守18000点", "HK"),
    ("澳洲央行意外升息一碼", "AU"),
    ("印度大選 莫迪拚連任", "IN"),
    ("石川县发生7.6级强震", "JP"),
    ("花蓮強震 建物倒塌", "TW"),
    ("中美貿易戰升溫", None),
    ("俄乌战争进入第三年", None),
    ("油價大跌逾5%", None),
    ("美麗的風景令人陶醉", None),
    ("日前有民眾反映", None),
    ("義大利麵食譜", None),
    ("国家统计局公布最新数据", "CN"),
    ("威尼斯影展金獅獎", "IT"),
    ("人工智慧改變職場", None),
]


@pytest.mark.parametrize(("text", "country"), HEADLINES, ids=_id)
def test_headlines_in_chinese(places: Places, text: str, country: str | None) -> None:
    assert found(places, {"title": text}).country == country


def test_two_countries_in_one_word_are_both_shown(places: Places) -> None:
    geo = found(places, "中美貿易戰升溫")
    assert geo.country is None
    assert {each.says for each in geo.evidence} == {"CN", "US"}


SIGNS = [
    ("call +49 89 1234567 now", "DE", "phone"),
    ("call 0049 89 1234567 now", "DE", "phone"),
    ("call +1 416 555 0134 now", "CA", "phone"),
    ("call 2000 1234567 now", None, None),
    ("call 089 1234567 now", None, None),
    ("see https://www.firma.de/kontakt", "DE", "domain"),
    ("write to info@beispiel.com.br", "BR", "domain"),
    ("see https://start.io and https://x.ai and mail a@b.com", None, None),
    ("see https://paris.com", None, None),
    ("The sale was worth ₹500 crore.", "IN", "hint"),
    ("It cost HK$ 20 million.", "HK", "hint"),
    ("It cost 500 dollars.", None, None),
    ("Starts at nine, Europe/Berlin.", "DE", None),
    ("Nestle (Malaysia) Berhad makes food.", "MY", None),
    ("Unternehmen in Deutschlands Mitte", "DE", None),
    ("주식회사 삼성전자는 수원에 본사를 둔 회사", "KR", None),
    ("В Германии открыли завод", "DE", None),
    ("บริษัทในประเทศไทย", "TH", None),
]


@pytest.mark.parametrize(("text", "country", "kind"), SIGNS, ids=_id)
def test_numbers_addresses_money_and_other_languages(
    places: Places, text: str, country: str | None, kind: str | None
) -> None:
    geo = found(places, {"text": text})
    assert geo.country == country
    if kind:
        assert geo.evidence[0].kind == kind


def test_evidence_has_its_position(places: Places) -> None:
    document = {"a": ["nothing", {"b/c": "It is headquartered in Oslo, Norway."}], "d": "Sweden, Denmark."}
    geo = found(places, document)
    best = geo.evidence[0]
    assert (best.text, best.says, best.pointer, best.offset) == ("Oslo, Norway", "NO", "/a/1/b~1c", 23)
    assert len(geo.evidence) == 3


def test_evidence_is_short(places: Places) -> None:
    names = "Paris Berlin Madrid Rome Vienna Warsaw Lisbon Dublin Oslo Stockholm Helsinki"
    geo = found(places, ". ".join(f"Then to {name}" for name in names.split()))
    assert len(geo.evidence) == 8
    assert geo.country is None


def test_several_clues_give_more_confidence(places: Places) -> None:
    alone = found(places, {"t": "Sales rose. Lisbon is mentioned once here, among other things that do not matter."})
    more = found(places, {"t": "Sales rose in Portugal. Lisbon is mentioned, and the Portuguese market grew."})
    rivals = found(places, {"t": "Sales rose in Portugal, and in Finland they rose too, as in Poland."})
    assert more.confidence > alone.confidence > rivals.confidence
    assert 0 <= rivals.confidence <= more.confidence <= 1


def test_metadata_is_ignored(places: Places) -> None:
    assert found(places, {"metadata": {"city": "Paris"}}).country is None


def test_the_same_document_has_the_same_answer(places: Places) -> None:
    documents = [text for text, *_ in (*AMBIGUOUS, *PHRASES, *HEADLINES)]
    first = [found(places, document) for document in documents]
    again = [found(places, document) for document in reversed(documents)]
    assert first == again[::-1]
    other = Places.load()
    assert [found(other, document) for document in documents] == first


def test_the_artefact_is_small_and_loads_quickly() -> None:
    assert SHIPPED.stat().st_size < 3_000_000
    started = time.perf_counter()
    places = Places.load(Path(SHIPPED))
    assert time.perf_counter() - started < 4
    assert len(places.codes) > 240


def test_a_broken_artefact_is_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "places.bin"
    broken.write_bytes(SHIPPED.read_bytes()[:1000])
    with pytest.raises(Exception, match=r"(?i)decompress|zstd|truncated|frame"):
        Places.load(broken)


LONG = {
    "names": "London " * 14_000,
    "pairs": "Paris, Texas, Berlin, Germany, " * 3_300,
    "chinese": "北京上海東京" * 16_000,
    "letters beside": "在Paris " * 14_000,
    "marks": "\u200f\u202edubai\u200d " * 9_000,
    "joiners": "P\u200da\u200dr\u200di\u200ds " * 9_000,
    "homoglyphs": "P\u0430ris L\u043endon " * 8_000,
    "hangul": "서울" * 50_000,
    "phones": "+49 89 1234567 " * 6_500,
    "plus signs": "+1" * 50_000,
    "hosts": "www.a." * 16_000,
    "mail": "a@b.de " * 14_000,
    "phrases": "headquartered in " * 6_000,
    "states": ", TX" * 25_000,
    "people": "Michael Jordan " * 6_500,
}


@pytest.mark.parametrize("kind", sorted(LONG))
def test_a_long_text_takes_bounded_time(places: Places, kind: str) -> None:
    text = Text.from_document(LONG[kind])
    started = time.process_time()
    detect(text, places, LONG[kind])
    assert time.process_time() - started < 1.5


def test_many_fields_take_bounded_time(places: Places) -> None:
    document = {"offices": [{"city": "Paris", "lat": 48.8, "lon": 2.3, "phone": "+33 1 23 45 67 89"}] * 10_000}
    text = Text.from_document(document)
    started = time.process_time()
    assert detect(text, places, document).country == "FR"
    assert time.process_time() - started < 1.5


def test_an_ordinary_document_takes_little_time(places: Places) -> None:
    text = Text.from_document({"summary": PHRASES[0][0] * 8})
    detect(text, places)
    started = time.process_time()
    for _ in range(200):
        detect(text, places)
    assert (time.process_time() - started) / 200 < 0.02, "it takes about 0.5 ms; the bound is only for unbounded growth"
