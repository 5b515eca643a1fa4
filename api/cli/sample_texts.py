"""The words that test documents are made of: topics, their sentences in English and Traditional Chinese, and fillings.

`{name}` in a sentence stands for one of the words of that name, `{2-40}` for a whole number between the two.
No sentence holds a word that the default priority rules look for: those are in `URGENT` and `UNHURRIED` alone,
so that whoever generates documents knows which of them have one.
"""

from typing import Literal, NamedTuple

Language = Literal["en", "zh"]


class Topic(NamedTuple):
    """A kind of document: what it is called in a file name, where it says it comes from, and its sentences."""

    name: str
    source: str
    sentences: tuple[str, ...]


TOPICS: dict[Language, tuple[Topic, ...]] = {
    "en": (
        Topic(
            "business",
            "newsroom",
            (
                "{company} reported revenue of {12-940} million for the {quarter} quarter, up {2-38} percent.",
                "Orders from {city} made up almost a third of the growth, the company said on {day}.",
                "{person}, who has led the group since {2009-2024}, expects margins of {8-31} percent until summer.",
                "Analysts had forecast a little less; the shares closed {1-9} percent higher.",
                "A new plant near {city} is to open with {80-900} jobs and will make {product}.",
                "Talks with {company} about a joint venture in {city} are said to be at an early stage.",
                "The board proposes a dividend of {11-95} cents a share, payable in {month}.",
                "Higher freight rates cost the group {2-40} million dollars, most of it on routes through {city}.",
                "The résumé so far: fewer customers, larger orders, and a café chain that buys {3-19} times more.",
            ),
        ),
        Topic(
            "support",
            "helpdesk",
            (
                "The customer writes that {product} stopped answering after the update to version {2-9}.{0-12}.",
                "A restart helped for about {5-55} minutes, then the same message came back: error {1000-9999}.",
                "{person} from the {city} office sees it as well, but only with more than {20-300} rows in the table.",
                "The log shows {3-48} time-outs between the gateway and the account service within one hour.",
                "We asked for a screenshot and the time zone; the answer came within {4-50} minutes.",
                "Going back one version makes the fault disappear, so the change in the cache is the likely cause.",
                "Workaround for now: turn the preview off under Settings and sign in again.",
                "The contract promises an answer within {2-24} hours, of which {1-9} have passed.",
                "Please tell the customer which release will hold the correction; {month} was mentioned before.",
            ),
        ),
        Topic(
            "clinic",
            "ward-notes",
            (
                "The patient, {31-88} years old, came in on {day} with a cough that has lasted {4-21} days.",
                "Temperature {36-39}.{0-9} degrees, pulse {58-112}, blood pressure {105-165} over {62-98}.",
                "No known allergies apart from a rash after penicillin in {1998-2022}.",
                "Breath sounds are clear on the left and somewhat weaker at the right base.",
                "Dr. {person} ordered a chest film and a blood count; both are to be read before the evening round.",
                "Sleep was poor, appetite is coming back, and the pain went from {5-9} to {1-4} on the usual scale.",
                "The dose was lowered to {5-40} milligrams twice a day because of mild dizziness.",
                "The family lives in {city} and can take the patient home at the weekend.",
                "Review in {2-8} weeks, sooner if the fever returns.",
            ),
        ),
        Topic(
            "logistics",
            "dispatch",
            (
                "Container {1000-9999} with {12-480} cartons of {product} left {city} on {day} at {10-23}:{10-59}.",
                "Customs in {city} asked for the certificate of origin, which {person} sent the same afternoon.",
                "The lorry was {15-190} minutes late at the cross dock because a bridge was closed.",
                "Of {40-900} pallets, {1-12} show water marks on the lower layer and were set aside.",
                "The carrier, {company}, offers a slot on the ship of {month} {2-28}.",
                "Stock in the {city} warehouse covers {3-45} days at the present rate.",
                "The cold chain held between {2-5} and {6-8} degrees for the whole way.",
                "Signature and photographs of the delivery are attached; two parcels went to the neighbour.",
                "The return of {2-60} empty racks is booked for {day} between {7-11} and {13-17} o'clock.",
            ),
        ),
        Topic(
            "minutes",
            "meetings",
            (
                "Present: {person}, {person} and {4-17} colleagues from {city}; apologies from {person}.",
                "The minutes of {day} were agreed with one correction in section {2-9}.",
                "The move to the new office costs {15-220} thousand more than planned; finance will check the lease.",
                "{person} showed the plan for {product}: first customers in {month}, everybody else {2-9} weeks later.",
                "The group prefers one supplier, {company}, provided that the price stays under {20-140} a piece.",
                "Hiring: {2-14} posts are open, {1-9} offers went out, and the one in {city} was declined.",
                "The question of parental leave cover was put off to the next meeting.",
                "Action: {person} writes to the landlord by {day}.",
                "The meeting closed at {15-18}:{10-59}; the next one is on {day} in room {2-40}.",
            ),
        ),
        Topic(
            "answer",
            "assistant",
            (
                "There are {2-6} ways to do this, and which of them fits depends on how often {product} are used.",
                "In short: measure first, change one thing at a time, and keep the old value at hand.",
                "For a visit to {city} in {month}, three days are enough for the old town and the museum quarter.",
                "A mean of {12-88} over {30-400} readings says little without the spread, so look at both.",
                "The recipe serves {2-8}: {150-650} grams of flour, {2-5} eggs, a pinch of salt and patience.",
                "If the list is sorted, a binary search needs about {8-24} steps instead of thousands.",
                "Note that the source from {2001-2023} and the one by {person} do not agree on this point.",
                "I am not certain about the last figure; please check it against the annual report of {company}.",
                "To sum up, start with the smaller of the two and come back to the other in {month}.",
            ),
        ),
    ),
    "zh": (
        Topic(
            "商業新聞",
            "newsroom",
            (
                "{company}公布{quarter}營收達{12-940}億元，較去年同期成長百分之{2-38}。",
                "公司於{day}表示，來自{city}的訂單約占成長的三分之一。",
                "自{2009-2024}年起領導集團的{person}預期，毛利率在夏季之前可維持在百分之{8-31}左右。",
                "分析師原先的預估略低，股價收盤上漲百分之{1-9}。",
                "位於{city}近郊的新廠將提供{80-900}個工作機會，主要生產{product}。",
                "據了解，與{company}在{city}合資的談判仍處於初期階段。",
                "董事會提議每股配發{1-9}元現金股利，預計於{month}發放。",
                "運費上漲使集團多支出{2-40}億元，其中多數來自經過{city}的航線。",
            ),
        ),
        Topic(
            "客服",
            "helpdesk",
            (
                "客戶反映，{day}更新到第{2-9}.{0-12}版之後，{product}便沒有回應。",
                "重新啟動後大約正常了{5-55}分鐘，接著又出現相同的訊息：錯誤代碼{1000-9999}。",
                "{city}辦公室的{person}也遇到同樣情況，但只在表格超過{20-300}列時發生。",
                "紀錄顯示，一小時內閘道與帳務服務之間逾時{3-48}次。",
                "我們請對方提供畫面截圖與所在時區，{4-50}分鐘內就收到回覆。",
                "退回前一個版本後問題消失，因此很可能與快取的變更有關。",
                "目前的替代做法：在設定中關閉預覽功能，再重新登入。",
                "合約約定{2-24}小時內回覆，現已過了{1-9}小時。",
            ),
        ),
        Topic(
            "病歷",
            "ward-notes",
            (
                "病患{31-88}歲，{day}因咳嗽持續{4-21}天前來就診。",
                "體溫{36-39}.{0-9}度，脈搏每分鐘{58-112}下，血壓{105-165}／{62-98}毫米汞柱。",
                "除{1998-2022}年使用盤尼西林後起疹之外，無其他已知過敏。",
                "左側呼吸音清晰，右下肺稍弱。",
                "{person}醫師安排胸部X光與血液檢查，結果於晚間巡房前判讀。",
                "睡眠不佳，食慾逐漸恢復，疼痛指數由{5-9}分降至{1-4}分。",
                "因輕微頭暈，劑量調降為每日兩次、每次{5-40}毫克。",
                "家屬住在{city}，週末可接病患返家，{2-8}週後回診。",
            ),
        ),
        Topic(
            "物流",
            "dispatch",
            (
                "貨櫃{1000-9999}號裝載{12-480}箱{product}，於{day}{10-23}時{10-59}分自{city}出發。",
                "{city}海關要求補交產地證明，{person}已於當日下午寄出。",
                "因橋梁封閉，貨車抵達轉運站的時間晚了{15-190}分鐘。",
                "{40-900}個棧板之中有{1-12}個下層出現水漬，已另行放置。",
                "承運的{company}可提供{month}{2-28}日的船位。",
                "依目前出貨速度，{city}倉庫的存量足夠{3-45}天使用。",
                "全程冷鏈溫度維持在{2-5}度到{6-8}度之間。",
                "簽收單與照片已附上，其中兩件由鄰居代收。",
            ),
        ),
        Topic(
            "會議紀錄",
            "meetings",
            (
                "出席者為{person}、{person}以及{city}的{4-17}位同仁，{person}請假。",
                "{day}的會議紀錄修正第{2-9}節一處後通過。",
                "搬遷新辦公室的費用比原計畫多出{15-220}萬元，財務部將重新檢視租約。",
                "{person}說明{product}的時程：{month}先提供給首批客戶，{2-9}週後全面開放。",
                "小組傾向由{company}單獨供應，前提是單價不超過{20-140}元。",
                "人力方面有{2-14}個職缺，已發出{1-9}份錄取通知，{city}的人選婉拒。",
                "育嬰留職停薪的代理安排留待下次會議討論。",
                "會議於下午{2-6}時結束，下次會議訂於{day}，地點為{2-40}號會議室。",
            ),
        ),
        Topic(
            "模型回答",
            "assistant",
            (
                "這件事有{2-6}種做法，哪一種合適，要看{product}的使用頻率。",
                "簡單來說：先量測，一次只改一個地方，並把原來的數值留著。",
                "{month}到{city}旅行，三天足以走完老城區與博物館一帶。",
                "{30-400}筆讀數的平均為{12-88}，若不看離散程度，意義有限，兩者應一併考慮。",
                "這份食譜為{2-8}人份：麵粉{150-650}公克、雞蛋{2-5}顆、少許鹽，還要一點耐心。",
                "若清單已經排序，二分搜尋大約只需{8-24}步。",
                "請注意，{2001-2023}年的資料與{person}的說法並不一致。",
                "最後一個數字我不太確定，請與{company}的年報核對。",
            ),
        ),
    ),
}

WORDS: dict[Language, dict[str, tuple[str, ...]]] = {
    "en": {
        "company": (
            "Northgate Foods",
            "Halden & Sons",
            "Kestrel Optics",
            "Brightwater Rail",
            "Oriel Paper",
            "Marlow Bio",
        ),
        "city": ("Taipei", "Leeds", "Zürich", "Osaka", "São Paulo", "Gdansk", "Toronto", "Nairobi", "Málaga"),
        "person": (
            "Ms. Okafor",
            "Mr. Lindqvist",
            "Anna Rossi",
            "J. Whitfield",
            "Priya Raman",
            "Tomás Peña",
            "Mei-Ling Chou",
        ),
        "product": (
            "pump controllers",
            "billing clients",
            "lens mounts",
            "oat drinks",
            "route planners",
            "seat covers",
        ),
        "quarter": ("first", "second", "third", "fourth"),
        "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"),
        "month": ("January", "March", "April", "June", "September", "October", "November"),
    },
    "zh": {
        "company": ("北門食品", "海登精密", "紅隼光學", "明水軌道", "東方紙業", "青禾生技"),
        "city": ("臺北", "高雄", "臺中", "新竹", "大阪", "香港", "新加坡", "雪梨"),
        "person": ("陳怡君", "林志明", "王淑芬", "張家豪", "李美玲", "黃國倫", "周雅婷"),
        "product": ("幫浦控制器", "帳務系統", "鏡頭接環", "燕麥飲品", "路線規劃軟體", "座椅套件"),
        "quarter": ("第一季", "第二季", "第三季", "第四季"),
        "day": ("星期一", "星期二", "星期三", "星期四", "星期五", "星期六"),
        "month": ("一月", "三月", "四月", "六月", "九月", "十月", "十一月"),
    },
}

URGENT: dict[Language, tuple[str, ...]] = {
    "en": (
        "This is urgent: please call back before noon.",
        "The line has to be stopped immediately.",
        "Treat this as an emergency until it is ruled out.",
    ),
    "zh": ("此事緊急，請於中午前回電。", "請立即停止該產線。", "在排除之前，請以緊急事件處理。"),
}

UNHURRIED: dict[Language, tuple[str, ...]] = {
    "en": ("This is only a draft for discussion.", "The figures are a sample and stand for no real customer."),
    "zh": ("這只是供討論的草稿。", "以上數字僅為測試資料，不代表任何真實客戶。"),
}
