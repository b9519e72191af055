"""Nobody here while Orthanc receives two hundred films; then watcher and worker come up and audit each of them once."""

from pathlib import Path

from sqlalchemy import select

from service.app import open_database
from service.db.tables import AuditRow, EventRow
from service.settings import Settings
from tests.service.pacs.conftest import count, watching
from tests.service.pacs.films import film
from tests.service.pacs.peers import on_loopback_only, orthanc_in, wait_until
from tests.service.serving import serving
from tests.tiny import TinyClassifier, export_tiny

FILMS = 200


@on_loopback_only
def test_every_film_has_one_verdict(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    export_tiny(TinyClassifier().eval(), models / "tiny.onnx")
    with orthanc_in(tmp_path / "orthanc").running() as archive:
        for number in range(FILMS):
            archive.post("/instances", content=film(number, side=16)).raise_for_status()
        settings = Settings(
            data_dir=tmp_path / "data", models_dir=models, decoders=1, orthanc_url=str(archive.base_url)
        )
        with serving(settings), watching(settings), open_database(settings) as database:
            wait_until(lambda: count(database, AuditRow) == FILMS, seconds=200)
            with database.read() as session:
                completed = select(EventRow.subject).where(EventRow.kind == "audit.completed")
                subjects = session.scalars(completed).all()
                films = session.scalars(select(AuditRow.film_sha256)).all()
    assert len(subjects) == len(set(subjects)) == len(set(films)) == FILMS
