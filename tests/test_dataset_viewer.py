"""The viewer on the dataset page, as somebody with a browser and a keyboard finds it."""

from __future__ import annotations

import gzip
from importlib import import_module
from pathlib import Path

import nibabel
import numpy as np
import pytest
from django.conf import settings as django_settings
from tardis.tardis_portal import models as portal

from tardis_imagetrove.models import FilterOutput, Series

from .browser import NO_WEBGL, SOFTWARE_WEBGL, Browser
from .test_dataset_page import add, address, instrument, many, series, shown_for_the_schema, signed_in  # noqa: F401

pytestmark = [pytest.mark.peer, pytest.mark.django_db(transaction=True)]

NIIVUE = (
    Path(__file__).resolve().parent.parent / "tardis_imagetrove/static/tardis_imagetrove/niivue/niivue.umd.js"
)
CANVAS = ".imagetrove-canvas canvas"
PLACE = np.diag([2, 2, 3, 1])
GOLD = (235, 196, 97)
SAID = "document.querySelector('.imagetrove-said').textContent"
ARROWS = {"ArrowUp": 38, "ArrowDown": 40, "ArrowRight": 39, "ArrowLeft": 37, "PageUp": 33, "Home": 36}


@pytest.fixture
def browse(tmp_path, live_server):
    """Opens browsers that are signed in as ``owner`` and shows them a page."""
    opened = []

    def open_page(series: Series, owner, *options: str, size: tuple[int, int] = (1280, 1000)) -> Browser:  # noqa: F811
        browser = Browser(tmp_path / f"browser-{len(opened)}", *(options or SOFTWARE_WEBGL))
        opened.append(browser)
        browser.resize(*size, mobile=size[0] < 500)
        session = signed_in(owner).cookies[django_settings.SESSION_COOKIE_NAME]
        browser.cookie(session.key, session.value, live_server.url)
        browser.go(live_server.url + address(series))
        return browser

    yield open_page
    for browser in opened:
        browser.close()


def open_viewer(browser: Browser) -> None:
    if not NIIVUE.exists():
        pytest.skip("NiiVue was not fetched: make viewer")
    browser.wait("!document.querySelector('.imagetrove-load').hidden")
    browser.click(".imagetrove-load")
    browser.wait("!document.querySelector('.imagetrove-controls').hidden")


def canvas(browser: Browser) -> np.ndarray:
    """What the canvas shows within its frame of focus, once it has stopped changing."""
    before = None
    # Off the bar that a MyTARDIS may keep over the top of the window.
    browser.run(
        f"document.querySelector('{CANVAS}').scrollIntoView({{block: 'center', behavior: 'instant'}})"
    )
    for _ in range(50):
        browser.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        now = np.asarray(browser.picture(CANVAS)).astype(int)[6:-6, 6:-6]
        if before is not None and before.shape == now.shape and (before == now).all():
            return now
        before = now
    raise AssertionError("the canvas does not come to rest")


def slices(browser: Browser) -> list[int]:
    """The slices that the sliders show: axial, coronal, sagittal, counted from 1."""
    return browser.run("[...document.querySelectorAll('[data-axis]')].map(slider => Number(slider.value))")


def sign_out(browser: Browser) -> None:
    """On the server: an answer under way may bring back a cookie that is only removed here."""
    cookies = browser.call("Network.getCookies")["cookies"]
    key = next(cookie["value"] for cookie in cookies if cookie["name"] == django_settings.SESSION_COOKIE_NAME)
    import_module(django_settings.SESSION_ENGINE).SessionStore(key).delete()


def press(browser: Browser, name: str) -> None:
    browser.key(name, ARROWS[name])


def test_the_volume_is_drawn_and_scrolled_by_the_keyboard(series, owner, browse, live_server):  # noqa: F811
    volume = FilterOutput.objects.get(kind="NIfTI").datafile
    browser = browse(series, owner)
    assert not any(volume.download_url in url or "niivue" in url for url in browser.requested)
    open_viewer(browser)
    first = canvas(browser)
    grey = first[np.ptp(first, axis=2) < 8].mean(axis=1)
    # Slices have many greys; an empty canvas has one colour.
    assert len(np.unique(grey.round())) > 30 and grey.std() > 20
    assert slices(browser) == [4, 13, 11]  # the middles of 6 slices, 24 rows, 20 columns
    assert browser.run(f"document.activeElement === document.querySelector('{CANVAS}')")

    seen = [first]
    for name, there in (
        ("ArrowUp", [5, 13, 11]),
        ("ArrowRight", [5, 13, 12]),
        ("PageUp", [5, 14, 12]),
        ("ArrowDown", [4, 14, 12]),
        ("ArrowLeft", [4, 14, 11]),
    ):
        press(browser, name)
        assert slices(browser) == there
        seen.append(canvas(browser))
        assert (np.abs(seen[-1] - seen[-2]).max(axis=2) > 30).mean() > 0.01, name
    press(browser, "Home")
    assert slices(browser) == [4, 13, 11]
    assert (np.abs(canvas(browser) - first) > 30).mean() < 0.001
    for _ in range(20):
        press(browser, "ArrowUp")
    assert slices(browser)[0] == 6
    assert "slice 6 of 6" in browser.run(
        "document.getElementById('imagetrove-axial').ariaValueText ?? document.getElementById('imagetrove-axial').getAttribute('aria-valuetext')"
    )

    own = (live_server.url, "data:", "blob:", "about:")
    assert [url for url in browser.requested if not url.startswith(own)] == []
    assert sum(volume.download_url in url for url in browser.requested) == 1
    assert browser.trouble == []


def test_planes_sliders_and_window_change_what_is_drawn(series, owner, browse):  # noqa: F811
    browser = browse(series, owner)
    open_viewer(browser)
    three = canvas(browser)
    browser.click('[data-view="0"]')
    one = canvas(browser)
    assert (np.abs(one - three).max(axis=2) > 30).mean() > 0.05
    assert browser.run("document.querySelector('[data-view=\"0\"]').getAttribute('aria-pressed')") == "true"
    browser.run("document.getElementById('imagetrove-axial').focus()")
    press(browser, "ArrowLeft")
    assert slices(browser)[0] == 3
    assert (np.abs(canvas(browser) - one).max(axis=2) > 30).mean() > 0.01
    bright = canvas(browser).mean()
    browser.run("document.getElementById('imagetrove-white').focus()")
    press(browser, "Home")
    assert canvas(browser).mean() > bright + 10
    assert browser.trouble == []


def replace(series: Series, data: np.ndarray, affine: np.ndarray | None = PLACE) -> None:  # noqa: F811
    """Put another image in the place of the series' NIfTI; without an affine it says of no place."""
    file = FilterOutput.objects.get(kind="NIfTI", run__archive__series=series).datafile
    path = Path(file.file_objects.get().get_full_path())
    path.write_bytes(gzip.compress(nibabel.Nifti1Image(data, affine).to_bytes()))
    portal.DataFile.objects.filter(pk=file.pk).update(size=path.stat().st_size)


def test_a_time_series_is_scrolled_through_time(series, owner, browse):  # noqa: F811
    ramp = np.indices((20, 24, 6)).sum(axis=0).astype("int16")
    replace(series, np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=-1))
    browser = browse(series, owner)
    open_viewer(browser)
    first = canvas(browser)
    assert browser.run("document.querySelector('output[for=imagetrove-time]').textContent") == "1 / 3"
    browser.run("document.getElementById('imagetrove-time').focus()")
    press(browser, "ArrowRight")
    assert browser.run("document.querySelector('output[for=imagetrove-time]').textContent") == "2 / 3"
    assert (np.abs(canvas(browser) - first).max(axis=2) > 30).mean() > 0.1


def halves() -> np.ndarray:
    """Red where the first axis begins, blue where it ends."""
    colours = np.zeros((20, 24, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["R"][:10], colours["B"][10:] = 200, 200
    return colours


def has_letters(seen: np.ndarray) -> bool:
    """Whether R, L, A, P, S or I are drawn: what is golden and no line of the crosshair."""
    golden = np.abs(seen - GOLD).max(axis=2) < 8
    return golden[golden.sum(axis=1) < 60][:, golden.sum(axis=0) < 60].any()


def red_is_left_of_blue(row: np.ndarray) -> bool:
    red = (row[:, 0] > row[:, 2] + 100).nonzero()[0]
    blue = (row[:, 2] > row[:, 0] + 100).nonzero()[0]
    return red.mean() < blue.mean()


def test_colours_are_shown_as_they_are(series, owner, browse):  # noqa: F811
    replace(series, halves())
    browser = browse(series, owner)
    open_viewer(browser)
    seen = canvas(browser)
    assert (seen[..., 0] > seen[..., 2] + 100).mean() > 0.1
    assert (seen[..., 2] > seen[..., 0] + 100).mean() > 0.1
    # Radiological: the patient's right, the last of the first axis, is on the left.
    assert not red_is_left_of_blue(seen[len(seen) * 3 // 4])
    assert has_letters(seen)
    assert "mm R" in browser.run("document.querySelector('.imagetrove-place').textContent")
    assert browser.run("document.querySelector('[data-for=place]').checkVisibility()")
    assert "Axial" in browser.run("document.querySelector('.imagetrove-controls').innerText")
    assert "no sides" not in browser.run(SAID)
    assert not browser.run("document.getElementById('imagetrove-black').checkVisibility()")
    assert not browser.run("document.getElementById('imagetrove-time').checkVisibility()")


def test_an_image_without_a_place_is_as_the_picture_and_has_no_sides(series, owner, browse):  # noqa: F811
    replace(series, halves(), affine=None)
    browser = browse(series, owner)
    open_viewer(browser)
    seen = canvas(browser)
    assert browser.run("document.querySelector('[data-view=\"0\"]').getAttribute('aria-pressed')") == "true"
    assert red_is_left_of_blue(seen[len(seen) * 3 // 4])
    assert not has_letters(seen)
    assert "mm" not in browser.run("document.querySelector('.imagetrove-place').textContent")
    assert "no sides" in browser.run(SAID)
    assert not browser.run("document.querySelector('[data-for=place]').checkVisibility()")
    controls = browser.run("document.querySelector('.imagetrove-controls').innerText")
    assert all(name in controls for name in ("Slices", "Rows", "Columns"))
    assert not any(name in controls for name in ("Axial", "Coronal", "Sagittal", "right"))


def test_every_control_has_a_name_and_a_visible_focus(series, owner, browse):  # noqa: F811
    browser = browse(series, owner)
    open_viewer(browser)
    nameless = browser.run(
        "[...document.querySelectorAll('#imagetrove :is(input:not([type=hidden]), select, button, a, canvas)')]"
        ".filter(e => e.checkVisibility() && !(e.labels?.length || e.getAttribute('aria-label') ||"
        " e.textContent.trim() || e.querySelector('img[alt]:not([alt=\"\"])'))).map(e => e.outerHTML)"
    )
    assert nameless == []
    reached = []
    browser.run(f"document.querySelector('{CANVAS}').focus()")
    for _ in range(10):
        browser.key("Tab", 9)
        reached.append(browser.run("document.activeElement.id || document.activeElement.textContent.trim()"))
        style = browser.run(
            "(s => [s.outlineStyle, s.outlineWidth])(getComputedStyle(document.activeElement))"
        )
        assert style[0] != "none" and style[1] != "0px", reached
    assert {"Three planes", "Axial", "imagetrove-axial", "imagetrove-sagittal", "imagetrove-white"} <= set(
        reached
    )


def test_without_webgl_there_is_the_picture_and_a_line_that_says_so(series, owner, browse):  # noqa: F811
    browser = browse(series, owner, *NO_WEBGL)
    browser.wait(SAID)
    assert "does not offer WebGL 2" in browser.run(SAID) or not NIIVUE.exists()
    assert browser.run("document.querySelector('.imagetrove-load').hidden")
    browser.run("document.querySelector('.imagetrove-picture img').scrollIntoView({behavior: 'instant'})")
    assert browser.wait("document.querySelector('.imagetrove-picture img').naturalWidth") > 300
    assert np.asarray(browser.picture(".imagetrove-picture img")).std() > 10


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_moves_when_the_picture_arrives(series, owner, browse, width):  # noqa: F811
    """Or who clicks at that moment has clicked on something else."""
    picture = FilterOutput.objects.get(kind="Picture").datafile
    browser = browse(series, owner, size=(width, 844))
    picture_is_there = "document.querySelector('.imagetrove-picture img').naturalWidth > 300"
    top_of_what_follows = (
        "document.querySelector('.imagetrove-open').getBoundingClientRect().top"
        " - document.querySelector('.imagetrove-stage').getBoundingClientRect().top"
    )
    browser.run("document.querySelector('.imagetrove-picture img').scrollIntoView({behavior: 'instant'})")
    browser.wait(picture_is_there)
    with_picture = browser.run(top_of_what_follows)
    browser.call("Network.setBlockedURLs", urls=[f"*/{picture.pk}/*"])
    browser.call("Network.setCacheDisabled", cacheDisabled=True)
    browser.go(browser.run("location.href"))
    assert not browser.run(picture_is_there)
    assert browser.run(top_of_what_follows) == with_picture > 150


def test_a_download_that_mytardis_refuses_is_told(series, owner, browse):  # noqa: F811
    browser = browse(series, owner)
    if not NIIVUE.exists():
        pytest.skip("NiiVue was not fetched: make viewer")
    browser.wait("!document.querySelector('.imagetrove-load').hidden")
    sign_out(browser)
    browser.click(".imagetrove-load")
    browser.wait(f"{SAID}.includes('cannot be shown')")
    assert "signed out" in browser.run(SAID)
    assert browser.run("document.querySelector('.imagetrove-picture').checkVisibility()")


def test_a_broken_file_is_told_and_the_picture_comes_back(series, owner, browse):  # noqa: F811
    file = FilterOutput.objects.get(kind="NIfTI").datafile
    path = Path(file.file_objects.get().get_full_path())
    path.write_bytes(b"\x1f\x8b no gzip at all")
    portal.DataFile.objects.filter(pk=file.pk).update(size=path.stat().st_size)
    browser = browse(series, owner)
    if not NIIVUE.exists():
        pytest.skip("NiiVue was not fetched: make viewer")
    browser.wait("!document.querySelector('.imagetrove-load').hidden")
    browser.click(".imagetrove-load")
    browser.wait(f"{SAID}.includes('cannot be shown')")
    assert browser.run("document.querySelector('.imagetrove-picture').checkVisibility()")
    assert not browser.run("document.querySelector('.imagetrove-load').hidden")


def test_a_colour_under_the_crosshair_is_red_green_and_blue(series, owner, browse):  # noqa: F811
    file = FilterOutput.objects.get(kind="NIfTI").datafile
    path = Path(file.file_objects.get().get_full_path())
    colours = np.zeros((20, 24, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    colours["R"] = np.arange(20)[:, None, None]
    colours["G"] = 100 + np.arange(24)[None, :, None]
    colours["B"] = 200 + np.arange(6)[None, None, :]
    path.write_bytes(gzip.compress(nibabel.Nifti1Image(colours, PLACE).to_bytes()))
    portal.DataFile.objects.filter(pk=file.pk).update(size=path.stat().st_size)
    browser = browse(series, owner)
    open_viewer(browser)
    place = "document.querySelector('.imagetrove-place').textContent"
    axial, coronal, sagittal = slices(browser)
    shown = f"red {sagittal - 1}, green {100 + coronal - 1}, blue {200 + axial - 1}"
    assert browser.run(place).endswith(shown)
    press(browser, "ArrowRight")
    assert browser.run(place).endswith(shown.replace(f"red {sagittal - 1}", f"red {sagittal}"))


def test_one_of_five_hundred_series_is_found_and_chosen_by_the_keyboard(series, owner, browse):  # noqa: F811
    many(series, 499)
    browser = browse(series, owner)
    browser.wait("!document.querySelector('.imagetrove-filter').hidden")
    assert sum("iiif" in url or "_run" in url for url in browser.requested) < 60
    browser.run("document.getElementById('imagetrove-filter').focus()")
    for letter in "run 321":
        browser.key(letter, ord(letter.upper()), letter)
    visible = "[...document.querySelectorAll('.imagetrove-lines li')].filter(line => line.checkVisibility())"
    assert browser.wait(f"{visible}.length") == 1
    assert (
        browser.run("document.querySelector('.imagetrove-filter [role=status]').textContent")
        == "1 of 500 series"
    )
    browser.run(f"{visible}[0].querySelector('a').focus()")
    browser.key("Enter", 13, "\r")
    browser.wait("document.getElementById('imagetrove-title').textContent == 'run 321'")
    assert browser.run("document.activeElement.id") == "imagetrove-series"
    assert browser.run("document.querySelector('#imagetrove [aria-current]').textContent").split()[:2] == [
        "run",
        "321",
    ]
    wanted = Series.objects.get(description="run 321")
    assert f"series={wanted.pk}" in browser.run("location.search")
    assert wanted.series_uid in browser.run("document.getElementById('metadata-pane').textContent")
    browser.run("history.back()")
    browser.wait("document.getElementById('imagetrove-title').textContent != 'run 321'")


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_of_the_page_is_wider_than_the_screen(series, owner, browse, width):  # noqa: F811
    many(series, 12)
    Series.objects.filter(description="run 105").update(description="averyveryverylongname" * 12)
    portal.Dataset.objects.update(description="1.2.826.0.1.3680043.10.1573." + "123456789" * 4)
    portal.Experiment.objects.update(title="1.2.826.0.1.3680043.10.1573." + "987654321" * 4)
    browser = browse(series, owner, size=(width, 844))
    if NIIVUE.exists():
        open_viewer(browser)
    wide = browser.run(
        f"[...document.querySelectorAll('#imagetrove *')].filter(e => e.getBoundingClientRect().right > {width} + 1"
        " && !e.closest('.imagetrove-lines')).map(e => e.outerHTML.slice(0, 120))"
    )
    assert wide == []
    assert browser.run("document.documentElement.scrollWidth") <= width
