"""The page in a real browser, before a real platform: by mouse, by keyboard, through crashes."""

import os
import re
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from harness.redis_server import RedisServer
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from models import IRIS, make
from pages import DESK, PHONE, Platform, Reader, chromium, until

PASSWORD = "correct horse battery"  # noqa: S105  of people who exist in tests
MIB = 1024 * 1024
ON_PURPOSE = re.compile(
    r"status of (400|401|404|409|422|429)|"
    r"ERR_(CONNECTION_REFUSED|CONNECTION_RESET|SOCKET_NOT_CONNECTED|EMPTY_RESPONSE|INCOMPLETE_CHUNKED)"
)
SETOSA = ("5.1", "3,5", "1.4", "0.2")
EVIL = "<img src=x onerror=window.hit=1>"
EVIL_MODEL = f"""
import pandas
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
rows = pandas.DataFrame({{{EVIL!r}: [0.0, 1.0, 10.0, 11.0]}})
model = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, [{EVIL!r}, {EVIL!r}, "z", "z"])
"""
WORKING = {"scanning", "building", "checking"}
pytestmark = pytest.mark.timeout(300)


class Graphs(ThreadingHTTPServer):
    """What stands for Grafana. `asked` are the paths that browsers asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Graph)


class Graph(BaseHTTPRequestHandler):
    server: "Graphs"

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def graphs() -> Iterator[Graphs]:
    with Graphs() as graphs:
        threading.Thread(target=graphs.serve_forever, daemon=True).start()
        yield graphs
        graphs.shutdown()


@pytest.fixture(scope="module")
def platform(
    tmp_path_factory: pytest.TempPathFactory, science: Path, redis_server: RedisServer, graphs: Graphs
) -> Iterator[Platform]:
    with redis_server.client() as client:
        client.flushall()
    seen = {"GRAFANA_URL": f"http://127.0.0.1:{graphs.server_port}"}
    platform = Platform(tmp_path_factory.mktemp("platform"), science, f"{redis_server.url}/0", **seen)
    try:
        platform.start("door")
        platform.start("serve")
        yield platform
    finally:
        platform.close()


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("browser")) as chrome:
        yield chrome


@pytest.fixture(scope="module")
def iris(science: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(science, tmp_path_factory.mktemp("iris") / "iris.joblib", IRIS)


@pytest.fixture
def reader(chrome: webdriver.Chrome, platform: Platform, request: pytest.FixtureRequest) -> Iterator[Reader]:
    """Somebody new, who is logged in and sees the models."""
    chrome.delete_all_cookies()
    reader = Reader(chrome, platform.url)
    reader.faults()
    reader.open("/register")
    name = f"{hash(request.node.name):x}".strip("-")
    reader.fill("#email", f"{name}@example.org")
    reader.fill("#password", PASSWORD)
    reader.submit("#enter")
    until(lambda: reader.path == "/")
    yield reader
    chrome.execute_cdp_cmd("Network.emulateNetworkConditions", {**FAST, "offline": False})
    faults = [fault for fault in reader.faults() if not ON_PURPOSE.search(fault)]
    assert not faults, "the browser has nothing to complain of"


FAST = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}


def new_version(reader: Reader, name: str, *files: Path) -> str:
    """Make a model with a version, and upload to it."""
    reader.open("/")
    until(lambda: reader.find("#empty").is_displayed() or reader.chrome.find_elements(By.CSS_SELECTOR, "#models li"))
    if not reader.ask("document.getElementById('new').open"):
        reader.find("#new summary").click()
    reader.fill("#name", name)
    reader.submit("#create")
    reader.comes_to("/models/")
    reader.submit("#create")
    version = reader.comes_to("/versions/")
    reader.sees("draft", at="#badge")
    if files:
        reader.drop("#drop", *files)
        reader.click("#send")
    return version


def becomes(reader: Reader, state: str) -> None:
    def is_so() -> bool:
        now = reader.text("#badge")
        assert now == state, f"{now}, because {reader.text('#reason')}"
        return True

    until(is_so)


def deploy(reader: Reader, **values: str) -> str:
    for name, value in values.items():
        reader.chrome.execute_script("arguments[0].value = arguments[1]", reader.find(f"#deploy-{name}"), value)
    reader.submit("#deploy-form")
    return reader.comes_to("/deployments/")


def pasted(reader: Reader) -> None:
    """Put a key into the command, and paste that into a shell."""
    reader.click("#with-key")
    until(lambda: "ks_" in reader.text("#curl"))
    command = ["sh", "-c", str(reader.ask("document.getElementById('curl').textContent"))]
    env = {"PATH": os.environ["PATH"]}
    assert "[[5.1,3.5,1.4,0.2]]" in command[-1], "the last row that was answered"
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)  # noqa: S603  as pasted
    assert '"predictions":[0]' in done.stdout


def until_nothing_is_left(reader: Reader) -> None:
    reader.click("#stop")
    reader.confirm()
    becomes(reader, "stopped")
    reader.submit("#try")
    reader.sees("is stopped", at="#try .refused")
    reader.click("#start")
    becomes(reader, "asleep")
    reader.click("#delete")
    reader.confirm()
    until(lambda: reader.path == "/deployments")
    reader.sees("No deployments yet")
    reader.open("/")
    reader.click("#models h2 a")
    reader.comes_to("/models/")
    reader.sees("v2", "v1", at="#versions")
    reader.click("#delete")
    reader.confirm()
    until(lambda: reader.path == "/")
    reader.sees("No models yet")


def test_from_an_account_to_predictions_and_until_nothing_is_left(
    reader: Reader, iris: Path, science: Path, tmp_path: Path
) -> None:
    new_version(reader, "iris", iris)
    becomes(reader, "ready")
    reader.sees("iris.joblib", "Imports found", "LogisticRegression", "Sample prediction", at="#steps")
    assert {step.get_attribute("class") for step in reader.chrome.find_elements(By.CSS_SELECTOR, "#steps li")} == {
        "done"
    }
    assert re.search(r"\d s$", reader.text("#steps [data-step=loaded] .time"))
    reader.sees("x0", "whole number", "Classes: 0, 1, 2", at="#signature")
    reader.sees("seccomp", at="#walls")

    deployment = deploy(reader, name="flowers", idle="1")
    becomes(reader, "ready")
    for at, value in enumerate(SETOSA):
        reader.fill(f"#input-{at}", value)
    reader.submit("#try")
    reader.sees("0", at="#prediction")
    reader.sees("ms", "revision 1", at="#answer")
    becomes(reader, "asleep")
    reader.submit("#try")
    reader.sees("asleep → woke in", at="#took")
    reader.fill("#input-0", "red")
    reader.submit("#try")
    reader.sees("x0 is a number", at="#input-0-fault")
    assert reader.text("#try .refused") == ""
    assert reader.chrome.switch_to.active_element.get_attribute("id") == "input-0"

    pasted(reader)

    other = make(science, tmp_path / "other.joblib", IRIS.replace("max_iter=1000", "max_iter=900"))
    reader.click("#facts a")
    reader.comes_to("/models/")
    reader.submit("#create")
    reader.comes_to("/versions/")
    reader.find("#files").send_keys(str(other))
    reader.click("#send")
    becomes(reader, "ready")
    reader.click("#existing button")
    assert reader.comes_to("/deployments/") == deployment
    reader.sees("2 v2 answers", at="#revisions")
    reader.click("#revisions li:last-child button")
    reader.confirm()
    reader.sees("1 v1 answers", at="#revisions")
    reader.sees("rolled back 2 → 1", "new revision 2", "created", at="#events")

    until_nothing_is_left(reader)


def test_versions_are_deleted_and_named_by_aliases(reader: Reader, iris: Path, tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("scikit-learn\n")
    sample = tmp_path / "sample.json"
    sample.write_text("[[5.1, 3.5, 1.4, 0.2]]")
    version = new_version(reader, "named")
    reader.click("#model")
    reader.comes_to("/models/")
    reader.sees("An alias is a name of your own", "as soon as a version is ready", at="[aria-labelledby=aliases-title]")
    reader.open(f"/versions/{version}")
    reader.drop("#drop", iris, requirements, sample)
    reader.click("#send")
    becomes(reader, "ready")
    reader.sees("iris.joblib", "requirements.txt", "sample.json", at="#file-list")
    reader.click("#model")
    reader.comes_to("/models/")
    reader.fill("#alias-name", "Champion")
    reader.submit("#alias")
    reader.sees("are accepted", at="#alias")
    reader.fill("#alias-name", "champion")
    reader.submit("#alias")
    reader.sees("champion → v1", at="#aliases")
    reader.click("#versions button")
    reader.confirm()
    reader.sees("an alias names the version", at="#refused")
    reader.click("#aliases button")
    until(lambda: not reader.chrome.find_elements(By.CSS_SELECTOR, "#aliases li"))
    reader.click("#versions button")
    reader.confirm()
    reader.sees("None yet", at="#no-versions")


def test_the_form_to_try_begins_with_a_row_of_the_sample(reader: Reader, iris: Path, tmp_path: Path) -> None:
    sample = tmp_path / "sample.json"
    sample.write_text("[[5.1, 3.5, 1.4, 0.2], [1, 2, 3, 4]]")
    new_version(reader, "sampled")
    reader.drop("#drop", iris, sample)
    reader.click("#send")
    becomes(reader, "ready")
    deploy(reader)
    until(lambda: reader.chrome.find_elements(By.CSS_SELECTOR, "#input-3"))
    assert [reader.find(f"#input-{at}").get_attribute("value") for at in range(4)] == ["5.1", "3.5", "1.4", "0.2"]
    reader.submit("#try")
    reader.sees("0", at="#prediction")


def test_a_deployment_shows_the_dashboard_of_its_own(reader: Reader, iris: Path, graphs: Graphs) -> None:
    new_version(reader, "graphed", iris)
    becomes(reader, "ready")
    deployment = deploy(reader)
    reader.sees("Graphs")
    board = f"/d/kubeserve-deployment/kubeserve-deployment?var-deployment={deployment}&"
    until(lambda: any(path.startswith(board) for path in graphs.asked))


def test_faults_are_told_beside_their_fields(reader: Reader) -> None:
    reader.sees("No models yet")
    reader.fill("#name", "No Good Name")
    reader.submit("#create")
    reader.sees("are accepted", at="#name-fault")
    assert reader.find("#name").get_attribute("aria-invalid") == "true"
    assert reader.chrome.switch_to.active_element.get_attribute("id") == "name"
    reader.fill("#name", "good")
    reader.submit("#create")
    reader.comes_to("/models/")
    reader.open("/models/00000000-0000-0000-0000-000000000000")
    reader.sees("Not here", "There is no such model")
    reader.open("/nope")
    reader.sees("Not here", "There is no page at this address")
    until(lambda: reader.text("#who"))


def test_without_a_login_every_page_leads_to_it_and_back(reader: Reader) -> None:
    email = reader.text("#who")
    reader.click("#logout")
    reader.comes_to("/login")
    reader.faults()
    for path in ("/", "/architecture", "/keys"):
        reader.open(path)
        reader.find("form, figure")
    assert reader.faults() == [], "whoever visits first has nothing to be refused"
    assert reader.path == "/login?next=%2Fkeys"
    reader.fill("#email", "nobody@example.org")
    reader.fill("#password", "wrong wrong wrong")
    reader.submit("#enter")
    reader.sees("is wrong", at=".refused")
    reader.fill("#email", email)
    reader.fill("#password", PASSWORD)
    reader.submit("#enter")
    until(lambda: reader.path == "/keys")
    assert reader.ask("document.cookie") == "", "no script can read the token"
    reader.open("/login?next=https://example.org/")
    reader.fill("#email", email)
    reader.fill("#password", PASSWORD)
    reader.submit("#enter")
    until(lambda: reader.path == "/")


def slowly(reader: Reader, rate: int) -> None:
    reader.chrome.execute_cdp_cmd("Network.enable", {})
    reader.chrome.execute_cdp_cmd(
        "Network.emulateNetworkConditions", {**FAST, "offline": False, "uploadThroughput": rate}
    )


def part_of(platform: Platform, version: str) -> Path | None:
    found = list((platform.data / "uploads" / version).glob("*.part"))
    return found[0] if found else None


def come(platform: Platform, version: str) -> int:
    part = part_of(platform, version)
    return part.stat().st_size if part else 0


@pytest.mark.parametrize("reloaded", [False, True], ids=["same-page", "reloaded"])
@pytest.mark.parametrize("size", [20 * MIB, pytest.param(500 * MIB, marks=pytest.mark.long)], ids=["20MiB", "500MiB"])
def test_an_upload_goes_on_after_the_server_was_killed(
    reader: Reader, platform: Platform, tmp_path: Path, size: int, *, reloaded: bool
) -> None:
    file = tmp_path / "large.joblib"
    file.write_bytes(os.urandom(MIB) * (size // MIB))
    slowly(reader, size // 5)
    version = new_version(reader, f"large-{size // MIB}-{reloaded}".lower(), file)
    until(lambda: come(platform, version) > size // 4)
    platform.kill("serve")
    part = part_of(platform, version)
    assert part is not None
    there = part.stat()
    assert there.st_size < size
    reader.sees("going on in", at="#upload-state")
    platform.start("serve")
    if reloaded:
        reader.chrome.refresh()
    sizes = [there.st_size]

    def goes_on() -> bool:
        sizes.append(come(platform, version))
        return sizes[-1] > there.st_size

    until(goes_on)
    assert min(sizes) == there.st_size, "what had come stays"
    slowly(reader, -1)
    becomes(reader, "rejected")
    sha256 = subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True, timeout=60)  # noqa: S603, S607
    reader.sees(sha256.stdout.split()[0], at="#file-list")
    assert reader.find("#steps .rejected p").text == reader.text("#reason"), "why it was rejected is told twice, alike"


def test_another_file_of_the_same_name_begins_anew(
    reader: Reader, platform: Platform, tmp_path: Path, iris: Path
) -> None:
    half = tmp_path / "iris.joblib"
    half.write_bytes(os.urandom(8 * MIB))
    slowly(reader, MIB)
    version = new_version(reader, "half", half)
    until(lambda: come(platform, version) > MIB)
    reader.chrome.execute_script("indexedDB.deleteDatabase('kubeserve')")  # as another browser has none
    reader.open("/models/none")
    slowly(reader, -1)
    reader.open(f"/versions/{version}")
    reader.sees("Choose the file again to go on", at="#resume")
    reader.find("#files").send_keys(str(iris))
    reader.click("#send")
    becomes(reader, "ready")


def test_what_was_rejected_is_sent_again(reader: Reader, iris: Path, tmp_path: Path) -> None:
    """Also by a file of the same name and size."""
    broken = tmp_path / "iris.joblib"
    broken.write_bytes(os.urandom(iris.stat().st_size))
    new_version(reader, "mended", broken)
    becomes(reader, "rejected")
    reader.sees("Upload all its files again", at="#upload-title")
    reader.drop("#drop", iris)
    reader.click("#send")
    becomes(reader, "ready")
    assert not reader.find("#upload").is_displayed()


def test_a_proof_that_failed_is_made_again(reader: Reader, platform: Platform, iris: Path) -> None:
    new_version(reader, "again", iris)
    until(lambda: reader.text("#badge") in WORKING)
    platform.kill("serve")
    (stored,) = (platform.data / "objects").rglob("again/v1/iris.joblib")
    aside = stored.rename(stored.with_name("aside"))
    platform.start("serve")
    becomes(reader, "failed")
    reader.sees("cannot be fetched", at="#reason")
    aside.rename(stored)
    reader.click("#retry")
    becomes(reader, "ready")


def test_badges_follow_and_a_server_that_is_away_is_told(reader: Reader, platform: Platform, iris: Path) -> None:
    new_version(reader, "followed", iris)
    until(lambda: reader.text("#badge") != "draft")
    reader.open("/")
    reader.sees("ready", at="#models")
    platform.kill("serve")
    reader.sees("Not live: The server does not answer", at="#live")
    platform.start("serve")
    until(lambda: not reader.find("#live").is_displayed())


def test_a_mistake_of_the_page_is_told(reader: Reader) -> None:
    reader.sees("No models yet")
    reader.chrome.execute_script("window.fetch = async () => new Response('{}')")
    reader.sees("The page made a mistake", "Reload it", at="#mistake")
    assert any("Uncaught" in fault for fault in reader.faults())


def test_what_people_and_models_write_stays_text(reader: Reader, science: Path, tmp_path: Path) -> None:
    model = make(science, tmp_path / f"{EVIL}.joblib", EVIL_MODEL)
    new_version(reader, "evil", model)
    becomes(reader, "ready")
    reader.sees(EVIL, at="#signature")
    reader.sees(EVIL, at="#file-list")
    deploy(reader)
    becomes(reader, "ready")
    reader.fill("#key-name", EVIL)
    reader.submit("#make-key")
    reader.sees(EVIL, at="#keys")
    reader.click("#logs-button")
    reader.submit("#try")
    reader.sees(EVIL, at="#prediction")
    reader.fill("#input-0", EVIL)
    reader.submit("#try")
    reader.sees(EVIL, at="#input-0-fault")
    reader.sees(EVIL, at="#logs")
    assert reader.ask("window.hit === undefined")
    assert not reader.chrome.find_elements(By.CSS_SELECTOR, "img[src=x]")


class Keyboard:
    """A person without a mouse, who sees where the focus is."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def press(self, *keys: str) -> None:
        ActionChains(self.reader.chrome).send_keys(*keys).perform()

    def reach(self, css: str, most: int = 80) -> None:
        """Go on with Tab until the element has the focus, which is visible at each."""
        self.reader.find(css)
        for _ in range(most):
            if self.reader.ask(f"document.activeElement.matches({css!r})"):
                return
            self.press(Keys.TAB)
            assert self.reader.ask(SEEN), self.reader.ask("document.activeElement.outerHTML")
        raise AssertionError(f"{css} is not reached by Tab")


SEEN = """(() => {
  const now = document.activeElement, hold = now.closest(".drop:focus-within") ?? now;
  const elsewhere = now === document.body || now.id === "main" || now.matches("iframe");  // which shows it itself
  return elsewhere || getComputedStyle(hold).outlineStyle !== "none";
})()"""


def test_all_is_done_by_keyboard_alone(reader: Reader, iris: Path) -> None:
    keyboard = Keyboard(reader)
    reader.sees("No models yet")
    keyboard.reach("#name")
    keyboard.press("keys", Keys.ENTER)
    reader.comes_to("/models/")
    until(lambda: reader.text("#name") == "keys")
    keyboard.reach("#tag")
    keyboard.press("one", Keys.ENTER)
    reader.comes_to("/versions/")
    becomes(reader, "draft")
    keyboard.reach("#files")
    reader.chrome.switch_to.active_element.send_keys(str(iris))  # what a person chooses in the dialog that Enter opens
    keyboard.reach("#send")
    keyboard.press(Keys.ENTER)
    becomes(reader, "ready")
    keyboard.reach("#deploy-name")
    keyboard.press(Keys.ENTER)
    reader.comes_to("/deployments/")
    becomes(reader, "ready")
    keyboard.reach("#input-3")
    keyboard.press(Keys.ENTER)
    reader.find("#prediction")
    reader.ask("document.activeElement.blur()")
    keyboard.reach("#delete")
    keyboard.press(Keys.ENTER)
    until(lambda: reader.ask("document.getElementById('question').open"))
    keyboard.press(Keys.ESCAPE)
    until(lambda: not reader.ask("document.getElementById('question').open"))
    assert reader.ask("document.activeElement.id") == "delete", "the focus comes back"
    keyboard.press(Keys.ENTER)
    keyboard.reach("#question-yes")
    keyboard.press(Keys.ENTER)
    until(lambda: reader.path == "/deployments")


AT_ONCE = """
const [done] = arguments, dialog = document.getElementById("question");
import(document.querySelector("script[type=module]").src.replace(/[^/]+$/, "question.js")).then(async ({ ask }) => {
  const first = ask("one", "", "Yes");
  await new Promise((go) => setTimeout(go));
  dialog.close();
  const second = ask("two", "", "Yes");
  const told = [await first];
  await new Promise((go) => setTimeout(go, 50));
  dialog.close("yes");
  told.push(await second);
  done(told);
});
"""


def test_a_question_is_not_answered_by_the_end_of_the_one_before(reader: Reader) -> None:
    reader.sees("No models yet")
    assert reader.chrome.execute_async_script(AT_ONCE) == [False, True]


def test_usage_is_drawn_as_it_comes_and_limits_hold(reader: Reader, iris: Path) -> None:
    new_version(reader, "iris", iris)
    becomes(reader, "ready")
    deploy(reader)
    becomes(reader, "ready")
    reader.sees("Calls 0", at="#usage-total")
    for at, value in enumerate(SETOSA):
        reader.fill(f"#input-{at}", value)
    reader.submit("#try")
    reader.sees("Calls 1 Errors 0 Rows 1", at="#usage-total")
    assert len(reader.chrome.find_elements(By.CSS_SELECTOR, "#chart-calls .bar")) == 1
    until(lambda: reader.chrome.find_elements(By.CSS_SELECTOR, "#chart-replicas .line"))
    assert reader.find("#chart-calls").get_attribute("aria-label").startswith("Calls a minute: at most 1")
    reader.chrome.execute_script("arguments[0].value = 'week'", reader.find("#usage-span"))
    reader.chrome.execute_script("arguments[0].dispatchEvent(new Event('change'))", reader.find("#usage-span"))
    until(lambda: "/26" in reader.text("#chart-calls") or "/2" in reader.text("#chart-calls"))
    reader.sees("Calls 1", at="#usage-total")

    reader.click("#limit summary")
    reader.fill("#limit-number", "0")
    reader.submit("#limit-form")
    reader.sees("1 to 1,000,000 are accepted", at="#limit-form .fault:not(:empty)")
    reader.fill("#limit-number", "1")
    reader.submit("#limit-form")
    reader.sees("Limit 1 a minute", at="#facts")
    reader.submit("#try")
    reader.sees("0", at="#prediction")
    until(lambda: reader.find("#try button:not([type=button])").is_enabled())
    reader.submit("#try")
    reader.sees("the deployment's limit is 1 requests a minute; try again in", at="#try .refused")
    reader.click("#limit summary")
    reader.fill("#limit-number", "")
    reader.submit("#limit-form")
    until(lambda: "Limit" not in reader.text("#facts"))
    reader.sees("limited to 1 a minute", "limit removed", at="#events")

    reader.fill("#key-name", "shop")
    reader.fill("#key-limit", "600")
    reader.chrome.execute_script("arguments[0].value = '30'", reader.find("#key-ends"))
    reader.submit("#make-key")
    reader.sees("shop", "600 a minute", "until", at="#keys")
    reader.click("#keys button")
    reader.confirm()
    reader.sees("revoked", at="#keys")


BASICS = Path(__file__).with_name("basics.js").read_text()


def test_pages_have_labels_contrast_and_room_on_every_screen(reader: Reader, iris: Path) -> None:
    new_version(reader, "basics", iris)
    becomes(reader, "ready")
    version = reader.path
    deploy(reader)
    becomes(reader, "ready")
    reader.submit("#try")
    reader.click("#with-key")
    reader.find("#key-text")
    deployment = reader.path
    reader.click("#facts a")
    reader.comes_to("/models/")
    model = reader.path
    for path in (deployment, version, model, "/", "/deployments", "/keys", "/architecture", "/login", "/register"):
        reader.open(path)
        if path not in {"/architecture", "/login", "/register"}:
            until(lambda: reader.text("#who"))
            reader.sees("from the page" if path == "/keys" else "basics", at="main")
        for size in (DESK, PHONE):
            for dark in (False, True):
                reader.look(size, dark=dark)
                assert reader.chrome.execute_script(BASICS) == [], (path, size, dark)
        reader.look(DESK)
