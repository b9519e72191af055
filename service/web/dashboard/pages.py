"""The pages at `/`: their routers, their static files, and how they tell of problems."""

from fastapi import APIRouter, FastAPI
from fastapi.staticfiles import StaticFiles

from service.web.dashboard import desk, exports, machinery, people, watch_list
from service.web.dashboard.rendering import HERE, problem_page

ROUTERS: tuple[APIRouter, ...] = (desk.router, watch_list.router, people.router, machinery.router, exports.router)


def install(app: FastAPI) -> None:
    app.state.problem_page = problem_page
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
