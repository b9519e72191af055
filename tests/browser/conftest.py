"""Debian's Chromium against the real service; accounts, two readers, films of the shipped examples."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from service.app import open_database
from service.people import accounts
from service.settings import Settings
from tests.conftest import unavailable
from tests.service.serving import serving

PASSWORD = "correct horse battery"
NAMES = {"ada": "reviewer", "bob": "reviewer", "root": "administrator"}


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        unavailable("Chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def desk_settings(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Settings:
    return Settings(
        data_dir=tmp_path_factory.mktemp("desk"),
        models_dir=models_dir,
        default_classifier="phantom-badnet3",
        review_readers=2,
        poll_seconds=0.05,
        decoders=1,
        lease_seconds=300,
    )


@pytest.fixture(scope="session")
def service(desk_settings: Settings) -> Iterator[httpx.Client]:
    with serving(desk_settings) as client:
        with open_database(desk_settings) as database:
            for name, role in NAMES.items():
                accounts.create(database, name, role, PASSWORD, "test")
        yield client


def logged_in(chromium: Browser, service: httpx.Client, name: str, **options: object) -> Page:
    context = chromium.new_context(base_url=str(service.base_url), **options)
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto("/")
    page.fill("[name=name]", name)
    page.fill("[name=password]", PASSWORD)
    page.click("button.primary")
    page.wait_for_url("**/")
    return page


@pytest.fixture
def ada(chromium: Browser, service: httpx.Client) -> Iterator[Page]:
    page = logged_in(chromium, service, "ada")
    yield page
    page.context.close()


@pytest.fixture
def bob(chromium: Browser, service: httpx.Client) -> Iterator[Page]:
    page = logged_in(chromium, service, "bob")
    yield page
    page.context.close()
