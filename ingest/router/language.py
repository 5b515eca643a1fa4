"""The language of a text: by its script where that is enough, else by py3langid among the languages that are expected.

The scripts: Unicode's blocks. Chinese is told from Japanese by kana, and its two ways of writing from one another by
the characters that only one of them has.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

from ingest.router.signals import Language

LOOKED_AT = 250  # characters; more of them hardly change the answer
DEFAULT = (
    *("ar", "bg", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fr", "he", "hi", "hu", "id", "it", "ja", "ko", "nl"),
    *("no", "pl", "pt", "ro", "ru", "sv", "th", "tr", "uk", "ur", "vi", "zh-Hans", "zh-Hant"),
)
_LEAST = 0.3  # of the model's confidence; below it nobody knows

# The most frequent characters that are written in two ways, in the order of their pairs.
_SIMPLIFIED = (
    "们这个来国说时为会对发过还后样开关长门问间见现题觉话请让谢语读书写业东车电视机网络经济产务员实验学习华币银"
    "钱买卖价质量单应该种动运远进选择连续达边从众丰临举义乌乐乡亲亿仅价优传伤伦体余儿党兰兴养决况净减凤击划刘则"
    "创剧办劳势勋协县叶号员听团园围图圆场坏块坚坛坝处备复头夹夺奋奖妇孙宁宝审宪宫宽宾导寿将尔尘层岁岛币帅师带"
    "帮库废广庆庐归当录忆忧怀态总恶悬惊惧惨惯战户扑执扩扫扬护报担拟拥拦拨挂挡挤挥损换据掷断无旧显晓晕暂术杀杂"
    "权条极构枪柜标栋树桥检楼横欢欧毁气汇汉汤沟泪洁浅测济浓涛润涨渐渔湾湿满灭灯灵灾炉炼烂热爱爷牵状独狱猎献玛"
    "环珍疗疯皱盐监盖盘着础确硕礼祸离积称穷窃竞笔筑签简类粮紧纪约红纯纲纳纵纷纸纹线练组细织终绍绝统继绩绪维综"
    "缓缘缩罗罚罢职联聪肃肤肿胁脉脑脚脸舰艺节芦苏荐药莱获萧营蓝虑虽虾蛮补衬袭装见观规觉览触订计认讨训议记讲许"
    "论设访证评识诉词试诗诚话详误诱语说请诸调谁谈谊谋谓谢谨谱贝负贡财责贤败货贩贪贯贴贵贸费贺资赋赏赔赖赚赛赞赠"
    "赶赵跃践踪轨转轮软轻载较辆辉输辞辩边迁迈运违迟适选递遗邓邮邻郑释针钟钢钥铁铃铅铜铝铺链销锁锅错锋锐锦键镇镜"
    "闪闭闯闲闷闹闻阅队阳阴阵阶际陆陈险随隐难雾韩页顶项顺须顾顿预领频颗题额风飞饭饮饰饱饼馆驱驶驻骂验骑骗骚鱼鲁"
    "鲜鸟鸡鸭鹅鹰麦黄齐齿龄龙龟"
)
_TRADITIONAL = (
    "們這個來國說時為會對發過還後樣開關長門問間見現題覺話請讓謝語讀書寫業東車電視機網絡經濟產務員實驗學習華幣銀"
    "錢買賣價質單應該種動運遠進選擇連續達邊從眾豐臨舉義烏樂鄉親億僅優傳傷倫體餘兒黨蘭興養決況淨減鳳擊劃劉則創劇"
    "辦勞勢勳協縣葉號聽團園圍圖圓場壞塊堅壇壩處備複復頭夾奪奮獎婦孫寧寶審憲宮寬賓導壽將爾塵層歲島帥師帶幫庫廢廣"
    "慶廬歸當錄憶憂懷態總惡懸驚懼慘慣戰戶撲執擴掃揚護報擔擬擁攔撥掛擋擠揮損換據擲斷無舊顯曉暈暫術殺雜權條極構槍"
    "櫃標棟樹橋檢樓橫歡歐毀氣匯漢湯溝淚潔淺測濃濤潤漲漸漁灣濕滿滅燈靈災爐煉爛熱愛爺牽狀獨獄獵獻瑪環療瘋皺鹽監蓋"
    "盤礎確碩禮禍離積稱窮竊競筆築簽簡類糧緊紀約紅純綱納縱紛紙紋線練組細織終紹絕統繼績緒維綜緩緣縮羅罰罷職聯聰肅膚"
    "腫脅脈腦腳臉艦藝節蘆蘇薦藥萊獲蕭營藍慮雖蝦蠻補襯襲裝觀規覽觸訂計認討訓議記講許論設訪證評識訴詞試詩誠詳誤誘諸"
    "調誰談誼謀謂謹譜貝負貢財責賢敗貨販貪貫貼貴貿費賀資賦賞賠賴賺賽贊贈趕趙躍踐蹤軌轉輪軟輕載較輛輝輸辭辯遷邁違遲"
    "適遞遺鄧郵鄰鄭釋針鐘鋼鑰鐵鈴鉛銅鋁鋪鏈銷鎖鍋錯鋒銳錦鍵鎮鏡閃閉闖閒悶鬧聞閱隊陽陰陣階際陸陳險隨隱難霧韓頁頂"
    "項順須顧頓預領頻顆額風飛飯飲飾飽餅館驅駛駐罵騎騙騷魚魯鮮鳥雞鴨鵝鷹麥黃齊齒齡龍龜臺灣裡麼"
)
_HANS = frozenset(_SIMPLIFIED) - frozenset(_TRADITIONAL)
_HANT = frozenset(_TRADITIONAL) - frozenset(_SIMPLIFIED)

_KANA = re.compile(r"[\u3040-\u30fa\u30fc-\u30ff\uff66-\uff9f]")
_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f\u1e00-\u1eff]")
# Scripts that one of the known languages has to itself, or shares with few.
_SCRIPTS = {
    "ko": re.compile(r"[\uac00-\ud7af\u1100-\u11ff]"),
    "th": re.compile(r"[\u0e00-\u0e7f]"),
    "el": re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]"),
    "he": re.compile(r"[\u0590-\u05ff]"),
    "hi": re.compile(r"[\u0900-\u097f]"),
    "ar": re.compile(r"[\u0600-\u06ff]"),
    "ru": re.compile(r"[\u0400-\u04ff]"),
}
_CYRILLIC = ("ru", "uk", "bg", "sr", "mk", "be", "kk", "mn")
_ARABIC = ("ar", "fa", "ur", "ps", "ug")
_LETTER = re.compile(r"[^\W\d_]")


class Languages:
    """Tells the languages that may be expected from one another. Raises ValueError for a code that is none of those
    it knows."""

    def __init__(self, expected: Sequence[str] = DEFAULT) -> None:
        self._expected = frozenset(expected)
        self._model: Any = None
        self._groups: dict[str, Any] = {}
        if unknown := self._expected - set(known()):
            raise ValueError(f"no language is called {', '.join(sorted(unknown))}")

    def detect(self, text: str) -> Language:
        """The language of `text`; without a code when it has no letters or the languages are too close."""
        looked_at = text[:LOOKED_AT]
        letters = len(_LETTER.findall(looked_at))
        if not letters:
            return Language()
        if (latin := len(_LATIN.findall(looked_at))) and 2 * latin > letters:
            return self._among("latin", looked_at)
        found = self._by_script(looked_at, letters)
        return found if found.code is None or found.code in self._expected else Language()

    def _by_script(self, text: str, letters: int) -> Language:
        han, kana = len(_HAN.findall(text)), len(_KANA.findall(text))
        if 2 * (han + kana) >= letters:
            if 20 * kana >= han:
                return Language(code="ja", confidence=0.99 if kana > 1 else 0.8)
            return _chinese(text)
        counts = {code: len(pattern.findall(text)) for code, pattern in _SCRIPTS.items()}
        code = max(counts, key=lambda each: counts[each])
        if not counts[code]:
            return self._among("latin", text)
        group = {"ru": "cyrillic", "ar": "arabic"}.get(code)
        return self._among(group, text) if group else Language(code=code, confidence=0.99)

    def _among(self, group: str, text: str) -> Language:
        """The likeliest of the expected languages of one script."""
        model = self._groups.get(group)
        if model is None:
            model = self._groups[group] = self._restricted(group)
        if isinstance(model, str):
            return Language(code=model or None, confidence=0.9 if model else 0.0)
        code, confidence = model.classify(text)
        sure = float(confidence)
        if math.isnan(sure) or sure < _LEAST:
            return Language(confidence=0.0 if math.isnan(sure) else round(sure, 2))
        return Language(code=str(code).replace("nb", "no"), confidence=round(sure, 2))

    def _restricted(self, group: str) -> Any:
        """py3langid for the languages of a script; the only one where there is but one, "" where there is none."""
        others = {"zh-Hans", "zh-Hant", "ja", *(set(_SCRIPTS) - {"ru", "ar"})}
        members = {"cyrillic": set(_CYRILLIC), "arabic": set(_ARABIC)}
        members["latin"] = set(known()) - others - members["cyrillic"] - members["arabic"]
        codes = sorted(self._expected & members[group])
        if len(codes) < 2:
            return codes[0] if codes else ""
        model = _load()
        model.set_languages(codes)
        return model


def known() -> tuple[str, ...]:
    """All codes that may be expected."""
    extra = (
        "sr",
        "mk",
        "be",
        "kk",
        "mn",
        "ps",
        "ug",
        "af",
        "bs",
        "ca",
        "cy",
        "et",
        "eu",
        "ga",
        "gl",
        "hr",
        "is",
        "lt",
        "lv",
    )
    return (*DEFAULT, *extra, "ms", "sk", "sl", "sq", "sw", "tl")


def _load() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # 0.2 s and 18 MB

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _chinese(text: str) -> Language:
    hans = sum(letter in _HANS for letter in text)
    hant = sum(letter in _HANT for letter in text)
    if hans == hant == 0:
        return Language(code="zh-Hans", confidence=0.5)  # both write it alike; most who write Chinese write this
    code, count = ("zh-Hans", hans) if hans >= hant else ("zh-Hant", hant)
    return Language(code=code, confidence=round(0.5 + 0.49 * count / (hans + hant), 2))
