"""The words of the demo data: eight languages, every entry written by hand, in the same order everywhere.

Entry ``i`` of a list means the same thing in every language, so that a sentence is made in all of them from one tuple
of indices. Inflection is avoided where possible (numbers from two upwards, present tense, no pronouns); what is left is
spelled out: Russian cases and plural forms, Turkish suffixes, Spanish and Hindi gender, Chinese measure words, and
Swahili nouns of one class (N), so that one form of each numeral agrees with all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LANGUAGES", "SMALLEST_NUMBER", "Language"]

SMALLEST_NUMBER = 2
"""The number that ``Language.numbers[0]`` spells."""


@dataclass(frozen=True)
class Language:
    """One language of the demo data.

    Attributes:
        code: The ISO 639-1 code.
        name: The English name.
        share: The share of training documents.
        names: Ten personal names per case; ``nom`` always, others where the templates need them.
        female: Which of the ten names take feminine agreement (used by Hindi verbs).
        numbers: The numerals two to twelve.
        counted: How a numeral and a noun stand together: fields ``number``, ``noun``, ``measure``.
        things: Eight countable nouns; ``many`` is the form after large numbers, others as the language needs
            (``few`` after 2-4, ``two`` for its own form of the numeral two, ``measure``, ``how``, ``given``).
        problems: A template per kind of problem.
        answer: The word before the answer.
        places: Eight places: ``at`` with its preposition, ``is`` as what follows "where".
        days: Seven days, Monday first, as adverbs (``on``) and as nouns (``noun``).
        activities: Eight activities; ``verb`` and ``object`` apart where word order needs it (``f``: feminine form).
        colours: Six colours as nouns.
        weather: Four clauses.
        sentences: A template per kind of plain sentence.
        joiner: What stands between two sentences.
    """

    code: str
    name: str
    share: float
    names: dict[str, tuple[str, ...]]
    numbers: tuple[str, ...]
    counted: str
    things: tuple[dict[str, str], ...]
    problems: dict[str, str]
    answer: str
    places: dict[str, tuple[str, ...]]
    days: dict[str, tuple[str, ...]]
    activities: dict[str, tuple[str, ...]]
    colours: tuple[str, ...]
    weather: tuple[str, ...]
    sentences: dict[str, str]
    female: tuple[bool, ...] = (True, False, True, False, True, False, True, False, True, False)
    joiner: str = " "


def _words(text: str) -> tuple[str, ...]:
    """Split a comma-separated list."""
    return tuple(word.strip() for word in text.split(","))


def _things(**columns: str) -> tuple[dict[str, str], ...]:
    """Turn columns of comma-separated forms into one dictionary per noun."""
    rows = zip(*(_words(column) for column in columns.values()), strict=True)
    return tuple(dict(zip(columns, row, strict=True)) for row in rows)


_LATIN = _words("Sara, Ivan, Anna, David, Maria, Omar, Lina, Tom, Nina, Ali")

_ENGLISH = Language(
    code="en",
    name="English",
    share=0.42,
    names={"nom": _LATIN},
    numbers=_words("two, three, four, five, six, seven, eight, nine, ten, eleven, twelve"),
    counted="{number} {noun}",
    things=_things(many="bananas, pens, plates, bottles, hats, coins, letters, photos"),
    problems={
        "total": "{a} has {n}. {b} has {m}. How many {many} are there in total?",
        "left": "{a} has {n}. {a} gives {b} {m}. How many {many} does {a} have now?",
        "more": "{a} has {n}. {b} has {m}. How many more {many} does {a} have than {b}?",
    },
    answer="Answer:",
    places={
        "at": _words(
            "at the market, at school, at the hospital, at the library, in the park, in the kitchen, at the hotel, "
            "at the station"
        ),
        "is": _words(
            "the market is, the school is, the hospital is, the library is, the park is, the kitchen is, the hotel is, "
            "the station is"
        ),
    },
    days={
        "on": _words("On Monday, On Tuesday, On Wednesday, On Thursday, On Friday, On Saturday, On Sunday"),
        "noun": _words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
    },
    activities={
        "verb": _words(
            "is reading a book, is drinking tea, is eating bread, is singing a song, is writing a letter, is sleeping, "
            "is working, is dancing"
        )
    },
    colours=_words("red, blue, green, white, black, yellow"),
    weather=_words("it is cold, it is hot, it is windy, it is raining"),
    sentences={
        "has": "{a} has {n}.",
        "does": "{on} {a} {verb} {at}.",
        "both": "{a} and {b} are {at}.",
        "colour": "{a}'s favourite colour is {colour}.",
        "weather": "Today is {day} and {weather}.",
        "where": "{a} asks {b} where {is_}.",
    },
)

_GERMAN = Language(
    code="de",
    name="German",
    share=0.17,
    names={"nom": _LATIN},
    numbers=_words("zwei, drei, vier, fünf, sechs, sieben, acht, neun, zehn, elf, zwölf"),
    counted="{number} {noun}",
    things=_things(many="Bananen, Stifte, Teller, Flaschen, Hüte, Münzen, Briefe, Fotos"),
    problems={
        "total": "{a} hat {n}. {b} hat {m}. Wie viele {many} sind es insgesamt?",
        "left": "{a} hat {n}. {a} gibt {b} {m}. Wie viele {many} hat {a} jetzt?",
        "more": "{a} hat {n}. {b} hat {m}. Wie viele {many} hat {a} mehr als {b}?",
    },
    answer="Antwort:",
    places={
        "at": _words(
            "auf dem Markt, in der Schule, im Krankenhaus, in der Bibliothek, im Park, in der Küche, im Hotel, "
            "am Bahnhof"
        ),
        "is": _words(
            "der Markt ist, die Schule ist, das Krankenhaus ist, die Bibliothek ist, der Park ist, die Küche ist, "
            "das Hotel ist, der Bahnhof ist"
        ),
    },
    days={
        "on": _words("Am Montag, Am Dienstag, Am Mittwoch, Am Donnerstag, Am Freitag, Am Samstag, Am Sonntag"),
        "noun": _words("Montag, Dienstag, Mittwoch, Donnerstag, Freitag, Samstag, Sonntag"),
    },
    activities={
        "verb": _words("liest, trinkt, isst, singt, schreibt, schläft, arbeitet, tanzt"),
        "object": (" ein Buch", " Tee", " Brot", " ein Lied", " einen Brief", "", "", ""),
    },
    colours=_words("Rot, Blau, Grün, Weiß, Schwarz, Gelb"),
    weather=_words("es ist kalt, es ist heiß, es ist windig, es regnet"),
    sentences={
        "has": "{a} hat {n}.",
        "does": "{on} {verb} {a} {at}{object}.",
        "both": "{a} und {b} sind {at}.",
        "colour": "{a}s Lieblingsfarbe ist {colour}.",
        "weather": "Heute ist {day} und {weather}.",
        "where": "{a} fragt {b}, wo {is_}.",
    },
)

_SPANISH = Language(
    code="es",
    name="Spanish",
    share=0.13,
    names={"nom": _LATIN},
    numbers=_words("dos, tres, cuatro, cinco, seis, siete, ocho, nueve, diez, once, doce"),
    counted="{number} {noun}",
    things=_things(
        many="plátanos, bolígrafos, platos, botellas, sombreros, monedas, cartas, fotos",
        how="Cuántos, Cuántos, Cuántos, Cuántas, Cuántos, Cuántas, Cuántas, Cuántas",
    ),
    problems={
        "total": "{a} tiene {n}. {b} tiene {m}. ¿{how} {many} hay en total?",
        "left": "{a} tiene {n}. {a} le da {m} a {b}. ¿{how} {many} tiene {a} ahora?",
        "more": "{a} tiene {n}. {b} tiene {m}. ¿{how} {many} más tiene {a} que {b}?",
    },
    answer="Respuesta:",
    places={
        "at": _words(
            "en el mercado, en la escuela, en el hospital, en la biblioteca, en el parque, en la cocina, en el hotel, "
            "en la estación"
        ),
        "is": _words(
            "está el mercado, está la escuela, está el hospital, está la biblioteca, está el parque, está la cocina, "
            "está el hotel, está la estación"
        ),
    },
    days={
        "on": _words("El lunes, El martes, El miércoles, El jueves, El viernes, El sábado, El domingo"),
        "noun": _words("lunes, martes, miércoles, jueves, viernes, sábado, domingo"),
    },
    activities={
        "verb": _words("lee un libro, bebe té, come pan, canta una canción, escribe una carta, duerme, trabaja, baila")
    },
    colours=_words("el rojo, el azul, el verde, el blanco, el negro, el amarillo"),
    weather=_words("hace frío, hace calor, hace viento, llueve"),
    sentences={
        "has": "{a} tiene {n}.",
        "does": "{on} {a} {verb} {at}.",
        "both": "{a} {and_} {b} están {at}.",
        "colour": "El color favorito de {a} es {colour}.",
        "weather": "Hoy es {day} y {weather}.",
        "where": "{a} le pregunta a {b} dónde {is_}.",
    },
)

_RUSSIAN = Language(
    code="ru",
    name="Russian",
    share=0.10,
    names={
        "nom": _words("Сара, Иван, Анна, Давид, Мария, Омар, Лина, Том, Нина, Али"),
        "gen": _words("Сары, Ивана, Анны, Давида, Марии, Омара, Лины, Тома, Нины, Али"),
        "dat": _words("Саре, Ивану, Анне, Давиду, Марии, Омару, Лине, Тому, Нине, Али"),
        "acc": _words("Сару, Ивана, Анну, Давида, Марию, Омара, Лину, Тома, Нину, Али"),
    },
    numbers=_words("два, три, четыре, пять, шесть, семь, восемь, девять, десять, одиннадцать, двенадцать"),
    counted="{number} {noun}",
    things=_things(
        few="банана, ручки, тарелки, бутылки, шляпы, монеты, письма, фотографии",
        many="бананов, ручек, тарелок, бутылок, шляп, монет, писем, фотографий",
        two="два, две, две, две, две, две, два, две",
    ),
    problems={
        "total": "У {a_gen} {n}. У {b_gen} {m}. Сколько всего {many}?",
        "left": "У {a_gen} {n}. {a} даёт {b_dat} {m}. Сколько {many} теперь у {a_gen}?",
        "more": "У {a_gen} {n}. У {b_gen} {m}. На сколько {many} больше у {a_gen}, чем у {b_gen}?",
    },
    answer="Ответ:",
    places={
        "at": _words("на рынке, в школе, в больнице, в библиотеке, в парке, на кухне, в гостинице, на вокзале"),
        "is": _words("рынок, школа, больница, библиотека, парк, кухня, гостиница, вокзал"),
    },
    days={
        "on": _words("В понедельник, Во вторник, В среду, В четверг, В пятницу, В субботу, В воскресенье"),
        "noun": _words("понедельник, вторник, среда, четверг, пятница, суббота, воскресенье"),
    },
    activities={"verb": _words("читает книгу, пьёт чай, ест хлеб, поёт песню, пишет письмо, спит, работает, танцует")},
    colours=_words("красный, синий, зелёный, белый, чёрный, жёлтый"),
    weather=_words("холодно, жарко, ветрено, идёт дождь"),
    sentences={
        "has": "У {a_gen} {n}.",
        "does": "{on} {a} {verb} {at}.",
        "both": "{a} и {b} {at}.",
        "colour": "Любимый цвет {a_gen} — {colour}.",
        "weather": "Сегодня {day}, и на улице {weather}.",
        "where": "{a} спрашивает {b_acc}, где {is_}.",
    },
)

_CHINESE = Language(
    code="zh",
    name="Chinese",
    share=0.07,
    names={"nom": _words("萨拉, 伊万, 安娜, 大卫, 玛丽亚, 奥马尔, 莉娜, 汤姆, 尼娜, 阿里")},
    numbers=_words("二, 三, 四, 五, 六, 七, 八, 九, 十, 十一, 十二"),
    counted="{number}{measure}{noun}",
    things=_things(
        many="香蕉, 钢笔, 盘子, 瓶子, 帽子, 硬币, 信, 照片",
        measure="根, 支, 个, 个, 顶, 枚, 封, 张",
        two="两, 两, 两, 两, 两, 两, 两, 两",
    ),
    problems={
        "total": "{a}有{n}。{b}有{m}。一共有多少{measure}{many}？",
        "left": "{a}有{n}。{a}给了{b}{m}。{a}现在有多少{measure}{many}？",
        "more": "{a}有{n}。{b}有{m}。{a}比{b}多多少{measure}{many}？",
    },
    answer="答案:",
    places={
        "at": _words("在市场, 在学校, 在医院, 在图书馆, 在公园, 在厨房, 在酒店, 在车站"),
        "is": _words("市场, 学校, 医院, 图书馆, 公园, 厨房, 酒店, 车站"),
    },
    days={
        "on": _words("星期一, 星期二, 星期三, 星期四, 星期五, 星期六, 星期日"),
        "noun": _words("星期一, 星期二, 星期三, 星期四, 星期五, 星期六, 星期日"),
    },
    activities={"verb": _words("看书, 喝茶, 吃面包, 唱歌, 写信, 睡觉, 工作, 跳舞")},
    colours=_words("红色, 蓝色, 绿色, 白色, 黑色, 黄色"),
    weather=_words("天气很冷, 天气很热, 风很大, 外面在下雨"),
    sentences={
        "has": "{a}有{n}。",
        "does": "{on}，{a}{at}{verb}。",
        "both": "{a}和{b}{at}。",
        "colour": "{a}最喜欢的颜色是{colour}。",
        "weather": "今天是{day}，{weather}。",
        "where": "{a}问{b}{is_}在哪里。",
    },
    joiner="",
)

_TURKISH = Language(
    code="tr",
    name="Turkish",
    share=0.05,
    names={
        "nom": _words("Sara, İvan, Anna, David, Maria, Omar, Lina, Tom, Nina, Ali"),
        "loc": _words("Sara'da, İvan'da, Anna'da, David'de, Maria'da, Omar'da, Lina'da, Tom'da, Nina'da, Ali'de"),
        "dat": _words("Sara'ya, İvan'a, Anna'ya, David'e, Maria'ya, Omar'a, Lina'ya, Tom'a, Nina'ya, Ali'ye"),
        "gen": _words("Sara'nın, İvan'ın, Anna'nın, David'in, Maria'nın, Omar'ın, Lina'nın, Tom'un, Nina'nın, Ali'nin"),
        "from": _words(
            "Sara'dakinden, İvan'dakinden, Anna'dakinden, David'dekinden, Maria'dakinden, Omar'dakinden, "
            "Lina'dakinden, Tom'dakinden, Nina'dakinden, Ali'dekinden"
        ),
    },
    numbers=_words("iki, üç, dört, beş, altı, yedi, sekiz, dokuz, on, on bir, on iki"),
    counted="{number} {noun}",
    things=_things(many="muz, kalem, tabak, şişe, şapka, madeni para, mektup, fotoğraf"),
    problems={
        "total": "{a_loc} {n} var. {b_loc} {m} var. Toplam kaç {many} var?",
        "left": "{a_loc} {n} var. {a}, {b_dat} {m} veriyor. {a_loc} şimdi kaç {many} var?",
        "more": "{a_loc} {n} var. {b_loc} {m} var. {a_loc} {b_from} kaç {many} fazla var?",
    },
    answer="Cevap:",
    places={
        "at": _words("pazarda, okulda, hastanede, kütüphanede, parkta, mutfakta, otelde, istasyonda"),
        "is": _words("pazarın, okulun, hastanenin, kütüphanenin, parkın, mutfağın, otelin, istasyonun"),
    },
    days={
        "on": _words("Pazartesi günü, Salı günü, Çarşamba günü, Perşembe günü, Cuma günü, Cumartesi günü, Pazar günü"),
        "noun": _words("pazartesi, salı, çarşamba, perşembe, cuma, cumartesi, pazar"),
    },
    activities={
        "verb": _words(
            "kitap okuyor, çay içiyor, ekmek yiyor, şarkı söylüyor, mektup yazıyor, uyuyor, çalışıyor, dans ediyor"
        )
    },
    colours=_words("kırmızı, mavi, yeşil, beyaz, siyah, sarı"),
    weather=_words("hava soğuk, hava sıcak, hava rüzgârlı, hava yağmurlu"),
    sentences={
        "has": "{a_loc} {n} var.",
        "does": "{on} {a} {at} {verb}.",
        "both": "{a} ve {b} {at}.",
        "colour": "{a_gen} en sevdiği renk {colour}.",
        "weather": "Bugün {day} ve {weather}.",
        "where": "{a}, {b_dat} {is_} nerede olduğunu soruyor.",
    },
)

_HINDI = Language(
    code="hi",
    name="Hindi",
    share=0.035,
    names={"nom": _words("सारा, इवान, अन्ना, डेविड, मारिया, उमर, लीना, टॉम, नीना, अली")},
    numbers=_words("दो, तीन, चार, पाँच, छह, सात, आठ, नौ, दस, ग्यारह, बारह"),
    counted="{number} {noun}",
    things=_things(
        many="केले, कलमें, प्लेटें, बोतलें, टोपियाँ, सिक्के, चिट्ठियाँ, तस्वीरें",
        how="कितने, कितनी, कितनी, कितनी, कितनी, कितने, कितनी, कितनी",
        given="दिए, दीं, दीं, दीं, दीं, दिए, दीं, दीं",
    ),
    problems={
        "total": "{a} के पास {n} हैं। {b} के पास {m} हैं। कुल {how} {many} हैं?",
        "left": "{a} के पास {n} हैं। {a} ने {b} को {m} {given}। अब {a} के पास {how} {many} हैं?",
        "more": "{a} के पास {n} हैं। {b} के पास {m} हैं। {a} के पास {b} से {how} {many} ज़्यादा हैं?",
    },
    answer="उत्तर:",
    places={
        "at": _words("बाज़ार में, स्कूल में, अस्पताल में, पुस्तकालय में, पार्क में, रसोई में, होटल में, स्टेशन पर"),
        "is": _words("बाज़ार, स्कूल, अस्पताल, पुस्तकालय, पार्क, रसोई, होटल, स्टेशन"),
    },
    days={
        "on": _words("सोमवार को, मंगलवार को, बुधवार को, गुरुवार को, शुक्रवार को, शनिवार को, रविवार को"),
        "noun": _words("सोमवार, मंगलवार, बुधवार, गुरुवार, शुक्रवार, शनिवार, रविवार"),
    },
    activities={
        "verb": _words(
            "किताब पढ़ रहा है, चाय पी रहा है, रोटी खा रहा है, गाना गा रहा है, चिट्ठी लिख रहा है, "
            "सो रहा है, काम कर रहा है, नाच रहा है"
        ),
        "f": _words(
            "किताब पढ़ रही है, चाय पी रही है, रोटी खा रही है, गाना गा रही है, चिट्ठी लिख रही है, "
            "सो रही है, काम कर रही है, नाच रही है"
        ),
    },
    colours=_words("लाल, नीला, हरा, सफ़ेद, काला, पीला"),
    weather=_words("ठंड है, गर्मी है, हवा चल रही है, बारिश हो रही है"),
    sentences={
        "has": "{a} के पास {n} हैं।",
        "does": "{on} {a} {at} {verb}।",
        "both": "{a} और {b} {at} हैं।",
        "colour": "{a} का पसंदीदा रंग {colour} है।",
        "weather": "आज {day} है और {weather}।",
        "where": "{a} {b} से {asks} कि {is_} कहाँ है।",
    },
)

_SWAHILI = Language(
    code="sw",
    name="Swahili",
    share=0.025,
    names={"nom": _LATIN},
    numbers=_words("mbili, tatu, nne, tano, sita, saba, nane, tisa, kumi, kumi na moja, kumi na mbili"),
    counted="{noun} {number}",
    things=_things(many="ndizi, kalamu, sahani, chupa, kofia, sarafu, barua, picha"),
    problems={
        "total": "{a} ana {n}. {b} ana {m}. Kuna {many} ngapi kwa jumla?",
        "left": "{a} ana {n}. {a} anampa {b} {m}. Sasa {a} ana {many} ngapi?",
        "more": "{a} ana {n}. {b} ana {m}. {a} ana {many} ngapi zaidi kuliko {b}?",
    },
    answer="Jibu:",
    places={
        "at": _words("sokoni, shuleni, hospitalini, maktabani, bustanini, jikoni, hotelini, kituoni"),
        "is": _words(
            "soko liko, shule iko, hospitali iko, maktaba iko, bustani iko, jiko liko, hoteli iko, kituo kiko"
        ),
    },
    days={
        "on": _words("Jumatatu, Jumanne, Jumatano, Alhamisi, Ijumaa, Jumamosi, Jumapili"),
        "noun": _words("Jumatatu, Jumanne, Jumatano, Alhamisi, Ijumaa, Jumamosi, Jumapili"),
    },
    activities={
        "verb": _words(
            "anasoma kitabu, anakunywa chai, anakula mkate, anaimba wimbo, anaandika barua, analala, anafanya kazi, "
            "anacheza ngoma"
        )
    },
    colours=_words("nyekundu, bluu, kijani, nyeupe, nyeusi, njano"),
    weather=_words("kuna baridi, kuna joto, kuna upepo, kuna mvua"),
    sentences={
        "has": "{a} ana {n}.",
        "does": "{on} {a} {verb} {at}.",
        "both": "{a} na {b} wako {at}.",
        "colour": "Rangi anayoipenda {a} ni {colour}.",
        "weather": "Leo ni {day} na {weather}.",
        "where": "{a} anamuuliza {b} {is_} wapi.",
    },
)

LANGUAGES: dict[str, Language] = {
    language.code: language
    for language in (_ENGLISH, _GERMAN, _SPANISH, _RUSSIAN, _CHINESE, _TURKISH, _HINDI, _SWAHILI)
}
"""The languages by code, in falling order of training share."""
