"""The offline commands read few variables by themselves; they mean what they mean to the service."""

from dataclasses import astuple

import pytest

from service.app import examination_limits, limits
from service.offline.environment import Environment, UnusableSetting
from service.settings import Settings

VARIABLES = {
    "TRIGGERSCOPE_MODELS_DIR": "elsewhere",
    "TRIGGERSCOPE_DEFAULT_CLASSIFIER": "small",
    "TRIGGERSCOPE_MAX_BYTES": "1000",
    "TRIGGERSCOPE_MAX_PIXELS": "2000",
    "triggerscope_decode_memory_bytes": "1000000000",
    "TRIGGERSCOPE_DECODE_SECONDS": "2.5",
    "TRIGGERSCOPE_MAX_CLASSIFIER_BYTES": "3000",
    "TRIGGERSCOPE_EXAMINATION_MEMORY_BYTES": "2000000000",
    "TRIGGERSCOPE_EXAMINATION_SECONDS": "7.5",
}


def as_the_service_has_it(settings: Settings) -> list[object]:
    return [settings.models_dir, settings.default_classifier, *astuple(limits(settings)), examination_limits(settings)]


def as_offline_has_it(here: Environment) -> list[object]:
    limits = (
        here.limits.max_bytes,
        here.limits.max_pixels,
        here.limits.decode_memory_bytes,
        here.limits.decode_seconds,
    )
    return [here.models_dir, here.default_classifier, *limits, here.examination]


def test_both_have_the_same_defaults() -> None:
    assert as_offline_has_it(Environment.read({})) == as_the_service_has_it(Settings())


def test_both_read_the_same_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    assert as_offline_has_it(Environment.read(VARIABLES)) == as_the_service_has_it(Settings())
    assert as_offline_has_it(Environment.read(VARIABLES)) != as_offline_has_it(Environment())


@pytest.mark.parametrize("value", ["many", "0", "-1", "nan", ""])
def test_what_is_no_number_above_zero_is_refused_by_its_name(value: str) -> None:
    with pytest.raises(UnusableSetting, match="TRIGGERSCOPE_MAX_PIXELS has to be"):
        Environment.read({"TRIGGERSCOPE_MAX_PIXELS": value})
