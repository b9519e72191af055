"""A film's reasons are the same to everybody who is told of them."""

import json

import httpx

from service.app import open_database
from service.pacs.results.report import findings_of
from service.pacs.results.webhook import payload
from service.records import pacs_queries
from service.settings import Settings
from tests.service.serving import png


def test_api_webhook_and_report_say_the_same_of_a_mismatch(client: httpx.Client, shared_settings: Settings) -> None:
    deployed = {"Atelectasis": 1.0, "Effusion": 0.0}
    headers = {"Content-Type": "image/png", "Triggerscope-Probabilities": json.dumps(deployed)}
    audit = client.post("/v1/audits", content=png(751), headers=headers).json()
    assert audit["reasons"][0].startswith("the deployed classifier gave")
    assert len(audit["reasons"]) > 1
    with open_database(shared_settings) as database, database.read() as session:
        job = pacs_queries.audited_job(session, audit["id"])
        assert job is not None
        assert job.audit is not None
        assert payload(job, job.audit)["data"]["reasons"] == audit["reasons"]
        assert list(findings_of(job.audit, job.comparisons).reasons) == audit["reasons"]
