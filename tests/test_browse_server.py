"""The server of `histoprep browse` in a process of its own: who is answered, and with what."""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from browse_set import LABEL_MAP, SIDE_PX, bad_names, make_set, mask_of
from browsing import Browser, browsing
from PIL import Image

from histoprep import cli
from histoprep.labels import LabelMap, SourceLabel, TargetClass, format_label_map
from histoprep.schemas.manifest import read_manifest
from histoprep.schemas.synthetic import read_real, write_real
from histoprep.shards.write import write_shards
from histoprep.visible import visible

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")


@pytest.fixture(name="root", scope="module")
def _root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("browse") / "set")


@pytest.fixture(name="server", scope="module")
def _server(root: Path) -> Iterator[Browser]:
    with browsing(root) as server:
        yield server


@pytest.fixture(name="fresh")
def _fresh(root: Path) -> Iterator[Path]:
    """Return the workspace, and take decisions away afterwards."""
    workspace = root.with_name("set.histoprep")
    (workspace / "decisions.csv").unlink(missing_ok=True)
    yield workspace
    (workspace / "decisions.csv").unlink(missing_ok=True)


def state_of(folder: Path) -> dict[str, tuple[str, int]]:
    """Return digest and time of every file below a folder."""
    return {
        str(path): (sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


PATHS = ("/", "/page/app.js", "/api/set", "/api/tiles", "/api/thumbnail/0", "/api/nothing")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("token", [None, "x", "é"])
def test_nothing_is_answered_without_the_token(
    server: Browser, path: str, token: str | None
) -> None:
    answer = server.ask(path, token=token)
    assert answer.status == 401
    assert b"token" in answer.body
    assert "set-cookie" not in answer.headers


def test_the_token_may_be_in_the_address_a_header_or_the_cookie(server: Browser) -> None:
    visit = server.ask("/")
    assert visit.status == 200
    cookie = visit.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    for headers in (
        {"Cookie": cookie.partition(";")[0]},
        {"Authorization": f"Bearer {server.token}"},
    ):
        assert server.ask("/api/set", token=None, headers=headers).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost", ""]
)
def test_foreign_hosts_are_refused(server: Browser, host: str) -> None:
    answer = server.ask("/api/set", headers={"Host": host.format(port=server.port)})
    assert answer.status in (400, 403)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
    ],
)
def test_requests_of_other_pages_are_refused(
    server: Browser, method: str, headers: dict[str, str]
) -> None:
    own = {name: value.format(port=server.port) for name, value in headers.items()}
    body = None if method == "GET" else {"action": "drop", "rows": [0]}
    path = "/api/tiles" if method == "GET" else "/api/decisions"
    assert server.ask(path, method=method, headers=own, body=body).status == 403
    assert server.get("decisions")["dropped"] == 0


def test_what_a_form_can_send_is_refused(server: Browser) -> None:
    answer = server.ask(
        "/api/decisions",
        method="POST",
        headers={"Content-Type": "text/plain"},
        body={"action": "drop", "rows": [0]},
    )
    assert answer.status == 415


def test_every_answer_has_a_strict_policy(server: Browser) -> None:
    for path, token in (("/", ""), ("/api/set", ""), ("/api/set", None), ("/nowhere", "")):
        headers = server.ask(path, token=token).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy and "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers


def test_only_this_machine_can_connect(server: Browser) -> None:
    own = socket.gethostbyname(socket.gethostname())
    if own.startswith("127."):
        pytest.skip("this machine has no other address")
    with pytest.raises(OSError):
        socket.create_connection((own, server.port), timeout=2)


@pytest.mark.parametrize(
    "path",
    [
        "/page/..%2f..%2f..%2fpyproject.toml",
        "/page/../server.py",
        "/page/%2e%2e/server.py",
        "/etc/passwd",
        "/page/.",
        "/api/thumbnail/../../x",
    ],
)
def test_no_path_leads_to_other_files(server: Browser, path: str) -> None:
    assert server.ask(path).status in (400, 404)


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/api/tiles?limit=501", "part"),
        ("/api/tiles?offset=-1", "whole number"),
        ("/api/tiles?sort=nothing", "column"),
        ("/api/tiles?class=99", "class"),
        ("/api/tiles?class=x", "class"),
        ("/api/tiles?finding=HP999", "finding"),
        ("/api/tiles?min.focus=many", "number"),
        ("/api/tiles?colour=red", "parameter"),
        ("/api/tiles?state=eaten", "state"),
        ("/api/tiles?selection=7", "selection"),
        ("/api/tiles/9999", "no such tile"),
        ("/api/image/9999", "no such tile"),
        ("/api/groups?by=mood", "category"),
        ("/api/marks/0?finding=HP999", "finding"),
    ],
)
def test_wrong_requests_say_what_is_wrong(server: Browser, path: str, word: str) -> None:
    place, _, query = path.partition("?")
    pairs = [tuple(pair.split("=")) for pair in query.split("&") if pair]
    answer = server.ask(place, pairs)
    assert answer.status == 400
    assert word in answer.json()["error"]


def test_wrong_bodies_say_what_is_wrong(server: Browser) -> None:
    for body in (
        {"action": "burn", "rows": [0]},
        {"action": "drop"},
        {"action": "drop", "rows": ["0"]},
        {"action": "drop", "rows": []},
        {"action": "drop", "rows": [10_000]},
        {"action": "tag", "tag": "", "rows": [0]},
        {"action": "drop", "query": [["colour", "red"]]},
    ):
        assert server.ask("/api/decisions", method="POST", body=body).status == 400
    assert server.ask("/api/selections", method="POST", body=[1]).status == 400


def test_the_set_is_described(server: Browser) -> None:
    about = server.get("set")
    assert about["name"] == "set"
    assert about["num_tiles"] == 30 + len(bad_names())
    assert [cls["name"] for cls in about["classes"]][:3] == [cls.name for cls in LABEL_MAP.classes]
    codes = {finding["code"] for finding in about["findings"]}
    assert {"HP408", "HP501", "HP102"} <= codes
    groups = [each["value"] for each in about["categories"]["group"]["values"]]
    assert groups == ["slide0", "slide1", "slide2", "slide9"]


def test_findings_lead_to_their_tiles_and_places(server: Browser) -> None:
    keys = {finding["code"]: finding["key"] for finding in server.get("set")["findings"]}
    assert server.names(finding=keys["HP501"]) == ["slide2_05"]
    assert server.names(finding=keys["HP408"]) == ["slide1_04"]
    row = server.get("tiles", finding=keys["HP408"])["tiles"][0]["row"]
    assert server.get(f"marks/{row}", finding=keys["HP408"]) == [[80, 90, 83, 93]]
    details = server.get(f"tiles/{row}")["details"]
    assert "HP408" in {finding["code"] for finding in details}
    assert set(server.names(finding=[keys["HP501"], keys["HP102"]])) == {"slide2_05", "slide1_07"}


def test_pixels_are_those_of_the_files(server: Browser, root: Path) -> None:
    row = server.get("tiles", text="slide0_12")["tiles"][0]["row"]
    with Image.open(root / "slide0_12.png") as image:
        wanted = np.array(image)
    assert np.array_equal(pixels(server, f"image/{row}"), wanted)
    labels = server.get(f"labels/{row}")
    coded = pixels(server, f"mask/{row}").astype(int)
    numbers = coded[..., 0] + 256 * coded[..., 1]
    table = np.array([0, *(entry["label"] for entry in labels)])
    assert np.array_equal(table[numbers], mask_of(12))
    assert [entry["class"]["name"] for entry in labels] == ["Unknown", "Scar"]
    places = pixels(server, f"overlay/{row}").astype(int)[..., 0]
    assert places.shape == (SIDE_PX, SIDE_PX)
    assert set(np.unique(places)) == {1, 3}, "one more than the place of the class"


def pixels(server: Browser, path: str) -> np.ndarray:
    """Return the image at an address below api/."""
    answer = server.ask(f"/api/{path}")
    assert answer.status == 200
    with Image.open(io.BytesIO(answer.body)) as image:
        return np.array(image)


def test_broken_and_missing_files_say_why(server: Browser) -> None:
    broken = server.get("tiles", text="slide0_06")["tiles"][0]["row"]
    bare = server.get("tiles", text="slide1_07")["tiles"][0]["row"]
    for path, reason in ((f"image/{broken}", "HP20"), (f"overlay/{bare}", "no%20mask")):
        answer = server.ask(f"/api/{path}")
        assert answer.status == 204
        assert reason in answer.headers["histoprep-reason"]


def test_thumbnails_are_kept_until_the_file_changes(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    Image.new("RGB", (SIDE_PX, SIDE_PX), "#0000ff").save(root / "a.png")
    with browsing(root) as server:
        before = server.ask("/api/thumbnail/0")
        assert before.headers["content-type"] == "image/jpeg"
        cached = list((tmp_path / "set.histoprep" / "thumbnails").rglob("*"))
        assert [path.read_bytes() for path in cached if path.is_file()] == [before.body]
        Image.new("RGB", (SIDE_PX, SIDE_PX), "#ff0000").save(root / "a.png")
        after = server.ask("/api/thumbnail/0")
        with Image.open(io.BytesIO(after.body)) as image:
            assert np.array(image)[40, 40, 0] > 240 > np.array(image)[40, 40, 1]


def test_hostile_names_are_readable_and_never_markup(server: Browser) -> None:
    names = server.names(group="slide9")
    assert sorted(names) == sorted(visible(f"slide9_{name}") for name in bad_names())
    answer = server.ask("/api/tiles", {"group": "slide9", "limit": "100"})
    assert answer.headers["content-type"] == "application/json"
    for name in names:
        assert name.isprintable()


def test_decisions_are_kept_and_taken_back(server: Browser, fresh: Path) -> None:
    rows = [tile["row"] for tile in server.get("tiles", group="slide0")["tiles"]]
    assert server.post("decisions", action="drop", rows=rows[:2])["dropped"] == 2
    after = server.post("decisions", action="tag", tag="odd one", query=[["group", "slide1"]])
    assert after["tags"] == {"odd one": 10}
    assert len(server.names(state="dropped")) == 2
    assert len(server.names(tag="odd one")) == 10
    assert len(server.names(state="kept", group="slide0")) == 8
    text = (fresh / "decisions.csv").read_text()
    assert len(text.splitlines()) == 13
    server.post("undo")
    server.post("undo")
    assert server.get("decisions")["dropped"] == 0
    assert server.get("decisions")["undoable"] == 0
    assert (fresh / "decisions.csv").read_text().startswith(text)


def test_decisions_outlive_a_kill(root: Path, fresh: Path) -> None:
    with browsing(root) as server:
        server.post("decisions", action="drop", rows=[3])
        server.process.kill()
        server.process.wait()
    with browsing(root) as server:
        assert server.get("decisions")["dropped"] == 1
        assert server.get("tiles/3")["dropped"]
    assert fresh.is_dir()


def test_selections_are_filters(server: Browser) -> None:
    chosen = server.post("selections", rows=[5, 2, 2])
    assert chosen["num_tiles"] == 2
    found = server.get("tiles", selection=chosen["selection"], sort="tile_id")
    assert sorted(tile["row"] for tile in found["tiles"]) == [2, 5]


def test_tables_agree_with_filters(server: Browser) -> None:
    tables = server.get("classes")
    for cls in tables["classes"]:
        assert server.get("tiles", **{"class": cls["id"]})["total"] == cls["tiles"]
        for split, number in cls["splits"].items():
            found = server.get("tiles", **{"class": cls["id"], "split": split})
            assert found["total"] == number
    diagonal = [tables["pairs"][place][place] for place in range(len(tables["classes"]))]
    assert diagonal == [cls["tiles"] for cls in tables["classes"]]
    for group in server.get("groups", by="group"):
        assert server.get("tiles", group=group["value"])["total"] == group["tiles"]


def test_neighbours_lie_at_both_sides(server: Browser) -> None:
    row = server.get("tiles", text="slide1_10")["tiles"][0]["row"]
    [near] = server.get(f"tiles/{row}")["neighbours"]
    assert (near["name"], near["side"]) == ("slide2_11", "right")
    [back] = server.get(f"tiles/{near['row']}")["neighbours"]
    assert (back["row"], back["side"]) == (row, "left")


@pytest.mark.slow
def test_the_data_stay_as_they_are(root: Path, tmp_path: Path) -> None:
    before = state_of(root)
    with browsing(root, "--workspace", tmp_path / "elsewhere") as server:
        for row in range(len(server.names())):
            for path in ("thumbnail", "overlay", "image", "mask"):
                assert server.ask(f"/api/{path}/{row}").status in (200, 204)
        server.post("decisions", action="drop", rows=[0])
    assert state_of(root) == before
    assert (tmp_path / "elsewhere" / "decisions.csv").is_file()


@pytest.mark.slow
def test_a_manifest_and_its_shards_show_the_same(root: Path, tmp_path: Path) -> None:
    manifest = root.with_name("set.histoprep") / "manifest.parquet"
    write_shards(manifest, tmp_path / "shards")
    rows = read_manifest(manifest)
    with browsing(manifest) as files, browsing(tmp_path / "shards") as shards:
        ids = [visible(name) for name in rows["tile_id"].to_pylist()]
        assert files.names() == shards.names() == ids
        for name in ("slide0_12", "slide1_07"):
            row = ids.index(name)
            assert rows["split"][row].as_py() == files.get(f"tiles/{row}")["split"]
            assert np.array_equal(pixels(files, f"image/{row}"), pixels(shards, f"image/{row}"))
        row = ids.index("slide0_12")
        assert np.array_equal(pixels(files, f"overlay/{row}"), pixels(shards, f"overlay/{row}"))
        assert files.get("classes")["pairs"] == shards.get("classes")["pairs"]
        # A finding of the tiles table names the tile of the manifest.
        codes = {finding["code"]: finding["key"] for finding in files.get("set")["findings"]}
        assert files.names(finding=codes["HP408"]) == ["slide1_04"]
        for name in ("findings", "numbers", "notes"):
            assert files.get("set")[name] == shards.get("set")[name]
        assert "focus" in shards.get("set")["numbers"] and shards.get("set")["notes"] == []
        assert shards.names(finding=codes["HP408"]) == ["slide1_04"]
        for near in ("slide1_10", "slide2_11"):
            found = [each.get(f"tiles/{ids.index(near)}")["neighbours"] for each in (files, shards)]
            assert found[0] == found[1] != []
        assert (tmp_path / "shards.histoprep").is_dir() or shards.get("decisions")["dropped"] == 0


@pytest.mark.slow
def test_shards_without_the_results_of_their_audit_say_so(tmp_path: Path) -> None:
    make_set(tmp_path / "set")
    write_shards(tmp_path / "set.histoprep" / "manifest.parquet", tmp_path / "shards")
    with browsing(tmp_path / "shards") as server:
        assert server.get("set")["findings"]
    (tmp_path / "set").rename(tmp_path / "gone")
    (tmp_path / "set.histoprep").rename(tmp_path / "gone.histoprep")
    with browsing(tmp_path / "shards") as server:
        about = server.get("set")
        assert about["findings"] == [] and "focus" not in about["numbers"]
        assert "no findings and no quality are shown" in " ".join(about["notes"])
        assert str(tmp_path / "set.histoprep") in " ".join(about["notes"])
    # The data set is elsewhere, and its results lie around the shards.
    (tmp_path / "shards").rename(tmp_path / "gone.histoprep" / "shards")
    with browsing(tmp_path / "gone.histoprep" / "shards") as server:
        assert server.get("set")["findings"] and server.get("set")["notes"] == []
    # Other tiles than those that were packed.
    (tmp_path / "gone" / "slide0_12.png").unlink()
    assert cli.run(["audit", str(tmp_path / "gone"), "--exit-zero", "--quiet"]) == 0
    with browsing(tmp_path / "gone.histoprep" / "shards") as server:
        assert "read anew since the manifest was made" in " ".join(server.get("set")["notes"])


@pytest.mark.parametrize("folder", ["", "images/"])
@pytest.mark.slow
def test_real_tiles_are_found_by_the_note_of_a_synthetic_set(
    root: Path, tmp_path: Path, folder: str
) -> None:
    real = tmp_path / "real"
    shutil.copytree(root, real / folder, dirs_exist_ok=True)
    assert cli.run(["audit", str(real), "--exit-zero", "--quiet"]) == 0
    label_map = str(root.with_name("four.yml"))
    cli.run(["manifest", str(real), "--map", label_map, "--quiet"])
    manifest = tmp_path / "real.histoprep" / "manifest.parquet"
    for name in ("slide0_12", "slide1_13"):
        for kind, source in (("images", f"{name}.png"), ("masks", f"{name}_mask.png")):
            path = tmp_path / "made" / kind / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / source, path)
    (tmp_path / "made.histoprep").mkdir()
    write_real(tmp_path / "made.histoprep", [tmp_path / "nowhere.parquet", manifest])
    with browsing(tmp_path / "made") as server:
        assert [other["path"] for other in server.get("set")["others"]] == [str(manifest)]
        tiles = {tile["name"]: tile["beside"] for tile in server.get("tiles")["tiles"]}
        assert len(tiles) == 2 and all(row >= 0 for [row] in tiles.values())
    with browsing(tmp_path / "made", "--beside", root) as server:
        assert [other["path"] for other in server.get("set")["others"]] == [str(root)]
    manifest.unlink()
    with browsing(tmp_path / "made") as server:
        assert server.get("set")["others"] == []
        assert "name their manifest with --beside" in " ".join(server.get("set")["notes"])


def test_a_note_of_real_tiles_moves_with_them(tmp_path: Path) -> None:
    (tmp_path / "a" / "made.histoprep").mkdir(parents=True)
    (tmp_path / "a" / "manifest.parquet").write_bytes(b"")
    write_real(tmp_path / "a" / "made.histoprep", [tmp_path / "a" / "manifest.parquet"])
    (tmp_path / "a").rename(tmp_path / "b")
    stated = str(tmp_path / "a" / "manifest.parquet")
    moved = tmp_path / "b" / "manifest.parquet"
    assert read_real(tmp_path / "b" / "made.histoprep") == [(stated, moved)]
    (tmp_path / "b" / "made.histoprep" / "real.json").write_text("{")
    assert read_real(tmp_path / "b" / "made.histoprep") == []


def test_sets_beside_are_matched_by_id(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "run" / "images"
    other.mkdir(parents=True)
    (tmp_path / "run" / "masks").mkdir()
    for name in ("slide0_12", "slide1_13"):
        Image.new("RGB", (SIDE_PX, SIDE_PX), "#00ff00").save(other / f"{name}.png")
        shutil.copy(root / f"{name}_mask.png", tmp_path / "run" / "masks" / f"{name}.png")
    with browsing(tmp_path / "run", "--beside", root) as server:
        assert server.get("set")["others"][0]["name"] == "set"
        tiles = {tile["name"]: tile["beside"] for tile in server.get("tiles")["tiles"]}
        assert len(tiles) == 2
        for [row] in tiles.values():
            answer = server.ask(f"/api/image/{row}", {"set": "1"})
            with Image.open(io.BytesIO(answer.body)) as image:
                assert np.array(image)[0, 0].tolist() != [0, 255, 0]


@pytest.mark.slow
def test_classes_that_only_have_names_are_those_of_the_manifest(tmp_path: Path) -> None:
    root, label_map = make_set(tmp_path / "named"), tmp_path / "names.yml"
    named = LabelMap(
        "names",
        tuple(SourceLabel(item, f"tissue {item}") for item in (0, 3, 7, 200)),
        tuple(TargetClass(item, f"tissue {item}", "#123456") for item in (0, 3, 7, 200)),
        {item: item for item in (0, 3, 7, 200)},
    )
    label_map.write_text(format_label_map(named))
    for words, name in ((["--map", str(label_map)], "tissue"), ([], "label")):
        (root.with_name("named.histoprep") / "manifest.parquet").unlink()
        assert cli.run(["manifest", str(root), "--quiet", *words]) in (0, 3)
        with browsing(root) as server:
            shown = [cls["name"] for cls in server.get("set")["classes"]]
        assert shown == [f"{name} {item}" for item in (0, 3, 7, 200)]


def test_a_folder_without_an_audit_is_read_first(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    Image.new("RGB", (32, 32), "#804080").save(tmp_path / "set" / "<i>.png")
    with browsing(tmp_path / "set") as server:
        assert server.names() == ["<i>"]
        assert "audit" in json.dumps(server.get("set")["notes"])


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_a_missing_package_is_named_with_the_command(tmp_path: Path, missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from histoprep.cli import main; main(['browse', sys.argv[1]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert missing in done.stderr
    assert "[browse]" in done.stderr


@pytest.mark.slow
def test_a_taken_port_and_a_missing_folder_are_errors(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "histoprep", "browse"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [*command, str(root), "--port", port], capture_output=True, text=True, check=False
        )
    assert (done.returncode, "--port" in done.stderr) == (4, True)
    done = subprocess.run(
        [*command, str(tmp_path / "none")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2


def test_thumbnails_are_no_foreign_files(root: Path, server: Browser) -> None:
    server.ask("/api/thumbnail/0")
    workspace = root.with_name("set.histoprep")
    assert any((workspace / "thumbnails").rglob("*"))
    done = subprocess.run(
        [sys.executable, "-m", "histoprep", "verify", str(workspace)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "thumbnails" not in done.stdout + done.stderr
