"""The industry of a document: the lexicon, the model and its training, and the classifier."""

import json
import lzma
import random
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llm_scheduler.ingest.router.build.base_model import DIVISION_TITLES
from llm_scheduler.ingest.router.industry import lexicon as lexicons
from llm_scheduler.ingest.router.industry.classifier import UNKNOWN_BELOW, Classifier
from llm_scheduler.ingest.router.industry.linear_model import Model, ModelError, feature_text, features
from llm_scheduler.ingest.router.industry.script import has_cjk, simplified
from llm_scheduler.ingest.router.industry.taxonomy import DIVISIONS, SECTIONS, section_of
from llm_scheduler.ingest.router.industry.trainer import (
    Hyperparameters,
    Row,
    TrainingError,
    evaluate,
    read_rows,
    score_answers,
    train,
)
from llm_scheduler.ingest.router.text import Text

PACKAGE = Path(lexicons.__file__).parent


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier.load()


def of(text: str) -> Text:
    return Text.from_document({"about": text})


# The taxonomy


def test_every_section_has_a_name_and_divisions() -> None:
    assert "".join(SECTIONS) == "ABCDEFGHIJKLMNOPQRSTU"
    assert {section_of(division) for division in DIVISIONS} == set(SECTIONS)
    assert len(DIVISIONS) == 88
    assert all(name and name[0].isupper() for name in (*SECTIONS.values(), *DIVISION_TITLES.values()))
    assert DIVISION_TITLES.keys() == DIVISIONS.keys()


@pytest.mark.parametrize(
    ("code", "section"),
    [("01", "A"), ("09", "B"), ("10", "C"), ("33", "C"), ("35", "D"), ("39", "E"), ("43", "F"), ("45", "G"),
     ("53", "H"), ("56", "I"), ("63", "J"), ("66", "K"), ("68", "L"), ("75", "M"), ("82", "N"), ("84", "O"),
     ("85", "P"), ("88", "Q"), ("93", "R"), ("96", "S"), ("98", "T"), ("99", "U"), ("K", "K"), ("04", None),
     ("V", None), ("", None)],
)  # fmt: skip
def test_a_code_lies_in_its_section(code: str, section: str | None) -> None:
    assert section_of(code) == section


# Scripts


def test_simplified_is_the_same_for_all_scripts_and_as_long() -> None:
    assert simplified("電機製造") == simplified("电机制造")
    assert simplified("鉄道銀行") == simplified("鐵道銀行") == simplified("铁道银行")
    text = "台灣積體電路製造 Inc. 株式会社 ﾃｽﾄ"
    assert len(simplified(text)) == len(text)
    assert simplified("plain") == "plain"
    assert [has_cjk(text) for text in ("a銀", "カナ", "Ünïcode", "")] == [True, True, False, False]


def test_features_are_words_pairs_and_characters() -> None:
    assert set(features("banks lend money")) == {"bank", "lend", "money", ("bank", "lend"), ("lend", "money")}
    assert {"银", "行", "银行"} <= set(features("銀行"))
    assert {feature_text(each) for each in features("abc 銀行")} >= {"abc", "银行"}
    assert list(features("1 2 ... !")) == []


# The lexicon


def terms() -> list[tuple[str, lexicons.Term]]:
    return [each for path in lexicons.PATHS for each in lexicons.read(path)]


def test_every_section_has_terms_in_every_language() -> None:
    counts: dict[tuple[str, str], int] = {}
    for language, term in terms():
        counts[term.section, language] = counts.get((term.section, language), 0) + 1
    least = {"en": 60}
    short = [
        (section, language, counts.get((section, language), 0))
        for section in SECTIONS
        for language in lexicons.LANGUAGES
        if counts.get((section, language), 0) < least.get(language, 40)
    ]
    assert short == []


def test_no_term_is_twice_in_a_language() -> None:
    seen: dict[tuple[str, str], lexicons.Term] = {}
    for language, term in terms():
        other = seen.setdefault((language, simplified(term.text)), term)
        assert other is term, f"{term.text} is in {language} twice: {other.section} and {term.section}"
        assert term.text == term.text.strip()
        assert len(term.text) > 1  # one character is part of too many words


def test_a_strong_term_is_in_one_section_only() -> None:
    strong: dict[str, str] = {}
    for _, term in terms():
        if term.weight == lexicons.WEIGHTS["strong"]:
            assert strong.setdefault(simplified(term.text), term.section) == term.section, term.text


@pytest.mark.parametrize(
    "wrong",
    [
        '[A.en]\nstrong = "farm@64"\n',
        '[A.en]\nstrong = "farm,,"\n',
        '[A.en]\nhuge = "farm"\n',
        '[A.xx]\nweak = "farm"\n',
        '[Z.en]\nweak = "farm"\n',
    ],
)
def test_a_wrong_lexicon_is_refused(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "lexicon.toml"
    path.write_text(wrong)
    with pytest.raises(lexicons.LexiconError, match=r"lexicon\.toml"):
        lexicons.Lexicon.load([path])


def test_terms_are_found_as_whole_words_the_longest_of_them() -> None:
    found = lexicons.Lexicon.load().find("the dairy farms near carpets; a pubic thing; dairy farmx")
    assert [(each.term.text, each.start, each.end) for each in found] == [("dairy farm", 4, 15)]


# The classifier


EXAMPLES = [
    ("A", "A dairy farm that keeps cattle", "農業發展有限公司", "农业发展有限公司", "農業協同組合の農場"),
    ("B", "The miner explores for gold and copper ore", "金礦採礦公司", "煤矿开采有限公司", "石炭採掘の鉱山"),
    ("C", "Manufacturer of steel products and machine tools", "台灣積體電路製造股份有限公司", "汽车制造有限公司",
     "自動車メーカー製作所"),
    ("D", "An electric utility that runs power plants", "台灣電力公司", "国家电网有限公司", "東京電力株式会社"),
    ("E", "Waste collection and wastewater treatment", "廢棄物清除公司", "污水处理有限公司", "産業廃棄物処理"),
    ("F", "A general contractor for road construction", "營造股份有限公司", "建筑工程集团", "大林建設株式会社"),
    ("G", "A supermarket chain and online retailer", "全聯超市", "国际贸易有限公司", "家電量販店"),
    ("H", "An airline and a freight forwarder", "長榮航空", "顺丰速运", "日本郵船"),
    ("I", "Our restaurant and hotel by the sea", "鼎泰豐餐廳", "如家酒店", "ラーメン店"),
    ("J", "A software company with a cloud platform", "軟體開發公司", "软件有限公司", "ソフトウェア開発"),
    ("K", "The bank takes deposits and sells life insurance", "國泰人壽保險", "招商银行", "株式会社三菱UFJ銀行"),
    ("L", "A real estate investment trust with office buildings", "信義房屋不動產", "房地产开发有限公司", "三井不動産"),
    ("M", "A law firm and its accountants", "律師事務所", "会计师事务所", "法律事務所"),
    ("N", "A staffing agency and a travel agency", "保全股份有限公司", "国际旅行社", "人材派遣株式会社"),
    ("O", "The city council and the ministry of finance", "臺北市政府", "市公安局", "大阪市役所"),
    ("P", "A university and a primary school", "國立臺灣大學", "实验小学", "東京大学"),
    ("Q", "A hospital with dental clinic and nurses", "牙醫診所", "人民医院", "総合病院"),
    ("R", "A museum, a theatre and a football club", "國立故宮博物院", "足球俱乐部", "東京国立博物館"),
    ("S", "A hair salon beside a funeral home", "美髮沙龍髮廊", "洗衣店", "労働組合"),
    ("T", "Our family seeks a live-in nanny for our children", "徵住家幫傭", "招聘住家保姆", "住み込みの家政婦"),
    ("U", "The United Nations and the World Health Organization", "聯合國難民署", "世界卫生组织", "国際連合"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("section", "text"), [(section, text) for section, *texts in EXAMPLES for text in texts], ids=lambda each: each[:20]
)
def test_each_section_is_found_in_four_languages(classifier: Classifier, section: str, text: str) -> None:
    said = classifier.classify(of(text))
    assert (said.section, said.label) == (section, SECTIONS[section])
    assert UNKNOWN_BELOW <= said.confidence <= 1
    assert said.division is None or section_of(said.division) == section


@pytest.mark.parametrize(
    "text",
    ["", " ", "12345 67890", "asdf qwer zxcv", "Hello, how are you?", "Thank you very much!", "你好", "???",
     "こんにちは", "See you tomorrow", "謝謝大家", "株式会社", "有限公司", "xkqjz vvbbn", "\x00\x01", "Good morning"],
)  # fmt: skip
def test_a_text_about_no_industry_is_unknown(classifier: Classifier, text: str) -> None:
    said = classifier.classify(of(text))
    assert (said.section, said.division, said.label, said.evidence) == (None, None, None, [])
    assert said.confidence < UNKNOWN_BELOW


def test_a_document_without_text_is_unknown(classifier: Classifier) -> None:
    assert classifier.classify(Text.from_document({})).section is None
    assert classifier.classify(Text.from_document([1, None, True])).section is None


def test_evidence_has_its_position(classifier: Classifier) -> None:
    document = {"n": 7, "a": ["Nothing here.", {"b/c": "Wir: the ＢＡＮＫ holding company takes deposits, 銀行貸款"}]}
    text = Text.from_document(document)
    said = classifier.classify(text)
    assert said.section == "K"
    assert 1 <= len(said.evidence) <= 6
    parts = {part.pointer: part.text for part in text.parts}
    for each in said.evidence:
        assert each.says == "K"
        assert each.weight > 0
        assert each.text
        assert parts[each.pointer][each.offset : each.offset + len(each.text)] == each.text
    assert {"/a/1/b~1c"} == {each.pointer for each in said.evidence if each.kind == "term"}


def test_the_division_is_given_if_it_is_certain(classifier: Classifier) -> None:
    assert classifier.classify(of("growing of rice")).division == "01"
    assert classifier.classify(of("日本郵船")).division == "50"
    assert classifier.classify(of("dental practice activities")).division == "86"


def test_a_document_does_not_change_the_next_answer(classifier: Classifier) -> None:
    texts = [of(text) for _, *texts in EXAMPLES for text in texts]
    alone = [Classifier.load().classify(text) for text in texts[:3]]
    first = [classifier.classify(text) for text in texts]
    order = list(range(len(texts)))
    random.Random(3).shuffle(order)
    again = {place: classifier.classify(texts[place]) for place in order}
    assert [again[place] for place in range(len(texts))] == first
    assert first[:3] == alone


def test_the_beginning_of_a_long_document_decides(classifier: Classifier) -> None:
    text = "A commercial bank that takes deposits and makes loans. " + "word " * 100_000
    assert classifier.classify(of(text)).section == "K"


def test_the_shipped_model_holds_up_on_texts_it_was_not_made_from(classifier: Classifier) -> None:
    rows = read_rows(Path(__file__).parent / "data" / "industry_held_out.jsonl", "isic")
    for least, kept in ((0.75, [row for row in rows if not has_cjk(row.text)]),
                        (0.85, [row for row in rows if has_cjk(row.text)])):  # fmt: skip
        said = [classifier.classify(of(row.text)) for row in kept]
        right = sum(each.section == row.label for each, row in zip(said, kept, strict=True))
        assert len(kept) > 150
        assert right / len(kept) >= least
        sure = [each.section == row.label for each, row in zip(said, kept, strict=True) if each.confidence >= 0.9]
        assert sum(sure) / len(sure) >= 0.8


def test_phrases_of_an_index_are_classified(classifier: Classifier) -> None:
    for text, section in [
        ("retail sale of shoes", "G"),
        ("manufacture of basic iron", "C"),
        ("mining of iron ores", "B"),
        ("renting of cars", "N"),
        ("freight rail transport", "H"),
        ("veterinary activities", "M"),
        ("construction of roads", "F"),
        ("wholesale of coffee", "G"),
        ("book publishing", "J"),
        ("life insurance", "K"),
    ]:
        assert classifier.classify(of(text)).section == section, text


# Files


def test_nothing_in_a_file_is_pickled_and_the_base_is_small(tmp_path: Path) -> None:
    own = tmp_path / "own.npz"
    train(OWN, "own").save(own)
    for path in (PACKAGE / "base.npz", own):
        assert path.stat().st_size < 5_000_000
        with np.load(path, allow_pickle=False) as arrays:
            assert all(not arrays[name].dtype.hasobject for name in arrays.files)
        assert all(name.endswith(".npy") for name in zipfile.ZipFile(path).namelist())


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    model = train(OWN, "own")
    model.save(path)
    whole = path.read_bytes()
    with np.load(path) as loaded:
        arrays = dict(loaded)

    def refused() -> None:
        with pytest.raises(ModelError, match=r"model\.npz"):
            Model.load(path)

    for content in (b"", b"nothing", whole[: len(whole) // 2], whole[:-40]):
        path.write_bytes(content)
        refused()
    for changed in (
        {"version": np.array([99], dtype=np.int32)},
        {"bias": arrays["bias"][:-1]},
        {"weights": arrays["weights"][:-1]},
        {"weights": arrays["weights"].astype(np.float64)},
        {"labels": np.frombuffer(b"one", dtype=np.uint8)},
        {"taxonomy": np.frombuffer(b"isic", dtype=np.uint8)},  # these are not ISIC labels
        {"temperature": np.array([0.0], dtype=np.float32)},
        {"bias": np.full_like(arrays["bias"], np.nan)},
    ):
        np.savez(path, allow_pickle=False, **{**arrays, **changed})
        refused()
    np.savez(path, allow_pickle=True, **{**arrays, "labels": np.array([{"a": 1}], dtype=object)})
    refused()
    with pytest.raises(FileNotFoundError):
        Model.load(tmp_path / "none.npz")


# Training

THEMES = {
    "soups & stews": "soup broth ladle stew carrot pot simmer",
    "bicycles": "wheel saddle chain pedal brake frame spoke",
    "星星": "星 星座 望遠鏡 彗星 天文 行星",
}


def _own_rows() -> list[Row]:
    choose = random.Random(7)
    rows = []
    for number in range(150):
        label = list(THEMES)[number % 3]
        words = choose.sample(THEMES[label].split(), 4) + choose.sample(["the", "a", "this", "some", "with", "from"], 3)
        choose.shuffle(words)
        rows.append(Row(f"n{number} " + " ".join(words), label))
    return rows


OWN = _own_rows()


def test_own_labels_are_learned_saved_and_loaded(tmp_path: Path) -> None:
    model = train(OWN[:120], "own")
    scores = evaluate(model, OWN[120:])
    assert scores.accuracy == 1.0
    assert scores.macro_f1 == 1.0
    assert set(scores.labels) == set(THEMES)
    assert scores.labels["bicycles"].rows == 10
    path = tmp_path / "own.npz"
    model.save(path)
    before, after = Classifier(model, lexicons.Lexicon.load()), Classifier.load(path)
    for row in OWN:
        said = after.classify(of(row.text))
        assert said == before.classify(of(row.text))
        assert (said.section, said.division, said.label) == (None, None, row.label)
        assert {(each.says, each.kind) for each in said.evidence} == {(row.label, "feature")}
    assert list(tmp_path.iterdir()) == [path]


def test_the_lexicon_is_not_used_for_own_labels(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    train(OWN, "own").save(path)
    said = Classifier.load(path).classify(of("commercial bank, savings accounts"))
    assert (said.section, said.label, said.evidence) == (None, None, [])


def test_the_same_rows_make_the_same_file(tmp_path: Path) -> None:
    one, other = tmp_path / "one.npz", tmp_path / "other.npz"
    train(OWN, "own").save(one)
    train(OWN, "own").save(other)
    assert one.read_bytes() == other.read_bytes()
    train(OWN[:-1], "own").save(other)
    assert one.read_bytes() != other.read_bytes()


@pytest.mark.slow
def test_sections_and_divisions_are_learned_together() -> None:
    rows = [
        Row(f"{name} of {word}", division)
        for division, name in DIVISION_TITLES.items()
        for word in ("one", "two", "six")
    ]
    rows += [Row("lending money and keeping deposits", "K"), Row("idle talk and gossip", "-")] * 5
    model = train(rows, "isic", Hyperparameters(min_texts=1))
    assert {"64", "-"} <= set(model.labels)
    assert "K" not in model.labels
    scores = evaluate(model, rows)
    assert set(scores.labels) == {*SECTIONS, "-"}
    assert scores.accuracy > 0.9
    classifier = Classifier(model, lexicons.Lexicon([]))
    assert classifier.classify(of("lending money and keeping deposits")).section == "K"
    assert classifier.classify(of("idle talk and gossip")).section is None


def test_confidence_is_the_share_that_is_right() -> None:
    choose = random.Random(1)
    texts = [
        f"t{n} word{choose.randrange(40)} word{choose.randrange(40)} {choose.choice(['red', 'blue'])}"
        for n in range(900)
    ]
    rows = [Row(t, ("warm" if "red" in t else "cold") if choose.random() < 0.8 else "warm") for t in texts]
    scores = evaluate(train(rows[:600], "own"), rows[600:])
    assert scores.ece < 0.12
    assert scores.accuracy > 0.8


def test_confidence_follows_the_curve_of_a_model() -> None:
    model = replace(train(OWN, "own"), predicted=(0.0, 0.5, 0.5, 1.0), actual=(0.0, 0.2, 0.4, 0.8))
    assert [round(model.confidence(chance), 6) for chance in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0.0, 0.1, 0.4, 0.6, 0.8]


def test_scores_are_right() -> None:
    scores = score_answers(["a", "a", "b", "b"], ["a", "b", "b", None], [1.0, 1.0, 1.0, 0.0])
    assert scores.accuracy == 0.5
    assert (scores.labels["a"].precision, scores.labels["a"].recall) == (1.0, 0.5)
    assert (scores.labels["b"].precision, scores.labels["b"].f1) == (0.5, 0.5)
    assert scores.ece == pytest.approx(0.25)
    with pytest.raises(TrainingError, match="no row"):
        score_answers([], [], [])


@pytest.mark.parametrize("ending", ["", ".xz"])
def test_rows_are_read(tmp_path: Path, ending: str) -> None:
    lines = [
        json.dumps({"text": "Äpfel", "label": "fruit", "lang": "de"}),
        "",
        json.dumps({"text": "b", "label": "c d"}),
    ]
    content = "\n".join(lines).encode()
    path = tmp_path / f"rows.jsonl{ending}"
    path.write_bytes(lzma.compress(content) if ending else content)
    assert read_rows(path) == [Row("Äpfel", "fruit"), Row("b", "c d")]


@pytest.mark.parametrize(
    ("line", "taxonomy", "says"),
    [
        ("{", "own", "JSON object"),
        ("[1]", "own", "not list"),
        ('{"label": "a"}', "own", '"text" is missing'),
        ('{"text": "", "label": "a"}', "own", '"text" is missing, empty'),
        ('{"text": 5, "label": "a"}', "own", '"text"'),
        ('{"text": "x"}', "own", '"label" is missing'),
        ('{"text": "x", "label": 7}', "own", '"label"'),
        ('{"text": "x", "label": " "}', "own", "one line of text"),
        ('{"text": "x", "label": "a\\nb"}', "own", "one line of text"),
        ('{"text": "x", "label": "Banks"}', "isic", r"section \(A to U\)"),
        ('{"text": "x", "label": "04"}', "isic", r"two digits \(01 to 99\)"),
        ('{"text": "x", "label": "k"}', "isic", "section"),
        ("\ufffd" * 3, "own", "JSON object"),
        ("[" * 100_000, "own", "JSON object"),
    ],
)
def test_a_bad_line_is_refused_by_its_number(tmp_path: Path, line: str, taxonomy: str, says: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "good", "label": "K"}\n\n' + line + "\n", encoding="utf-8")
    with pytest.raises(TrainingError, match=rf"rows\.jsonl, line 3: .*{says}"):
        read_rows(path, "isic" if taxonomy == "isic" else "own")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "\xff", "label": "a"}\n')
    with pytest.raises(TrainingError, match="line 1"):
        read_rows(path)
    path.write_bytes(b"\n\n")
    with pytest.raises(TrainingError, match="no line"):
        read_rows(path)
    path = tmp_path / "rows.jsonl.xz"
    path.write_bytes(lzma.compress(b'{"text": "x", "label": "a"}')[:-8])
    with pytest.raises(TrainingError, match="xz"):
        read_rows(path)


def test_rows_that_teach_nothing_are_refused() -> None:
    for rows in ([], [Row("a bank", "x")] * 9, [Row("1 2", "x"), Row("3 4", "y")]):
        with pytest.raises(TrainingError):
            train(rows, "own")
    with pytest.raises(TrainingError, match="row 2: label 'Banks'"):
        train([Row("a", "K"), Row("b", "Banks")], "isic")
