"""The dashboard in a real browser, on a real `l4lb serve` with nginx behind it and traffic through it."""

from __future__ import annotations

import itertools
import json
import re
import signal
from pathlib import Path

import pytest

from l4lb.control.admin.page import FILES
from tests.support.browser import Visit, axe_violations, visiting
from tests.support.dashboard import ROW, world
from tests.support.peers import Server, running
from tests.support.programs import free_port, l4lb
from tests.support.slow import slow
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("browser")


def state_of(visit: Visit, backend: str) -> str:
    return visit.page.locator(f"{ROW.format(backend)} .state").inner_text()


def pressed(visit: Visit, backend: str) -> str:
    return visit.page.locator(f"{ROW.format(backend)} button[aria-pressed=true]").inner_text()


DISCOVERING = """
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
[pools.web]
health = {{ type = "none" }}
discovery = {{ type = "file", path = "{path}" }}
"""


def test_a_source_of_backends_that_fails_is_a_problem(tmp_path: Path) -> None:
    file, backends, admin = tmp_path / "lb.toml", tmp_path / "backends", f"127.0.0.1:{free_port()}"
    file.write_text(DISCOVERING.format(path=backends))
    backends.write_text("127.0.0.1:1")
    with l4lb("serve", "-c", str(file), "--admin", admin) as process:
        process.wait_for("listening")
        with visiting(f"http://{admin}") as visit:
            visit.page.wait_for_selector(".pool-line:has-text('discovery by file')")
            backends.unlink()
            visit.page.wait_for_selector("#problems .warning:has-text('discovery by file:')")
            assert "No such file" in visit.page.inner_text("#problems")


REFUSING = """
[listeners.web]
bind = "127.0.0.1:0"
pool = "web"
when_no_backend = "refuse"
[pools.web]
health = {{ type = "none" }}
backends = [{{ address = "127.0.0.1:1", id = "one", admin_state = "{state}" }}]
"""


def test_a_listener_that_refuses_clients_is_a_problem(tmp_path: Path) -> None:
    file, admin = tmp_path / "lb.toml", f"127.0.0.1:{free_port()}"
    file.write_text(REFUSING.format(state="maint"))
    with l4lb("serve", "-c", str(file), "--admin", admin) as process:
        process.wait_for("listener refusing")
        with visiting(f"http://{admin}") as visit:
            text = 'listener web refuses clients: no usable backend in pool "web"'
            visit.page.wait_for_selector(f"#problems .outage:has-text('{text}')")
            visit.page.wait_for_selector("td.address:has-text('(refuses clients)')")
            file.write_text(REFUSING.format(state="ready"))
            process.signal(signal.SIGHUP)
            visit.page.wait_for_selector("td.address:not(:has-text('(refuses clients)'))")


def test_it_shows_pools_backends_and_traffic_and_keeps_them_live(tmp_path: Path) -> None:
    with world(tmp_path) as lb, visiting(lb.url) as visit:
        page = visit.page
        page.wait_for_selector("text=3 of 3 backends in 1 pool are usable")
        assert page.locator("#pool-list .name").all_inner_texts() == ["one", "three", "two"]
        assert [state_of(visit, name) for name in lb.backends] == ["up"] * 3
        assert str(lb.process.process.pid) in page.inner_text("#process")
        assert page.title() == "l4lb"
        new = f"{ROW.format('one')} td[data-label=New]"
        visit.until("selector => parseFloat(document.querySelector(selector).textContent) > 0", "td[data-label=New]")
        assert page.locator(new).inner_text().endswith("/s")
        for index in range(4):
            visit.until(
                "n => document.querySelectorAll('.plot > svg')[n].querySelector('.line').getAttribute('d')", index
            )
        total = "document.querySelector('#listeners td[data-label=Total]').textContent"
        before = page.evaluate(total)
        visit.until(f"before => {total} !== before", before)
        visit.until("document.querySelectorAll('.plot .value')[3].textContent.endsWith('/s')")
        assert "backend up" in page.inner_text("#events")


def test_a_backend_that_is_killed_shows_as_down_and_as_up_when_it_is_back(tmp_path: Path) -> None:
    with world(tmp_path) as lb, visiting(lb.url) as visit:
        visit.page.wait_for_selector(ROW.format("two"))
        lb.backends["two"].kill()
        visit.page.wait_for_selector(f"{ROW.format('two')}.down")
        row = visit.page.locator(ROW.format("two"))
        assert state_of(visit, "two") == "down"
        assert "connect" in row.inner_text()
        assert "1 of 3 backends down: two" in visit.page.inner_text("#problems")
        assert visit.page.title() == "(1) l4lb"
        assert "2 of 3 usable" in visit.page.inner_text("#pool-list")
        strip = row.locator("svg.strip").get_attribute("aria-label")
        assert strip == "down for less than a minute; went down once in the last 15 min"
        visit.page.wait_for_selector("#events li.warning:has-text('backend down')")
        visit.hear("backend down web two")
        lb.backends["two"].start()
        visit.page.wait_for_selector(f"{ROW.format('two')}.up")
        visit.page.wait_for_selector("text=3 of 3 backends in 1 pool are usable")


def test_clients_that_are_not_served_are_told_of(tmp_path: Path) -> None:
    with world(tmp_path) as lb, visiting(lb.url) as visit:
        visit.page.wait_for_selector(ROW.format("two"))
        for backend in lb.backends.values():
            backend.kill()
        visit.page.wait_for_selector("#problems .outage:has-text('no usable backend: new clients are turned away')")
        visit.page.wait_for_selector("#problems .warning:has-text('not served in the last minute (no backend')")
        visit.page.wait_for_selector("#listeners td:has-text('no backend')")
        visit.page.wait_for_selector(".pool.dead")


def test_a_client_is_banned_and_let_in_again(tmp_path: Path) -> None:
    with world(tmp_path) as lb, visiting(lb.url, expected=("status of 422",)) as visit:
        page = visit.page
        page.wait_for_selector(ROW.format("one"))
        page.fill("#ban-cidr", "192.0.2.1/24")
        page.click("#ban-form button")
        assert "Ban 192.0.2.1/24 for 1h?" in page.inner_text("#confirm")
        page.click("#confirm-yes")
        page.wait_for_selector("#messages .message:has-text('did you mean \"192.0.2.0/24\"')")
        page.fill("#ban-cidr", "192.0.2.0/24")
        page.fill("#ban-reason", "port scan")
        page.select_option("#ban-listener", "web")
        page.click("#ban-form button")
        assert "At listener web its clients are refused" in page.inner_text("#confirm-text")
        page.click("#confirm-yes")
        row = page.locator("#ban-rows tr")
        page.wait_for_selector("#ban-rows tr:has-text('port scan')")
        assert "192.0.2.0/24" in row.inner_text()
        assert "web" in row.inner_text()
        visit.hear("192.0.2.0/24 is banned, 0 sessions ended.")
        assert [(one["cidr"], one["listener"]) for one in lb.api("GET", "/v1/bans")] == [("192.0.2.0/24", "web")]
        lb.api("PUT", "/v1/bans/198.51.100.7", {"reason": "from elsewhere"})
        page.wait_for_selector("#ban-rows tr:has-text('from elsewhere') >> text=never")
        page.click("button[aria-label='Remove the ban of 192.0.2.0/24']")
        page.wait_for_selector("#ban-rows tr:has-text('port scan')", state="detached")
        visit.hear("The ban of 192.0.2.0/24 is removed.")
        assert [one["cidr"] for one in lb.api("GET", "/v1/bans")] == ["198.51.100.7/32"]


def test_clicking_drain_drains_and_ready_brings_back(tmp_path: Path) -> None:
    with world(tmp_path) as lb, visiting(lb.url) as visit:
        page = visit.page
        page.click(f"{ROW.format('one')} button:text-is('drain')")
        assert "Drain one in pool web?" in page.inner_text("#confirm")
        assert "2 other usable backends" in page.inner_text("#confirm-text")
        page.click("#confirm-no")
        assert lb.backend("one")["admin_state"] == "ready"
        page.click(f"{ROW.format('one')} button:text-is('drain')")
        page.click("#confirm-yes")
        page.wait_for_selector(f"{ROW.format('one')}.drain")
        assert wait_until(lambda: lb.backend("one")["admin_state"] == "drain")
        assert pressed(visit, "one") == "drain"
        page.wait_for_selector("#problems .note:has-text('one (drain')")
        assert page.title() == "l4lb"  # what an operator did on purpose is no alarm
        page.click(f"{ROW.format('one')} button:text-is('ready')")
        assert wait_until(lambda: lb.backend("one")["admin_state"] == "ready")
        page.wait_for_selector(f"{ROW.format('one')}.up")


def test_the_last_usable_backend_is_not_taken_out_by_accident(tmp_path: Path) -> None:
    with world(tmp_path) as lb, visiting(lb.url) as visit:
        for name in ("one", "two"):
            lb.api("PUT", f"/v1/pools/web/backends/{name}", {"admin_state": "maint"})
            visit.page.wait_for_selector(f"{ROW.format(name)}.maint")
        visit.page.click(f"{ROW.format('three')} button:text-is('maint')")
        assert "new clients will be turned away" in visit.page.inner_text("#confirm-warning")
        assert visit.focused() == "Cancel"
        visit.page.keyboard.press("Enter")
        assert lb.backend("three")["admin_state"] == "ready"


def test_a_weight_is_set_and_zero_is_asked_about(tmp_path: Path) -> None:
    with world(tmp_path) as lb, visiting(lb.url) as visit:
        weight = visit.page.locator(f"{ROW.format('two')} input.weight")
        weight.fill("5")
        visit.page.keyboard.press("Enter")
        assert wait_until(lambda: lb.backend("two")["weight"] == 5)
        weight.fill("70000")
        visit.page.keyboard.press("Enter")  # the browser says what the limit is
        assert not weight.evaluate("input => input.checkValidity()")
        visit.page.keyboard.press("Escape")
        assert weight.input_value() == "5"
        weight.fill("0")
        visit.page.click(f"{ROW.format('two')} form button:text-is('Set')")
        visit.page.click("#confirm-yes")
        assert wait_until(lambda: lb.backend("two")["weight"] == 0)
        lb.api("PUT", "/v1/pools/web/backends/two", {"weight": 3})  # by someone else
        visit.until("[...document.querySelectorAll('input.weight')].some(input => input.value === '3')")


def test_a_backend_is_drained_by_keys_alone(tmp_path: Path) -> None:
    """Tab finds one stop a toolbar, arrows move in it, and the focus comes back from the dialog."""
    with world(tmp_path) as lb, visiting(lb.url) as visit:
        visit.page.wait_for_selector(ROW.format("three"))
        visit.page.keyboard.press("Tab")
        assert visit.focused() == "Skip to pools"
        visit.page.keyboard.press("Enter")
        visit.press_until("Tab", lambda: visit.focused() == "ready three")
        visit.page.keyboard.press("ArrowRight")
        assert visit.focused() == "drain three"
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert visit.page.evaluate(outline) == "solid"
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_selector("#confirm[open]")
        visit.page.keyboard.press("Escape")
        assert visit.focused() == "drain three"
        visit.page.keyboard.press("Space")
        visit.page.wait_for_selector("#confirm[open]")
        visit.page.keyboard.press("Enter")
        assert wait_until(lambda: lb.backend("three")["admin_state"] == "drain")
        visit.page.wait_for_selector(f"{ROW.format('three')}.drain")
        assert visit.focused() == "drain three"
        names = [visit.press_until("Tab", lambda: True) and visit.focused() for _ in range(40)]
        assert len(set(names)) > 12  # no trap: it goes on, and around


def test_a_token_is_asked_for_and_kept_in_this_tab_alone(tmp_path: Path) -> None:
    with world(tmp_path, token="s3cret") as lb, visiting(lb.url, expected=("401",)) as visit:
        page = visit.page
        page.wait_for_selector("#ask:visible")
        assert page.locator("#page").is_hidden()
        assert visit.focused() == page.evaluate("document.getElementById('token').textContent")
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=That token is not the right one")
        page.fill("#token", "s3cret")
        page.keyboard.press("Enter")
        page.wait_for_selector(ROW.format("one"))
        page.wait_for_selector("#events li:has-text('backend up')")  # the stream too has the token
        page.click(f"{ROW.format('one')} button:text-is('drain')")
        page.click("#confirm-yes")
        assert wait_until(lambda: lb.backend("one")["admin_state"] == "drain")
        assert "s3cret" not in json.dumps(page.evaluate("({...localStorage})")) + page.evaluate("document.cookie")
        assert not any("s3cret" in url for url in visit.requests)
        page.reload()
        page.wait_for_selector(ROW.format("one"))
        page.click("#forget")
        page.wait_for_selector("#ask:visible")
        assert page.evaluate("sessionStorage.length") == 0


def test_it_says_since_when_it_is_disconnected_and_finds_the_next_process(tmp_path: Path) -> None:
    with world(tmp_path) as lb, visiting(lb.url, expected=("ERR_CONNECTION", "ERR_INCOMPLETE", "ERR_NETWORK")) as visit:
        page = visit.page
        page.wait_for_selector(ROW.format("one"))
        lb.process.process.kill()
        lb.process.wait()
        page.wait_for_selector("#banner:has-text('Disconnected since')")
        assert page.inner_text("#live-text") == "disconnected"
        page.click(f"{ROW.format('one')} button:text-is('drain')")
        page.click("#confirm-yes")
        message = "one in pool web was not changed to admin state drain: no connection to l4lb"
        page.wait_for_selector(f".message:has-text('{message}')")
        assert pressed(visit, "one") == "ready"
        page.click(".message button")
        assert page.locator(".message").count() == 0
        with l4lb("serve", "-c", str(lb.file), "--admin", lb.url.removeprefix("http://")) as again:
            page.wait_for_selector("#banner", state="hidden")
            visit.until("pid => document.getElementById('process').textContent.includes(pid)", str(again.process.pid))
            page.wait_for_selector("#events li:has-text('process replaced')")
            page.wait_for_selector("#events li:has-text('listening') >> nth=1")  # of both processes
            assert page.inner_text("#live-text") == "live"


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1920, "dark"), *slow((360, "dark"), (1920, "light"))])
def test_it_can_be_used_by_everyone(tmp_path: Path, scheme: str, width: int) -> None:
    """axe finds nothing, in any state that the page has; and nothing is wider than the screen."""
    size = {"width": width, "height": 800}
    with world(tmp_path) as lb, visiting(lb.url, viewport=size, color_scheme=scheme) as visit:
        page = visit.page
        lb.backends["two"].kill()
        lb.api("PUT", "/v1/pools/web/backends/three", {"admin_state": "drain"})
        page.wait_for_selector(f"{ROW.format('two')}.down")
        page.wait_for_selector(f"{ROW.format('three')}.drain")
        page.wait_for_selector("#events li.warning")
        assert axe_violations(page) == []
        assert page.evaluate("document.scrollingElement.scrollWidth") == width
        light = page.evaluate("matchMedia('(prefers-color-scheme: light)').matches")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(int(part) for part in ground[4:-1].split(",")) > 384) == light == (scheme == "light")
        page.click(f"{ROW.format('one')} button:text-is('drain')")
        assert axe_violations(page) == []
        page.keyboard.press("Escape")


def test_the_theme_can_be_chosen_and_is_remembered(tmp_path: Path) -> None:
    with world(tmp_path) as lb, visiting(lb.url, color_scheme="light") as visit:
        ground = "getComputedStyle(document.body).backgroundColor"
        light = visit.page.evaluate(ground)
        visit.page.click("#theme")
        assert visit.page.inner_text("#theme") == "Theme: dark"
        dark = visit.page.evaluate(ground)
        assert dark != light
        visit.page.reload()
        assert visit.page.evaluate(ground) == dark
        visit.page.click("#theme")
        assert visit.page.evaluate(ground) == light


def test_the_token_form_and_reduced_motion(tmp_path: Path) -> None:
    with world(tmp_path, token="s3cret") as lb, visiting(lb.url, ("401",), reduced_motion="reduce") as visit:
        visit.page.wait_for_selector("#ask:visible")
        assert axe_violations(visit.page) == []
        assert visit.page.evaluate("getComputedStyle(document.getElementById('theme')).transitionDuration") == "0s"


def test_the_browser_lets_it_load_and_send_nothing_elsewhere(tmp_path: Path) -> None:
    heard: list[bytes] = []
    other = Server(lambda sock: heard.append(sock.recv(1000)))
    attempt = """port => new Promise((resolve) => {
        const blocked = [];
        document.addEventListener('securitypolicyviolation', (event) => {
            blocked.push(event.effectiveDirective);
            if (blocked.length === 3) resolve(blocked.sort());
        });
        const url = `http://127.0.0.1:${port}/`;
        fetch(url).catch(() => {});
        document.body.append(Object.assign(document.createElement('img'), {src: url}));
        document.body.append(Object.assign(document.createElement('iframe'), {src: url}));
    })"""
    policy = ("Content Security Policy", "Fetch API cannot load", "Refused", "TrustedHTML")
    with running(other), world(tmp_path) as lb, visiting(lb.url, policy) as visit:
        visit.page.wait_for_selector(ROW.format("one"))
        assert visit.page.evaluate(attempt, other.port) == ["connect-src", "frame-src", "img-src"]
        visit.requests.clear()  # what the test itself tried
        assert not any(heard)
        write = "() => { try { document.body.innerHTML = '<b>x</b>' } catch (error) { return error.name } }"
        assert visit.page.evaluate(write) == "TypeError"  # no text becomes HTML


MANY = """
[listeners.{name}]
bind = "127.0.0.1:0"
pool = "{name}"
[pools.{name}]
backends = [{backends}]
health = {{ type = "none" }}
"""


def test_fifty_pools_of_twenty_are_lines_until_they_are_opened_and_only_changes_are_drawn(tmp_path: Path) -> None:
    admin = f"127.0.0.1:{free_port()}"
    file = tmp_path / "lb.toml"
    ports = itertools.count(10_000)
    names = [f"pool-{number:02d}" for number in range(50)]
    entries = {name: ", ".join(f'"127.0.0.1:{next(ports)}"' for _ in range(20)) for name in names}
    file.write_text("".join(MANY.format(name=name, backends=entries[name]) for name in names))
    counting = """() => new Promise((resolve) => {
        let changes = 0;
        new MutationObserver((records) => (changes += records.length)).observe(document.body,
            {subtree: true, childList: true, characterData: true, attributes: true});
        const shown = document.getElementById('process');
        let ticks = 0;
        new MutationObserver(() => ++ticks === 3 && resolve(changes)).observe(shown, {childList: true});
    })"""
    with l4lb("serve", "-c", str(file), "--admin", admin) as process:
        process.wait_for("admin listening")
        with visiting(f"http://{admin}") as visit:
            page = visit.page
            page.wait_for_selector("text=1000 of 1000 backends in 50 pools are usable")
            assert page.locator(".pool").count() == 50
            assert page.locator("#pool-list tbody tr").count() == 0
            assert page.evaluate("document.querySelectorAll('*').length") < 3500
            assert page.evaluate(counting) < 300  # of 1000 backends
            page.click("button.disclose:has-text('pool-07')")
            assert page.locator("#pool-list tbody tr").count() == 20
            assert page.evaluate(counting) < 300
            page.fill("#find", "127.0.0.1:10999")
            page.wait_for_selector("#pool-list tbody tr")
            assert page.locator(".pool").count() == 1
            assert page.locator("#pool-list tbody tr").count() == 1
            page.fill("#find", "")
            page.click("#open-all")
            assert page.locator("#pool-list tbody tr").count() == 1000
            page.click("#close-all")
            assert page.locator("#pool-list tbody tr").count() == 0


def test_the_browser_understands_every_declaration_of_the_styles(tmp_path: Path) -> None:
    texts = [file.text for path, file in FILES.items() if path.endswith(".css")]
    styles = re.sub(r"/\*.*?\*/| !important", "", "\n".join(texts), flags=re.DOTALL)
    declared = [body.split(";") for body in re.findall(r"{([^{}]*)}", styles)]
    pairs = [one.strip().split(":", 1) for one in itertools.chain.from_iterable(declared) if one.strip()]
    assert len(pairs) > 300
    with world(tmp_path) as lb, visiting(lb.url) as visit:
        wrong = visit.page.evaluate("pairs => pairs.filter(([name, value]) => !CSS.supports(name, value))", pairs)
        assert wrong == []


FUNCTIONS = """async () => {
    const store = await import('/dashboard/store.js');
    const plot = await import('/dashboard/plot.js');
    const format = await import('/dashboard/format.js');
    return {
        quantiles: [[[1, 2, 4], [0, 10, 0, 0], 0.5], [[1, 2, 4], [5, 0, 5, 0], 0.99], [[1, 2], [0, 0, 0], 0.5],
            [[1, 2], [0, 0, 3], 0.5]].map((one) => store.quantile(...one)),
        ticks: [0, 7, 25, 1000, 999999].map((top) => plot.linearTicks(top, 1000)),
        sizes: plot.linearTicks(3000000, 1024),
        decades: plot.logTicks(0.00005, 0.02),
        texts: [format.rate(0.166), format.rate(1234), format.size(1023), format.size(1048576), format.latency(0.00123),
            format.latency(2), format.span(3725), format.coarse(59), format.count(12345), format.count(2500000)],
    };
}"""


def test_the_arithmetic_of_the_page(tmp_path: Path) -> None:
    with world(tmp_path) as lb, visiting(lb.url) as visit:
        found = visit.page.evaluate(FUNCTIONS)
        assert found["quantiles"][:2] == [1.5, pytest.approx(2 + 2 * 4.9 / 5)]
        assert found["quantiles"][2] != found["quantiles"][2]  # nothing was counted
        assert 2 < found["quantiles"][3] <= 4
        assert found["ticks"][1:4] == [[0, 5, 10], [0, 10, 20, 30], [0, 500, 1000]]
        assert all(2 <= len(ticks) <= 5 for ticks in found["ticks"])
        assert found["sizes"] == [0, 1 << 20, 2 << 20, 3 << 20]
        assert found["decades"] == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
        assert found["texts"] == [
            "0.17/s", "1.2k/s", "1023 B", "1 MiB", "1.2 ms", "2 s", "1 h 2 min", "less than a minute", "12,345", "2.5M",
        ]  # fmt: skip
