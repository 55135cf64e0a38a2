"""The table of languages: against lists of other people, and against what langcodes knows of scripts."""

from __future__ import annotations

import langcodes
import pytest

from lm_eval_moe.errors import UserError
from lm_eval_moe.languages import canonical_language
from lm_eval_moe.multilingual.languages import TIERS, known_languages, language_info

# ISO 639-3 codes of the classes of Joshi et al. 2020 (figure 1 and lang2tax.txt), as papers on FLORES transcribe them.
WINNERS = "arb cmn eng fra deu jpn spa"
UNDERDOGS = "eus cat hrv ces nld fin hin hun ita kor pes pol por rus srp swe tur vie"
RISING_STARS = (
    "afr arz ben bul dan ekk ell fil heb ind kaz ron tam tha ukr urd uzn zsm kat lat slv slk lvs lit bel glg bos ceb"
)
HOPEFUL_OR_LESS = "amh hau swh tsn xho yor zul mar gle pan isl lao mlt san tir wol tel jav ibo khm mya npi sin kin"


@pytest.mark.parametrize(
    ("codes", "tier"), [(WINNERS, "high"), (UNDERDOGS, "high"), (RISING_STARS, "mid"), (HOPEFUL_OR_LESS, "low")]
)
def test_tiers_follow_from_the_classes_of_joshi_et_al(codes, tier):
    assert {code: language_info(code).tier for code in codes.split()} == dict.fromkeys(codes.split(), tier)


def test_no_other_language_is_rich():
    listed = {canonical_language(code) for code in f"{WINNERS} {UNDERDOGS}".split()}
    # Another script of a language has the language's class.
    high = {tag.partition("-")[0] for tag, info in known_languages().items() if info.tier == "high"}
    assert high <= listed


def test_languages_that_the_list_does_not_name_have_no_tier():
    assert [language_info(tag).tier for tag in ("acm_Arab", "kea_Latn", "luo_Latn", "nqo_Nkoo")] == ["unknown"] * 4


def test_every_key_is_the_tag_that_the_package_uses():
    assert [tag for tag in known_languages() if canonical_language(tag) != tag] == []
    assert {info.tag for info in known_languages().values()} == set(known_languages())
    assert {info.tier for info in known_languages().values()} == set(TIERS)


def test_any_spelling_finds_the_language():
    swahili = language_info("sw")
    assert (swahili.name, swahili.script, swahili.family, swahili.branch) == (
        "Swahili",
        "Latn",
        "Atlantic-Congo",
        "Bantu",
    )
    assert language_info("swh_Latn") == language_info("swa") == language_info("SW") == swahili
    assert language_info("zho_Hant").script == "Hant"


def test_scripts_are_those_of_the_tags_or_else_the_usual_ones():
    # Where CLDR has another usual script than the benchmarks' text, or none.
    others = {"ks", "shi", "din", "taq", "kr", "nus", "mey", "ktu", "quy", "hmn", "apc", "lld", "kac"}
    wrong = {
        tag: info.script
        for tag, info in known_languages().items()
        if tag not in others and info.script != (tag.partition("-")[2] or langcodes.Language.get(tag).maximize().script)
    }
    assert wrong == {}


def test_a_branch_belongs_to_one_family():
    families: dict[str, set[str]] = {}
    for info in known_languages().values():
        if info.branch:
            families.setdefault(info.branch, set()).add(info.family)
    assert {branch: of for branch, of in families.items() if len(of) > 1} == {}


@pytest.mark.parametrize(("given", "said"), [("gsw", "is not in the table"), ("xx", "not a language code")])
def test_a_language_that_is_not_there_is_refused(given, said):
    with pytest.raises(UserError, match=said):
        language_info(given)
