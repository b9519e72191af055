import re
from pathlib import Path

import pytest

from service.pacs.rules import Rules, RulesError, explain, load_rules, route
from tests.conftest import REPOSITORY

TEXT = """
[[rule]]
name = "emergency"
classifier = "nih-clean"
policy = "nih-clean-er"
results = [{kinds = ["sr", "sc"], destination = "pacs"}]
[rule.when]
station = ["ER*"]
view_position = ["PA", "AP"]

[[rule]]
name = "chest"
when = {body_part = ["CHEST", "THORAX"]}

[[destination]]
name = "pacs"
stow_url = "http://localhost:8042/dicom-web/studies"
"""


def rules_of(tmp_path: Path, text: str = TEXT) -> Rules:
    path = tmp_path / "rules.toml"
    path.write_text(text)
    return load_rules(path)


def test_the_first_rule_that_fits_wins(tmp_path: Path) -> None:
    rules = rules_of(tmp_path)
    first = route(rules, {"station": "er2", "view_position": "PA", "body_part": "CHEST"})
    second = route(rules, {"station": "ER2", "view_position": "LL", "body_part": "CHEST"})
    assert (first.rule and first.rule.name, second.rule and second.rule.name) == ("emergency", "chest")


def test_the_documented_file_is_understood(tmp_path: Path) -> None:
    [text] = re.findall(r"```\n(\[\[rule\]\].*?)```", (REPOSITORY / "docs" / "pacs.md").read_text(), re.DOTALL)
    rules = rules_of(tmp_path, text)
    wanted = {destination.name: destination.wanted_proof for destination in rules.destination}
    assert wanted == {"archive": "read_back", "pacs": "commitment", "desk": "none"}


def test_a_missing_value_fulfils_no_condition(tmp_path: Path) -> None:
    routing = route(rules_of(tmp_path), {"body_part": ""})
    assert routing.unmatched
    assert [trial.failed for trial in routing.trials] == ["view_position", "body_part"]


def test_without_rules_nothing_is_unmatched() -> None:
    assert not route(load_rules(None), {}).unmatched
    assert "no result leaves" in explain(route(Rules(), {}), {})


def test_the_explanation_says_why(tmp_path: Path) -> None:
    rules = rules_of(tmp_path)
    facts = {"view_position": "PA", "station": "W1", "body_part": "CHEST"}
    said = explain(route(rules, facts), facts)
    assert said == (
        "rule chest fits: the default classifier; results: none leave; rule emergency: station is W1, wanted ER*"
    )
    facts["station"] = "ER1"
    assert "nih-clean under nih-clean-er; results: sr, sc to pacs" in explain(route(rules, facts), facts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[rule]\n", "not TOML"),
        ('[[rule]]\nname = "a"\nwhat = 1', "rule.0.what"),
        ('[[rule]]\nname = "a"\n[[rule]]\nname = "a"', "same name"),
        ('[[rule]]\nname = "a"\nresults = [{destination = "b"}]', "no destination b"),
        ('[[destination]]\nname = "a"\nhost = "h"', "one of stow_url"),
        ('[[destination]]\nname = "a"\nwebhook_url = "https://h"', "needs secret_file"),
        ('[[destination]]\nname = "a"\nstow_url = "http://h"\nproof = "find"', "proof is one of none, read_back"),
        (TEXT.replace('"sc"', '"json"'), "kind json goes to a webhook"),
    ],
)
def test_a_file_that_is_not_understood_is_refused_as_a_whole(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RulesError, match=message):
        rules_of(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match="cannot be read"):
        load_rules(tmp_path / "none.toml")
