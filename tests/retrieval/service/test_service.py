"""The service, over HTTP: what it finds is what the index finds, and it goes on whatever happens."""

from __future__ import annotations

import asyncio
import base64
import errno
import io
import json
import os
import resource
import shutil
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.service_process import Running
from infogan.photo import load_photo
from retrieval.generator import Generator
from retrieval.index import Index
from retrieval.service import workers
from retrieval.service.layout import k_means, principal, unfold
from retrieval.service.regions import agreement
from retrieval.service.workers import Workers
from tests.conftest import assert_user_error, command
from tests.forks import gone, poll
from tests.retrieval.service.conftest import make_index


def search(http: httpx.Client, photo: bytes, **fields: Any) -> httpx.Response:
    return http.post("/search", files={"photo": ("a", photo)}, data=fields)


def found(answer: httpx.Response) -> list[tuple[int, float]]:
    assert answer.status_code == 200, answer.text
    return [(result["id"], result["distance"]) for result in answer.json()["results"]]


def expected(index: Index, photo: bytes, k: int = 5, where: str | None = None) -> list[tuple[int, float]]:
    return [(hit.id, pytest.approx(hit.distance, abs=1e-5)) for hit in index.search(photo, k, where)]


def test_it_finds_what_the_index_finds(http: httpx.Client, index_directory: Path, photos: list[bytes]) -> None:
    index = Index(index_directory)
    assert found(search(http, photos[3])) == expected(index, photos[3])
    answer = search(http, photos[3], k=2, seen="yes").json()
    hit = index.search(photos[3], 2)[1]
    assert answer["results"][1]["path"] == hit.path and answer["results"][1]["attributes"] == hit.attributes
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["seen"].split(",")[1]))))
    np.testing.assert_array_equal(seen, load_photo(photos[3], index.extractor.fit))
    assert len(found(search(http, photos[3], k=100))) == 100


def test_filters_are_met(http: httpx.Client, index_directory: Path, photos: list[bytes]) -> None:
    index = Index(index_directory)
    filters = {"brand": ["brand 2's", "brand 3's"], "price": {"min": 40, "max": 90}}
    where = "brand IN ('brand 2''s', 'brand 3''s') AND price BETWEEN 40 AND 90"
    assert found(search(http, photos[0], filters=json.dumps(filters))) == expected(index, photos[0], 5, where)
    injected = {"brand": ["x') OR ('1' = '1"], 'price" > 0 OR "price': {"min": 0}}
    for name, wanted in injected.items():
        answer = search(http, photos[0], filters=json.dumps({name: wanted}))
        assert answer.status_code == 422 or answer.json()["results"] == []
    for wrong in ('{"nothing": ["x"]}', '{"brand": {"min": 1}}', '{"brand": []}', "{", '{"price": {"min": Infinity}}'):
        assert search(http, photos[0], filters=wrong).status_code == 422, wrong


def test_more_like_an_item(http: httpx.Client, index_directory: Path) -> None:
    index = Index(index_directory)
    vector = index.now.vectors(np.array([7]))
    nearest = [(hit.id, pytest.approx(hit.distance, abs=1e-5)) for hit in index.search_features(vector, 6)[0]]
    answer = http.post("/search/by-id", json={"id": 7, "k": 5})
    assert found(answer) == [pair for pair in nearest if pair[0] != 7]
    kind = index.now.attributes.of([7])[7]["kind"]  # type: ignore[union-attr]
    results = http.post("/search/by-id", json={"id": 7, "filters": {"kind": [kind]}}).json()["results"]
    assert results and all(result["attributes"]["kind"] == kind for result in results)
    assert http.post("/search/by-id", json={"id": 10_000}).status_code == 404
    assert http.get("/items/7").json()["path"] == index.now.place(7)[1]
    spread = http.get("/items", params={"k": 10, "filters": json.dumps({"kind": [kind]})}).json()
    assert len(spread["items"]) == 10 and spread["count"] > 10


def test_facets_count_what_would_be_found(http: httpx.Client, index_directory: Path) -> None:
    items = [known for _, known in sorted(Index(index_directory).now.attributes.of(range(120)).items())]  # type: ignore
    filters = {"kind": ["Boots"], "price": {"max": 100}}
    answer = http.get("/facets", params={"filters": json.dumps(filters)}).json()
    cheap = [item for item in items if item["price"] <= 100]
    assert answer["count"] == sum(item["kind"] == "Boots" for item in cheap)
    facets = {facet["name"]: facet for facet in answer["facets"]}
    kinds = {value["value"]: value["count"] for value in facets["kind"]["values"]}
    assert kinds == Counter(item["kind"] for item in cheap)
    brands = {value["value"]: value["count"] for value in facets["brand"]["values"]}
    assert sum(brands.values()) == answer["count"] and brands["brand 0's"] == sum(
        item["kind"] == "Boots" and item["brand"] == "brand 0's" for item in cheap
    )
    assert (facets["price"]["min"], facets["price"]["max"]) == (20, 139)


def test_the_map_keeps_alike_ones_together(http: httpx.Client, index_directory: Path) -> None:
    answer = http.get("/map").json()
    assert answer["ids"] == list(range(120)) and sum(cluster["count"] for cluster in answer["clusters"]) == 120
    assert all(0 <= value <= 1 for axis in ("x", "y") for value in answer[axis])
    some = http.get("/map", params={"filters": json.dumps({"kind": ["Boots"]})}).json()
    assert 0 < len(some["ids"]) < 120 and set(some["x"]) <= set(answer["x"])
    index = Index(index_directory)
    places = np.stack([answer["x"], answer["y"]], 1)
    near = [[hit.id for hit in hits[1:6]] for hits in index.search_features(index.now.vectors(index.now.ids), 6)]
    apart = np.linalg.norm(places[:, None] - places, axis=2)
    assert np.mean([apart[item, others].mean() for item, others in enumerate(near)]) < 0.5 * apart.mean()


def test_axes_and_clusters() -> None:
    random = np.random.default_rng(0)
    centres = np.array([[9.0, 0, 0], [-9, 0, 0], [0, 5, 0]])
    points = np.concatenate(
        [centre + random.standard_normal((n, 3)) for centre, n in zip(centres, (9, 30, 20), strict=True)]
    )
    clusters = k_means(points, 3)
    assert [len(set(clusters[part])) for part in (slice(9), slice(9, 39), slice(39, 59))] == [1, 1, 1]
    assert np.bincount(clusters).tolist() == [30, 20, 9]
    components = principal(points.astype(np.float32), 2)
    centred = points - points.mean(0)
    plane = unfold(np.tile(points, (3, 2)).astype(np.float32))  # every point is there three times
    apart = np.linalg.norm(plane[:, None] - plane, axis=2)
    own = np.tile(np.repeat([0, 1, 2], (9, 30, 20)), 3)
    assert apart[own[:, None] == own].mean() < 0.5 * apart[own[:, None] != own].mean()
    for count in (0, 1, 2):
        assert np.isfinite(unfold(np.zeros((count, 6), np.float32))).all()
    values = np.linalg.svd(centred, compute_uv=False)
    np.testing.assert_allclose(np.linalg.norm(components, axis=0), values[:2], rtol=1e-4)


def test_photos_are_those_of_items(http: httpx.Client, index_directory: Path, photos: list[bytes]) -> None:
    answer = http.get("/photos/5")
    assert answer.headers["content-type"] == "image/jpeg" and b"Exif" not in answer.content
    shown = np.asarray(Image.open(io.BytesIO(answer.content)), int)
    original = np.asarray(Image.open(io.BytesIO(photos[5])), int)
    assert shown.shape == original.shape and np.abs(shown - original).mean() < 6
    for wrong in ("/photos/120", "/photos/-1", "/photos/..%2f..%2fetc%2fpasswd", "/photos/5.jpg", "/static/app.py"):
        answer = http.get(wrong)
        assert answer.status_code in (404, 422) and "problem+json" in answer.headers["content-type"], wrong


def test_it_draws_and_finds(http: httpx.Client, index_directory: Path, drawing_extractor: Path) -> None:
    about = http.get("/about").json()
    assert about["draws"] and len(about["codes"]) == 2 and about["items"] == 120
    answer = http.post("/draw", json={"seed": 4, "codes": [0.5, -1], "k": 3})
    drawn = Generator(drawing_extractor).draw(4, np.array([[0.5, -1]], np.float32))[0]
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json()["seen"].split(",")[1]))))
    np.testing.assert_array_equal(seen, drawn)
    index = Index(index_directory)
    nearest = index.search_features(index.extractor.features(drawn[None]), 3)[0]
    assert [pair[0] for pair in found(answer)] == [hit.id for hit in nearest]
    for wrong in ([0.5], [0.5, 2], [0.5, "x"], None):
        assert http.post("/draw", json={"seed": 4, "codes": wrong}).status_code == 422
    assert http.post("/draw", json={"seed": 4, "codes": [0, 0], "category": 3}).status_code == 422


def test_why_two_are_alike(http: httpx.Client, photos: list[bytes]) -> None:
    forms: list[dict[str, Any]] = [
        {"files": {"photo": ("a", photos[3])}, "data": {"id": 3}},
        {"files": {"id": (None, "9"), "query": (None, "3")}},
    ]
    for form in forms:
        answer = http.post("/why", **form).json()
        for side in ("query", "result"):
            regions = np.array(answer[side]["regions"])
            assert regions.shape == (8, 8) and regions.max() == 1 and regions.min() >= 0
    assert http.post("/why", files={"photo": ("a", photos[3])}, data={"id": 1000}).status_code == 404

    def embed(pixels: np.ndarray) -> np.ndarray:
        """What lies in one corner alone."""
        return pixels[:, :16, 112:].reshape(len(pixels), -1).astype(np.float32)

    random = np.random.default_rng(0)
    query = random.integers(0, 256, (128, 128, 3), np.uint8)
    for heat in agreement(embed, query, query):
        assert heat[0, 7] == 1 and heat[2:, :6].max() == 0


def test_many_at_once_get_what_each_would_alone(http: httpx.Client, photos: list[bytes]) -> None:
    alone = [found(search(http, photo)) for photo in photos[:40]]
    bad = [search(http, b"\xff\xd8\xff no photo").status_code]
    with ThreadPoolExecutor(40) as pool:
        together = list(pool.map(lambda photo: search(http, photo), [*photos[:20], b"\xff\xd8\xffno", *photos[20:40]]))
    assert bad == [422] and together.pop(20).status_code == 422
    for one, other in zip(alone, map(found, together), strict=True):
        assert [item for item, _ in one] == [item for item, _ in other]
        np.testing.assert_allclose([d for _, d in one], [d for _, d in other], atol=1e-4)
    text = http.get("/metrics").text
    assert 'sole2vec_requests_total{method="POST",route="/search",status="200"}' in text
    assert "sole2vec_items 120.0" in text and "sole2vec_waiting 0.0" in text


def test_it_shows_what_the_index_has_become(
    drawing_extractor: Path, catalogue: Path, photos: list[bytes], tmp_path: Path
) -> None:
    copy = tmp_path / "photos" / "a"
    copy.mkdir(parents=True)
    for number, photo in enumerate(photos[:12]):
        (copy / f"{number:02d}.jpg").write_bytes(photo)
    index = make_index(tmp_path / "index", drawing_extractor, tmp_path / "photos")
    with Running(tmp_path / "index") as service, httpx.Client(base_url=service.url, timeout=30) as http:
        assert found(search(http, photos[3], k=1))[0][0] == 3 and http.get("/photos/3").status_code == 200
        assert len(http.get("/map").json()["ids"]) == 12
        index.remove([3])
        assert found(search(http, photos[3], k=1))[0][0] != 3
        assert [http.get(path).status_code for path in ("/photos/3", "/items/3")] == [404, 404]
        assert len(http.get("/map").json()["ids"]) == 11 and http.get("/facets").json()["count"] == 11
        (copy / "04.jpg").write_bytes(photos[20])  # the photo has become another one
        (copy / "05.jpg").unlink()
        assert [http.get(f"/photos/{item}").status_code for item in (4, 5, 6)] == [404, 404, 200]
        index.remove(index.now.ids.tolist())
        assert found(search(http, photos[3])) == [] and http.get("/map").json()["ids"] == []
        shutil.rmtree(tmp_path / "index")
        anew = make_index(tmp_path / "index", Path("best"), tmp_path / "photos")  # by another extractor
        for _ in range(4):  # whichever worker is asked
            assert found(search(http, photos[3])) == expected(anew, photos[3])


def test_it_survives_a_worker(http: httpx.Client, service: Running, photos: list[bytes]) -> None:
    workers = service.processes()[1:]
    before = found(search(http, photos[0]))
    os.kill(workers[0], signal.SIGKILL)
    for _ in range(6):
        assert found(search(http, photos[0])) == before
    assert http.get("/readyz").status_code == 200


def test_a_worker_that_cannot_be_started_at_first_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, process, tries = Workers(tmp_path, 1), workers._Process(tmp_path), []

    def open_once_there_is_room() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(process, "open", open_once_there_is_room)
    asyncio.run(pool._replace(process))
    assert len(tries) == 2 and pool._dead == 0


def test_what_a_worker_died_of_is_taken_over_by_one_that_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def served() -> Any:
        pool, lame, sound = Workers(tmp_path, 2), workers._Process(tmp_path), workers._Process(tmp_path)
        never = threading.Event()
        monkeypatch.setattr(lame, "exchange", lambda _: (_ for _ in ()).throw(EOFError()))
        monkeypatch.setattr(lame, "open", never.wait)
        monkeypatch.setattr(sound, "exchange", lambda batch: [f"{method} done" for method, _ in batch])
        feeds = [asyncio.create_task(pool._feed(lame))]
        asked = asyncio.create_task(pool.ask("layout"))
        await asyncio.sleep(0)
        feeds.append(asyncio.create_task(pool._feed(sound)))  # and waits, for the other has taken the job
        try:
            return await asyncio.wait_for(asked, 20)
        finally:
            never.set()
            for feed in feeds:
                feed.cancel()

    assert asyncio.run(served()) == "layout done"


def test_one_that_fails_takes_no_other_search_along() -> None:
    class Halves:
        def search(self, numbers: list[int]) -> list[float]:
            return [1 / number for number in numbers]

    answers = workers._answers(Halves(), [("search", number) for number in (2, 0, 4)])
    assert answers[0] == 0.5 and answers[2] == 0.25
    assert isinstance(answers[1], RuntimeError) and "ZeroDivisionError" in str(answers[1])


def test_no_upload_reaches_the_disk(index_directory: Path, photos: list[bytes]) -> None:
    large = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8)).save(large, "PNG")
    with Running(index_directory) as service:
        for pid in service.processes():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))  # from now on, to write a file is to be killed
        with httpx.Client(base_url=service.url, timeout=30) as http:
            assert len(found(search(http, large.getvalue()))) == 5  # 6.7 MB
            assert found(search(http, photos[0]))


class Halting(io.BytesIO):
    """A file whose first half is read, and the other half when `go` is set."""

    def __init__(self, content: bytes, go: threading.Event) -> None:
        super().__init__(content)
        self.half, self.go = len(content) // 2, go

    def read(self, size: int | None = -1) -> bytes:
        if self.tell():
            self.go.wait(60)
            return super().read(size)
        return super().read(self.half)


def refused(url: str) -> bool:
    """Whether nobody listens there any more."""
    try:
        httpx.get(url)
    except httpx.TransportError:
        return True
    return False


def test_sigterm_lets_it_finish(index_directory: Path, tmp_path: Path, photos: list[bytes]) -> None:
    go = threading.Event()
    with Running(index_directory, log=tmp_path / "log") as service, ThreadPoolExecutor(1) as pool:
        workers = service.processes()[1:]
        opened = (httpx.Client(base_url=service.url, timeout=60) for _ in range(2))  # opening one takes its time
        with next(opened) as http, next(opened) as watch:
            answer = pool.submit(http.post, "/search", files={"photo": ("a", Halting(photos[0], go))})
            poll(lambda: "sole2vec_arriving_bytes 0.0" not in watch.get("/metrics").text)
            service.process.terminate()
            poll(lambda: refused(service.url))
            go.set()
            assert len(found(answer.result())) == 5
        assert service.process.wait(30) == 0
    poll(lambda: gone(*workers))
    log = (tmp_path / "log").read_text()
    assert "POST '/search' 200" in log and "Traceback" not in log


def test_kill_leaves_nothing_behind(index_directory: Path) -> None:
    service = Running(index_directory)
    workers = service.processes()[1:]
    assert len(workers) == (os.cpu_count() or 1)
    service.process.kill()
    service.process.wait()
    poll(lambda: gone(*workers))
    assert Index(index_directory).verify() == []
    service.process.stdout.close()  # type: ignore[union-attr]


def test_mistakes_are_told_in_a_line(index_directory: Path, service: Running, tmp_path: Path) -> None:
    assert_user_error(command("-m", "retrieval", "serve", str(tmp_path)), "not an index")
    port = service.url.rpartition(":")[2]
    assert_user_error(command("-m", "retrieval", "serve", str(index_directory), "--port", port), port, "--port")
    assert_user_error(command("-m", "retrieval", "serve", str(index_directory), "--rate", "0"), "--rate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOLE2VEC_KEY", "")
        assert_user_error(command("-m", "retrieval", "serve", str(index_directory)), "SOLE2VEC_KEY is empty")
